"""What was read from hosts, as the lists of the console show it: load, disk, traffic, renewal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from sqlalchemy import String, cast, func
from sqlmodel import col, select

from opsdeck.clock import utcnow
from opsdeck.db import Database
from opsdeck.inventory.models import Host, Sample
from opsdeck.inventory.samples.book import MonthTraffic, SampleBook
from opsdeck.inventory.terms import RENEWAL_DAYS
from opsdeck_web.formatting import bytes_

DAY = timedelta(hours=24)


@dataclass(frozen=True)
class HostLine:
    """One host as a row shows it."""

    host: Host
    load: tuple[float | None, ...]
    """Busy share of its processors over the last day, 0 to 1."""
    disk: float | None
    memory: float | None
    traffic: MonthTraffic | None
    renews_in: int | None

    @property
    def traffic_text(self) -> str:
        """Give used and paid traffic: `412 GB / 1 TB`, with one unit where both share it."""
        if self.traffic is None or not (self.traffic.used or self.traffic.quota):
            return ""
        used = bytes_(self.traffic.used)
        if not self.traffic.quota:
            return used
        quota = bytes_(self.traffic.quota)
        if used.rsplit(" ", 1)[-1] == quota.rsplit(" ", 1)[-1]:
            used = used.rsplit(" ", 1)[0]
        return f"{used} / {quota}"

    @property
    def renews_soon(self) -> bool:
        """Tell whether the renewal is near or past."""
        return self.renews_in is not None and self.renews_in <= RENEWAL_DAYS


async def host_lines(db: Database, hosts: Sequence[Host]) -> list[HostLine]:
    """Read what the rows of `hosts` show, with a fixed number of queries however many they are."""
    if not hosts:
        return []
    book = SampleBook(db)
    latest = await book.latest([host.name for host in hosts])
    traffic = await book.month(hosts)
    load = await day_of_load(db, [host.id for host in hosts if host.id is not None])
    today = utcnow().date()
    lines = []
    for host in hosts:
        sample = latest.get(host.name)
        fresh = sample is not None and sample.at > utcnow() - DAY
        lines.append(
            HostLine(
                host,
                tuple(load.get(host.id or 0, ())),
                _share(sample.disk_used, sample.disk_total) if sample and fresh else None,
                _share(sample.memory_used, sample.memory_total) if sample and fresh else None,
                traffic.get(host.name),
                days_until(host.renewal, today),
            )
        )
    return lines


def days_until(renewal: date | None, today: date) -> int | None:
    """Give the days from `today` to a renewal."""
    return (renewal - today).days if renewal else None


async def day_of_load(db: Database, ids: Sequence[int], now: datetime | None = None) -> dict[int, list[float | None]]:
    """Give the load of the last day by host: means over ten minutes, or over one while there are only two hours."""
    until = now or utcnow()
    since = until - DAY
    async with db.read() as session:
        oldest = (await session.exec(select(func.min(Sample.at)).where(col(Sample.at) >= since))).one()
        if oldest is None:
            return {}
        if oldest.tzinfo is None:
            oldest = oldest.replace(tzinfo=until.tzinfo)
        fine = until - oldest < timedelta(hours=2)
        bucket = func.substr(cast(Sample.at, String), 1, 16 if fine else 15).label("bucket")
        rows = (
            await session.exec(
                select(Sample.host_id, bucket, func.avg(Sample.cpu))
                .where(col(Sample.at) >= since, col(Sample.host_id).in_(ids))
                .group_by(col(Sample.host_id), bucket)
            )
        ).all()
    step = timedelta(minutes=1 if fine else 10)
    begin = oldest if fine else since
    names = [
        f"{begin + step * place:%Y-%m-%d %H:%M}"[: 16 if fine else 15]
        for place in range(int((until - begin) / step) + 1)
    ]
    found: dict[int, dict[str, float | None]] = {}
    for host_id, name, value in rows:
        found.setdefault(host_id, {})[name] = value
    return {host_id: bridged([values.get(name) for name in names]) for host_id, values in found.items()}


def bridged(values: list[float | None]) -> list[float | None]:
    """Close gaps of one or two places, which a poll that came a moment late leaves."""
    whole = list(values)
    if len(whole) > 1 and whole[-1] is None:
        whole[-1] = whole[-2]  # the last minute is not over
    for place in range(1, len(whole) - 1):
        after = next((value for value in whole[place + 1 : place + 3] if value is not None), None)
        if whole[place] is None and whole[place - 1] is not None and after is not None:
            whole[place] = whole[place - 1]
    return whole


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
