"""Samples and traffic as rows: written in batches, thinned out with age, read for pages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, func, insert
from sqlalchemy import select as columns
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import aliased
from sqlmodel import col, delete, select, update

from opsdeck.clock import utcnow
from opsdeck.inventory.models import Host, Sample, Traffic
from opsdeck.inventory.samples.reading import Counters
from opsdeck.inventory.samples.traffic import Seen, between, by_month, cpu_share
from opsdeck.inventory.terms import counted, month_begins, month_ends

if TYPE_CHECKING:
    from opsdeck.db import Database

FINE = timedelta(hours=48)
"""How long every sample is kept; afterwards one an hour."""
COARSE = timedelta(days=90)
HOUR = timedelta(hours=1)
_HOSTS_AT_ONCE = 200


@dataclass(frozen=True)
class Polled:
    """One answer to a poll."""

    host_id: int
    reset_day: int
    at: datetime
    counters: Counters


@dataclass(frozen=True)
class MonthTraffic:
    """A host's traffic in its quota month. Days are UTC; `used` is what the provider counts, bytes."""

    host: str
    begins: date
    ends: date
    received: int
    sent: int
    used: int
    quota: int | None

    @property
    def share(self) -> float | None:
        """Give the used share of the quota (above 1 when it is spent), None without a quota."""
        return self.used / self.quota if self.quota else None


class SampleBook:
    """The samples of all hosts. One instance writes; it remembers the last poll of each host."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._last: dict[int, Seen] = {}
        self._loaded = False
        self._thinned: datetime | None = None
        """Hours before this one are thinned out."""

    async def store(self, polled: Sequence[Polled]) -> None:
        """Keep the answers to many polls, in one transaction. Answers of hosts that are gone are dropped."""
        if not self._loaded:
            await self._load()
        samples: dict[tuple[int, datetime], dict[str, Any]] = {}
        months: dict[tuple[int, date], tuple[int, int]] = {}
        seen: dict[int, Seen] = {}
        for item in sorted(polled, key=lambda one: one.at):
            before = seen.get(item.host_id) or self._last.get(item.host_id)
            after = _seen(item)
            if before is not None and after.at <= before.at:
                continue
            samples[item.host_id, item.at] = _row(item, cpu_share(before, after))
            amounts = between(before, after)
            if before is not None and any(amounts):
                for begins, received, sent in by_month(amounts, before.at, after.at, item.reset_day):
                    was = months.get((item.host_id, begins), (0, 0))
                    months[item.host_id, begins] = (was[0] + received, was[1] + sent)
            seen[item.host_id] = after
        if not samples:
            return
        async with self._db.write() as session:
            ids = {host_id for host_id, _ in samples}
            there = set((await session.exec(select(Host.id).where(col(Host.id).in_(ids)))).all())
            rows = [row for (host_id, _), row in samples.items() if host_id in there]
            if rows:
                await session.exec(insert(Sample), params=rows)
            sums = [
                {"host_id": host_id, "begins": begins, "received": received, "sent": sent}
                for (host_id, begins), (received, sent) in months.items()
                if host_id in there
            ]
            if sums:
                await session.exec(self._adding(), params=sums)
        self._last |= {host_id: one for host_id, one in seen.items() if host_id in there}

    def forget(self) -> None:
        """Read the last polls from the rows again, as when another node polled meanwhile."""
        self._loaded = False

    async def latest(self, hosts: Iterable[str] | None = None) -> dict[str, Sample]:
        """Give the newest sample by host name, for these hosts or all; hosts never polled are left out."""
        async with self._db.read() as session:
            query = select(Host.name, Sample).join(Sample, _is_newest())
            if hosts is not None:
                query = query.where(col(Host.name).in_(list(hosts)))
            return dict((await session.exec(query)).all())

    async def series(self, host: str, since: datetime, until: datetime | None = None) -> Sequence[Sample]:
        """Give a host's samples in order of time: all of the last 48 hours, one an hour before."""
        async with self._db.read() as session:
            query = select(Sample).join(Host, col(Host.id) == col(Sample.host_id)).where(Host.name == host)
            query = query.where(col(Sample.at) >= since, col(Sample.at) <= (until or utcnow()))
            return (await session.exec(query.order_by(col(Sample.at)))).all()

    async def month(self, hosts: Sequence[Host], at: datetime | None = None) -> dict[str, MonthTraffic]:
        """Give the traffic of each host in its quota month at `at` (now when None), by name."""
        now = at or utcnow()
        begins = {host.id: month_begins(host.quota_reset_day, now) for host in hosts}
        async with self._db.read() as session:
            rows = await session.exec(select(Traffic).where(col(Traffic.begins).in_(set(begins.values()))))
            sums = {(row.host_id, row.begins): row for row in rows.all()}
        return {host.name: _month(host, begins[host.id], sums) for host in hosts}

    async def months(self, host: Host, limit: int = 24) -> Sequence[Traffic]:
        """Give the sums of a host's quota months, newest first."""
        async with self._db.read() as session:
            query = select(Traffic).where(Traffic.host_id == host.id).order_by(col(Traffic.begins).desc()).limit(limit)
            return (await session.exec(query)).all()

    async def thin(self, now: datetime | None = None) -> int:
        """Thin out samples older than `FINE` to one an hour with that hour's means, drop those older than `COARSE`.

        Gives how many rows went. One hour of at most 200 hosts at a time, so that nobody waits long for the database.
        """
        current = now or utcnow()
        async with self._db.write() as session:
            old = await session.exec(delete(Sample).where(col(Sample.at) < current - COARSE))
            gone = int(old.rowcount or 0)
        first = self._thinned
        if first is None:
            async with self._db.read() as session:
                first = (await session.exec(select(func.min(Sample.at)))).one()
        if first is None:
            return gone
        hour = first.replace(minute=0, second=0, microsecond=0)
        while hour + HOUR <= current - FINE:
            gone += await self._thin_hour(hour)
            hour += HOUR
            self._thinned = hour
        return gone

    async def _thin_hour(self, hour: datetime) -> int:
        within = (col(Sample.at) >= hour, col(Sample.at) < hour + HOUR)
        async with self._db.read() as session:
            groups = await (await session.connection()).execute(
                columns(
                    col(Sample.host_id),
                    func.max(Sample.at),
                    func.avg(Sample.cpu),
                    func.avg(Sample.load1),
                    func.avg(Sample.memory_used),
                )
                .where(*within)
                .group_by(col(Sample.host_id))
                .having(func.count() > 1)
            )
            many = groups.all()
        gone = 0
        for start in range(0, len(many), _HOSTS_AT_ONCE):
            part = many[start : start + _HOSTS_AT_ONCE]
            async with self._db.write() as session:
                for host_id, last, cpu, load, memory in part:
                    await session.exec(
                        update(Sample)
                        .where(col(Sample.host_id) == host_id, col(Sample.at) == last)
                        .values(cpu=cpu, load1=load, memory_used=int(memory))
                    )
                    rest = await session.exec(
                        delete(Sample).where(*within, col(Sample.host_id) == host_id, col(Sample.at) < last)
                    )
                    gone += int(rest.rowcount or 0)
        return gone

    async def _load(self) -> None:
        async with self._db.read() as session:
            rows = await session.exec(select(Sample).join(Host, _is_newest()))
            self._last = {
                row.host_id: Seen(
                    row.at, row.boot_id, row.interfaces, row.received, row.sent, row.cpu_busy, row.cpu_total
                )
                for row in rows.all()
            }
        self._loaded = True

    def _adding(self) -> Any:
        dialect: Any = sqlite if self._db.sqlite else postgresql
        statement = dialect.insert(Traffic)
        return statement.on_conflict_do_update(
            index_elements=["host_id", "begins"],
            set_={
                "received": col(Traffic.received) + statement.excluded.received,
                "sent": col(Traffic.sent) + statement.excluded.sent,
            },
        )


def _is_newest() -> ColumnElement[bool]:
    """Join a host with its newest sample: one look into the index per host, however many samples there are."""
    other = aliased(Sample)
    last = columns(func.max(other.at)).where(col(other.host_id) == col(Host.id)).scalar_subquery()
    return (col(Sample.host_id) == col(Host.id)) & (col(Sample.at) == last)


def _seen(item: Polled) -> Seen:
    read = item.counters
    names = ",".join(read.interfaces)
    return Seen(item.at.astimezone(UTC), read.boot_id, names, read.received, read.sent, read.cpu_busy, read.cpu_total)


def _row(item: Polled, cpu: float | None) -> dict[str, Any]:
    read = item.counters
    return {
        "host_id": item.host_id,
        "at": item.at,
        "cpu": cpu,
        "load1": read.load1,
        "memory_used": read.memory_used,
        "memory_total": read.memory_total,
        "disk_used": read.disk_used,
        "disk_total": read.disk_total,
        "received": read.received,
        "sent": read.sent,
        "cpu_busy": read.cpu_busy,
        "cpu_total": read.cpu_total,
        "boot_id": read.boot_id,
        "interfaces": ",".join(read.interfaces),
    }


def _month(host: Host, begins: date, sums: Mapping[tuple[int, date], Traffic]) -> MonthTraffic:
    row = sums.get((host.id or 0, begins))
    received, sent = (row.received, row.sent) if row else (0, 0)
    return MonthTraffic(
        host=host.name,
        begins=begins,
        ends=month_ends(host.quota_reset_day, begins),
        received=received,
        sent=sent,
        used=counted(received, sent, host.quota_counts),
        quota=host.quota_bytes,
    )
