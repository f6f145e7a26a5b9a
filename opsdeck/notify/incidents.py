"""Incidents: something wrong, from first sight to recovery. Told once, and once when over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import func
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession
from sqlmodel.sql.expression import SelectOfScalar

from opsdeck.clock import utcnow
from opsdeck.errors import Invalid
from opsdeck.events import IncidentClosed, IncidentOpened
from opsdeck.notify.models import Incident

if TYPE_CHECKING:
    from opsdeck.db import Database
    from opsdeck.events import Bus

SEVERITIES = ("broken", "attention")
_TITLE, _DETAIL = 300, 20_000


class Incidents:
    """What is wrong now, and what was."""

    def __init__(self, db: Database, events: Bus) -> None:
        self._db = db
        self._events = events

    async def open(
        self,
        key: str,
        title: str,
        *,
        detail: str = "",
        host: str = "",
        severity: str = "broken",
        plugin: str = "core",
        link: str = "",
    ) -> bool:
        """Say that something is wrong; tell whether that is new.

        The same `key` is one incident until it is closed: seen again, it counts one up and shows the newest text, and
        nobody is told again. Raises `Invalid` for an empty key or an unknown severity.
        """
        if not key or len(key) > 255:
            raise Invalid("an incident needs a key of at most 255 letters.", field="key")
        if severity not in SEVERITIES:
            raise Invalid(f"severity {severity!r} is unknown.", field="severity", hint="give broken or attention")
        async with self._db.write() as session:
            told = await self.record(
                session,
                key,
                title,
                detail=detail,
                host=host,
                severity=severity,
                plugin=plugin,
                link=link,
            )
        if told is not None:
            self._events.publish(told)
        return told is not None

    async def close(self, key: str) -> bool:
        """Say that it is over; tell whether it was open."""
        async with self._db.read() as session:
            if (await session.exec(_open_by(key))).first() is None:
                return False
        async with self._db.write() as session:
            told = await self.settle(session, key)
        if told is not None:
            self._events.publish(told)
        return told is not None

    async def record(
        self,
        session: AsyncSession,
        key: str,
        title: str,
        *,
        detail: str = "",
        host: str = "",
        severity: str = "broken",
        plugin: str = "core",
        link: str = "",
    ) -> IncidentOpened | None:
        """Do `open` within the caller's write session; give the event to publish after its commit, if any."""
        title, detail = _cut(title, _TITLE), _cut(detail, _DETAIL)
        found = await self._find(session, key)
        if found is not None:
            found.title, found.detail, found.severity = title, detail, severity
            found.host, found.link = host or found.host, link or found.link
            found.seen, found.count = utcnow(), found.count + 1
            return None
        session.add(
            Incident(key=key, title=title, detail=detail, host=host, severity=severity, plugin=plugin, link=link)
        )
        return IncidentOpened(key=key, title=title)

    async def settle(self, session: AsyncSession, key: str) -> IncidentClosed | None:
        """Do `close` within the caller's write session; give the event to publish after its commit, if any."""
        found = await self._find(session, key)
        if found is None:
            return None
        found.closed = utcnow()
        return IncidentClosed(key=key, title=found.title)

    async def open_now(self) -> tuple[Incident, ...]:
        """Give what is wrong now: broken before attention, the longest first."""
        async with self._db.read() as session:
            rows = await session.exec(
                select(Incident).where(col(Incident.closed).is_(None)).order_by(col(Incident.opened))
            )
            return tuple(sorted(rows.all(), key=lambda row: SEVERITIES.index(row.severity)))

    async def list(
        self,
        *,
        key: str | None = None,
        host: str | None = None,
        plugin: str | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> tuple[Incident, ...]:
        """Give incidents, open and closed, the newest first; `before` is the id to go on from."""
        query = select(Incident)
        for column, value in ((Incident.key, key), (Incident.host, host), (Incident.plugin, plugin)):
            if value is not None:
                query = query.where(col(column) == value)
        if before is not None:
            query = query.where(col(Incident.id) < before)
        async with self._db.read() as session:
            rows = await session.exec(query.order_by(col(Incident.id).desc()).limit(max(1, min(limit, 1000))))
            return tuple(rows.all())

    async def _find(self, session: AsyncSession, key: str) -> Incident | None:
        """Give the open incident of `key`; until the session ends no other writer can look for it."""
        if not self._db.sqlite:
            await session.exec(select(func.pg_advisory_xact_lock(func.hashtext(f"incident:{key}"))))
        return (await session.exec(_open_by(key))).first()


def _open_by(key: str) -> SelectOfScalar[Incident]:
    return select(Incident).where(Incident.key == key, col(Incident.closed).is_(None))


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else text[: size - 1] + "…"
