"""How each sync stands, put together of its rows: what the pages and the command line show."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from sqlmodel import select

from opsdeck.api import utcnow
from opsdeck_search_sync import health, ledger
from opsdeck_search_sync.models import DeadLetter, Generation, Minute, Phase, Reading, Shown, Sync, Wanted

if TYPE_CHECKING:
    from opsdeck.api import Database

HOUR = 60


@dataclass(frozen=True)
class Line:
    """A sync as a list shows it."""

    sync: Sync
    state: str
    word: str
    """A msgid of the plugin's catalogue."""
    live: Generation | None
    building: Generation | None
    reading: Reading | None
    dead: int


class Row(BaseModel):
    """A sync as the command line shows it."""

    name: str
    source: str
    table: str
    instance: str
    index: str
    word: str
    problem: str
    next: str
    behind: float | None
    in_flight: int | None
    log_kept: int | None
    dead: int
    copied: int | None
    of_about: int | None
    position: str
    kept_until: str
    mapping: dict[str, Any]
    settings: dict[str, Any]


def line_of(sync: Sync, generations: list[Generation], reading: Reading | None, dead: int) -> Line:
    """Put together what is known of a sync, its state first."""
    live = next((one for one in generations if one.phase == Phase.LIVE), None)
    building = next((one for one in generations if one.phase not in {Phase.LIVE, Phase.RETIRED}), None)
    silent = reading is None or utcnow() - reading.at > health.SILENT
    if sync.wanted == Wanted.GONE:
        state, word = "running", "being dropped"
    elif sync.problem:
        state, word = "broken", "stands still"
    elif sync.wanted == Wanted.PAUSED:
        state, word = "attention", "paused" if generations else "not started"
    elif silent:
        state, word = "attention", "says nothing"
    elif live is None:
        state, word = "running", "first copy"
    elif sync.shown == Shown.PREVIOUS:
        state, word = "attention", "shows the previous content"
    elif building is not None:
        state, word = "running", "rebuilding"
    elif dead:
        state, word = "attention", "dead letters"
    else:
        state, word = "ok", "follows"
    return Line(sync, state, word, live, building, reading, dead)


async def lines(db: Database) -> list[Line]:
    """Give every sync, by name."""
    async with db.read() as session:
        syncs = (await session.exec(select(Sync).order_by(Sync.name))).all()
        generations = (await session.exec(select(Generation))).all()
        readings = {row.sync: row for row in (await session.exec(select(Reading))).all()}
    dead = await ledger.dead_counts(db)
    return [
        line_of(
            sync,
            [one for one in generations if one.sync == sync.name],
            readings.get(sync.name),
            dead.get(sync.name, 0),
        )
        for sync in syncs
    ]


async def every(db: Database) -> list[Row]:
    """Give every sync for the command line."""
    return [_row(line) for line in await lines(db)]


async def one(db: Database, name: str) -> tuple[Row, tuple[DeadLetter, ...], tuple[Minute, ...]]:
    """Give one sync with its newest dead letters and the minutes of the last hour. Raises `NotFound`."""
    whole = await ledger.whole(db, name)
    async with db.read() as session:
        reading = await session.get(Reading, name)
    dead = (await ledger.dead_counts(db)).get(name, 0)
    line = line_of(whole.sync, list(whole.generations), reading, dead)
    return _row(line), await ledger.dead(db, name, limit=50), await last_hour(db, name)


async def last_hour(db: Database, name: str) -> tuple[Minute, ...]:
    """Give the counts of the last sixty minutes."""
    return await ledger.minutes(db, name, utcnow() - timedelta(minutes=HOUR))


def _row(line: Line) -> Row:
    sync, reading, built = line.sync, line.reading, line.building
    newest = line.live or built
    return Row(
        name=sync.name, source=sync.source, table=sync.table, instance=sync.instance, index=sync.index, word=line.word,
        problem=sync.problem, next=sync.hint, behind=reading.behind_seconds if reading and line.live else None,
        in_flight=reading.in_flight if reading else None, log_kept=reading.retained_bytes if reading else None,
        dead=line.dead, copied=built.copied if built else None, of_about=built.estimate if built else None,
        position=newest.position if newest else "",
        kept_until=f"{line.live.keep_until:%Y-%m-%d %H:%M}" if line.live and line.live.keep_until else "",
        mapping=sync.mapping, settings=sync.settings,
    )  # fmt: skip
