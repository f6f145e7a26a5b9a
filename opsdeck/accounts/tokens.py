"""API tokens: `opd_<prefix>_<secret>`. The prefix finds the row, an HMAC proves the token.

A token is shown once, when it is made, and not kept.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlmodel import col, select, update

from opsdeck.accounts import limits
from opsdeck.accounts.limits import Limits
from opsdeck.accounts.models import Token, User
from opsdeck.accounts.permissions import require
from opsdeck.actor import Actor, Door, Role
from opsdeck.audit.log import AuditLog
from opsdeck.clock import utcnow
from opsdeck.db import Database
from opsdeck.errors import Invalid, NotFound, Refused
from opsdeck.secrets.keyring import Keyring
from opsdeck.secrets.sensitive import Sensitive

DAYS = 90
MOST_DAYS = 3650
USED_EVERY = timedelta(minutes=1)
"""How often `last_used` is written at most."""

_TOKEN = re.compile(r"opd_([0-9a-f]{12})_[A-Za-z0-9_-]{43}\Z")
_SCOPE = re.compile(r"[a-z0-9_*?]+\.[a-z0-9_*?]+\Z|\*\Z")


class NotAuthenticated(Refused):
    """Nobody proved who they are."""

    status = 401


@dataclass(frozen=True)
class TokenInfo:
    """Everything about a token but the token."""

    id: int
    prefix: str
    name: str
    owner: str
    role: Role
    scopes: tuple[str, ...]
    created: datetime
    expires: datetime | None
    last_used: datetime | None
    revoked: datetime | None


class Tokens:
    """The API tokens of this installation."""

    def __init__(self, db: Database, keyring: Keyring, audit: AuditLog, limit: Limits) -> None:
        self._db = db
        self._keyring = keyring
        self._audit = audit
        self._limits = limit

    async def create(
        self, owner: str, name: str, *, role: Role, scopes: Sequence[str] = (), days: int = DAYS, actor: Actor
    ) -> tuple[TokenInfo, Sensitive]:
        """Make a token for `owner`, with a role up to theirs; give it, this once.

        `scopes` are names of actions, `plugin.action`, with `*` and `?`; none means all that the role allows.
        Raises `Invalid`, `NotFound`, `Refused`.
        """
        if not name.strip() or len(name) > 63:
            raise Invalid("a token has a name of 1 to 63 characters.", field="name", hint="say what uses it")
        for scope in scopes:
            if not _SCOPE.match(scope):
                raise Invalid(
                    f"{scope!r} is no scope.", field="scopes", hint="give plugin.action, such as core.run or cdn.*"
                )
        if not 1 <= days <= MOST_DAYS:
            raise Invalid(f"a token lives 1 to {MOST_DAYS} days.", field="days")
        prefix = secrets.token_hex(6)
        token = f"opd_{prefix}_{secrets.token_urlsafe(32)}"
        async with self._db.write() as session:
            user = (await session.exec(select(User).where(User.name == owner))).first()
            if user is None or user.id is None:
                raise NotFound(f"nobody is called {owner!r}.", field="owner", hint="`opsdeck user list` names people")
            _own(actor, owner, "make tokens for others")
            if role.rank > min(Role(user.role).rank, actor.role.rank):
                raise Refused(
                    f"a token of {owner} may not be {role.value}: {owner} is {user.role}.",
                    field="role",
                    hint=f"make it {user.role} or less",
                )
            row = Token(
                prefix=prefix,
                mac=self._mac(token),
                name=name.strip(),
                user_id=user.id,
                role=role.value,
                scopes=list(scopes),
                expires=utcnow() + timedelta(days=days),
            )
            session.add(row)
            await session.flush()
            info = _info(row, user)
            detail = {"owner": owner, "name": row.name, "role": role.value, "scopes": list(scopes), "days": days}
            await self._audit.append(session, actor, "token.created", f"token:{prefix}", detail=detail)
        return info, Sensitive(token)

    async def list(self, owner: str | None = None) -> tuple[TokenInfo, ...]:
        """Give the tokens of one person or all, newest first."""
        query = select(Token, User).where(col(Token.user_id) == col(User.id)).order_by(col(Token.id).desc())
        if owner is not None:
            query = query.where(User.name == owner)
        async with self._db.read() as session:
            return tuple(_info(token, user) for token, user in (await session.exec(query)).all())

    async def revoke(self, prefix: str, actor: Actor) -> None:
        """End a token, given by its prefix. Raises `NotFound`, `Refused` for another person's below admin."""
        prefix = prefix.removeprefix("opd_").split("_")[0]
        async with self._db.write() as session:
            query = select(Token, User).where(col(Token.user_id) == col(User.id), Token.prefix == prefix)
            found = (await session.exec(query)).first()
            if found is None:
                raise NotFound(f"no token begins with opd_{prefix}.", field="prefix", hint="see `opsdeck token list`")
            token, user = found
            _own(actor, user.name, "revoke tokens of others")
            if token.revoked is None:
                token.revoked = utcnow()
                session.add(token)
                await session.flush()
                detail = {"owner": user.name, "name": token.name}
                await self._audit.append(session, actor, "token.revoked", f"token:{prefix}", detail=detail)

    async def authenticate(self, text: str, source: str) -> Actor:
        """Give who `text` stands for. Raises `NotAuthenticated`, or `TooManyAttempts` after many wrong ones."""
        keys = [limits.source("token", source)]
        await self._limits.refuse_blocked(keys)
        match = _TOKEN.match(text)
        found = None
        if match:
            async with self._db.read() as session:
                query = select(Token, User).where(col(Token.user_id) == col(User.id), Token.prefix == match[1])
                found = (await session.exec(query)).first()
        mac = self._mac(text)
        if found is None or not hmac.compare_digest(found[0].mac, mac):
            await self._limits.begin(keys)
            raise NotAuthenticated("the token is not known.", field="token", hint="make one with `opsdeck token add`")
        token, user = found
        now = utcnow()
        reason = (
            "was revoked"
            if token.revoked
            else "has expired"
            if token.expires and token.expires <= now
            else "belongs to a person who is disabled"
            if user.disabled
            else ""
        )
        if reason:
            raise NotAuthenticated(f"the token opd_{token.prefix} {reason}.", field="token", hint="make a new one")
        if token.last_used is None or now - token.last_used > USED_EVERY:
            async with self._db.write() as session:
                await session.exec(update(Token).where(col(Token.id) == token.id).values(last_used=now))
        role = min(Role(token.role), Role(user.role), key=lambda role: role.rank)
        return Actor(f"{user.name}/{token.name}", role, Door.API, source, scopes=tuple(token.scopes))

    def _mac(self, token: str) -> str:
        return hmac.new(self._keyring.derive("token"), token.encode("utf-8", "replace"), hashlib.sha256).hexdigest()


def _own(actor: Actor, owner: str, what: str) -> None:
    """Let people see to their own, and admins to everybody's."""
    require(actor, Role.VIEWER if actor.name == owner else Role.ADMIN, what)


def _info(row: Token, user: User) -> TokenInfo:
    assert row.id is not None  # noqa: S101 - it comes from the database
    return TokenInfo(
        row.id,
        row.prefix,
        row.name,
        user.name,
        Role(row.role),
        tuple(row.scopes),
        row.created,
        row.expires,
        row.last_used,
        row.revoked,
    )
