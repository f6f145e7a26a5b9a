"""Why a running job is ended from outside, and what that makes of its steps."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from opsdeck.jobs.models import State


class Cause(StrEnum):
    """Who or what ended it."""

    CANCELLED = "cancelled"
    """A person asked for it."""
    CLOCK = "clock"
    """One of its two clocks ran out."""
    LEASE = "lease"
    """A lease that it needs was lost."""
    TAKEN = "taken"
    """Another node has the job by now: nothing more is written."""
    LEFT = "left"
    """This process goes, and the job is left for another one to resume."""


@dataclass(frozen=True)
class Ending:
    """One end from outside: the cause, and the sentence that people read."""

    cause: Cause
    text: str

    @property
    def state(self) -> State:
        """Give the state of the job, and of the steps that were under way."""
        return State.CANCELLED if self.cause is Cause.CANCELLED else State.FAILED

    @property
    def silent(self) -> bool:
        """Tell whether the job goes on elsewhere, so that nothing of it is ended on the hosts or written here."""
        return self.cause in (Cause.TAKEN, Cause.LEFT)
