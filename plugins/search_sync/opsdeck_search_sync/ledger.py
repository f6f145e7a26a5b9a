"""The rows of a sync: read whole, written only by whoever holds the newest fence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, update
from sqlmodel import col, select

from opsdeck.api import Conflict, NotFound, utcnow
from opsdeck_search_sync.models import DeadLetter, Generation, Instance, Minute, Phase, Reading, Shown, Source, Sync

if TYPE_CHECKING:
    from opsdeck.api import Database


@dataclass(frozen=True)
class Whole:
    """A sync with everything it leans on, oldest generation first."""

    sync: Sync
    source: Source
    instance: Instance
    generations: tuple[Generation, ...]

    @property
    def live(self) -> Generation | None:
        """Give the generation that feeds the index that people search."""
        return next((one for one in self.generations if one.phase == Phase.LIVE), None)

    @property
    def building(self) -> Generation | None:
        """Give the generation that is being made."""
        return next((one for one in self.generations if one.phase not in {Phase.LIVE, Phase.RETIRED}), None)


async def whole(db: Database, name: str) -> Whole:
    """Read a sync. Raises `NotFound`."""
    async with db.read() as session:
        sync = await session.get(Sync, name)
        if sync is None:
            raise NotFound(f"there is no sync {name!r}.", field="sync", hint="see `opsdeck search-sync list`")
        source = await session.get(Source, sync.source)
        instance = await session.get(Instance, sync.instance)
        if source is None or instance is None:
            raise NotFound(f"the source or the Meilisearch of {name!r} is gone.", field="sync")
        rows = await session.exec(select(Generation).where(Generation.sync == name).order_by(col(Generation.number)))
        return Whole(sync, source, instance, tuple(rows.all()))


async def names(db: Database, wanted: Sequence[str]) -> tuple[str, ...]:
    """Give the syncs of which a person wants one of `wanted`."""
    async with db.read() as session:
        return tuple((await session.exec(select(Sync.name).where(col(Sync.wanted).in_(wanted)))).all())


async def move(db: Database, generation: Generation, fence: int, **values: Any) -> None:
    """Write how far a generation is. Raises `Conflict` when somebody newer has it."""
    values = {**values, "fence": fence, "moved": utcnow()}
    async with db.write() as session:
        done = await session.exec(
            update(Generation)
            .where(col(Generation.id) == generation.id, col(Generation.fence) <= fence)
            .values(**values)
        )
        if done.rowcount != 1:
            raise Conflict("another node has this sync now.", hint="nothing; it goes on there")
    for name, value in values.items():
        setattr(generation, name, value)


async def progress(db: Database, generation: Generation, fence: int, written: int, removed: int, **values: Any) -> None:
    """Write a checkpoint and what was done up to it, in one transaction. Raises `Conflict` as `move` does."""
    values = {**values, "fence": fence, "moved": utcnow()}
    minute = utcnow().replace(second=0, microsecond=0)
    async with db.write() as session:
        done = await session.exec(
            update(Generation)
            .where(col(Generation.id) == generation.id, col(Generation.fence) <= fence)
            .values(**values)
        )
        if done.rowcount != 1:
            raise Conflict("another node has this sync now.", hint="nothing; it goes on there")
        if written or removed:
            row = await session.get(Minute, (generation.sync, minute))
            if row is None:
                session.add(Minute(sync=generation.sync, minute=minute, written=written, removed=removed))
            else:
                row.written += written
                row.removed += removed
    for name, value in values.items():
        setattr(generation, name, value)


async def advance(db: Database, old: Generation | None, new: Generation, keep_until: datetime | None) -> None:
    """Make `new` the live generation, retire `old` and forget what was wrong with it, in one transaction."""
    async with db.write() as session:
        if old is not None:
            await session.exec(
                update(Generation).where(col(Generation.id) == old.id).values(phase=Phase.RETIRED, moved=utcnow())
            )
        values: dict[str, Any] = {"phase": Phase.LIVE, "keep_until": keep_until, "moved": utcnow(), "swap_after": None}
        if keep_until is None:
            values["shadow"] = ""
        await session.exec(update(Generation).where(col(Generation.id) == new.id).values(**values))
        row = {"shown": Shown.NEWEST, "problem": "", "hint": ""}
        await session.exec(update(Sync).where(col(Sync.name) == new.sync).values(**row))


async def forget(db: Database, generation: Generation) -> None:
    """Remove a generation's row with its dead letters."""
    async with db.write() as session:
        await session.exec(
            delete(DeadLetter).where(
                col(DeadLetter.sync) == generation.sync, col(DeadLetter.generation) == generation.number
            )
        )
        await session.exec(delete(Generation).where(col(Generation.id) == generation.id))


async def forget_sync(db: Database, name: str) -> None:
    """Remove every row of a sync."""
    async with db.write() as session:
        for table in (DeadLetter, Minute, Reading, Generation):
            await session.exec(delete(table).where(col(table.sync) == name))
        await session.exec(delete(Sync).where(col(Sync.name) == name))


async def set_problem(db: Database, name: str, problem: str, hint: str) -> None:
    """Say why a sync cannot go on."""
    async with db.write() as session:
        await session.exec(update(Sync).where(col(Sync.name) == name).values(problem=problem[:2000], hint=hint[:500]))


async def show(db: Database, name: str, shown: Shown) -> None:
    """Say which content people are to search."""
    async with db.write() as session:
        await session.exec(update(Sync).where(col(Sync.name) == name).values(shown=shown))


async def note(db: Database, reading: Reading) -> None:
    """Keep the newest reading of a sync."""
    async with db.write() as session:
        await session.merge(reading)


async def bury(db: Database, letter: DeadLetter) -> None:
    """Keep a dead letter; the newest of its id counts."""
    async with db.write() as session:
        await session.merge(letter)


async def raise_up(db: Database, generation: Generation, documents: Sequence[str]) -> None:
    """Forget dead letters whose documents were written meanwhile."""
    async with db.write() as session:
        await session.exec(
            delete(DeadLetter).where(
                col(DeadLetter.sync) == generation.sync,
                col(DeadLetter.generation) == generation.number,
                col(DeadLetter.document).in_(documents),
            )
        )


async def dead(db: Database, name: str, number: int | None = None, limit: int = 1000) -> tuple[DeadLetter, ...]:
    """Give the dead letters of a sync, or of one generation of it, the newest first."""
    query = select(DeadLetter).where(DeadLetter.sync == name)
    if number is not None:
        query = query.where(DeadLetter.generation == number)
    async with db.read() as session:
        return tuple((await session.exec(query.order_by(col(DeadLetter.at).desc()).limit(limit))).all())


async def dead_counts(db: Database) -> dict[str, int]:
    """Count the dead letters of each sync."""
    async with db.read() as session:
        rows = await session.exec(select(DeadLetter.sync, func.count()).group_by(col(DeadLetter.sync)))
        return {name: int(number) for name, number in rows.all()}


async def minutes(db: Database, name: str, since: datetime) -> tuple[Minute, ...]:
    """Give the counts per minute since a moment, oldest first."""
    async with db.read() as session:
        rows = await session.exec(
            select(Minute).where(Minute.sync == name, col(Minute.minute) >= since).order_by(col(Minute.minute))
        )
        return tuple(rows.all())


async def prune(db: Database, before: datetime) -> None:
    """Forget the counts of minutes long past."""
    async with db.write() as session:
        await session.exec(delete(Minute).where(col(Minute.minute) < before))
