"""Logins kept on the server, under the SHA-256 of the cookie's value, so that a read of the table opens no session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlmodel import col, delete, select, update
from sqlmodel.ext.asyncio.session import AsyncSession

from opsdeck.accounts.models import WebSession
from opsdeck.clock import utcnow
from opsdeck.db import Database

STEP_UP = timedelta(minutes=10)
"""How long a fresh proof of identity counts."""

STEP_UP_FIELD = "step_up_until"
"""Where a session's data keeps it, as ISO 8601 text."""

LINK = "link:"
"""Beginning of the keys of one-time login links, which are kept in the same table."""


@dataclass(frozen=True)
class SessionInfo:
    """A login, without what opens it: `key` is good for ending it only."""

    key: str
    created: datetime
    expires: datetime


class Sessions:
    """The table of logins. `key` is always the hash, never the cookie's value."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def get(self, key: str, *, renew_for: timedelta | None = None) -> bytes | None:
        """Give the session's data, or None when there is none or it is over.

        `renew_for` moves the end when less than half of that time is left (so most requests write nothing).
        """
        now = utcnow()
        async with self._db.read() as session:
            row = await session.get(WebSession, key)
        if row is None or row.expires <= now:
            return None
        if renew_for is not None and row.expires - now < renew_for / 2:
            async with self._db.write() as session:
                await session.exec(update(WebSession).where(col(WebSession.key) == key).values(expires=now + renew_for))
        return row.data

    async def set(self, key: str, data: bytes, *, expires_in: timedelta, user_id: int | None = None) -> None:
        """Keep the session's data until `expires_in` from now. `user_id` None leaves the person as they are."""
        now = utcnow()
        async with self._db.write() as session:
            row = await session.get(WebSession, key) or WebSession(key=key, data=b"", expires=now)
            row.data, row.expires = data, now + expires_in
            row.user_id = row.user_id if user_id is None else user_id
            session.add(row)

    async def delete(self, key: str) -> None:
        """End a session."""
        async with self._db.write() as session:
            await session.exec(delete(WebSession).where(col(WebSession.key) == key))

    async def delete_for_user(self, user_id: int, *, keep: str | None = None) -> None:
        """End every session and link of a person, but for the one under `keep`."""
        async with self._db.write() as session:
            await end_logins(session, user_id, keep=keep)

    async def list(self, user_id: int) -> tuple[SessionInfo, ...]:
        """Give a person's logins, newest first."""
        query = (
            select(WebSession)
            .where(WebSession.user_id == user_id, col(WebSession.expires) > utcnow())
            .where(~col(WebSession.key).startswith(LINK))
            .order_by(col(WebSession.created).desc())
        )
        async with self._db.read() as session:
            rows = (await session.exec(query)).all()
        return tuple(SessionInfo(row.key, row.created, row.expires) for row in rows)

    async def prune(self) -> None:
        """Remove what is over."""
        async with self._db.write() as session:
            await session.exec(delete(WebSession).where(col(WebSession.expires) <= utcnow()))


async def end_logins(session: AsyncSession, user_id: int | None, *, keep: str | None = None) -> None:
    """Do `Sessions.delete_for_user` within the caller's write session."""
    query = delete(WebSession).where(col(WebSession.user_id) == user_id)
    await session.exec(query if keep is None else query.where(col(WebSession.key) != keep))


def step_up_until() -> str:
    """Give what to put under `STEP_UP_FIELD` after a fresh proof."""
    return (utcnow() + STEP_UP).isoformat()


def stepped_up(data: Mapping[str, object]) -> bool:
    """Tell whether a session's data holds a proof that still counts."""
    text = data.get(STEP_UP_FIELD)
    try:
        until = datetime.fromisoformat(str(text))
    except ValueError:
        return False
    return until.tzinfo is not None and utcnow() < until <= utcnow() + STEP_UP
