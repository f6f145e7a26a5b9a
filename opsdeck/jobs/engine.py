"""The engine: takes queued jobs, keeps their leases, hears of cancels, and takes up what dead nodes left."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from sqlalchemy import update
from sqlmodel import col, select

from opsdeck.clock import utcnow
from opsdeck.errors import OpsDeckError, Unavailable
from opsdeck.jobs.endings import Cause, Ending
from opsdeck.jobs.leases import BEAT, TTL
from opsdeck.jobs.ledger import Written
from opsdeck.jobs.models import Job, State
from opsdeck.jobs.recovery import Recovery, policy
from opsdeck.jobs.runner import STOP_SECONDS, Runner
from opsdeck.manifest import Recover

if TYPE_CHECKING:
    from opsdeck.deck import Deck

_log = logging.getLogger("opsdeck.jobs")

AT_ONCE = 16
"""Jobs that one node runs side by side; more wait in the queue."""

LOOK_SECONDS = 1.0
"""How often queued jobs and cancels from other processes are looked for."""

Tap = Callable[[Written], None]


class Engine(Protocol):
    """What moves jobs. It carries their numbers only; the rows are the truth."""

    @property
    def left_behind(self) -> bool:
        """Tell whether an action here did not stop when told."""
        ...

    async def submit(self, job_id: int) -> None:
        """Know that a job is queued."""
        ...

    async def cancel(self, job_id: int) -> None:
        """Know that a cancel is in the job's row."""
        ...

    async def run(self, job: Job, tap: Tap | None) -> None:
        """Run a job here that this node has claimed, to its end."""
        ...

    async def recover(self) -> int:
        """Take up or close what dead nodes left; give how many jobs."""
        ...

    async def serve(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set."""
        ...

    async def close(self) -> None:
        """End or leave what runs here."""
        ...


class EmbeddedEngine:
    """The engine that needs nothing but the database: claims by conditional UPDATE, on SQLite and PostgreSQL."""

    def __init__(self, deck: Deck) -> None:
        self._deck = deck
        self.runner = Runner(deck)
        self._recovery = Recovery(deck)
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._beat: asyncio.Task[None] | None = None

    @property
    def left_behind(self) -> bool:
        """Tell whether an action here did not stop when told."""
        return bool(self.runner.left_behind)

    async def submit(self, job_id: int) -> None:
        """Wake the loop of this process; other nodes look every second."""
        self._wake.set()

    async def cancel(self, job_id: int) -> None:
        """End the job at once if it runs here; where it runs else, it is seen within about a second."""
        if job_id in self.runner.running:
            await self._hear_cancels()

    async def run(self, job: Job, tap: Tap | None) -> None:
        """Run a claimed job to its end, its lease kept meanwhile."""
        self._keep_beating()
        await self.runner.run(job, tap=tap)

    async def recover(self) -> int:
        """Look twice, a beat apart, for jobs without a live lease; take up or close them, and wait for their end."""
        await self._recovery.look()
        await asyncio.sleep(BEAT)
        taken = await self._take_up()
        if self._tasks:
            await asyncio.wait(self._tasks)
        return taken

    async def serve(self, stop: asyncio.Event) -> None:
        """Claim queued jobs and take up those of dead nodes until `stop` is set."""
        looked = 0.0
        while not stop.is_set():
            try:
                self._wake.clear()
                await self._fill()
                if time.monotonic() - looked >= BEAT:
                    looked = time.monotonic()
                    await self._take_up()
            except Unavailable as fault:
                _log.error("jobs wait: %s", fault)
                await asyncio.sleep(BEAT)
            await self._pause(stop)

    async def close(self) -> None:
        """End what runs here with proof, or leave it for the next node where its action can be resumed."""
        ended = []
        for running in list(self.runner.running.values()):
            if await policy(self._deck, running.job) is Recover.RESUME:
                running.end(Ending(Cause.LEFT, "this node stops"))
            else:
                running.end(Ending(Cause.CANCELLED, f"ended because {self._deck.node} was stopped"))
            ended.append(running.job)
        waiting = [task for task in self._tasks if not task.done()]
        if waiting:
            await asyncio.wait(waiting, timeout=STOP_SECONDS)
        if self._beat is not None:
            self._beat.cancel()
            await asyncio.gather(self._beat, return_exceptions=True)
        if ended:
            await self._let_go(ended)

    async def _let_go(self, jobs: list[Job]) -> None:
        """Let the leases of jobs that are left run out now, so that they are taken up soon."""
        with contextlib.suppress(Unavailable):
            async with self._deck.db.write() as session:
                for job in jobs:
                    mine = update(Job).where(
                        col(Job.id) == job.id, col(Job.fence) == job.fence, col(Job.state) == State.RUNNING
                    )
                    await (await session.connection()).execute(mine.values(lease_until=utcnow()))

    async def _pause(self, stop: asyncio.Event) -> None:
        waits = [asyncio.ensure_future(self._wake.wait()), asyncio.ensure_future(stop.wait())]
        await asyncio.wait(waits, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def _fill(self) -> None:
        """Claim queued jobs, the oldest first, while there is room for more."""
        while len(self._tasks) < AT_ONCE:
            job = await self.claim()
            if job is None:
                return
            self._start(job)

    def _start(self, job: Job, work: Coroutine[None, None, None] | None = None) -> None:
        task = asyncio.create_task(self._guarded(job, work or self.run(job, None)), name=f"run {job.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: self._wake.set())

    @staticmethod
    async def _guarded(job: Job, work: Coroutine[None, None, None]) -> None:
        """Do the work of one job; what it raises is told and stops no other. Its lease runs out then."""
        try:
            await work
        except OpsDeckError as fault:
            _log.error("job %s was left: %s", job.id, fault)
        except Exception:
            _log.exception("job %s was left", job.id)

    async def claim(self) -> Job | None:
        """Take the oldest queued job for this node; None when there is none, or another node was quicker."""
        async with self._deck.db.read() as session:
            if (await session.exec(select(Job.id).where(Job.state == State.QUEUED).limit(1))).first() is None:
                return None
        now = utcnow()
        async with self._deck.db.write() as session:
            oldest = select(Job).where(Job.state == State.QUEUED).order_by(col(Job.id)).limit(1)
            job = (await session.exec(oldest.with_for_update(skip_locked=True))).first()
            if job is None:
                return None
            mine = update(Job).where(col(Job.id) == job.id, col(Job.state) == State.QUEUED, col(Job.fence) == job.fence)
            values = {
                "state": State.RUNNING,
                "node": self._deck.node,
                "fence": job.fence + 1,
                "lease_until": now + timedelta(seconds=TTL),
                "started": now,
            }
            taken = await (await session.connection()).execute(mine.values(**values))
            if taken.rowcount != 1:
                return None
            await session.refresh(job)
            session.expunge(job)
        return job

    async def _take_up(self) -> int:
        """Resume or close the jobs whose lease was over at two looks."""
        taken = 0
        for job in await self._recovery.look():
            claimed = await self._recovery.take(job)
            if claimed is None:
                continue
            taken += 1
            if claimed.resume:
                self._start(claimed.job)
            else:
                self._start(claimed.job, self._recovery.close(claimed.job))
        return taken

    def _keep_beating(self) -> None:
        if self._beat is None or self._beat.done():
            self._beat = asyncio.create_task(self._beating(), name="beat")

    async def _beating(self) -> None:
        """Renew the leases of what runs here and hear of cancels, until nothing runs."""
        renewed = time.monotonic()
        idle = 0
        while idle < 3:
            await asyncio.sleep(LOOK_SECONDS)
            idle = 0 if self.runner.running else idle + 1
            if not self.runner.running:
                renewed = time.monotonic()
                continue
            try:
                await self._hear_cancels()
                if time.monotonic() - renewed >= BEAT:
                    began = time.monotonic()
                    await self._renew()
                    renewed = began
            except Unavailable as fault:
                # A locked SQLite file keeps other nodes from claiming as well; a PostgreSQL out of reach does not.
                if time.monotonic() - renewed > (4 * TTL if self._deck.db.sqlite else TTL - BEAT):
                    for running in list(self.runner.running.values()):
                        running.end(Ending(Cause.TAKEN, f"its lease could not be renewed: {fault.message}"))

    async def _hear_cancels(self) -> None:
        numbers = list(self.runner.running)
        asked = select(Job.id, Job.cancel_by).where(
            col(Job.id).in_(numbers), col(Job.cancel_requested).is_not(None), Job.state == State.RUNNING
        )
        async with self._deck.db.read() as session:
            rows = (await session.exec(asked)).all()
        for number, by in rows:
            if number in self.runner.running:
                self.runner.running[number].end(Ending(Cause.CANCELLED, f"cancelled by {by}"))

    async def _renew(self) -> None:
        until = utcnow() + timedelta(seconds=TTL)
        lost = []
        async with self._deck.db.write() as session:
            connection = await session.connection()
            for running in list(self.runner.running.values()):
                job = running.job
                mine = update(Job).where(
                    col(Job.id) == job.id,
                    col(Job.node) == job.node,
                    col(Job.fence) == job.fence,
                    col(Job.state) == State.RUNNING,
                )
                if (await connection.execute(mine.values(lease_until=until))).rowcount != 1 and not running.main.done():
                    lost.append(running)
        for running in lost:
            running.end(Ending(Cause.TAKEN, "another node took it"))


@contextlib.asynccontextmanager
async def served(engine: Engine) -> AsyncIterator[None]:
    """Have an engine work while the block runs."""
    stop = asyncio.Event()
    task = asyncio.create_task(engine.serve(stop), name="engine")
    try:
        yield
    finally:
        stop.set()
        await task
