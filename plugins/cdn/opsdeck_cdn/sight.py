"""What visitors got: requests, bytes and hits by site, edge and hour, summed up on the edge from the front's log.

A sum and the place up to which the log was read are kept in one transaction, so nothing is counted twice or missed
while the log is there.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import delete, update
from sqlmodel import col, select

from opsdeck.api import (
    Action,
    HostAccess,
    JobRun,
    NoParams,
    NotDone,
    OpsDeckError,
    Receipt,
    Risk,
    Service,
    ServiceRun,
    StepRun,
    Targets,
    utcnow,
)
from opsdeck_cdn import book, edgehost
from opsdeck_cdn.models import EdgeRow, NameRow, TrafficRow
from opsdeck_cdn.proof import HELD
from opsdeck_cdn.render import layout

EVERY = 60.0
MOST = 64 << 20
"""Bytes of log that are read at once."""
KEPT = timedelta(days=90)
_SUM = re.compile(rb"sum (\d{1,12}) ([a-z0-9.:-]{1,260}) ([A-Z]{3,12}) ([1-5]) (\d{1,15}) (\d{1,18})")
_AT = re.compile(rb"at (\d{1,20}) (\d{1,20})")


@dataclass(frozen=True)
class Sum:
    """Requests of one hour that are alike: `status` is the first figure of theirs."""

    hour: datetime
    host: str
    cache: str
    status: int
    requests: int
    bytes: int


@dataclass(frozen=True)
class Tally:
    """What was read from a log, and up to where."""

    sums: tuple[Sum, ...]
    inode: str
    offset: int


def parse(host: str, output: bytes) -> Tally:
    """Read what the edge printed. Raises `NotDone` for what it cannot have printed."""
    lines = output.splitlines()
    end = _AT.fullmatch(lines[-1]) if lines else None
    found = [_SUM.fullmatch(line) for line in lines[:-1]]
    if end is None or not all(found):
        raise NotDone("its log could not be summed up.", host=host, hint="run `stats` again and see the log")
    sums = tuple(
        Sum(datetime.fromtimestamp(int(one[1]), UTC), one[2].decode().partition(":")[0], one[3].decode(),
            int(one[4]), int(one[5]), int(one[6]))
        for one in found if one
    )  # fmt: skip
    return Tally(sums, end[1].decode(), int(end[2]))


async def collect(access: HostAccess, db: Any) -> int:
    """Sum up what an edge logged since the last time; give the requests that were new."""
    host = access.host.name
    async with db.read() as session:
        row = (await session.exec(select(EdgeRow).where(EdgeRow.host == host))).first()
    if row is None or not row.generation:
        return 0
    body = f"{layout.LOGS}\n{row.log_inode or 0}\n{row.log_offset}\n{MOST}\n"
    done = await access.run(("perl", "-e", edgehost.shell("tally.pl")), sudo=True, stdin=body.encode(), log=False,
                            timeout=120)  # fmt: skip
    tally = parse(host, done.stdout)
    async with db.write() as session:
        moved = await session.exec(
            update(EdgeRow)
            .where(
                col(EdgeRow.host) == host,
                col(EdgeRow.log_inode) == row.log_inode,
                col(EdgeRow.log_offset) == row.log_offset,
            )
            .values(log_inode=tally.inode, log_offset=tally.offset)
        )
        if moved.rowcount != 1:
            return 0  # somebody else counted these meanwhile
        owners = {name.name: name.site for name in (await session.exec(select(NameRow))).all()}
        for one in tally.sums:
            if site := owners.get(one.host):
                await _add(session, host, site, one)
        await session.exec(delete(TrafficRow).where(col(TrafficRow.hour) < utcnow() - KEPT))
    return sum(one.requests for one in tally.sums)


async def _add(session: Any, edge: str, site: str, one: Sum) -> None:
    query = select(TrafficRow).where(
        TrafficRow.edge == edge, TrafficRow.site == site, TrafficRow.hour == one.hour,
        TrafficRow.cache == one.cache, TrafficRow.status == one.status,
    )  # fmt: skip
    row = (await session.exec(query)).first()
    if row is None:
        row = TrafficRow(edge=edge, site=site, hour=one.hour, cache=one.cache, status=one.status)
        session.add(row)
    row.requests += one.requests
    row.bytes += one.bytes


@dataclass(frozen=True)
class Traffic:
    """What visitors got in some hours. The lists have one value for each hour, the oldest first."""

    requests: int
    bytes: int
    held: int
    passed: int
    by_status: tuple[str, ...]
    """How many answers of each kind, such as `2xx 310`."""
    faults: int
    """Those of 5xx."""
    by_hour: tuple[float | None, ...]
    hits_by_hour: tuple[float | None, ...]

    @property
    def hit_ratio(self) -> float | None:
        """Give the share of requests for the cache that it answered; None when there was none."""
        asked = self.held + self.passed
        return self.held / asked if asked else None


async def traffic(db: Any, *, site: str = "", edge: str = "", hours: int = 24) -> Traffic:
    """Give what visitors of a site, or of an edge, got in the last hours."""
    now = utcnow()
    first = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=hours - 1)
    query = select(TrafficRow).where(col(TrafficRow.hour) >= first)
    if site:
        query = query.where(TrafficRow.site == site)
    if edge:
        query = query.where(TrafficRow.edge == edge)
    async with db.read() as session:
        rows = (await session.exec(query)).all()
    statuses: Counter[int] = Counter()
    for row in rows:
        statuses[row.status] += row.requests
    counts, held, asked = [0.0] * hours, [0.0] * hours, [0.0] * hours
    for row in rows:
        place = int((row.hour - first).total_seconds() // 3600)
        if 0 <= place < hours:
            counts[place] += row.requests
            asked[place] += row.requests if row.cache in (*HELD, "MISS", "EXPIRED") else 0
            held[place] += row.requests if row.cache in HELD else 0
    return Traffic(
        sum(row.requests for row in rows),
        sum(row.bytes for row in rows),
        int(sum(held)),
        int(sum(asked) - sum(held)),
        tuple(f"{first}xx {count}" for first, count in sorted(statuses.items())),
        statuses[5],
        tuple(counts),
        tuple(part / whole if whole else None for part, whole in zip(held, asked, strict=True)),
    )


async def _service(run: ServiceRun) -> None:
    while True:
        model = await book.load(run.db)
        for edge in model.edges:
            if not model.rows[edge.host].generation or model.rows[edge.host].health == "down":
                continue
            try:
                async with asyncio.timeout(150), run.on(edge.host) as access:
                    await collect(access, run.db)
            except (OpsDeckError, TimeoutError) as fault:
                # The log waits on the edge; the next round reads on where this one ended.
                run.log(f"{edge.host}: {fault or 'no answer in time'}", "bad")
        await asyncio.sleep(EVERY)


async def _instances(run: ServiceRun) -> Sequence[str]:
    model = await book.load(run.db)
    return ("",) if any(row.generation for row in model.rows.values()) else ()


async def _run(job: JobRun, _params: NoParams) -> Receipt:
    model = await book.load(job.db)
    names = [edge.host for edge in model.edges if model.rows[edge.host].generation]

    async def work(step: StepRun) -> Receipt:
        count = await collect(step, job.db)
        step.note(f"{count} requests")
        return {"requests": count}

    failed = await job.each(work, names, parallel=8)
    seen = {site.name: await traffic(job.db, site=site.name) for site in model.sites}
    for name, found in seen.items():
        ratio = "–" if found.hit_ratio is None else f"{found.hit_ratio:.0%}"
        job.log(
            f"{name}: {found.requests} requests in 24 h, {found.bytes} bytes, {ratio} of the static ones from caches"
        )
    told = {
        name: {
            "requests": found.requests,
            "bytes": found.bytes,
            "hit_ratio": found.hit_ratio,
            "faults": found.faults,
            "answers": list(found.by_status),
        }
        for name, found in seen.items()
    }
    return {"failed": failed, "sites": told}


def _touches(_params: NoParams, _hosts: Sequence[str]) -> Sequence[str]:
    return ["cdn:stats"]


stats = Action(
    "stats", "Count traffic now", "Read the edges' logs on from the last time and say what visitors got in 24 hours.",
    params=NoParams, risk=Risk.READ, targets=Targets.CONSOLE, run=_run, touches=_touches, timeout=900.0,
)  # fmt: skip
sight = Service("sight", "Counts what visitors got", _service, _instances)
