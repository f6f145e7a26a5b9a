"""Proving who one is: password and code, one-time link, and again before what destroys."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from datetime import timedelta
from typing import NoReturn

from sqlmodel import col, delete, select, update

from opsdeck.accounts import limits, totp
from opsdeck.accounts.limits import Key, Limits
from opsdeck.accounts.models import User, WebSession
from opsdeck.accounts.passwords import Passwords
from opsdeck.accounts.sessions import LINK
from opsdeck.accounts.tokens import NotAuthenticated
from opsdeck.actor import Actor, Door, Role
from opsdeck.audit.entry import column
from opsdeck.audit.log import AuditLog
from opsdeck.clock import utcnow
from opsdeck.db import Database
from opsdeck.errors import Invalid, NotFound, Refused
from opsdeck.secrets.keyring import Keyring
from opsdeck.secrets.sensitive import Sensitive

LINK_TTL = timedelta(minutes=10)
LONGEST_LINK_TTL = timedelta(days=7)


class CodeNeeded(NotAuthenticated):
    """The password is right, and this account also asks for a code."""


class Login:
    """Every way of proving who one is, limited and audited."""

    def __init__(self, db: Database, keyring: Keyring, audit: AuditLog, limit: Limits, passwords: Passwords) -> None:
        self._db = db
        self._keyring = keyring
        self._audit = audit
        self._limits = limit
        self._passwords = passwords

    async def authenticate(self, name: str, password: Sensitive, code: str, source: str) -> User:
        """Give the person whose password (and code, where one is set up) these are.

        1. count the attempt under the account and the address, or refuse while one is blocked;
        2. check the password, with the same work for a name that nobody has;
        3. check the code, each good once;
        4. take the count back, write the audit entry.

        Raises `NotAuthenticated` with one sentence for all that may be wrong, `CodeNeeded` when only the code is
        missing, `TooManyAttempts` with the seconds to wait.
        """
        name = column(name.strip().lower())
        keys = _keys(name, source)
        await self._limits.begin(keys)
        user = await self._find(name)
        if not await self._passwords.matches(password, user.password_hash if user else None) or user is None:
            await self._failed(user, source, "password" if user else "unknown name")
        if user.disabled:
            await self._failed(user, source, "disabled")
        if user.totp_blob is not None:
            if not code.strip():
                await self._limits.take_back(keys)
                raise CodeNeeded("this account also asks for a code.", field="code", hint="type the code of your app")
            await self._check_code(user, code, source)
        await self._succeeded(user, keys, source, password)
        return user

    async def prove(self, name: str, *, password: Sensitive | None = None, code: str = "", source: str) -> User:
        """Have a person who is logged in prove again who they are, by their code or else their password.

        The same limits hold as at login. The caller then keeps `sessions.step_up_until()` with the session.
        """
        keys = _keys(name, source)
        await self._limits.begin(keys)
        user = await self._find(name)
        if user is None or user.disabled:
            await self._failed(None, source, "unknown name")
        if user.totp_blob is not None and code.strip():
            await self._check_code(user, code, source)
        elif not await self._passwords.matches(password or Sensitive(""), user.password_hash):
            await self._failed(user, source, "password")
        await self._limits.succeeded(keys)
        await self._audit.record(_as(user, source), "login.stepped_up", f"user:{user.name}")
        return user

    async def make_link(self, name: str, ttl: timedelta, actor: Actor) -> Sensitive:
        """Make the secret part of a one-time login link for a person; it works once, within `ttl`.

        It stands for password and code, so only who may rule makes one. Raises `NotFound`, `Refused`, `Invalid`.
        """
        if actor.role is not Role.ADMIN or actor.scopes:
            raise Refused(f"{actor.name} may not make login links: that takes admin.")
        if not timedelta(0) < ttl <= LONGEST_LINK_TTL:
            raise Invalid("a login link lives at most 7 days.", field="ttl")
        user = await self._find(name)
        if user is None:
            raise NotFound(f"nobody is called {name!r}.", field="name", hint="`opsdeck user list` names people")
        if user.disabled:
            raise Refused(f"{name} is disabled.", field="name", hint=f"`opsdeck user enable {name}`")
        token = secrets.token_urlsafe(32)
        async with self._db.write() as session:
            session.add(WebSession(key=_link(token), user_id=user.id, data=b"", expires=utcnow() + ttl))
            await session.flush()
            detail = {"minutes": ttl.total_seconds() / 60}
            await self._audit.append(session, actor, "login.link_made", f"user:{user.name}", detail=detail)
        return Sensitive(token)

    async def redeem_link(self, token: str, source: str) -> User:
        """Give the person a link was made for, and use it up. Raises `NotAuthenticated`, `TooManyAttempts`."""
        keys = [limits.source("link", source)]
        await self._limits.begin(keys)
        async with self._db.write() as session:
            query = delete(WebSession).where(col(WebSession.key) == _link(token), col(WebSession.expires) > utcnow())
            taken = (await session.exec(query.returning(col(WebSession.user_id)))).first()
            user = await session.get(User, taken[0]) if taken else None
            if user is not None and not user.disabled:
                user.last_login = utcnow()
                session.add(user)
                await session.flush()
                await self._audit.append(
                    session, _as(user, source), "login.succeeded", f"user:{user.name}", detail={"by": "one-time link"}
                )
        if user is None or user.disabled:
            await self._failed(user, source, "link")
        await self._limits.succeeded(keys)
        return user

    async def _find(self, name: str) -> User | None:
        async with self._db.read() as session:
            return (await session.exec(select(User).where(User.name == name))).first()

    async def _check_code(self, user: User, code: str, source: str) -> None:
        try:
            step = totp.step_of(self._keyring, user, code)
        except Refused:
            await self._failed(user, source, "code")
        async with self._db.write() as session:
            query = update(User).where(col(User.id) == user.id, col(User.totp_last) < step).values(totp_last=step)
            taken = (await session.exec(query)).rowcount == 1
        if not taken:
            await self._failed(user, source, "code used twice")

    async def _succeeded(self, user: User, keys: Sequence[Key], source: str, password: Sensitive) -> None:
        values: dict[str, object] = {"last_login": utcnow()}
        if self._passwords.outdated(user.password_hash):
            values["password_hash"] = await self._passwords.hash(password)
        await self._limits.succeeded(keys)
        async with self._db.write() as session:
            await session.exec(update(User).where(col(User.id) == user.id).values(**values))
            detail = {"by": "password and code" if user.totp_blob else "password"}
            await self._audit.append(session, _as(user, source), "login.succeeded", f"user:{user.name}", detail=detail)

    async def _failed(self, user: User | None, source: str, reason: str) -> NoReturn:
        """Write the entry and raise. A name that nobody has is not written: it may be a password typed too early."""
        target = f"user:{user.name}" if user else "user:"
        nobody = Actor("nobody", Role.VIEWER, Door.WEB, source)
        await self._audit.record(nobody, "login.failed", target, detail={"reason": reason})
        if reason == "link":
            raise NotAuthenticated(
                "this link was used, is too old, or is none.", hint="`opsdeck user login-link NAME` makes a new one"
            )
        raise NotAuthenticated(
            "name, password or code is wrong.", field="password", hint="`opsdeck user passwd NAME` sets a new one"
        )


def _keys(name: str, source: str) -> list[Key]:
    return [limits.account(name), *([limits.source("source", source)] if source else [])]


def _as(user: User, source: str) -> Actor:
    return Actor(user.name, Role(user.role), Door.WEB, source)


def _link(token: str) -> str:
    return LINK + hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
