"""The clock of schedules in one process: APScheduler says when to look, and nothing else.

It keeps no truth: its jobs live in memory and are made anew when a schedule changes, and all they do is look. Every few
seconds everything is looked at anyway, which is how changes made by another node, a clock that was set, and slots left
behind by a dead process are found.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger
from sqlmodel import col, select

from opsdeck.clock import utcnow
from opsdeck.errors import OpsDeckError, Unavailable
from opsdeck.jobs.models import Schedule
from opsdeck.jobs.schedules import rule_of
from opsdeck.jobs.slots import Slots
from opsdeck.jobs.timing import Timing

if TYPE_CHECKING:
    from opsdeck.deck import Deck

POLL_SECONDS = 5.0
STOP_SECONDS = 10.0

_log = logging.getLogger("opsdeck.schedules")


class Clockwork:
    """Looks at the schedules when their times come, until it is stopped."""

    def __init__(self, deck: Deck, *, now: Callable[[], datetime] = utcnow, poll: float = POLL_SECONDS) -> None:
        self._deck = deck
        self._now = now
        self._poll = poll
        self._slots = Slots(deck, now=now)
        self._known: dict[int, int] = {}
        self._alone = asyncio.Lock()
        self._failing = False

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop`. A database that is away is waited for; the slots of that time are then late."""
        clock = AsyncIOScheduler(timezone=UTC)
        clock.start()
        try:
            while not stop.is_set():
                await self._guarded(self._pass(clock))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._poll):
                        await stop.wait()
        finally:
            clock.pause()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_SECONDS):  # let a look that has begun come to its end
                    await self._alone.acquire()
            clock.shutdown(wait=False)

    async def _pass(self, clock: AsyncIOScheduler) -> None:
        await self._set(clock)
        async with self._alone:
            await self._slots.look()
            await self._slots.recover()

    async def _look(self, schedule_id: int) -> None:
        async def look() -> None:
            async with self._alone:
                await self._slots.look(schedule_id)

        await self._guarded(look())

    async def _guarded(self, work: Any) -> None:
        """Do a look; one that fails is said once and tried again at the next, since the slots stay undecided."""
        try:
            await work
            self._failing = False
        except Unavailable as fault:
            if not self._failing:
                _log.error("schedules wait: %s", fault)
            self._failing = True
        except Exception:  # the clock must outlive a fault in one look; it is logged whole
            _log.exception("a look at the schedules failed")

    async def _set(self, clock: AsyncIOScheduler) -> None:
        """Give each schedule its place in the clock, anew when its version changed."""
        async with self._deck.db.read() as session:
            rows = (await session.exec(select(Schedule).where(col(Schedule.paused).is_(False)))).all()
        versions = {row.id: row.version for row in rows if row.id is not None}
        for gone in self._known.keys() - versions.keys():
            _drop(clock, gone)
        for row in rows:
            if row.id is None or self._known.get(row.id) == row.version:
                continue
            _drop(clock, row.id)
            with contextlib.suppress(OpsDeckError):  # a rule that cannot be read: the look says so
                clock.add_job(
                    self._look,
                    _Rule(rule_of(row)),
                    args=(row.id,),
                    id=str(row.id),
                    misfire_grace_time=None,
                    coalesce=True,
                    max_instances=1,
                    replace_existing=True,
                )
        self._known = versions


class _Rule(BaseTrigger):  # type: ignore[misc]
    """Our planned times in the form the clock asks for."""

    def __init__(self, rule: Timing) -> None:
        self._rule = rule

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        """Give the next planned time."""
        after = max(previous_fire_time or now, now - timedelta(seconds=1))
        planned = next(self._rule.after(after.astimezone(UTC)), None)
        return planned.at if planned else None


def _drop(clock: AsyncIOScheduler, schedule_id: int) -> None:
    if clock.get_job(str(schedule_id)) is not None:
        clock.remove_job(str(schedule_id))
