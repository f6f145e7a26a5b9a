"""The way through: every door submits, follows, cancels and retries jobs here, with the same checks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, tuple_, update
from sqlmodel import col, select

from opsdeck.accounts.permissions import authorise
from opsdeck.actor import Actor
from opsdeck.clock import utcnow
from opsdeck.errors import Invalid, NotFound
from opsdeck.events import JobChanged
from opsdeck.jobs import consent, log, params
from opsdeck.jobs.follow import Update, follow, watcher
from opsdeck.jobs.leases import BEAT, TTL
from opsdeck.jobs.ledger import new_step
from opsdeck.jobs.lines import Line
from opsdeck.jobs.models import Job, Node, State, Step, number
from opsdeck.jobs.targets import hosts_for
from opsdeck.manifest import Action
from opsdeck.plan import Plan

if TYPE_CHECKING:
    from pydantic import BaseModel

    from opsdeck.deck import Deck
    from opsdeck.jobs.engine import Engine

AGAIN = (State.FAILED, State.LOST, State.CANCELLED, State.SKIPPED)
"""Steps that "retry the failed ones" does again."""


@dataclass(frozen=True)
class Submission:
    """What somebody wants done. `params` are raw: typed or text. `timeout` and `silence` override the action's clocks.

    `confirm` is what the person typed where consent is asked for; `plan` what they were shown before.
    """

    plugin: str
    action: str
    params: Mapping[str, Any] = field(default_factory=dict)
    selector: str = ""
    confirm: str | None = None
    retry_of: int | None = None
    slot_id: int | None = None
    timeout: float | None = None
    silence: float | None = None
    plan: Plan | None = None


@dataclass(frozen=True)
class _Order:
    """A submission that was checked: everything a job's row needs."""

    submission: Submission
    action: Action
    params: BaseModel
    hosts: tuple[str, ...]


class Jobs:
    """The jobs of this deck. Each process has one; the rows are shared and are the truth."""

    def __init__(self, deck: Deck, engine: Engine | None = None) -> None:
        self._deck = deck
        self._engine = engine

    @cached_property
    def engine(self) -> Engine:
        """What moves the jobs."""
        from opsdeck.jobs.engine import EmbeddedEngine

        return self._engine or EmbeddedEngine(self._deck)

    async def submit(self, submission: Submission, actor: Actor) -> Job:
        """Check everything and make the job: row, steps and audit entry in one transaction.

        Raises `NotFound` (plugin, action, host), `Invalid` with the field, `Refused` (role), `ConsentNeeded`.
        """
        order = await self._order(submission, actor)
        job = await self._insert(order, actor, here=False)
        await self.engine.submit(number(job))
        return job

    async def run(self, submission: Submission, actor: Actor, on_event: Callable[[Update], None] | None = None) -> Job:
        """Submit a job and run it in this process, claimed from birth; give it when it is over.

        `on_event` hears of lines and steps as they are written, and of the job's end. Cancelling this call leaves the
        job to its recovery policy; to end the job, use `cancel`.
        """
        order = await self._order(submission, actor)
        return await self._here(order, actor, on_event)

    async def _here(self, order: _Order, actor: Actor, on_event: Callable[[Update], None] | None) -> Job:
        job = await self._insert(order, actor, here=True)
        if on_event is not None:
            on_event(Update(job=job))
        tap = watcher(job, on_event) if on_event is not None else None
        await self.engine.run(job, tap)
        final = await self.get(number(job))
        if on_event is not None:
            on_event(Update(job=final))
        return final

    async def plan(self, submission: Submission, actor: Actor) -> Plan:
        """Say what the action would change, from what lies there now; changes nothing. Raises like `submit`."""
        from opsdeck.jobs.planning import make_plan

        order = await self._order(submission, actor, asking=False)
        if order.action.plan is None:
            raise Invalid(
                f"{submission.plugin}.{submission.action} cannot say beforehand what it would change.",
                field="plan",
                hint="run it without a plan, on one host first",
            )
        return await make_plan(
            self._deck, submission.plugin, order.action, order.params, hosts=order.hosts, actor=actor
        )

    async def get(self, id: int) -> Job:
        """Find a job. Raises `NotFound`."""
        async with self._deck.db.read() as session:
            job = await session.get(Job, id) if 0 < id <= log.LAST else None
        if job is None:
            raise NotFound(f"there is no job {id}.", field="job", hint="`opsdeck job list` shows what there is")
        return job

    async def list(
        self,
        *,
        plugin: str | None = None,
        action: str | None = None,
        state: str | Sequence[str] | None = None,
        actor: str | None = None,
        host: str | None = None,
        slot: int | None = None,
        actions: Sequence[str] = (),
        before: int | None = None,
        limit: int = 50,
    ) -> tuple[Job, ...]:
        """Give jobs, the newest first; `before` is the number of the last one seen, for the next page.

        `actions` are names as in a token's scopes, `plugin.action` with `*` and `?`; none means all.
        """
        query = select(Job).order_by(col(Job.id).desc()).limit(max(1, min(limit, 1000)))
        if plugin:
            query = query.where(Job.plugin == plugin)
        if action:
            query = query.where(Job.action == action)
        if state:
            query = query.where(col(Job.state).in_([state] if isinstance(state, str) else list(state)))
        if actor:
            query = query.where(Job.actor == actor)
        if slot is not None:
            query = query.where(Job.slot_id == slot)
        if host:
            query = query.where(col(Job.id).in_(select(Step.job_id).where(Step.host == host)))
        if actions:
            known = {(brought.name, each.name) for brought in self._deck.plugins.ordered() for each in brought.actions}
            named = [pair for pair in known if any(fnmatchcase(".".join(pair), scope) for scope in actions)]
            query = query.where(tuple_(col(Job.plugin), col(Job.action)).in_(named))
        if before is not None:
            query = query.where(col(Job.id) < max(0, min(before, log.LAST)))
        async with self._deck.db.read() as session:
            return tuple((await session.exec(query)).all())

    async def steps(self, id: int) -> tuple[Step, ...]:
        """Give a job's steps, in the order of its hosts."""
        async with self._deck.db.read() as session:
            return tuple((await session.exec(select(Step).where(Step.job_id == id).order_by(col(Step.id)))).all())

    async def log(self, id: int, *, after: int = 0, host: str | None = None, limit: int = 1000) -> tuple[Line, ...]:
        """Give lines of a job's log with a number above `after`, of all lanes or one host's."""
        async with self._deck.db.read() as session:
            return await log.read(session, id, after=after, host=host, limit=limit)

    async def last_line(self, id: int) -> int:
        """Give the number of the last line of a job's log; 0 when it has none."""
        async with self._deck.db.read() as session:
            return await log.last_number(session, id)

    async def follow(self, id: int, after: int = 0) -> AsyncGenerator[Update]:
        """Give what is new in a job (lines above `after`, changed steps, its row) until it is over and told whole.

        Woken by this process' events when the job runs here, else by looking at the rows every half second.
        """
        await self.get(id)
        async for news in follow(self._deck, id, after):
            yield news

    async def cancel(self, id: int, actor: Actor) -> Job:
        """Ask for a job's end; what runs on the hosts is ended there, and the log says for each whether that was seen.

        A job that has not begun is cancelled at once. Raises `NotFound`, `Refused`, and `Invalid` when it is over.
        """
        job = await self.get(id)
        self._authorise(actor, job)
        if State(job.state).final:
            raise Invalid(f"job {id} is over: {job.state}.", field="job")
        now = utcnow()
        async with self._deck.db.write() as session:
            connection = await session.connection()
            begun = update(Job).where(
                col(Job.id) == id, col(Job.state) == State.RUNNING, col(Job.cancel_requested).is_(None)
            )
            await connection.execute(begun.values(cancel_requested=now, cancel_by=actor.name))
            queued = update(Job).where(col(Job.id) == id, col(Job.state) == State.QUEUED)
            ended = await connection.execute(
                queued.values(
                    state=State.CANCELLED,
                    cancel_requested=now,
                    cancel_by=actor.name,
                    finished=now,
                    error=f"cancelled by {actor.name} before it began",
                )
            )
            if ended.rowcount:
                waiting = update(Step).where(col(Step.job_id) == id, col(Step.state) == State.QUEUED)
                await connection.execute(waiting.values(state=State.CANCELLED, note="not started", finished=now))
            await self._deck.audit.append(session, actor, "job.cancelled", f"job:{id}", detail=_name(job))
        if ended.rowcount:
            self._deck.events.publish(JobChanged(job_id=id, state=State.CANCELLED))
        await self.engine.cancel(id)
        return await self.get(id)

    async def retry(
        self,
        id: int,
        actor: Actor,
        *,
        failed_only: bool = False,
        confirm: str | None = None,
        here: bool = False,
        on_event: Callable[[Update], None] | None = None,
    ) -> Job:
        """Do a job again with the same frozen parameters: on all its hosts, or on those where it did not succeed.

        `here` runs it in this process, as `run` does. Raises `Invalid` while the job is not over, or when nothing is
        left to retry; else like `submit`.
        """
        old = await self.get(id)
        if not State(old.state).final:
            raise Invalid(f"job {id} is {old.state}; only one that is over can be retried.", field="job")
        action = self._authorise(actor, old)
        hosts = tuple(old.hosts)
        if failed_only:
            again = {step.host for step in await self.steps(id) if step.state in AGAIN}
            hosts = tuple(name for name in hosts if name in again)
            if not hosts and old.hosts:
                raise Invalid(f"no host of job {id} failed.", field="job", hint="leave out --failed to run all again")
        consent.check(action, hosts, confirm, actor)
        submission = Submission(
            old.plugin,
            old.action,
            old.params,
            old.selector,
            confirm,
            retry_of=id,
            timeout=old.timeout,
            silence=old.silence,
        )
        order = _Order(submission, action, params.parse(old.plugin, action, old.params), hosts)
        if here:
            return await self._here(order, actor, on_event)
        job = await self._insert(order, actor, here=False)
        await self.engine.submit(number(job))
        return job

    async def ended(self, id: int, seconds: float = 120.0) -> Job:
        """Wait for a job's end, at most `seconds`; give it as it is then."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                async for _ in self.follow(id, after=log.LAST):
                    continue
        return await self.get(id)

    async def nodes(self) -> tuple[Node, ...]:
        """Give the servers and workers that live."""
        async with self._deck.db.read() as session:
            alive = col(Node.beat) > utcnow() - timedelta(seconds=3 * BEAT)
            return tuple((await session.exec(select(Node).where(alive).order_by(col(Node.name)))).all())

    @staticmethod
    def trouble(job: Job) -> str:
        """Say what is wrong with a job that claims to run without a live node; "" when nothing is."""
        if (
            job.state != State.RUNNING
            or job.lease_until is None
            or job.lease_until > utcnow() - timedelta(seconds=BEAT)
        ):
            return ""
        return (
            f"The node {job.node} that ran this job is gone since {job.lease_until:%Y-%m-%d %H:%M:%S} UTC. "
            "A server or worker takes it up or closes it; without one: `opsdeck job recover`."
        )

    async def serve(self, stop: asyncio.Event) -> None:
        """Run the engine, the schedules' clock and the services until `stop` is set, then leave in order."""
        from opsdeck.jobs.serving import serve

        await serve(self._deck, self.engine, stop)

    @property
    def left_behind(self) -> bool:
        """Tell whether an action of this process did not stop when told: then its event loop cannot end by itself."""
        return "engine" in self.__dict__ and self.engine.left_behind

    async def recover(self) -> int:
        """Take up or close what dead nodes left, here and now; give how many jobs that were."""
        return await self.engine.recover()

    async def close(self) -> None:
        """Leave what runs here to its recovery policy and stop."""
        if "engine" in self.__dict__:
            await self.engine.close()

    async def _order(self, submission: Submission, actor: Actor, *, asking: bool = True) -> _Order:
        action = self._deck.plugins.action(submission.plugin, submission.action)
        authorise(actor, action, submission.plugin)
        given = params.parse(submission.plugin, action, submission.params)
        for name, value in (("timeout", submission.timeout), ("silence", submission.silence)):
            if value is not None and not 0 < value <= 30 * 86400:
                raise Invalid(f"{name} must be above 0 and at most 30 days, in seconds.", field=name)
        hosts = await hosts_for(self._deck.inventory, action, submission.selector)
        if asking:
            consent.check(action, hosts, submission.confirm, actor)
        return _Order(submission, action, given, hosts)

    def _authorise(self, actor: Actor, job: Job) -> Action:
        action = self._deck.plugins.action(job.plugin, job.action)
        authorise(actor, action, job.plugin)
        return action

    async def _insert(self, order: _Order, actor: Actor, *, here: bool) -> Job:
        submission, action = order.submission, order.action
        now = utcnow()
        job = Job(
            plugin=submission.plugin,
            action=submission.action,
            params=params.dump(order.params),
            selector=submission.selector,
            hosts=list(order.hosts),
            plan=submission.plan.as_dict() if submission.plan else None,
            actor=actor.name,
            role=actor.role,
            door=actor.door,
            source=actor.source,
            retry_of=submission.retry_of,
            slot_id=submission.slot_id,
            timeout=submission.timeout if submission.timeout is not None else action.timeout,
            silence=submission.silence if submission.silence is not None else action.silence,
            created=now,
        )
        if here:
            job.state, job.node, job.fence, job.started = State.RUNNING, self._deck.node, 1, now
            job.lease_until = now + timedelta(seconds=TTL)
        async with self._deck.db.write() as session:
            session.add(job)
            await session.flush()
            if order.hosts:
                rows = [new_step(number(job), host) for host in order.hosts]
                await (await session.connection()).execute(insert(Step), rows)
            detail = _name(job) | {"params": job.params, "hosts": list(order.hosts), "selector": job.selector}
            if job.retry_of:
                detail["retry_of"] = job.retry_of
            await self._deck.audit.append(session, actor, "job.submitted", f"job:{job.id}", detail=detail)
        self._deck.events.publish(JobChanged(job_id=number(job), state=job.state))
        return job


def _name(job: Job) -> dict[str, Any]:
    return {"action": f"{job.plugin}.{job.action}"}


__all__ = ["AGAIN", "Jobs", "Submission", "Update"]
