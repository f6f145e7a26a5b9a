"""Following a job: what is new in it, until it is over."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlmodel import col, select

from opsdeck.errors import NotFound
from opsdeck.events import Event, JobChanged, LogWritten
from opsdeck.jobs import log
from opsdeck.jobs.ledger import StepState, Written
from opsdeck.jobs.lines import Line
from opsdeck.jobs.models import Job, State, Step

if TYPE_CHECKING:
    from opsdeck.deck import Deck

PAGE = 2000
"""Most lines in one update."""

POLL_SECONDS = 0.5
LOCAL_SECONDS = 5.0
PULSE_SECONDS = 15.0
"""After this long without news an empty update is given, so that a watcher can look whether the job still lives."""


@dataclass(frozen=True)
class Update:
    """What is new in a job: its row as it is now, the lines since the last update, the steps that changed."""

    job: Job
    lines: tuple[Line, ...] = ()
    steps: tuple[StepState, ...] = ()

    @property
    def last(self) -> int:
        """Give the number of the last line here; 0 when there is none."""
        return self.lines[-1].number if self.lines else 0


def watcher(job: Job, on_event: Callable[[Update], None]) -> Callable[[Written], None]:
    """Turn what the ledger writes into updates for who watches in the same process."""
    return lambda written: on_event(Update(job, written.lines, written.steps))


async def follow(deck: Deck, job_id: int, after: int) -> AsyncGenerator[Update]:
    """Give updates until the job is over and everything was given. See `Jobs.follow`."""

    def wanted(event: Event) -> bool:
        return isinstance(event, LogWritten | JobChanged) and event.job_id == job_id

    known: dict[str, StepState] = {}
    pulse = 0.0
    async with deck.events.subscribe(wanted, size=100) as events:
        while True:
            async with deck.db.read() as session:
                job = await session.get(Job, job_id)
                if job is None:
                    raise NotFound(f"job {job_id} was removed.", field="job")
                rows = (await session.exec(select(Step).where(Step.job_id == job_id).order_by(col(Step.id)))).all()
                lines = await log.read(session, job_id, after=after, limit=PAGE)
            steps = tuple(step for step in map(StepState.of, rows) if known.get(step.host) != step)
            known |= {step.host: step for step in steps}
            over = State(job.state).final and len(lines) < PAGE
            after = lines[-1].number if lines else after
            if lines or steps or over or time.monotonic() >= pulse:
                yield Update(job, lines, steps)
                pulse = time.monotonic() + PULSE_SECONDS
            if over:
                return
            if len(lines) < PAGE:
                await events.next(LOCAL_SECONDS if job.node == deck.node else POLL_SECONDS)
                while await events.next(0) is not None:
                    pass
