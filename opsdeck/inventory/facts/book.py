"""Facts kept with their history: a new page only when something differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlmodel import col, delete, select

from opsdeck.clock import utcnow
from opsdeck.inventory.facts.catalogue import BY_NAME, Reading
from opsdeck.inventory.facts.parsers import Value
from opsdeck.inventory.models import FactSet, Host
from opsdeck.inventory.selector import unknown_host

if TYPE_CHECKING:
    from sqlmodel.ext.asyncio.session import AsyncSession

    from opsdeck.db import Database

KEEP = timedelta(days=400)


@dataclass(frozen=True)
class FactChange:
    """One fact that differs. None on a side means that it was absent there."""

    name: str
    before: Value | None
    after: Value | None

    @property
    def title(self) -> str:
        """Give the fact's title."""
        return BY_NAME[self.name].title if self.name in BY_NAME else self.name

    @property
    def gone(self) -> tuple[str, ...]:
        """Give the entries of a list that are no longer there."""
        return _without(self.before, self.after)

    @property
    def new(self) -> tuple[str, ...]:
        """Give the entries of a list that were not there."""
        return _without(self.after, self.before)

    @property
    def phrases(self) -> tuple[str, ...]:
        """Give the change for people: `- gone` and `+ new` for each entry of a list, else `before → after`."""
        if isinstance(self.before, list) or isinstance(self.after, list):
            return (*(f"- {item}" for item in self.gone), *(f"+ {item}" for item in self.new))
        before, after = ("absent" if value is None else value for value in (self.before, self.after))
        return (f"{before} → {after}",)


def compare(before: Mapping[str, Value], after: Mapping[str, Value]) -> tuple[FactChange, ...]:
    """Give the facts that differ, in the catalogue's order, without those that move by themselves."""
    order = {name: place for place, name in enumerate(BY_NAME)}
    names = sorted(before.keys() | after.keys(), key=lambda name: (order.get(name, len(order)), name))
    return tuple(
        FactChange(name, before.get(name), after.get(name))
        for name in names
        if before.get(name) != after.get(name) and not (name in BY_NAME and BY_NAME[name].moving)
    )


class FactBook:
    """The facts of all hosts."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def store(self, host: str, reading: Reading, *, at: datetime | None = None) -> tuple[FactChange, ...]:
        """Keep a reading; give what differs from the one before (all of it, when it is the first).

        Raises `NotFound` when the host is gone.
        """
        now = at or utcnow()
        async with self._db.write() as session:
            host_id = await _host_id(session, host)
            last = await _page(session, host_id, None)
            facts = dict(reading.facts)
            if last is not None and last.digest == reading.digest:
                last.facts, last.confirmed = facts, now
                session.add(last)
                return ()
            session.add(FactSet(host_id=host_id, taken=now, confirmed=now, digest=reading.digest, facts=facts))
            return compare(last.facts if last else {}, facts)

    async def latest(self, host: str) -> FactSet | None:
        """Give the newest facts of a host, None when none were read yet. Raises `NotFound` for an unknown host."""
        async with self._db.read() as session:
            return await _page(session, await _host_id(session, host), None)

    async def latest_of(self, hosts: Sequence[str]) -> dict[str, FactSet]:
        """Give the newest facts of many hosts by name; hosts without any are left out."""
        from sqlalchemy import func
        from sqlalchemy import select as columns
        from sqlalchemy.orm import aliased

        other = aliased(FactSet)
        last = columns(func.max(other.id)).where(col(other.host_id) == col(Host.id)).scalar_subquery()
        async with self._db.read() as session:
            query = select(Host.name, FactSet).join(FactSet, col(FactSet.id) == last)
            return dict((await session.exec(query.where(col(Host.name).in_(hosts)))).all())

    async def changes(self, host: str, since: datetime, until: datetime | None = None) -> tuple[FactChange, ...]:
        """Give what differs between the facts at `since` and those at `until` (now when None).

        When nothing was read before `since`, the oldest facts after it stand for them. Raises `NotFound` for an
        unknown host.
        """
        async with self._db.read() as session:
            host_id = await _host_id(session, host)
            before = await _page(session, host_id, since) or await _oldest(session, host_id)
            after = await _page(session, host_id, until)
        if before is None or after is None or after.taken < before.taken:
            return ()
        return compare(before.facts, after.facts)

    async def history(self, host: str, limit: int = 50) -> Sequence[FactSet]:
        """Give the newest pages of a host's facts, newest first. Raises `NotFound` for an unknown host."""
        async with self._db.read() as session:
            host_id = await _host_id(session, host)
            rows = await session.exec(
                select(FactSet).where(FactSet.host_id == host_id).order_by(col(FactSet.taken).desc()).limit(limit)
            )
            return rows.all()

    async def prune(self, now: datetime | None = None) -> None:
        """Forget pages that were last true more than `KEEP` ago; each host keeps its newest."""
        from sqlalchemy import func

        async with self._db.write() as session:
            newest = select(func.max(FactSet.id)).group_by(col(FactSet.host_id))
            await session.exec(
                delete(FactSet).where(col(FactSet.confirmed) < (now or utcnow()) - KEEP, col(FactSet.id).not_in(newest))
            )


async def _host_id(session: AsyncSession, name: str) -> int:
    found = (await session.exec(select(Host.id).where(Host.name == name))).first()
    if found is None:
        raise unknown_host(name, (await session.exec(select(Host.name))).all())
    return found


async def _page(session: AsyncSession, host_id: int, at: datetime | None) -> FactSet | None:
    query = select(FactSet).where(FactSet.host_id == host_id)
    if at is not None:
        query = query.where(FactSet.taken <= at)
    return (await session.exec(query.order_by(col(FactSet.taken).desc(), col(FactSet.id).desc()).limit(1))).first()


async def _oldest(session: AsyncSession, host_id: int) -> FactSet | None:
    query = select(FactSet).where(FactSet.host_id == host_id).order_by(col(FactSet.taken)).limit(1)
    return (await session.exec(query)).first()


def _without(one: Value | None, other: Value | None) -> tuple[str, ...]:
    if not isinstance(one, list):
        return ()
    return tuple(item for item in one if not isinstance(other, list) or item not in other)
