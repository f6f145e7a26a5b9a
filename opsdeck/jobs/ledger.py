"""What a running job writes: log lines, steps, audit entries, gathered and written together.

One transaction per flush, whatever the number of hosts and lines; each flush carries the job's fencing number, so a
node that lost the job changes nothing. Nobody waits for the database except who writes more than fits in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, insert, update
from sqlmodel import col

from opsdeck.actor import Actor
from opsdeck.audit.entry import Record
from opsdeck.clock import utcnow
from opsdeck.errors import Conflict, Unavailable
from opsdeck.events import JobChanged, LogWritten
from opsdeck.jobs import holds
from opsdeck.jobs.lines import Line, storable
from opsdeck.jobs.log import Entry, chunks
from opsdeck.jobs.models import Job, LogChunk, State, Step

if TYPE_CHECKING:
    from sqlmodel.ext.asyncio.session import AsyncSession

    from opsdeck.audit.log import AuditLog
    from opsdeck.db import Database
    from opsdeck.deck import Deck
    from opsdeck.events import Bus

BATCH_SECONDS = 0.1
GATHER_SECONDS = 0.03
"""From the first thing to write to its flush: a step that begins says several, and a quick one is over by then."""
HIGH_LINES = 20_000
HIGH_BYTES = 8 << 20
FLUSH_LINES = 4_000
"""Lines written in one transaction; more go into the next, so that no flush holds the loop for long."""
LOG_LIMIT = 256 << 20
"""Bytes of log that one job keeps."""
PATIENCE = 60.0
"""Seconds for which writes are tried again while the database is locked, full or gone."""


class JobTaken(Conflict):
    """Another node has the job, or it is over: what this node wrote was not kept."""


@dataclass
class StepState:
    """A step as the runner knows it; copied into its row at each flush."""

    host: str
    state: State = State.QUEUED
    note: str = ""
    exit_status: int | None = None
    error: str = ""
    fault: str = ""
    receipt: dict[str, Any] | None = None
    remote: dict[str, Any] | None = None
    started: datetime | None = None
    finished: datetime | None = None

    @classmethod
    def of(cls, row: Step) -> StepState:
        """Take over what the row says."""
        return cls(
            row.host,
            State(row.state),
            row.note,
            row.exit_status,
            row.error,
            row.fault,
            row.receipt,
            row.remote,
            row.started,
            row.finished,
        )

    def values(self) -> dict[str, Any]:
        """Give the columns of the row, under the names the UPDATE binds."""
        names = ("state", "note", "exit_status", "error", "fault", "receipt", "remote", "started", "finished")
        return {"of_host": self.host} | {f"to_{name}": getattr(self, name) for name in names}


@dataclass(frozen=True)
class Done:
    """How a job ended."""

    state: State
    error: str = ""
    fault: str = ""
    receipt: dict[str, Any] | None = None


@dataclass(frozen=True)
class Written:
    """What one flush brought: for who watches in this process."""

    lines: tuple[Line, ...]
    steps: tuple[StepState, ...]


class Ledger:
    """The book of one running job. Everything but `flush` and `finish` returns at once."""

    def __init__(
        self,
        db: Database,
        audit: AuditLog,
        events: Bus,
        *,
        job_id: int,
        node: str,
        fence: int,
        actor: Actor,
        steps: Iterable[StepState],
        next_line: int = 1,
        kept_bytes: int = 0,
        tap: Callable[[Written], None] | None = None,
    ) -> None:
        self._db, self._audit, self._events = db, audit, events
        self._job_id, self._node, self._fence, self._actor = job_id, node, fence, actor
        self.steps = {step.host: step for step in steps}
        self._next, self._kept = next_line, kept_bytes
        self._tap = tap
        self._entries: list[Entry] = []
        self._bytes = 0
        self._dirty: dict[str, None] = {}
        self._changed: list[tuple[str, State]] = []
        self._added: dict[str, None] = {}
        self._notes: list[Record] = []
        self._wanted = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._writing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self.last_line = time.monotonic()
        """When the job last said something, on the monotonic clock: what the silence clock looks at."""

    @classmethod
    def of(
        cls,
        deck: Deck,
        job: Job,
        actor: Actor,
        steps: Iterable[Step],
        *,
        last_line: int,
        tap: Callable[[Written], None] | None = None,
    ) -> Ledger:
        """Open the book of a job that this node has claimed, where the node before it stopped writing."""
        return cls(
            deck.db,
            deck.audit,
            deck.events,
            job_id=job.id or 0,
            node=job.node,
            fence=job.fence,
            actor=actor,
            steps=map(StepState.of, steps),
            next_line=last_line + 1,
            kept_bytes=job.log_bytes,
            tap=tap,
        )

    @property
    def full(self) -> bool:
        """Tell whether more lines wait than should; then await `room`."""
        return not self._room.is_set()

    async def room(self) -> None:
        """Wait until there is room for more lines."""
        await self._room.wait()

    def lines(self, host: str, stream: str, texts: Sequence[str]) -> None:
        """Add lines to a lane, masked and cut before."""
        self.last_line = time.monotonic()
        size = sum(map(len, texts))
        if self._kept > LOG_LIMIT:
            return
        self._kept += size
        now = time.time_ns() // 1_000_000
        if self._kept > LOG_LIMIT:
            texts = [f"The log is full ({LOG_LIMIT >> 20} MB): what follows is not kept."]
            host, stream = "", "bad"
        self._entries += [(now, host, stream, text) for text in texts]
        self._bytes += size
        if len(self._entries) > HIGH_LINES or self._bytes > HIGH_BYTES:
            self._room.clear()
        self._wanted.set()

    def heard(self) -> None:
        """Know that a host said something that is not logged: the silence clock begins again."""
        self.last_line = time.monotonic()

    def change(self, host: str, **values: Any) -> None:
        """Set values of a step."""
        step = self.steps[host]
        before = step.state
        for name, value in values.items():
            setattr(step, name, storable(value) if type(value) is str else value)
        self._dirty[host] = None
        if step.state != before:
            self._changed.append((host, step.state))
        self._wanted.set()

    def add_step(self, host: str) -> None:
        """Add a step on a host that the job did not name when it was made."""
        self.steps[host] = StepState(host)
        self._added[host] = None
        self._dirty[host] = None
        self._wanted.set()

    def note(self, verb: str, target: str, detail: Mapping[str, Any]) -> None:
        """Add an audit entry, written with the next flush."""
        self._notes.append(Record(self._actor, verb, target, detail))
        self._wanted.set()

    async def keep(self) -> None:
        """Flush whenever something waits, until cancelled. Raises `JobTaken`, or `Unavailable` after `PATIENCE`."""
        while True:
            await self._wanted.wait()
            await asyncio.sleep(GATHER_SECONDS)
            began = time.monotonic()
            await self.flush()
            await asyncio.sleep(max(BATCH_SECONDS, 4 * (time.monotonic() - began)) if not self._entries else 0)

    async def flush(self) -> None:
        """Write everything that waits now; on return it is in the database. Cancelling the caller cuts no write."""
        await self._whole(self._flush())

    async def _flush(self) -> None:
        async with self._writing:
            while self._entries or self._dirty or self._notes:
                await self._patiently(None)
            self._wanted.clear()

    async def finish(self, done: Done) -> None:
        """Write what is left and how the job ended, the last of it in one transaction."""
        await self._whole(self._finish(done))

    async def _finish(self, done: Done) -> None:
        async with self._writing:
            while len(self._entries) > FLUSH_LINES:
                await self._patiently(None)
            await self._patiently(done)

    async def _whole(self, work: Coroutine[None, None, None]) -> None:
        """Do a write in a task of its own, so that a cancelled caller leaves it whole."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)

    async def _patiently(self, done: Done | None) -> None:
        end = time.monotonic() + PATIENCE
        pause = 0.1
        while True:
            try:
                return await self._write(done)
            except Unavailable:
                if time.monotonic() + pause > end:
                    raise
                await asyncio.sleep(pause)
                pause = min(2 * pause, 5.0)

    async def _write(self, done: Done | None) -> None:
        batch = _Batch(
            self._entries[:FLUSH_LINES],
            [replace(self.steps[host]) for host in self._dirty],
            tuple(self._added),
            list(self._notes),
            list(self._changed),
        )
        notes = batch.notes
        values: dict[str, Any] = {"log_bytes": Job.log_bytes + batch.size}
        if done is not None:
            outcome = _outcome(done, self.steps.values())
            notes = [*notes, Record(self._actor, "job.finished", f"job:{self._job_id}", outcome)]
            values |= asdict(done) | {"error": storable(done.error), "finished": utcnow(), "lease_until": None}
        async with self._db.write() as session:
            await self._claim(session, values)
            connection = await session.connection()
            if batch.added:
                await connection.execute(insert(Step), [new_step(self._job_id, host) for host in batch.added])
            if batch.steps:
                rows = [{"of_job": self._job_id} | step.values() for step in batch.steps]
                await connection.execute(_UPDATE_STEP, rows)
            if batch.entries:
                await connection.execute(insert(LogChunk), chunks(self._job_id, self._next, batch.entries))
            if done is not None:
                await holds.let_go(session, self._job_id)
            if notes:
                await self._audit.append_many(session, notes)
        self._forget(batch)
        self._tell(batch, done)

    async def _claim(self, session: AsyncSession, values: Mapping[str, Any]) -> None:
        mine = (
            col(Job.id) == self._job_id,
            col(Job.node) == self._node,
            col(Job.fence) == self._fence,
            col(Job.state) == State.RUNNING,
        )
        result = await (await session.connection()).execute(update(Job).where(*mine).values(**values))
        if result.rowcount != 1:
            raise JobTaken(
                f"job {self._job_id} is no longer this node's: another one took it, or it is over.",
                hint=f"`opsdeck job show {self._job_id}` tells who has it",
            )

    def _forget(self, batch: _Batch) -> None:
        """Drop what was written; what changed while it was written stays for the next time."""
        del self._entries[: len(batch.entries)]
        self._bytes -= batch.size
        for step in batch.steps:
            if self.steps[step.host] == step:
                self._dirty.pop(step.host, None)
        for host in batch.added:
            del self._added[host]
        del self._notes[: len(batch.notes)]
        del self._changed[: len(batch.changed)]
        if len(self._entries) <= HIGH_LINES // 2 and self._bytes <= HIGH_BYTES // 2:
            self._room.set()

    def _tell(self, batch: _Batch, done: Done | None) -> None:
        first, self._next = self._next, self._next + len(batch.entries)
        if self._tap is not None and (batch.entries or batch.steps):
            lines = tuple(Line(first + at, *entry) for at, entry in enumerate(batch.entries))
            self._tap(Written(lines, tuple(batch.steps)))
        if batch.entries:
            self._events.publish(LogWritten(job_id=self._job_id, first=first, count=len(batch.entries)))
        for host, state in batch.changed:
            self._events.publish(JobChanged(job_id=self._job_id, state=state, host=host))
        if done is not None:
            self._events.publish(JobChanged(job_id=self._job_id, state=done.state))


@dataclass(frozen=True)
class _Batch:
    """What one transaction writes."""

    entries: list[Entry]
    steps: list[StepState]
    added: tuple[str, ...]
    notes: list[Record]
    changed: list[tuple[str, State]]

    @property
    def size(self) -> int:
        return sum(len(entry[3]) for entry in self.entries)


def new_step(job_id: int, host: str) -> dict[str, Any]:
    """Give the row of a step that has not begun."""
    return {"job_id": job_id, "host": host, "state": State.QUEUED, "note": "", "error": "", "fault": ""}


_UPDATE_STEP = (
    update(Step)
    .where(col(Step.job_id) == bindparam("of_job"), col(Step.host) == bindparam("of_host"))
    .values({name: bindparam(f"to_{name}") for name in StepState("").__dict__ if name != "host"})
)


def _outcome(done: Done, steps: Iterable[StepState]) -> dict[str, Any]:
    counts: dict[str, int] = {}
    for step in steps:
        counts[step.state] = counts.get(step.state, 0) + 1
    return {"state": done.state, "hosts": counts} | ({"error": done.error} if done.error else {})


@contextlib.asynccontextmanager
async def kept(ledger: Ledger) -> AsyncIterator[asyncio.Task[None]]:
    """Run `ledger.keep` for a while, as a task given to the block; it is ended at the end."""
    task = asyncio.create_task(ledger.keep(), name="ledger")
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
