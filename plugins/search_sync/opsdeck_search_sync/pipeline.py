"""From changes to documents that are known to be in the index: coalesced, batched, several in flight, in order.

The promise: `mark` is only told once every operation before it has **succeeded** in Meilisearch, or lies in the dead
letters with its reason. Operations on one document reach the index in their order, also after a failure.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from functools import partial
from typing import Generic, TypeVar

import msgspec

from opsdeck.api import Refused, Unavailable, utcnow
from opsdeck_search_sync.changes import Counts, Json
from opsdeck_search_sync.doubts import LOOK, Doubts
from opsdeck_search_sync.meilisearch import Meilisearch, Problem, Rejected, Unanswered

M = TypeVar("M")

ASK_EVERY = 0.25
"""Seconds after which tasks are asked for though there is more to send: each question waits for Meilisearch."""

Id = int | str


class Verb(Enum):
    """What is done with a document."""

    REPLACE = "replace"
    MERGE = "merge"
    DELETE = "delete"
    HOLD = "hold"
    """Nothing is sent: when its turn has come it goes to the dead letters, with `why`."""


@dataclass(slots=True)
class Op:
    """What becomes of one document; `body` is empty for a deletion and the row for what is held back."""

    verb: Verb
    body: dict[str, Json] = field(default_factory=dict)
    why: str = ""


@dataclass(frozen=True)
class Limits:
    """How much is held and sent, and how long things wait."""

    documents: int = 2000
    bytes: int = 4 << 20
    """Of a batch, about."""
    age: float = 0.2
    """Seconds that a change waits for company."""
    flights: int = 12
    """Batches on their way. Meilisearch takes all that wait as one, so there must be more than it works on."""
    held: int = 12 << 20
    """Bytes on their way, about."""
    poll: float = 0.02
    poll_most: float = 0.5
    retry_first: float = 0.2
    retry_most: float = 10.0
    patience: float = 60.0
    """Seconds that Meilisearch may be away before the source's connection is let go."""


@dataclass(slots=True)
class _Batch(Generic[M]):
    """Operations that are sent together. `mark` is where the source's log is whole once they succeeded."""

    ops: dict[Id, Op]
    mark: M | None
    bytes: int
    committed: datetime | None
    sealed: float = field(default_factory=time.monotonic)
    tasks: tuple[int, ...] = ()


class Pipeline(Generic[M]):
    """The way into one index. `run` it beside whoever calls `put`; an error of either ends both.

    `on_mark(mark, counts)` is called when everything before `mark` is in the index. `on_dead(id, op, problem)` is
    called for a document that Meilisearch refuses or that is held back; `on_good(ops)` for what is in the index now.
    """

    def __init__(
        self,
        client: Meilisearch,
        index: str,
        *,
        on_mark: Callable[[M, Counts], Awaitable[None]],
        on_dead: Callable[[Id, Op, Problem], Awaitable[None]],
        on_good: Callable[[Mapping[Id, Op]], Awaitable[None]] | None = None,
        limits: Limits | None = None,
        doubts: Doubts | None = None,
    ) -> None:
        self._client = client
        self._index = index
        self._on_mark, self._on_dead, self._on_good = on_mark, on_dead, on_good
        self._limits = limits or Limits()
        self._doubts = doubts or Doubts(client, index, index)
        self._window: dict[Id, Op] = {}
        self._mark: M | None = None
        self._committed: datetime | None = None
        self._bytes = 0
        self._since = 0.0
        self._hurry = False
        self._flights: deque[_Batch[M]] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._still = asyncio.Event()
        self._still.set()
        self._pause = self._limits.poll
        self._looked = 0.0
        self._broken: BaseException | None = None
        self._counts = Counts()
        self._buried: set[Id] = set()
        self.mark: M | None = None
        """The last mark that was reached."""

    @property
    def in_flight(self) -> int:
        """Count the documents that wait for their task or are gathered."""
        return len(self._window) + sum(len(batch.ops) for batch in self._flights)

    @property
    def oldest(self) -> float:
        """Give the age of the oldest change that is not known to have succeeded, in seconds."""
        since = self._flights[0].sealed if self._flights else self._since if self._window else None
        return time.monotonic() - since if since is not None else 0.0

    async def put(
        self, ops: Sequence[tuple[Id, Op]], mark: M | None, *, bytes_: int = 0, committed: datetime | None = None
    ) -> None:
        """Add operations in their order, at most a batch of them at once; wait while there is no room."""
        most = self._limits.documents
        for first in range(0, max(1, len(ops)), most):
            while len(self._window) >= most or self._bytes >= self._limits.bytes:
                self._room.clear()
                await self._or_broken(self._room)
            if not self._window and not self._since:
                self._since = time.monotonic()
            some = ops[first : first + most]
            window = self._window
            for id_, op in some:
                old = window.pop(id_, None)
                window[id_] = op if old is None else coalesced(old, op)
            self._bytes += bytes_ * len(some) // max(1, len(ops))
            if mark is not None and first + most >= len(ops):
                self._mark = mark
            self._committed = committed or self._committed
            self._still.clear()
            self._news.set()
            if self._broken:
                raise self._broken

    def again(self, ops: Sequence[tuple[Id, Op]]) -> int:
        """Try dead letters again, but for documents that something newer is on its way for; give how many."""
        busy = set(self._window).union(*(batch.ops for batch in self._flights))
        chosen = [(id_, op) for id_, op in ops if id_ not in busy]
        if chosen and not self._window:
            self._since = time.monotonic()
        self._window.update(chosen)
        if chosen:
            self._still.clear()
            self._news.set()
        return len(chosen)

    async def drain(self) -> None:
        """Wait until everything that was put has succeeded."""
        self._hurry = True
        self._news.set()
        await self._or_broken(self._still)
        self._hurry = False

    async def clear(self) -> None:
        """Empty the index, after everything that was put before."""
        await self.drain()
        await self._patiently(self._clear)

    async def _clear(self) -> None:
        await self._client.done(await self._marked(partial(self._client.clear, self._index)))

    async def _or_broken(self, event: asyncio.Event) -> None:
        while not event.is_set():
            if self._broken:
                raise self._broken
            try:
                async with asyncio.timeout(0.5):
                    await event.wait()
            except TimeoutError:
                continue

    async def run(self) -> None:
        """Send, follow and check until cancelled. Raises `Unavailable` and `Refused`."""
        try:
            while True:
                self._news.clear()
                if self._ready():
                    await self._send(self._seal())
                if self._flights and (not self._ready() or time.monotonic() - self._looked >= ASK_EVERY):
                    await self._look()
                if (late := await self._patiently(self._doubts.look)) is not None:
                    raise Unavailable(
                        f"a write to {self._index} that was given up came late, as task {late}.",
                        hint="nothing; the log is read again from before it",
                    )
                await self._rest()
        except asyncio.CancelledError:
            self._broken = Unavailable("the sync was stopped.")
            raise
        except BaseException as fault:
            self._broken = fault
            raise

    def _ready(self) -> bool:
        if self._full() or not (self._window or self._mark is not None):
            return False
        if not self._window:
            return not self._flights
        full = len(self._window) >= self._limits.documents or self._bytes >= self._limits.bytes
        return full or self._hurry or time.monotonic() - self._since >= self._limits.age

    def _full(self) -> bool:
        return len(self._flights) >= self._limits.flights or (
            sum(batch.bytes for batch in self._flights) >= self._limits.held
        )

    def _seal(self) -> _Batch[M]:
        batch = _Batch(self._window, self._mark, self._bytes, self._committed)
        self._window, self._mark, self._bytes, self._committed, self._since = {}, None, 0, None, 0.0
        self._room.set()
        return batch

    async def _rest(self) -> None:
        if not self._flights and not self._window and self._mark is None:
            self._still.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK if self._doubts.open else None):
                    await self._news.wait()
            return
        if self._ready():
            return
        pause = self._pause if self._flights else max(0.001, self._limits.age - (time.monotonic() - self._since))
        if self._hurry or not self._flights:
            pause = min(pause, 0.02)
        elif self._full():
            pause = min(pause, 0.05)  # Meilisearch may be idle already
        await asyncio.sleep(pause)

    async def _send(self, batch: _Batch[M]) -> None:
        try:
            batch.tasks = await self._patiently(lambda: self._submit(batch.ops))
        except Rejected:
            batch.tasks = (-1,)  # as a task that failed: sent again in order, and split
        self._flights.append(batch)
        self._pause = self._limits.poll

    async def _submit(self, ops: Mapping[Id, Op]) -> tuple[int, ...]:
        """Send operations on documents that are all different, so that the order of the tasks is free."""
        tasks = []
        for verb, merge in ((Verb.REPLACE, False), (Verb.MERGE, True)):
            bodies = [op.body for op in ops.values() if op.verb is verb]
            if bodies:
                lines = encoded(bodies)
                tasks.append(await self._marked(partial(self._client.documents, self._index, lines, merge=merge)))
        gone = [id_ for id_, op in ops.items() if op.verb is Verb.DELETE]
        if gone:
            tasks.append(await self._marked(partial(self._client.delete, self._index, gone)))
        return tuple(tasks)

    async def _marked(self, send: Callable[..., Awaitable[int]]) -> int:
        """Send a request under a mark of its own; remember it when nobody knows whether it arrived."""
        mark = self._doubts.mark()
        try:
            uid = await send(mark=mark)
        except Unanswered as fault:
            self._doubts.given_up(mark, fault.seconds)
            raise
        self._doubts.wrote(uid)
        return uid

    async def _look(self) -> None:
        """Ask for the tasks in flight; take what succeeded off the front; send again from the first that failed."""
        self._looked = time.monotonic()
        known = await self._patiently(
            lambda: self._client.tasks([uid for batch in self._flights for uid in batch.tasks if uid >= 0])
        )
        moved = False
        while self._flights:
            batch = self._flights[0]
            states = [known.get(uid) for uid in batch.tasks]
            if any(state is None or (state.over and state.status != "succeeded") for state in states):
                await self._mend()
                return
            if not all(state is not None and state.over for state in states):
                break
            self._flights.popleft()
            await self._succeeded(batch)
            moved = True
        self._pause = self._limits.poll if moved else min(self._limits.poll_most, self._pause * 1.5)

    async def _mend(self) -> None:
        """Let what flies land, then send everything from the first failure on again, one batch after the other."""
        waiting = [uid for batch in self._flights for uid in batch.tasks if uid >= 0]
        pause = self._limits.poll
        deadline = time.monotonic() + 10 * self._limits.patience
        while True:
            known = await self._patiently(lambda: self._client.tasks(waiting))
            if all(task.over for task in known.values()):
                break
            if time.monotonic() > deadline:
                raise Unavailable(f"Meilisearch does not finish its tasks on {self._index}.", hint="see its tasks")
            await asyncio.sleep(pause)
            pause = min(self._limits.poll_most, pause * 1.5)
        while self._flights:
            batch = self._flights[0]
            await self._surely(batch.ops)
            self._flights.popleft()
            await self._succeeded(batch)

    async def _surely(self, ops: dict[Id, Op]) -> None:
        """Bring operations in, splitting where a document spoils the rest, down to the one that is put aside."""
        problem = await self._try(ops)
        if problem is None:
            return
        if len(ops) == 1:
            ((id_, op),) = ops.items()
            if not problem.bisects:
                raise self._config(problem)
            self._counts.dead += 1
            self._buried.add(id_)
            await self._on_dead(id_, op, problem)
            return
        if not problem.bisects:
            raise self._config(problem)
        items = list(ops.items())
        half = len(items) // 2
        await self._surely(dict(items[:half]))
        await self._surely(dict(items[half:]))

    def _config(self, problem: Problem) -> Refused:
        return Refused(
            f"Meilisearch refuses to write to {self._index} ({problem.code}): {problem.message}",
            hint="mend the sync's definition or the index, then resume it",
        )

    async def _try(self, ops: dict[Id, Op]) -> Problem | None:
        """Send and wait; give the problem that the documents have, if any. What passes is tried again."""

        async def once() -> Problem | None:
            try:
                for uid in await self._submit(ops):
                    await self._client.done(uid)
            except Rejected as fault:
                if fault.problem.passes:
                    raise Unavailable(f"Meilisearch cannot write now: {fault.problem.message}") from fault
                return fault.problem
            return None

        return await self._patiently(once)

    T = TypeVar("T")

    async def _patiently(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do what may find Meilisearch away: again and again, for as long as the limits say."""
        began, pause = time.monotonic(), self._limits.retry_first
        while True:
            try:
                return await work()
            except Unavailable:
                if time.monotonic() - began + pause > self._limits.patience:
                    raise
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - spread, not a secret
            pause = min(self._limits.retry_most, pause * 2)

    async def _succeeded(self, batch: _Batch[M]) -> None:
        for id_, op in batch.ops.items():
            if op.verb is Verb.HOLD:
                self._counts.dead += 1
                self._buried.add(id_)
                await self._on_dead(id_, op, Problem("hook_failed", "invalid_request", op.why))
        good = batch.ops
        if self._buried:
            good = {id_: op for id_, op in batch.ops.items() if id_ not in self._buried}
            self._buried.clear()
        removed = sum(op.verb is Verb.DELETE for op in good.values())
        self._counts.removed += removed
        self._counts.written += len(good) - removed
        if batch.committed is not None:
            self._counts.lag = max(0.0, (utcnow() - batch.committed).total_seconds())
        if self._on_good is not None and good:
            await self._on_good(good)
        if batch.mark is not None:
            self.mark = batch.mark
            counts, self._counts = self._counts, Counts()
            await self._on_mark(batch.mark, counts)


_ENCODER = msgspec.json.Encoder()


def encoded(bodies: Sequence[dict[str, Json]]) -> list[bytes]:
    """Write documents as JSON. What JSON has no words for in UTF-8 is written escaped, for Meilisearch to refuse."""
    try:
        return [_ENCODER.encode(body) for body in bodies]
    except (TypeError, ValueError, OverflowError):
        if len(bodies) > 1:
            return [line for body in bodies for line in encoded([body])]
        return [json.dumps(bodies[0], default=str).encode()]


def coalesced(old: Op | None, new: Op) -> Op:
    """Make one operation of two on the same document: what the index holds after both is the same."""
    if old is None or new.verb is not Verb.MERGE:
        return new
    if old.verb is Verb.DELETE:
        return Op(Verb.REPLACE, new.body)
    return Op(old.verb, {**old.body, **new.body})
