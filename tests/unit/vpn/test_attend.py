"""Being with a tunnel whose OpenVPN cannot be asked."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from opsdeck_vpn import attend, tunnels
from opsdeck_vpn.models import State

from opsdeck.actor import SYSTEM
from opsdeck.secrets.sensitive import Sensitive


class Run:
    """What attends, as far as it is needed here."""

    def __init__(self, deck: Any) -> None:
        self.db, self._deck = deck.db, deck

    async def secret(self, name: str, *, fresh: bool = False) -> Sensitive:
        return await self._deck.secrets.reveal(name, actor=SYSTEM, purpose="test")  # type: ignore[no-any-return]


class Host:
    """A gateway on which nothing listens."""

    @contextlib.asynccontextmanager
    async def forward(self, port: int, host: str = "127.0.0.1") -> AsyncIterator[int]:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            free: int = taken.getsockname()[1]
        yield free


async def test_an_openvpn_that_is_not_there_for_long_is_said_to_be_down(
    deck: Any, tunnel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attend, "TICK", 0.02)
    monkeypatch.setattr(attend, "SILENT_SECONDS", 0.3)
    await tunnels.set_state(deck.db, "office", State.STARTING)
    said: list[str] = []
    async with asyncio.timeout(20):
        row = await attend.attend(
            Run(deck),
            Host(),
            "office",
            said.append,
            lambda row: row.reason == attend.NO_DIALLER,  # type: ignore[arg-type]
        )
    assert row.state == State.STARTING
    assert said == ["office is starting: OpenVPN is being started", f"office is starting: {attend.NO_DIALLER}"]
