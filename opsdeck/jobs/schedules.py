"""Schedules: when actions recur. What is planned, by whom, and under which rules for downtime and overlap."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from opsdeck.actor import Actor
from opsdeck.clock import utcnow
from opsdeck.errors import Conflict, NotFound
from opsdeck.jobs import consent, params
from opsdeck.jobs.models import Job, Schedule, Slot
from opsdeck.jobs.targets import hosts_for
from opsdeck.jobs.timing import Timing, timing

if TYPE_CHECKING:
    import asyncio

    from opsdeck.deck import Deck

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")


class Misfire(StrEnum):
    """What becomes of times that passed while nobody looked."""

    SKIP = "skip"
    """They are missed."""
    ONCE = "once"
    """One run for all of them."""
    EACH = "each"
    """A run for each, within a bound."""


class Overlap(StrEnum):
    """What becomes of a time that comes while the run before still goes on."""

    SKIP = "skip"
    QUEUE = "queue"
    """It waits for the end of the run before."""
    ALLOW = "allow"


class ScheduleIn(BaseModel):
    """A new schedule, as doors take it. Give `cron` or `every_seconds`."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="Its name, unique")
    plugin: str
    action: str
    params: dict[str, Any] = Field(default_factory=dict)
    selector: str = ""
    cron: str = Field("", description="Crontab's five fields: 30 2 * * *")
    every_seconds: int | None = Field(None, description="Interval, seconds")
    time_zone: str = Field("UTC", description="IANA name that the cron rule follows")
    misfire: Misfire = Misfire.ONCE
    overlap: Overlap = Overlap.SKIP
    paused: bool = False
    confirm: str | None = Field(None, description="Consent, where the action asks for it")

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        if not _NAME.match(name):
            raise ValueError("letters, digits, '.', '_' and '-', at most 100, beginning with a letter or digit")
        return name


class SchedulePatch(BaseModel):
    """What to change of a schedule; None leaves it. A cron rule takes the place of an interval and the reverse."""

    model_config = ConfigDict(extra="forbid")

    params: dict[str, Any] | None = None
    selector: str | None = None
    cron: str | None = None
    every_seconds: int | None = None
    time_zone: str | None = None
    misfire: Misfire | None = None
    overlap: Overlap | None = None
    confirm: str | None = None


@dataclass(frozen=True)
class NextRun:
    """A coming time of a schedule, in UTC and where it is planned, with what a change of the clocks does to it."""

    utc: datetime
    local: datetime
    note: str


class Schedules:
    """Keeps the schedules and, where `serve` runs, turns their due times into jobs."""

    def __init__(self, deck: Deck, *, now: Callable[[], datetime] = utcnow) -> None:
        self._deck = deck
        self._now = now

    async def add(self, given: ScheduleIn, actor: Actor) -> Schedule:
        """Make a schedule.

        The action, its parameters, the hosts, the rule and what the actor may do are all checked now. Raises
        `Invalid` (with the field), `NotFound`, `Refused`, or `Conflict` when the name is taken.
        """
        row = Schedule(
            **given.model_dump(mode="json", exclude={"confirm", "params"}),
            actor=actor.name,
            role=actor.role.value,
            created=self._now(),
            looked_at=self._now(),
        )
        row.params = await self._check(row, given.params, given.confirm, actor)
        try:
            async with self._deck.db.write() as session:
                session.add(row)
                await session.flush()
                await self._audit(session, actor, "schedule.added", row, after=_summary(row))
        except IntegrityError as fault:
            raise Conflict(
                f"a schedule is called {given.name!r} already.", field="name", hint="choose another name"
            ) from fault
        return row

    async def list(self) -> tuple[Schedule, ...]:
        """Give all schedules by name."""
        async with self._deck.db.read() as session:
            return tuple((await session.exec(select(Schedule).order_by(Schedule.name))).all())

    async def get(self, name: str) -> Schedule:
        """Give one. Raises `NotFound`."""
        async with self._deck.db.read() as session:
            return await _named(session, name)

    async def edit(self, name: str, patch: SchedulePatch, actor: Actor) -> Schedule:
        """Change a schedule, checked like a new one; from now on it runs with the rights of `actor`.

        Times before the change are left as they were decided. Raises like `add`.
        """
        old = await self.get(name)
        row = Schedule(**old.model_dump())
        for field, value in patch.model_dump(mode="json", exclude_none=True, exclude={"confirm", "params"}).items():
            setattr(row, field, value)
        if patch.cron:
            row.every_seconds = None
        elif patch.every_seconds:
            row.cron = ""
        chosen = await self._check(row, old.params if patch.params is None else patch.params, patch.confirm, actor)
        async with self._deck.db.write() as session:
            kept = await _named(session, name)
            if kept.version != old.version:
                raise Conflict(f"schedule {name!r} was changed meanwhile.", hint="look at it again, then change it")
            before = _summary(kept)
            moved = (kept.cron, kept.every_seconds, kept.time_zone) != (row.cron, row.every_seconds, row.time_zone)
            kept.params, kept.selector, kept.misfire, kept.overlap = chosen, row.selector, row.misfire, row.overlap
            kept.cron, kept.every_seconds, kept.time_zone = row.cron, row.every_seconds, row.time_zone
            kept.actor, kept.role, kept.version = actor.name, actor.role.value, kept.version + 1
            if moved:
                kept.looked_at = self._now()
            await self._audit(session, actor, "schedule.edited", kept, before=before, after=_summary(kept))
        return kept

    async def pause(self, name: str, actor: Actor) -> Schedule:
        """Stop planning; times until `resume` are nobody's plan and are not recorded."""
        return await self._set_paused(name, actor, True)

    async def resume(self, name: str, actor: Actor) -> Schedule:
        """Plan again, from now on."""
        return await self._set_paused(name, actor, False)

    async def remove(self, name: str, actor: Actor) -> None:
        """Remove a schedule and its slots; the jobs it made stay. Raises `NotFound`."""
        async with self._deck.db.write() as session:
            row = await _named(session, name)
            self._authorise(row, actor)
            await self._audit(session, actor, "schedule.removed", row, before=_summary(row))
            # SQLite may give the number of a slot that is gone to the next one, whose run this job is not.
            mine = select(Slot.id).where(Slot.schedule_id == row.id)
            await session.exec(update(Job).where(col(Job.slot_id).in_(mine)).values(slot_id=None))
            await session.delete(row)
        await self._deck.incidents.close(missed_key(name))

    async def next(self, name: str, n: int = 5) -> tuple[NextRun, ...]:
        """Give the next `n` planned times, also while paused. Raises `NotFound`."""
        return self.preview(await self.get(name), n)

    def preview(self, schedule: Schedule | ScheduleIn, n: int = 5) -> tuple[NextRun, ...]:
        """Give the next `n` planned times of a schedule or of one that is being made. Raises `Invalid`."""
        anchor = schedule.created if isinstance(schedule, Schedule) else self._now()
        rule = timing(schedule.cron, schedule.every_seconds, schedule.time_zone, anchor)
        return tuple(
            NextRun(planned.at, planned.local, planned.note)
            for planned in itertools.islice(rule.after(self._now()), max(0, min(n, 100)))
        )

    async def slots(self, name: str | None = None, *, limit: int = 50, states: Sequence[str] = ()) -> tuple[Slot, ...]:
        """Give what became of planned times, the newest first."""
        query = select(Slot)
        async with self._deck.db.read() as session:
            if name is not None:
                query = query.where(Slot.schedule_id == (await _named(session, name)).id)
            if states:
                query = query.where(col(Slot.state).in_(states))
            query = query.order_by(col(Slot.planned).desc(), col(Slot.id).desc()).limit(max(1, min(limit, 1000)))
            return tuple((await session.exec(query)).all())

    async def serve(self, stop: asyncio.Event) -> None:
        """Turn due times into jobs until `stop`; any number of nodes may do this at once."""
        from opsdeck.jobs.clockwork import Clockwork

        await Clockwork(self._deck, now=self._now).run(stop)

    async def _set_paused(self, name: str, actor: Actor, paused: bool) -> Schedule:
        async with self._deck.db.write() as session:
            row = await _named(session, name)
            self._authorise(row, actor)
            if row.paused != paused:
                row.paused, row.version = paused, row.version + 1
                if not paused:
                    row.looked_at = self._now()
                await self._audit(session, actor, "schedule.paused" if paused else "schedule.resumed", row)
        if paused:
            await self._deck.incidents.close(missed_key(name))
        return row

    def _authorise(self, row: Schedule, actor: Actor) -> None:
        """Ask for the right to run the action; where the action is gone, for the right to change anything."""
        from opsdeck.manifest import Action, Risk

        try:
            action = self._deck.plugins.action(row.plugin, row.action)
        except NotFound:
            action = Action(row.action, row.action, "", risk=Risk.CHANGE, step=_nothing)
        self._deck.accounts.authorise(actor, action, row.plugin)

    async def _check(self, row: Schedule, raw: dict[str, Any], confirm: str | None, actor: Actor) -> dict[str, Any]:
        """Check everything that a person can get wrong; give the parameters as they are frozen into jobs."""
        timing(row.cron, row.every_seconds, row.time_zone, row.created)
        action = self._deck.plugins.action(row.plugin, row.action)
        self._deck.accounts.authorise(actor, action, row.plugin)
        chosen = params.dump(params.parse(row.plugin, action, raw))
        hosts = await hosts_for(self._deck.inventory, action, row.selector)
        consent.check(action, hosts, confirm, actor)
        return chosen

    async def _audit(
        self,
        session: AsyncSession,
        actor: Actor,
        verb: str,
        row: Schedule,
        *,
        before: dict[str, Any] | None = None,
        after: dict[str, Any] | None = None,
    ) -> None:
        await self._deck.audit.append(session, actor, verb, f"schedule:{row.name}", before=before, after=after)


def rule_of(schedule: Schedule) -> Timing:
    """Give the rule of a kept schedule. Raises `Invalid` when its zone is gone from this machine."""
    return timing(schedule.cron, schedule.every_seconds, schedule.time_zone, schedule.created)


def missed_key(name: str) -> str:
    """Give the key of the incident that says that a schedule missed a time."""
    return f"schedule-missed:{name}"


def _summary(row: Schedule) -> dict[str, Any]:
    kept = ("plugin", "action", "params", "selector", "cron", "every_seconds", "time_zone", "misfire", "overlap")
    return {name: getattr(row, name) for name in kept}


async def _named(session: AsyncSession, name: str) -> Schedule:
    row = (await session.exec(select(Schedule).where(Schedule.name == name))).first()
    if row is None:
        raise NotFound(f"no schedule is called {name!r}.", field="schedule", hint="`opsdeck schedule list` names them")
    return row


async def _nothing(_run: Any, _params: Any) -> None:
    return None
