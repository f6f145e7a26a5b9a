"""A sync's service: keeps its live generation following, builds a new one beside it, and swaps the two.

One node runs it at a time, under the core's lease; every row it writes carries the lease's fence.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from opsdeck.api import Conflict, Invalid, NotFound, OpsDeckError, Refused, Service, utcnow
from opsdeck_search_sync import hooks, ledger, reaching
from opsdeck_search_sync.changes import LogLost, Reader
from opsdeck_search_sync.lane import Lane
from opsdeck_search_sync.ledger import Whole
from opsdeck_search_sync.mapping import Mapper
from opsdeck_search_sync.meilisearch import Meilisearch, Rejected
from opsdeck_search_sync.models import Generation, Phase, Shown, Source, Wanted
from opsdeck_search_sync.pipeline import Limits
from opsdeck_search_sync.rules import MappingRules
from opsdeck_search_sync.sources.place import Place
from opsdeck_search_sync.turning import late, swap, turn
from opsdeck_search_sync.watching import INCIDENTS, TooMuchLog, Watch, guard

if TYPE_CHECKING:
    from opsdeck.api import ServiceRun

TICK, READING = 0.5, 5.0
NEEDS_A_PERSON = (Invalid, NotFound, Refused, LogLost, Rejected)


@dataclass(eq=False)
class _Work:
    lane: Lane
    task: asyncio.Task[None]


class Stream:
    """One sync at work, for as long as the lease is held."""

    def __init__(self, run: ServiceRun, client: Meilisearch, place: Place, whole: Whole) -> None:
        self._run, self._client, self._place, self._whole = run, client, place, whole
        self._db, self._name = run.db, whole.sync.name
        self._work: dict[int, _Work] = {}
        self._held: set[int] = set()
        self._quiet: set[int] = set()
        self._retried = whole.sync.retry
        self._read = 0.0
        self._watch = Watch(run, self._name)
        self._control = self._reader(Generation(sync=self._name, number=0))

    def _reader(self, generation: Generation, needed: frozenset[str] | None = None) -> Reader:
        sync, source = self._whole.sync, self._whole.source
        return reaching.reader(source.kind, self._place, sync.table, f"{sync.name}_{generation.number}", needed)

    async def _needed(self, generation: Generation) -> frozenset[str] | None:
        rules = MappingRules.model_validate(generation.mapping)
        return Mapper(rules, await self._control.columns()).needed

    async def work(self) -> None:
        """Do what the rows say until cancelled, until the sync is to go, or until the ways to its ends must be taken
        anew: since they were saved otherwise, or since a person mended what was wrong. Raises what starting again may
        mend."""
        ends = _ends(self._whole)
        try:
            await self._same_server()
            while True:
                self._whole = await ledger.whole(self._db, self._name)
                mended = self._held and not self._whole.sync.problem
                if self._whole.sync.wanted == Wanted.GONE or mended or _ends(self._whole) != ends:
                    return
                await self._arrange()
                await self._look_after()
                await self._wait()
        finally:
            for work in list(self._work.values()):
                await self._stop(work)
            await self._control.close()

    async def _same_server(self) -> None:
        source = self._whole.source
        found = await self._control.identity()
        if source.identity and source.identity != found:
            await self._problem(
                Refused(
                    f"the server behind {source.name} is another one ({found}, was {source.identity}).",
                    hint="point the source back, or drop its syncs, save the source again and make them anew",
                )
            )
            raise Refused(f"the server behind {source.name} is another one.")
        if not source.identity:
            async with self._db.write() as session:
                row = await session.get(Source, source.name)
                if row is not None:
                    row.identity = found

    async def _arrange(self) -> None:
        """Start what should run and does not; swap what is ready; remove what is retired."""
        live, building = self._whole.live, self._whole.building
        if building is not None and building.phase == Phase.SWAPPING:
            await self._finish_swap(live, building, wait=late(building))
            return
        doubts = any(work.lane.in_doubt for work in self._work.values())
        if live is not None and live.turned != (self._whole.sync.shown == Shown.PREVIOUS) and not doubts:
            await self._turn(live)
        for generation in (live, building):
            if generation is not None and generation.turned:
                continue  # its content is not the one that is searched; it goes on once that was turned back
            if generation is not None and generation.id not in self._work and generation.id not in self._held:
                await self._start(generation)
        known = {one.id for one in self._whole.generations}
        for number in [number for number in self._work if number not in known]:
            await self._stop(self._work.pop(number))
        for generation in self._whole.generations:
            if generation.phase == Phase.RETIRED:
                if (work := self._work.pop(generation.id or 0, None)) is not None:
                    await self._stop(work)
                await self._retire(generation)
        kept = live is not None and live.shadow and not live.turned
        if live is not None and kept and live.keep_until is not None and live.keep_until < utcnow():
            await self._client.remove(live.shadow)
            await ledger.move(self._db, live, self._run.fence, shadow="", keep_until=None)
        new = self._work.get(building.id or 0) if building is not None else None
        if building is not None and new is not None and new.lane.caught_up.is_set() and not doubts:
            await self._swap(live, building)

    async def _start(self, generation: Generation) -> None:
        assert generation.id is not None  # noqa: S101 - read from the database
        index = self._whole.sync.index if generation.phase == Phase.LIVE else generation.shadow
        try:
            chosen = hooks.load(self._run.home, MappingRules.model_validate(generation.mapping).hooks)
            reader = self._reader(generation, await self._needed(generation))
        except NEEDS_A_PERSON as fault:
            await self._problem(fault)
            self._held.add(generation.id)
            return
        quiet = generation.id in self._quiet
        self._quiet.discard(generation.id)
        sync, instance = self._whole.sync, self._whole.instance
        limits = Limits(documents=instance.batch, age=instance.wait)
        lane = Lane(
            self._db, reader, self._client, generation, index, self._run.fence, searched=sync.index, limits=limits,
            quiet=quiet, hooks=chosen,
        )  # fmt: skip
        self._work[generation.id] = _Work(
            lane, asyncio.create_task(lane.run(), name=f"{self._name} {generation.number}")
        )
        self._run.log(f"generation {generation.number}: {generation.phase}, writes to {index}")

    async def _stop(self, work: _Work) -> None:
        work.task.cancel()
        await asyncio.gather(work.task, return_exceptions=True)
        await work.lane.reader.close()

    async def _wait(self) -> None:
        """Wait a moment; look at what ended meanwhile."""
        if self._work:
            await asyncio.wait([work.task for work in self._work.values()], timeout=TICK)
        else:
            await asyncio.sleep(TICK)
        for number, work in list(self._work.items()):
            if not work.task.done():
                continue
            del self._work[number]
            await work.lane.reader.close()
            try:
                work.task.result()
            except Conflict:
                raise
            except NEEDS_A_PERSON as fault:
                self._held.add(number)
                await self._problem(fault)

    async def _problem(self, fault: OpsDeckError) -> None:
        self._run.log(str(fault), "bad")
        await ledger.set_problem(self._db, self._name, fault.message, fault.hint or "")
        await self._run.open_incident(
            f"search_sync:{self._name}:problem", f"The sync {self._name} cannot go on", detail=str(fault)
        )

    async def _swap(self, live: Generation | None, building: Generation) -> None:
        """Halt the live generation, let the new one reach where that came to, swap, go on with the new one."""
        assert building.id is not None  # noqa: S101 - read from the database
        new, goal = self._work[building.id], live.position if live is not None else None
        if live is not None and (old := self._work.pop(live.id or 0, None)) is not None:
            old.lane.halt()
            await self._ended(old)
            if old.lane.in_doubt:
                return  # a late write to the index would hit the new content: it starts again, and the swap waits
            goal = old.lane.position
        new.lane.halt(goal)
        del self._work[building.id]
        await self._ended(new)
        if new.lane.in_doubt:
            return
        self._quiet.add(building.id)
        await ledger.move(
            self._db, building, self._run.fence, phase=Phase.SWAPPING, swap_after=await self._client.newest_task()
        )
        await self._finish_swap(live, building)

    async def _turn(self, live: Generation) -> None:
        """Let people search the kept content, or the newest again: with all that was read written before."""
        if (work := self._work.pop(live.id or 0, None)) is not None:
            work.lane.halt()
            await self._ended(work)
            if work.lane.in_doubt:
                return  # a late write would hit the other content: it starts again, and this waits
            self._quiet.add(live.id or 0)
        if live.shadow:
            await turn(self._db, self._client, live, self._whole.sync.index, self._run.fence)
            self._run.log("people search the previous content" if live.turned else "people search the newest content")
        else:
            await ledger.show(self._db, self._name, Shown.NEWEST)

    async def _ended(self, work: _Work) -> None:
        try:
            async with asyncio.timeout(300):
                await work.task
        finally:
            await self._stop(work)

    async def _finish_swap(self, live: Generation | None, building: Generation, *, wait: float = 0.0) -> None:
        """Do the swap, or find that it was done before somebody died; then make the new generation the live one.

        For `wait` seconds a swap that was asked for before may still come in: a second one would undo it.
        """
        index, shadow = self._whole.sync.index, building.shadow
        if not await self._client.exists(index):
            await self._client.done(await self._client.create(index, MappingRules.model_validate(building.mapping).id))
        await swap(self._client, index, building, wait=wait)
        empty = await self._client.count(shadow) == 0
        if live is not None and live.shadow:
            await self._client.remove(live.shadow)
        if empty:
            await self._client.remove(shadow)
        keep_until = None if empty else utcnow() + timedelta(hours=self._whole.sync.undo_hours)
        await ledger.advance(self._db, live, building, keep_until)
        self._held.clear()
        self._run.log(f"generation {building.number} is live", "good")

    async def _retire(self, generation: Generation) -> None:
        reader = self._reader(generation)
        try:
            await reader.end()
        finally:
            await reader.close()
        if generation.shadow:
            await self._client.remove(generation.shadow)
        await ledger.forget(self._db, generation)

    async def _look_after(self) -> None:
        """Write readings, guard the source's disk, try dead letters again when asked to."""
        sync = self._whole.sync
        for work in list(self._work.values()):
            await work.lane.tend()
        if sync.retry != self._retried:
            live = self._work.get(self._whole.live.id or 0) if self._whole.live else None
            if live is not None and (count := await live.lane.retry()) is not None:
                self._retried = sync.retry
                self._run.log(f"{count} dead letters are tried again")
        if time.monotonic() - self._read >= READING:
            self._read = time.monotonic()
            await self._note_reading()

    async def _note_reading(self) -> None:
        lanes = {number: work.lane for number, work in self._work.items() if not work.task.done()}
        seen = await self._watch.look(self._whole.sync, lanes, NEEDS_A_PERSON)
        for number, fault in seen.faults.items():
            self._held.add(number)
            work = self._work.pop(number)
            await self._stop(work)
            if isinstance(fault, TooMuchLog):
                await work.lane.reader.end()
                await work.lane.reader.close()
            await self._problem(fault)
        if (live := self._whole.live) is not None and live.turned and live.id not in self._held:
            await self._guard_turned(live)
        if self._held:
            seen.reading.state = "held"
        await ledger.note(self._db, seen.reading)
        if not self._held and not self._whole.sync.problem:
            await self._run.close_incident(f"search_sync:{self._name}:problem")

    async def _guard_turned(self, live: Generation) -> None:
        """The source keeps its log for a generation that is not at work as well."""
        reader = self._reader(live)
        try:
            guard(self._whole.sync, await reader.head(live.position))
        except NEEDS_A_PERSON as fault:
            self._held.add(live.id or 0)
            if isinstance(fault, TooMuchLog):
                await reader.end()
            await self._problem(fault)
        finally:
            await reader.close()

    async def gone(self) -> None:
        """Remove everything at the source and in Meilisearch but the index that people search; then the rows."""
        for generation in self._whole.generations:
            await self._retire(generation)
        for what in INCIDENTS:
            await self._run.close_incident(f"search_sync:{self._name}:{what}")
        await ledger.forget_sync(self._db, self._name)


def _ends(whole: Whole) -> tuple[Any, ...]:
    return whole.source.model_dump(exclude={"identity"}), whole.instance.model_dump()


async def run_stream(run: ServiceRun) -> None:
    """Be the service of one sync."""
    while True:
        try:
            whole = await ledger.whole(run.db, run.key)
        except NotFound:
            return
        way = reaching.ServiceWay(run)
        async with reaching.reached(way, whole.source) as place, reaching.meilisearch(way, whole.instance) as client:
            stream = Stream(run, client, place, whole)
            if whole.sync.wanted != Wanted.GONE:
                await stream.work()
            else:
                await stream.gone()


async def instances(run: ServiceRun) -> Sequence[str]:
    """Name the syncs that should be at work on some node. One that is to go is a key of its own only until it went."""
    return await ledger.names(run.db, (Wanted.RUNNING, Wanted.GONE))


stream = Service(name="stream", title="Sync into Meilisearch", run=run_stream, instances=instances)
