"""Slots: each planned time becomes a job, or is recorded as missed or skipped, exactly once.

How that holds with any number of nodes, crashes and clocks that jump:

1. A slot is inserted with a key that every node computes alike, unique in the database; who inserts it, decides it.
2. Its job carries the slot's id, unique among jobs; so a second submission changes nothing.
3. Between the two the slot is `due`. A pass that finds one left `due` takes it by a conditional update, looks whether
   its job exists, and else fires it or records why not.
4. `Schedule.looked_at` says how far slots were recorded, so downtime and a clock set forward look alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import or_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from opsdeck.accounts.models import User
from opsdeck.actor import Actor, Door, Role
from opsdeck.clock import stamp, utcnow
from opsdeck.errors import OpsDeckError, Refused, Unavailable
from opsdeck.events import Event, SlotMissed
from opsdeck.jobs.models import Job, Schedule, Slot, State
from opsdeck.jobs.schedules import Misfire, Overlap, missed_key, rule_of
from opsdeck.jobs.timing import Planned, newest

if TYPE_CHECKING:
    from opsdeck.deck import Deck

GRACE = timedelta(seconds=60)
"""A slot looked at later than this after its time is late: the misfire policy decides."""
LISTED = 500
"""Most slots that one look records one by one; what lies before them shares one row."""
EACH = 100
"""Most late slots that `each` runs, and most that wait under `queue`."""
LEFT = timedelta(seconds=30)
"""A slot that is `due` for longer than this was left by a node that died."""
GIVE_UP = timedelta(hours=24)
"""A slot that could not become a job for this long is missed."""
SET_BACK = timedelta(seconds=60)
"""A clock behind `looked_at` by more than this was set back; less is the skew between nodes."""

_ACTIVE = (State.QUEUED.value, State.RUNNING.value)


@dataclass(frozen=True)
class Decision:
    """What becomes of a planned time: `due` (a job), `missed` or `skipped`, and why."""

    planned: Planned
    state: str
    reason: str = ""


def decide(due: Sequence[Planned], now: datetime, misfire: Misfire, held_by: str = "") -> tuple[Decision, ...]:
    """Decide on planned times that have come, in order, by the misfire policy."""
    if held_by:
        return tuple(Decision(planned, "skipped", f"held by {held_by}") for planned in due)
    late = [planned for planned in due if now - planned.at > GRACE]
    timely = [Decision(planned, "due") for planned in due[len(late) :]]
    if misfire is Misfire.SKIP:
        gone = [Decision(planned, "missed", "nothing was running at that time") for planned in late]
        return (*gone, *timely)
    if misfire is Misfire.ONCE:
        chosen = timely or [Decision(planned, "due") for planned in late[-1:]]
        rest = late if timely else late[:-1]
        covered = [Decision(planned, "skipped", f"covered by the run of {_at(chosen[0].planned)}") for planned in rest]
        return (*covered, *chosen)
    dropped = [Decision(planned, "missed", f"more than {EACH} were late; these ran") for planned in late[:-EACH]]
    return (*dropped, *(Decision(planned, "due") for planned in late[-EACH:]), *timely)


class Slots:
    """Looks at the time, and turns what is due into jobs."""

    def __init__(self, deck: Deck, *, now: Callable[[], datetime] = utcnow) -> None:
        self._deck = deck
        self._now = now

    async def look(self, schedule_id: int | None = None) -> None:
        """Record and fire what is due: of one schedule, or of all.

        Raises `Unavailable` when the database cannot be used; then the next look finds the same.
        """
        query = select(Schedule).where(col(Schedule.paused).is_(False)).order_by(col(Schedule.id))
        if schedule_id is not None:
            query = query.where(Schedule.id == schedule_id)
        async with self._deck.db.read() as session:
            rows = (await session.exec(query)).all()
        for row in rows:
            try:
                if self._is_due(row):
                    for slot_id in await self._record(row.id):
                        await self._fire(slot_id)
            except Unavailable:
                raise
            except OpsDeckError as fault:  # such as a time zone that is gone: this schedule only
                await self._tell_broken(row, fault)

    async def recover(self) -> None:
        """Take up slots that wait for the run before, or were left `due` by a process that died."""
        now = self._now()
        query = select(Slot).where(
            Slot.state == "due",
            or_(col(Slot.reason) != "", col(Slot.decided) < now - LEFT, col(Slot.decided) > now + SET_BACK),
        )
        async with self._deck.db.read() as session:
            left = (await session.exec(query.order_by(col(Slot.planned), col(Slot.id)).limit(1000))).all()
        blocked: set[int] = set()
        for slot in left:
            if slot.schedule_id in blocked or slot.id is None:
                continue
            if not await self._claim(slot):
                continue
            if await self._fire(slot.id, again=True) == "due":
                blocked.add(slot.schedule_id)

    def _is_due(self, row: Schedule) -> bool:
        now = self._now()
        if now < row.looked_at - SET_BACK:
            return True
        first = next(rule_of(row).after(row.looked_at), None)
        return first is not None and first.at <= now

    async def _record(self, schedule_id: int | None) -> list[int]:
        """Insert the slots that have come, once among all nodes; give the ids of those to fire here."""
        told: list[Event] = []
        async with self._deck.db.write() as session:
            row = (await session.exec(select(Schedule).where(Schedule.id == schedule_id).with_for_update())).first()
            if row is None or row.paused:
                return []
            now = self._now()
            if now < row.looked_at - SET_BACK:
                row.looked_at = now  # the keys of slots that are rows already keep them from firing again
                return []
            due, more = newest(rule_of(row), row.looked_at, now, LISTED)
            decisions = list(decide(due, now, Misfire(row.misfire), row.held_by))
            if more:
                decisions.insert(0, _older(row, due[0]))
            mine = await self._insert(session, row, decisions)
            row.looked_at = max(row.looked_at, now)
            missed = [decision for decision in decisions if decision.planned.key in mine and decision.state == "missed"]
            if missed:
                told = await self._report(session, row, [(one.planned.at, one.reason) for one in missed])
        self._publish(told)
        return [mine[one.planned.key] for one in decisions if one.state == "due" and one.planned.key in mine]

    async def _insert(self, session: AsyncSession, row: Schedule, decisions: Sequence[Decision]) -> dict[str, int]:
        """Insert slots; give key → id of those that were not there yet."""
        if not decisions:
            return {}
        insert = sqlite.insert if self._deck.db.sqlite else postgresql.insert
        now = self._now()
        values = [
            {
                "schedule_id": row.id,
                "fire_key": one.planned.key,
                "planned": one.planned.at,
                "state": one.state,
                "reason": one.reason,
                "decided": now,
            }
            for one in decisions
        ]
        statement = insert(Slot).values(values).on_conflict_do_nothing(index_elements=["schedule_id", "fire_key"])
        added = await (await session.connection()).execute(statement.returning(col(Slot.fire_key), col(Slot.id)))
        return {key: number for key, number in added.all() if number is not None}

    async def _claim(self, slot: Slot) -> bool:
        """Take a slot that was left `due`; tell whether it is ours."""
        async with self._deck.db.write() as session:
            taken = await (await session.connection()).execute(
                update(Slot)
                .where(col(Slot.id) == slot.id, col(Slot.state) == "due", col(Slot.decided) == slot.decided)
                .values(decided=max(self._now(), slot.decided + timedelta(microseconds=1)))
            )
            return _rows(taken) == 1

    async def _fire(self, slot_id: int, *, again: bool = False) -> str:
        """Make the slot's job, or decide why not; give the slot's state."""
        async with self._deck.db.read() as session:
            slot = await session.get(Slot, slot_id)
            row = await session.get(Schedule, slot.schedule_id) if slot else None
            if slot is None or row is None or slot.state != "due":
                return slot.state if slot else "missed"
            job = (await session.exec(select(Job.id).where(Job.slot_id == slot_id))).first() if again else None
            ahead = "" if job else await self._ahead(session, row, slot)
            user = (await session.exec(select(User).where(User.name == row.actor))).first()
        if job is not None:
            return await self._settle(row, slot, "fired", job_id=job)
        late = self._now() - slot.planned > GRACE
        if row.paused:
            return await self._settle(row, slot, "skipped", "the schedule was paused meanwhile")
        if row.held_by:
            return await self._settle(row, slot, "skipped", f"held by {row.held_by}")
        if self._now() - slot.planned > GIVE_UP and (again or ahead):
            return await self._settle(row, slot, "missed", slot.reason or "it could not start for a day")
        if again and late and not slot.reason and row.misfire == Misfire.SKIP:
            return await self._settle(row, slot, "missed", "the process ended before its job was made")
        waits = row.overlap == Overlap.QUEUE or (late and row.misfire == Misfire.EACH)
        if ahead and row.overlap != Overlap.ALLOW:
            return await self._wait(row, slot, ahead) if waits else await self._settle(row, slot, "skipped", ahead)
        return await self._submit(row, slot, user)

    async def _ahead(self, session: AsyncSession, row: Schedule, slot: Slot) -> str:
        """Say what of the same schedule comes before this slot: a running job, or an earlier slot; "" if nothing."""
        job = await session.exec(
            select(Job.id)
            .join(Slot, col(Slot.id) == col(Job.slot_id))
            .where(Slot.schedule_id == row.id, col(Job.state).in_(_ACTIVE))
            .limit(1)
        )
        if (number := job.first()) is not None:
            return f"the run before (job {number}) still goes on"
        earlier = await session.exec(
            select(Slot.planned)
            .where(Slot.schedule_id == row.id, Slot.state == "due", Slot.planned < slot.planned)
            .order_by(col(Slot.planned))
            .limit(1)
        )
        before = earlier.first()
        return f"the run of {stamp(before)} has not started yet" if before is not None else ""

    async def _wait(self, row: Schedule, slot: Slot, reason: str) -> str:
        async with self._deck.db.write() as session:
            waiting = (
                await session.exec(
                    select(Slot.id)
                    .where(Slot.schedule_id == row.id, Slot.state == "due", Slot.planned < slot.planned)
                    .limit(EACH)
                )
            ).all()
            if len(waiting) < EACH:
                await (await session.connection()).execute(
                    update(Slot)
                    .where(col(Slot.id) == slot.id, col(Slot.state) == "due")
                    .values(reason=f"waits: {reason}")
                )
                return "due"
        return await self._settle(row, slot, "skipped", f"{EACH} others wait already")

    async def _submit(self, row: Schedule, slot: Slot, user: User | None) -> str:
        from opsdeck.jobs.jobs import Submission

        try:
            actor = _actor(row, user)
            job = await self._deck.jobs.submit(
                Submission(
                    plugin=row.plugin, action=row.action, params=row.params, selector=row.selector, slot_id=slot.id
                ),
                actor,
            )
        except Unavailable as fault:
            return await self._wait(row, slot, fault.message)
        except (OpsDeckError, IntegrityError) as fault:
            async with self._deck.db.read() as session:
                made = (await session.exec(select(Job.id).where(Job.slot_id == slot.id))).first()
            if made is not None:
                return await self._settle(row, slot, "fired", job_id=made)
            return await self._settle(row, slot, "missed", str(fault))
        except Exception as fault:  # a plugin's own check that breaks must not stop the other schedules
            reason = f"{row.plugin}.{row.action} could not be made a job: {type(fault).__name__}: {fault}"
            return await self._settle(row, slot, "missed", reason)
        return await self._settle(row, slot, "fired", job_id=job.id)

    async def _settle(
        self, row: Schedule, slot: Slot, state: str, reason: str = "", *, job_id: int | None = None
    ) -> str:
        """Write what became of a `due` slot, and what people must hear, in one transaction."""
        told: list[Event] = []
        async with self._deck.db.write() as session:
            taken = await (await session.connection()).execute(
                update(Slot)
                .where(col(Slot.id) == slot.id, col(Slot.state) == "due")
                .values(state=state, reason=reason, job_id=job_id, decided=self._now())
            )
            if _rows(taken) == 1 and state == "fired":
                over = await self._deck.incidents.settle(session, missed_key(row.name))
                told = [over] if over else []
            elif _rows(taken) == 1 and not (row.paused or row.held_by):
                told = await self._report(session, row, [(slot.planned, reason)], skipped=state == "skipped")
        self._publish(told)
        return state

    async def _report(
        self, session: AsyncSession, row: Schedule, times: Sequence[tuple[datetime, str]], *, skipped: bool = False
    ) -> list[Event]:
        """Open the schedule's incident; give the events to publish after the commit."""
        planned, reason = times[-1]
        what = f"its run of {stamp(planned)}" if len(times) == 1 else f"{len(times)} runs up to {stamp(planned)}"
        opened = await self._deck.incidents.record(
            session,
            missed_key(row.name),
            f"Schedule {row.name} {'skipped' if skipped else 'missed'} {what}",
            detail=reason,
            severity="attention" if skipped else "broken",
            link=f"/schedules/{row.name}",
        )
        events: list[Event] = [SlotMissed(schedule=row.name, planned=at, reason=why) for at, why in times]
        return [*events, opened] if opened else events

    async def _tell_broken(self, row: Schedule, fault: OpsDeckError) -> None:
        await self._deck.incidents.open(
            missed_key(row.name),
            f"Schedule {row.name} cannot be planned",
            detail=str(fault),
            link=f"/schedules/{row.name}",
        )

    def _publish(self, told: Sequence[Event]) -> None:
        for event in told:
            self._deck.events.publish(event)


def _actor(row: Schedule, user: User | None) -> Actor:
    """Give who a schedule runs as: the person who made it, with the rights they still have. Raises `Refused`."""
    role = Role(row.role)
    if user is not None:
        if user.disabled:
            raise Refused(
                f"{row.actor}, who made the schedule, is disabled.", hint="an enabled user must edit the schedule"
            )
        role = min(role, Role(user.role), key=lambda one: one.rank)
    elif "@" not in row.actor and row.actor != "system":
        raise Refused(f"{row.actor}, who made the schedule, is no user any more.", hint="a user must edit the schedule")
    return Actor(row.actor, role, Door.SCHEDULE, source=f"schedule:{row.name}", stepped_up=True)


def _older(row: Schedule, first: Planned) -> Decision:
    """Make the one row that stands for everything that was planned before the listed slots."""
    at = row.looked_at
    reason = f"every time between {stamp(at)} and {stamp(first.at)}; only the newest {LISTED} are listed"
    state = "skipped" if row.held_by or row.misfire == Misfire.ONCE else "missed"
    return Decision(Planned(at, f"before {first.key}", at), state, reason)


def _at(planned: Planned) -> str:
    return stamp(planned.at)


def _rows(result: Any) -> int:
    return int(result.rowcount)
