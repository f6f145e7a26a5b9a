"""What becomes of a running job whose node died: taken up again, or closed as lost with its remains ended."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import update
from sqlmodel import col, select

from opsdeck.actor import SYSTEM
from opsdeck.clock import utcnow
from opsdeck.errors import OpsDeckError
from opsdeck.inventory.models import Host
from opsdeck.jobs import log, params
from opsdeck.jobs.leases import TTL
from opsdeck.jobs.ledger import Done, JobTaken, Ledger, StepState
from opsdeck.jobs.models import Job, State, Step
from opsdeck.jobs.run import JobWork
from opsdeck.manifest import Recover
from opsdeck.ssh.command import ProcessGroup

if TYPE_CHECKING:
    from opsdeck.deck import Deck
    from opsdeck.ssh.endpoint import Endpoint

_log = logging.getLogger("opsdeck.jobs")

CLOSE_SECONDS = 90.0
"""Bound of ending what a lost job left on its hosts; its lease is held so long."""

HOST_SECONDS = 30.0


async def policy(deck: Deck, job: Job) -> Recover:
    """Tell whether a job can be taken up again; one whose action is gone or whose parameters no longer fit cannot."""
    try:
        action = deck.plugins.action(job.plugin, job.action)
        if isinstance(action.recover, Recover):
            return action.recover
        return action.recover(params.parse(job.plugin, action, job.params))
    except OpsDeckError:
        return Recover.LOST
    except (Exception, SystemExit) as fault:  # the plugin's own question failed: the careful answer is the right one
        _log.error("%s.%s cannot say how it recovers: %s: %s", job.plugin, job.action, type(fault).__name__, fault)
        return Recover.LOST


@dataclass(frozen=True)
class Taken:
    """A job of a dead node that is this node's now."""

    job: Job
    resume: bool


class Recovery:
    """Finds and takes what dead nodes left."""

    def __init__(self, deck: Deck) -> None:
        self._deck = deck
        self._seen: dict[int, tuple[int, datetime | None]] = {}

    async def look(self) -> tuple[Job, ...]:
        """Give the running jobs whose lease was over at the last look too, and was not renewed since.

        Twice, because a node that could not write for a while (a locked file) renews at the first chance it gets.
        """
        over = select(Job).where(Job.state == State.RUNNING, col(Job.lease_until) < utcnow())
        async with self._deck.db.read() as session:
            found = (await session.exec(over)).all()
        before, self._seen = self._seen, {job.id or 0: (job.fence, job.lease_until) for job in found}
        return tuple(job for job in found if before.get(job.id or 0) == (job.fence, job.lease_until))

    async def take(self, job: Job) -> Taken | None:
        """Claim a job of a dead node: one conditional UPDATE, so that one node wins. None when it was another."""
        resume = job.cancel_requested is None and await policy(self._deck, job) is Recover.RESUME
        until = utcnow() + timedelta(seconds=TTL if resume else CLOSE_SECONDS + TTL)
        same = update(Job).where(
            col(Job.id) == job.id,
            col(Job.fence) == job.fence,
            col(Job.state) == State.RUNNING,
            col(Job.lease_until) < utcnow(),
        )
        values: dict[str, Any] = {"node": self._deck.node, "fence": job.fence + 1, "lease_until": until}
        async with self._deck.db.write() as session:
            if (await (await session.connection()).execute(same.values(**values))).rowcount != 1:
                return None
            await self._deck.leases.release_holder(session, f"job:{job.id}")
        dead = job.node
        _log.warning("job %s of %s: its node is gone, it is %s", job.id, dead, "taken up" if resume else "closed")
        claimed = Job.model_validate(job.model_dump() | values)
        return Taken(claimed, resume)

    async def close(self, job: Job) -> None:
        """End what the job left on its hosts, say for each host whether that was seen, and close it.

        It becomes `cancelled` if somebody had asked for that, else `lost`.
        """
        state = State.CANCELLED if job.cancel_requested else State.LOST
        async with self._deck.db.read() as session:
            rows = (await session.exec(select(Step).where(Step.job_id == job.id).order_by(col(Step.id)))).all()
            known = (await session.exec(select(Host).where(col(Host.name).in_([row.host for row in rows])))).all()
            last = await log.last_number(session, job.id or 0)
        ledger = Ledger.of(self._deck, job, SYSTEM, rows, last_line=last)
        work = JobWork(self._deck, job, known, ledger, SYSTEM, resuming=False)
        hosts = {host.name for host in known}
        text = "the node that ran it is gone"
        work.log(f"The node that ran this job is gone; it is closed by {self._deck.node}.", "bad")
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await asyncio.gather(*(self._close_step(work, step, state, hosts) for step in ledger.steps.values()))
        except TimeoutError:
            work.log("Not all hosts answered in time; something may still run there.", "bad")
        now = utcnow()
        for step in ledger.steps.values():
            if step.state is State.RUNNING:
                ledger.change(step.host, state=state, error=text, note="may still run on the host", finished=now)
            elif step.state is State.QUEUED:
                ledger.change(step.host, state=State.SKIPPED, note="not started", finished=now)
        error = f"cancelled by {job.cancel_by}; {text}" if job.cancel_requested else text
        try:
            await ledger.finish(Done(state, f"{error}. Next: look at the notes, then retry the job", "NodeLost"))
        except (JobTaken, OpsDeckError) as fault:
            _log.error("job %s could not be closed: %s", job.id, fault)

    async def _close_step(self, work: JobWork, step: StepState, state: State, hosts: set[str]) -> None:
        if step.state is not State.RUNNING:
            return
        remote = step.remote or {}
        note = "may still run on the host" if remote else "nothing of it was running on the host"
        try:
            if remote and step.host in hosts:
                async with asyncio.timeout(HOST_SECONDS):
                    gone = await end_remains(self._deck, await work.endpoint(step.host), remote)
                note = "ended on the host" if gone else note
        except (OpsDeckError, TimeoutError) as fault:
            work.ledger.lines(step.host, "bad", [f"what was left could not be ended: {fault or 'no answer in time'}"])
        for group in remote.get("groups", ()):
            detail = {
                "by": f"job:{work.id}",
                "command": group.get("command", ""),
                "error": "its node died",
                "then": note,
            }
            work.ledger.note("command.ran", f"host:{step.host}", detail)
        work.ledger.lines(step.host, "info" if note.startswith("ended") else "bad", [note])
        work.ledger.change(
            step.host,
            state=state,
            error="the node that ran it is gone",
            fault="NodeLost",
            note=note,
            remote=None if note.startswith("ended") else remote or None,
            finished=utcnow(),
        )


async def end_remains(deck: Deck, endpoint: Endpoint, remote: dict[str, Any]) -> bool:
    """End the process groups and units that a step has on record; tell whether all are seen to be gone."""
    gone = True
    for group in remote.get("groups", ()):
        fields = ("pgid", "started", "boot", "sudo", "run_as")
        gone &= await deck.ssh.kill(endpoint, ProcessGroup(**{name: group[name] for name in fields}))
    for unit in remote.get("units", ()):
        gone &= await deck.ssh.stop_detached(endpoint, unit["unit"], sudo=unit["sudo"])
    return gone
