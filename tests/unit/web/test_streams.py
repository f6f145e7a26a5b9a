"""A stream ends with the login of who reads it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from opsdeck_web import identity
from opsdeck_web.app import make_app

from opsdeck.actor import SYSTEM


async def read(app: Any, path: str, cookie: str) -> tuple[asyncio.Task[None], list[dict[str, Any]]]:
    """Open a stream as a server would, by a reader who never hangs up; give its task and what it sends."""
    sent: list[dict[str, Any]] = []
    first = True

    async def receive() -> dict[str, Any]:
        nonlocal first
        if first:
            first = False
            return {"type": "http.request", "body": b"", "more_body": False}
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(b"host", b"deck"), (b"cookie", f"{identity.COOKIE}={cookie}".encode())]
    scope = {
        "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": headers, "http_version": "1.1", "scheme": "http", "server": ("deck", 80), "client": ("::1", 1),
        "root_path": "", "asgi": {"version": "3.0"}, "state": {},
    }  # fmt: skip
    return asyncio.create_task(app(scope, receive, send)), sent


@pytest.mark.parametrize("end", ["disable", "log out"])
async def test_a_stream_ends_with_the_login(visit: Any, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    monkeypatch.setattr(identity, "LOOK_SECONDS", 0.05)
    await visit.log_in("viewer")
    cookie = visit.client.cookies[identity.COOKIE]
    task, sent = await read(make_app(visit.deck), "/live", cookie)
    async with asyncio.timeout(20):
        await asyncio.sleep(0.5)
        assert not task.done()
        if end == "disable":
            await visit.deck.accounts.set_disabled("viewer", True, SYSTEM)
        else:
            await visit.post("/logout")
        await task
    assert sent[0]["status"] == 200
    assert sent[-1]["more_body"] is False
