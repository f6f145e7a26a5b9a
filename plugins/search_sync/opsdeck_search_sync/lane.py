"""One generation at work: made ready, copied, then following its source's log into one index."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from opsdeck.api import Refused, Unavailable, utcnow
from opsdeck_search_sync import ledger
from opsdeck_search_sync.changes import Change, Column, Counts, Emptied, Part, Put, Reader
from opsdeck_search_sync.doubts import Doubts
from opsdeck_search_sync.hooks import Hook, bounded, told
from opsdeck_search_sync.mapping import Mapper
from opsdeck_search_sync.meilisearch import GONE, Meilisearch, Problem
from opsdeck_search_sync.models import DeadLetter, Generation, Phase
from opsdeck_search_sync.pipeline import Id, Limits, Op, Pipeline, Verb
from opsdeck_search_sync.pulse import Pulse
from opsdeck_search_sync.rules import MappingRules

if TYPE_CHECKING:
    from opsdeck.api import Database

T = TypeVar("T")

KEEP_EVERY, KEEP_IDLE = 1.0, 10.0
"""Seconds between two checkpoints in the database: while documents are written, and while nothing happens."""
MOST_DEAD = 1000
"""Dead letters of one generation; with more it is not the documents that are wrong."""


@dataclass(frozen=True)
class _Copied:
    """A mark of the copy: the last key, and how many rows there were up to it."""

    last: tuple[str, ...]
    rows: int


class Lane:
    """Works on one generation until it is told to halt. `fence` is written with every step.

    `searched` is the index that people search, whose settings a new one takes over; `quiet` says that whoever worked on
    it before left no write unanswered.
    """

    def __init__(
        self, db: Database, reader: Reader, client: Meilisearch, generation: Generation, index: str, fence: int,
        *, searched: str = "", limits: Limits | None = None, quiet: bool = False, hooks: Sequence[Hook] = (),
    ) -> None:  # fmt: skip
        self._db, self.reader, self._client, self.generation = db, reader, client, generation
        self._hooks = tuple(hooks)
        self._searched = searched
        self.complaint = ""
        """What went wrong last with telling a hook; "" when nothing did."""
        self.index = index
        """Where it writes: the shadow, or the index that people search."""
        self._fence = fence
        self._limits = limits
        self._rules = MappingRules.model_validate(generation.mapping)
        self._mapper: Mapper | None = None
        self._pipeline: Pipeline[str] | None = None
        self._counts = Counts()
        self._kept, self._position = 0.0, generation.position
        self._dead: set[str] = set()
        self._halt = asyncio.Event()
        self._goal: str | None = None
        self.caught_up = asyncio.Event()
        self.lag: float | None = None
        self._keeping = asyncio.Lock()
        self._pulse = Pulse()
        self._doubts = Doubts(client, index, f"{generation.sync}:{generation.number}", self._pulse)
        if generation.phase != Phase.NEW and not quiet:
            self._doubts.earlier(min(GONE, GONE - (utcnow() - generation.moved).total_seconds()))

    @property
    def in_doubt(self) -> bool:
        """Tell whether a write that nobody answered may still arrive; the checkpoint stays before it."""
        return self._doubts.open

    @property
    def in_flight(self) -> int:
        """Count documents that are on their way."""
        return self._pipeline.in_flight if self._pipeline else 0

    @property
    def oldest(self) -> float:
        """Give the age of the oldest of them."""
        return self._pipeline.oldest if self._pipeline else 0.0

    @property
    def position(self) -> str:
        """Give the position up to which everything succeeded."""
        return self._position

    def halt(self, goal: str | None = None) -> None:
        """End soon: at once, or when `goal` was reached. `run` then comes back with all that was read written."""
        self._goal = goal
        self._halt.set()

    async def run(self) -> None:
        """Bring the generation from where it is to following, and follow."""
        await beside(self._run, self._pulse.run)

    async def _run(self) -> None:
        self._mapper = Mapper(self._rules, columns := await self.reader.columns(), self._hooks)
        self._fits(columns)
        self._dead = {
            letter.document for letter in await ledger.dead(self._db, self.generation.sync, self.generation.number)
        }
        if self.generation.phase == Phase.NEW:
            await self._prepare()
        if self.generation.phase == Phase.COPYING:
            await self._copy()
        await self._follow()

    async def _prepare(self) -> None:
        """Make the shadow with its settings, then take the position: nothing that is copied later lies before it."""
        generation = self.generation
        findings = [finding for finding in await self.reader.preflight() if finding.stop]
        if findings:
            raise Refused(findings[0].text, field="source", hint=findings[0].sql or "mend it, then resume the sync")
        await self._client.remove(generation.shadow)
        await self._client.done(await self._client.create(generation.shadow, self._rules.id))
        if settings := await self._settings():
            await self._client.done(await self._client.settings(generation.shadow, settings))
        assert self._mapper is not None  # noqa: S101 - made by `run`
        mapping: dict[str, Any] = self._mapper.frozen.model_dump(mode="json", by_alias=True)
        position = await self.reader.begin()
        estimate = await self.reader.estimate()
        shape = self._mapper.shape_of(await self.reader.columns())
        await ledger.move(
            self._db, generation, self._fence, mapping=mapping, phase=Phase.COPYING, position=position,
            cursor=None, copied=0, estimate=estimate, shape=shape,
        )  # fmt: skip
        self._position = position

    def _fits(self, columns: Sequence[Column]) -> None:
        """Raise `Refused` when the table is no longer what it was copied as, in what the mapping needs."""
        assert self._mapper is not None  # noqa: S101 - made by `run`
        was, now = self.generation.shape, self._mapper.shape_of(columns)
        for name in was if was != now else ():
            if was[name] != now.get(name):
                what = f"the column {name!r} was" if name else "its primary key was"
                raise Refused(
                    f"the table was altered at the source: {what} {was[name]}, now {now.get(name, 'it is gone')}.",
                    field="table",
                    hint="see that the mapping still fits, then rebuild; the index stays as it is until then",
                )

    async def _settings(self) -> dict[str, Any]:
        """Give what the index has that people search, with what the sync says of it. Raises `Refused`."""
        there = await self._client.settings_of(self._searched) if self._searched else {}
        masked = [name for name, one in (there.get("embedders") or {}).items() if (one or {}).get("apiKey")]
        if masked and "embedders" not in self.generation.settings:
            raise Refused(
                f"the embedder {masked[0]!r} of {self._searched} has a key, which Meilisearch does not tell.",
                field="settings",
                hint="write the embedders into the sync's settings, then rebuild",
            )
        return {**there, **self.generation.settings}

    async def _copy(self) -> None:
        mapper = self._mapper
        assert mapper is not None  # noqa: S101 - made by `run`
        generation = self.generation
        kept = 0.0
        written = 0

        async def on_mark(mark: _Copied, counts: Counts) -> None:
            nonlocal kept, written
            written += counts.written
            if time.monotonic() - kept >= KEEP_EVERY:
                await keep(mark)

        async def keep(mark: _Copied) -> None:
            nonlocal kept, written
            await ledger.progress(
                self._db, generation, self._fence, written, 0, cursor=list(mark.last), copied=mark.rows
            )
            kept, written = time.monotonic(), 0

        pipeline: Pipeline[_Copied] = Pipeline(
            self._client, self.index, on_mark=on_mark, on_dead=self._bury, on_good=self._good, limits=self._limits,
            doubts=self._doubts,
        )  # fmt: skip

        async def work() -> None:
            rows = generation.copied
            after = tuple(generation.cursor) if generation.cursor else None
            async with aclosing(ahead(self.reader.copy(after))) as chunks:
                async for chunk in chunks:
                    ops = await self._ops([Put(row) for row in chunk.rows])
                    rows += len(chunk.rows)
                    mark = _Copied(chunk.last, rows)
                    await pipeline.put([one for one in ops if one[1].verb is not Verb.DELETE], mark, bytes_=chunk.bytes)
            await pipeline.drain()

        await beside(work, pipeline.run)
        if pipeline.mark is not None:
            await keep(pipeline.mark)
        await ledger.move(self._db, generation, self._fence, phase=Phase.REPLAYING)

    async def _follow(self) -> None:
        self._position = self.generation.position
        self._doubts.begin(await self._client.newest_task())
        pipeline: Pipeline[str] = Pipeline(
            self._client, self.index, on_mark=self._on_mark, on_dead=self._bury, on_good=self._good,
            limits=self._limits, doubts=self._doubts,
        )  # fmt: skip
        self._pipeline = pipeline

        async def work() -> None:
            reading = asyncio.create_task(self._read(pipeline))
            halted = asyncio.create_task(self._halt.wait())
            try:
                await asyncio.wait({reading, halted}, return_when=asyncio.FIRST_COMPLETED)
                if reading.done():
                    reading.result()
                elif self._goal is None:
                    reading.cancel()
                else:
                    await self._reach(reading, self._goal)
            finally:
                for task in (reading, halted):
                    task.cancel()
                await asyncio.gather(reading, halted, return_exceptions=True)
            await pipeline.drain()

        try:
            await beside(work, pipeline.run)
        finally:
            self._pipeline = None
        await self._keep()

    async def _reach(self, reading: asyncio.Task[None], goal: str) -> None:
        while not self.reader.reached(self._position, goal):
            await asyncio.wait({reading}, timeout=0.02)
            if reading.done():
                reading.result()
                return
        reading.cancel()

    async def _read(self, pipeline: Pipeline[str]) -> None:
        goal = (await self.reader.head(self.generation.position)).position
        if self.reader.reached(self.generation.position, goal):
            self.caught_up.set()
        async with aclosing(self.reader.read(self.generation.position)) as parts:
            async for part in parts:
                await self._take(pipeline, part)
                if not self.caught_up.is_set() and part.position and self.reader.reached(part.position, goal):
                    self.caught_up.set()
        raise Unavailable("the source's log ended.", hint="it is read again by itself")

    async def _take(self, pipeline: Pipeline[str], part: Part) -> None:
        """Put a part's operations in. An emptied table empties the index between what came before and after."""
        assert self._mapper is not None  # noqa: S101 - made by `run`
        if part.altered:
            self._fits(await self.reader.columns())
        before: list[Change] = []
        for change in part.changes:
            if isinstance(change, Emptied):
                await pipeline.put(await self._ops(before), None)
                await pipeline.clear()
                before = []
            else:
                before.append(change)
        await pipeline.put(await self._ops(before), part.position, bytes_=part.bytes, committed=part.committed)

    async def _ops(self, changes: Sequence[Change]) -> list[tuple[Id, Op]]:
        """Turn changes into operations; with hooks in a thread, since nobody knows what they do."""
        mapper = self._mapper
        assert mapper is not None  # noqa: S101 - made by `run`

        def work() -> list[tuple[Id, Op]]:
            return [made for made in mapper.operations(changes) if not isinstance(made, Emptied)]

        return await bounded(work) if self._hooks and changes else work()

    async def _on_mark(self, mark: str, counts: Counts) -> None:
        self._position = mark
        self._counts.written += counts.written
        self._counts.removed += counts.removed
        if counts.lag is not None:
            self.lag = counts.lag
        busy = self._counts.written or self._counts.removed
        if time.monotonic() - self._kept >= (KEEP_EVERY if busy else KEEP_IDLE):
            await self._keep()

    async def _keep(self) -> None:
        """Write the checkpoint, and only then let the source forget what lies before it."""
        async with self._keeping:
            counts, self._counts = self._counts, Counts()
            position = self.generation.position if self.in_doubt else self._position
            await ledger.progress(
                self._db, self.generation, self._fence, counts.written, counts.removed, position=position
            )
            self._kept = time.monotonic()
            await self.reader.confirm(position)

    async def tend(self) -> None:
        """Write what the last marks left unwritten, when it is time."""
        if self._pipeline is None:
            return
        waits = self._counts.written or self._counts.removed
        moved = self._position != self.generation.position and not self.in_doubt
        if (waits or moved) and time.monotonic() - self._kept >= (KEEP_EVERY if waits else KEEP_IDLE):
            await self._keep()

    async def _bury(self, id_: Id, op: Op, problem: Problem) -> None:
        document = json.dumps(id_)
        if document not in self._dead and len(self._dead) >= MOST_DEAD:
            raise Refused(
                f"more than {MOST_DEAD} documents were refused, the last with: {problem.message}",
                field="mapping",
                hint="look at the dead letters, mend the mapping or the index's settings, then rebuild",
            )
        body = json.dumps(op.body, ensure_ascii=False)
        letter = DeadLetter(
            sync=self.generation.sync, generation=self.generation.number, document=document, verb=op.verb.value,
            body=body if len(body) <= 1 << 20 else "", code=problem.code, reason=problem.message[:1000], at=utcnow(),
        )  # fmt: skip
        await ledger.bury(self._db, letter)
        self._dead.add(document)

    async def _good(self, ops: Mapping[Id, Op]) -> None:
        """Tell hooks what is in the index now, and forget the dead letters of documents that were written."""
        if self._hooks:
            written = {id_: op.body for id_, op in ops.items() if op.verb is not Verb.DELETE}
            self.complaint = await told(self._hooks, written, [id_ for id_ in ops if id_ not in written])
        if not self._dead:
            return
        risen = [document for document in map(json.dumps, ops) if document in self._dead]
        if risen:
            await ledger.raise_up(self._db, self.generation, risen)
            self._dead.difference_update(risen)

    async def retry(self) -> int | None:
        """Try the dead letters again; give how many. None while there is no way for them yet: ask again later."""
        if self._pipeline is None:
            return None
        letters = await ledger.dead(self._db, self.generation.sync, self.generation.number)
        ops: list[tuple[Id, Op]] = []
        for letter in letters:
            body = json.loads(letter.body or "{}")
            if letter.verb == Verb.HOLD.value and body:
                ops += await self._ops([Put(body)])
            elif body or letter.verb == Verb.DELETE.value:
                ops.append((json.loads(letter.document), Op(Verb(letter.verb), body)))
        return self._pipeline.again(ops) if self._pipeline is not None else None


async def ahead(source: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """Give what a source gives, while the next is read already."""
    async with aclosing(source):
        reading = asyncio.ensure_future(anext(source, None))
        try:
            while (item := await reading) is not None:
                reading = asyncio.ensure_future(anext(source, None))
                yield item
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


async def beside(work: Callable[[], Awaitable[None]], other: Callable[[], Awaitable[None]]) -> None:
    """Do `work` while `other` runs beside it; whichever fails first ends both."""
    main, side = asyncio.ensure_future(work()), asyncio.ensure_future(other())
    try:
        await asyncio.wait({main, side}, return_when=asyncio.FIRST_COMPLETED)
        if side.done():
            side.result()
        else:
            main.result()
    finally:
        for task in (main, side):
            task.cancel()
        await asyncio.gather(main, side, return_exceptions=True)
