"""From the cookie to the visitor, and what every page's frame shows; one short read per request."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from http.cookies import CookieError, SimpleCookie
from typing import Any

from litestar.connection import ASGIConnection
from litestar.datastructures import Cookie
from litestar.enums import ScopeType
from litestar.exceptions import ClientException, NotAuthorizedException
from litestar.handlers import BaseRouteHandler
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Receive, Scope, Send
from sqlalchemy import func
from sqlmodel import col, select

from opsdeck.accounts.models import User, WebSession
from opsdeck.accounts.sessions import STEP_UP_FIELD, step_up_until
from opsdeck.clock import utcnow
from opsdeck.deck import Deck
from opsdeck.errors import Unavailable
from opsdeck.inventory.models import Host
from opsdeck.jobs.models import Job, State
from opsdeck.notify.models import Incident
from opsdeck_web import formatting, language
from opsdeck_web.visitor import Visitor

COOKIE = "opsdeck_session"
LIFETIME = timedelta(days=14)
STRANGERS_BODY = 16 * 1024
"""Bytes that somebody who is not logged in may send: a login form, with room to spare."""
LOOK_SECONDS = 5.0
"""How often the login of who reads a stream is looked at."""


@dataclass(frozen=True)
class Shell:
    """What the frame around a page shows."""

    visitor: Visitor | None = None
    language: str = "en"
    theme: str = ""
    hosts: int = 0
    running: int = 0
    incidents: dict[str, int] = field(default_factory=dict)
    """Open incidents by plugin."""


def hashed(cookie: str) -> str:
    """Give the key under which the server keeps a session: a stolen table logs nobody in."""
    return hashlib.sha256(cookie.encode()).hexdigest()


def source_of(scope: Scope) -> str:
    """Give the address a request came from (uvicorn has put the proxy's word in already, if it is trusted)."""
    client = scope.get("client")
    return client[0] if client else ""


def cookies_of(scope: Scope) -> dict[str, str]:
    """Give the request's cookies; broken ones are as good as none."""
    raw = next((value for name, value in scope["headers"] if name.lower() == b"cookie"), b"")
    jar: SimpleCookie = SimpleCookie()
    try:
        jar.load(raw.decode("latin-1"))
    except CookieError:
        return {}
    return {name: morsel.value for name, morsel in jar.items()}


class Identify(ASGIMiddleware):
    """Find out who asks, and in which language and zone to answer."""

    def __init__(self, deck: Deck) -> None:
        self._deck = deck

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        path = scope["path"]
        scope["user"] = scope.get("user")
        if scope["type"] == ScopeType.HTTP and not path.startswith(("/static/", "/api/")):
            shell = await self._shell(scope)
            scope["user"] = shell.visitor
            scope["state"]["shell"] = shell
            if shell.visitor is None:
                _refuse_much(scope)
            elif scope["method"] == "GET":
                await self._while_logged_in(shell.visitor, scope, receive, send, next_app)
                return
        await next_app(scope, receive, send)

    async def _while_logged_in(
        self, visitor: Visitor, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp
    ) -> None:
        """Answer, and hang up on a stream whose reader's login has ended: it would tell on for as long as it runs.

        A stream listens for the reader's hanging up; while it does, the session is looked at every few seconds.
        """
        cut = False

        async def receive_or_end() -> Any:
            nonlocal cut
            task = asyncio.ensure_future(receive())
            try:
                while not (await asyncio.wait({task}, timeout=LOOK_SECONDS))[0]:
                    if not await self._still(visitor):
                        cut = True
                        return {"type": "http.disconnect"}
                return task.result()
            finally:
                task.cancel()

        await next_app(scope, receive_or_end, send)
        if cut:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _still(self, visitor: Visitor) -> bool:
        """Tell whether a login still holds; while the database cannot answer, it does."""
        try:
            async with self._deck.db.read() as session:
                return (await session.exec(_login(visitor.key))).first() is not None
        except Unavailable:
            return True

    async def _shell(self, scope: Scope) -> Shell:
        cookies = cookies_of(scope)
        visitor: Visitor | None = None
        hosts = running = 0
        incidents: dict[str, int] = {}
        key = cookies.get(COOKIE, "")
        if key:
            async with self._deck.db.read() as session:
                found = (await session.exec(_login(key))).first()
                if found is not None:
                    row, user = found
                    visitor = Visitor(user, key, source_of(scope), _step_up(row.data))
                    hosts = (await session.exec(select(func.count()).select_from(Host))).one()
                    running = (
                        await session.exec(
                            select(func.count())
                            .select_from(Job)
                            .where(col(Job.state).in_([State.RUNNING, State.QUEUED]))
                        )
                    ).one()
                    incidents = dict(
                        (
                            await session.exec(
                                select(Incident.plugin, func.count())
                                .where(col(Incident.closed).is_(None))
                                .group_by(Incident.plugin)
                            )
                        ).all()
                    )
        settle(scope, cookies, visitor)
        return Shell(visitor, language.current.get(), theme_of(cookies, visitor), hosts, running, incidents)


def _refuse_much(scope: Scope) -> None:
    """Refuse a large body from who is not logged in, before anybody reads it: taking a form apart is work."""
    headers = dict(scope["headers"])
    size = headers.get(b"content-length", b"0")
    if b"transfer-encoding" in headers or not size.isdigit() or len(size) > 9 or int(size) > STRANGERS_BODY:
        raise ClientException("strangers send short forms only", status_code=413)


def _login(key: str) -> Any:
    return (
        select(WebSession, User)
        .join(User, col(User.id) == WebSession.user_id)
        .where(WebSession.key == hashed(key), WebSession.expires > utcnow(), col(User.disabled).is_(False))
    )


def theme_of(cookies: dict[str, str], visitor: Visitor | None) -> str:
    """Give `light`, `dark`, or "" for what the device wants."""
    theme = (visitor.user.theme if visitor else "") or cookies.get("theme", "")
    return theme if theme in {"light", "dark"} else ""


def settle(scope: Scope, cookies: dict[str, str], visitor: Visitor | None) -> None:
    """Set the language and the zone in which this request is answered."""
    accept = next(
        (value.decode("latin-1") for name, value in scope["headers"] if name.lower() == b"accept-language"), ""
    )
    language.current.set(
        language.choose(visitor.user.language if visitor else None, cookies.get("language"), accept=accept)
    )
    wanted = (visitor.user.time_zone if visitor else "") or cookies.get("zone", "")
    formatting.zone.set(formatting.valid_zone(wanted.replace("%2F", "/")))


def _step_up(data: bytes) -> datetime | None:
    text = json.loads(data or b"{}").get(STEP_UP_FIELD)
    return datetime.fromisoformat(text) if text else None


def signed_in(connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler) -> None:
    """Guard: only for people who are logged in."""
    if connection.scope.get("user") is None:
        raise NotAuthorizedException("log in first")


async def begin(deck: Deck, user: User, *, agent: str, source: str, secure: bool) -> Cookie:
    """Start a session for a person who has proved themselves, under a fresh random name; give its cookie."""
    key = secrets.token_urlsafe(32)
    data = {"agent": agent[:200], "source": source, STEP_UP_FIELD: step_up_until()}
    await deck.accounts.sessions.set(hashed(key), json.dumps(data).encode(), expires_in=LIFETIME, user_id=user.id)
    return session_cookie(key, secure=secure, seconds=int(LIFETIME.total_seconds()))


async def step_up(deck: Deck, visitor: Visitor) -> Visitor:
    """Note in the session that the person proved themselves again just now; give the visitor as they are from now."""
    data = json.loads(await deck.accounts.sessions.get(hashed(visitor.key)) or b"{}")
    data[STEP_UP_FIELD] = step_up_until()
    await deck.accounts.sessions.set(hashed(visitor.key), json.dumps(data).encode(), expires_in=LIFETIME)
    return replace(visitor, step_up_until=_step_up(json.dumps(data).encode()))


async def end(deck: Deck, key: str) -> None:
    """End a session, named by its cookie value."""
    await deck.accounts.sessions.delete(hashed(key))


def session_cookie(key: str, *, secure: bool, seconds: int) -> Cookie:
    """Give the cookie of a session; `seconds` 0 takes it away."""
    return Cookie(key=COOKIE, value=key, path="/", max_age=seconds, httponly=True, secure=secure, samesite="lax")
