"""Running one job to its end: the action under its leases, its two clocks, and what people ask meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlmodel import col, select

from opsdeck.actor import Actor, Door, Role
from opsdeck.clock import utcnow
from opsdeck.errors import OpsDeckError
from opsdeck.events import JobChanged
from opsdeck.inventory.models import Host
from opsdeck.jobs import log, params
from opsdeck.jobs.endings import Cause, Ending
from opsdeck.jobs.ledger import Done, JobTaken, Ledger, Written, kept
from opsdeck.jobs.models import Job, State, Step, number
from opsdeck.jobs.run import JobWork, explain, unpack
from opsdeck.manifest import Action

if TYPE_CHECKING:
    from pydantic import BaseModel

    from opsdeck.deck import Deck

_log = logging.getLogger("opsdeck.jobs")

STOP_SECONDS = 60.0
"""How long an action may take to stop once it was told; then its task is left behind and the job ends without it."""

GRACE = 2.0
"""Seconds after the total clock in which the host's own timeout ends a command, before it is ended from here."""


@dataclass(eq=False)
class Running:
    """A job at work in this process."""

    job: Job
    work: JobWork
    main: asyncio.Task[dict[str, Any] | None]
    told: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it was told to stop."""

    def end(self, ending: Ending) -> None:
        """End it from outside; the first cause counts."""
        if self.work.ending is None and not self.main.done():
            self.work.ending = ending
            self.told.set()
            self.main.cancel()


class Runner:
    """Runs claimed jobs; knows which are at work here."""

    def __init__(self, deck: Deck) -> None:
        self._deck = deck
        self.running: dict[int, Running] = {}
        self.left_behind: set[asyncio.Task[Any]] = set()
        """Tasks of actions that did not stop when told."""

    async def run(self, job: Job, *, tap: Callable[[Written], None] | None = None) -> None:
        """Run a job that this node has claimed, until its final state is in the database.

        Whatever the action does ends its own job only. Raises `Unavailable` when the database cannot be written for
        too long: then the job stays as it is until its lease is over.
        """
        job_id = number(job)
        steps, hosts, last = await self._read(job)
        actor = actor_of(job)
        resuming = job.fence > 1
        ledger = Ledger.of(self._deck, job, actor, steps, last_line=last, tap=tap)
        work = JobWork(self._deck, job, hosts, ledger, actor, resuming=resuming)
        self._deck.events.publish(JobChanged(job_id=job_id, state=State.RUNNING))
        main = asyncio.create_task(self._work(job, work), name=f"job {job.id}")
        running = self.running[job_id] = Running(job, work, main)
        try:
            async with kept(ledger) as keeper, _watched(running, job):
                await self._until_done(running, keeper)
                done = self._outcome(running)
                if done is not None:
                    await ledger.finish(done)
        except JobTaken as fault:
            _log.warning("%s", fault)
        finally:
            del self.running[job_id]
            self._leave(running)

    async def _until_done(self, running: Running, keeper: asyncio.Task[None]) -> None:
        """Wait for the action's end, and a bounded time longer once it was told to stop."""
        main, told = running.main, asyncio.ensure_future(running.told.wait())
        try:
            await asyncio.wait({main, keeper, told}, return_when=asyncio.FIRST_COMPLETED)
            if keeper.done():
                running.end(Ending(Cause.TAKEN, "its rows could not be written any more"))
            if not main.done():
                await asyncio.wait({main}, timeout=STOP_SECONDS)
            if keeper.done():
                keeper.result()
        except asyncio.CancelledError:
            running.end(Ending(Cause.LEFT, "this process ends"))
            await asyncio.wait({main}, timeout=STOP_SECONDS)
            raise
        finally:
            told.cancel()

    async def _read(self, job: Job) -> tuple[Sequence[Step], tuple[Host, ...], int]:
        async with self._deck.db.read() as session:
            steps = (await session.exec(select(Step).where(Step.job_id == job.id).order_by(col(Step.id)))).all()
            found = (await session.exec(select(Host).where(col(Host.name).in_(job.hosts)))).all() if job.hosts else []
            last = await log.last_number(session, number(job)) if job.fence > 1 else 0
        by_name = {host.name: host for host in found}
        missing = [name for name in job.hosts if name not in by_name]
        for name in missing:
            by_name[name] = Host(name=name, address="")
        return steps, tuple(by_name[name] for name in job.hosts), last

    async def _work(self, job: Job, work: JobWork) -> dict[str, Any] | None:
        """Do what the action does. `SystemExit` must not leave this task: asyncio would end the process for it."""
        try:
            action = self._deck.plugins.action(job.plugin, job.action)
            given = params.parse(job.plugin, action, job.params)
            if work.resuming:
                work.log(f"Taken up again by {job.node}; the node before it is gone.")
            async with self._leases(action, given, work):
                if action.step is not None:
                    await work.each(
                        partial(_step, action, given), parallel=action.parallel, stop_after=action.stop_after
                    )
                    return None
                receipt = await action.run(work, given) if action.run is not None else None
                return unpack(receipt, f"{job.plugin}.{job.action}", work.redactor_for(""))
        except (SystemExit, KeyboardInterrupt) as fault:
            raise _Escaped(fault) from fault

    @contextlib.asynccontextmanager
    async def _leases(self, action: Action, given: BaseModel, work: JobWork) -> AsyncIterator[None]:
        names = list(action.touches(given, [host.name for host in work.hosts])) if action.touches else []
        if not names:
            yield
            return

        def lost(reason: OpsDeckError) -> None:
            self.running[work.id].end(Ending(Cause.LEASE, str(reason)))

        async with self._deck.leases.hold(names, f"job:{work.id}", action.title, lost=lost):
            yield

    def _leave(self, running: Running) -> None:
        """Keep hold of a task that did not stop, and look at its result when it ends after all."""
        if running.main.done():
            return
        _log.error("job %s did not stop when told; its task was left behind", running.job.id)
        self.left_behind.add(running.main)
        running.main.add_done_callback(self.left_behind.discard)
        running.main.add_done_callback(lambda task: task.cancelled() or task.exception())

    def _outcome(self, running: Running) -> Done | None:
        """Give the job's end, and bring the steps that are not over into line; None when the job goes on elsewhere."""
        work, main = running.work, running.main
        ending = work.ending
        if ending is not None and ending.silent:
            return None
        fault = main.exception() if main.done() and not main.cancelled() else None
        if isinstance(fault, _Escaped):
            fault = fault.fault
        if ending is not None:
            text = ending.text if main.done() else f"{ending.text}; it did not stop when told, and was left behind"
            self._settle(work, ending.state, text)
            return Done(ending.state, text, "" if ending.state is State.CANCELLED else ending.cause.value)
        if fault is not None or main.cancelled():
            text = explain(fault or RuntimeError("it cancelled itself"), work.redactor_for(""))
            _log.debug("job %s", work.id, exc_info=fault)
            if not any(step.error for step in work.ledger.steps.values()):
                work.log(text, "bad")
            self._settle(work, State.SKIPPED, "not reached: the job failed before")
            return Done(State.FAILED, text, type(fault).__name__ if fault else "")
        self._settle(work, State.SKIPPED, "nothing to do here")
        failed = [step for step in work.ledger.steps.values() if step.state in (State.FAILED, State.LOST)]
        if not failed:
            return Done(State.SUCCEEDED, receipt=main.result())
        names = ", ".join(step.host for step in failed[:5]) + (", …" if len(failed) > 5 else "")
        kinds = {step.fault for step in failed}
        text = (
            failed[0].error
            if len(work.ledger.steps) == 1
            else f"{len(failed)} of {len(work.ledger.steps)} hosts failed: {names}"
        )
        return Done(State.FAILED, text, kinds.pop() if len(kinds) == 1 else "", main.result())

    @staticmethod
    def _settle(work: JobWork, state: State, text: str) -> None:
        for host, step in work.ledger.steps.items():
            if step.state is State.QUEUED and state is not State.FAILED:
                work.ledger.change(
                    host,
                    state=state,
                    note=step.note or ("not started" if state is State.CANCELLED else text),
                    finished=utcnow(),
                )
            elif step.state is State.QUEUED:
                work.ledger.change(host, state=State.SKIPPED, note="not started", finished=utcnow())
            elif step.state is State.RUNNING:
                work.ledger.change(
                    host, state=State.FAILED if state is State.SKIPPED else state, error=text, finished=utcnow()
                )


class _Escaped(Exception):
    """Carries a `SystemExit` of an action out of its task."""

    def __init__(self, fault: BaseException) -> None:
        super().__init__(str(fault))
        self.fault = fault


async def _step(action: Action, given: BaseModel, step: Any) -> dict[str, Any] | None:
    return await action.step(step, given) if action.step is not None else None


@contextlib.asynccontextmanager
async def _watched(running: Running, job: Job) -> AsyncIterator[None]:
    """Look at the two clocks while the block runs."""
    task = asyncio.create_task(_watch(running, job), name="clocks")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _watch(running: Running, job: Job) -> None:
    work = running.work
    while True:
        left = work.left()
        if left is not None and left <= 0:
            await asyncio.sleep(GRACE)
            running.end(Ending(Cause.CLOCK, f"ended after {job.timeout:g} s, the time it had in total"))
            return
        waits = [5.0] if left is None else [left + 0.01, 5.0]
        if job.silence is not None:
            quiet = time.monotonic() - work.ledger.last_line
            if quiet >= job.silence:
                running.end(Ending(Cause.CLOCK, f"ended because it said nothing for {job.silence:g} s"))
                return
            waits.append(job.silence - quiet + 0.01)
        await asyncio.sleep(min(waits))


def actor_of(job: Job) -> Actor:
    """Give who submitted the job, as its row has it."""
    return Actor(job.actor, Role(job.role), Door(job.door), job.source)
