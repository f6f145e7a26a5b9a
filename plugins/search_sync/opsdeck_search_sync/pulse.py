"""Whether this process stood still: then another node may have its sync, and what it was about to write is old.

A lease is lost at its next beat, which comes too late for a process that was stopped, or whose machine was: it goes on
in the middle of what it did. So whoever sends asks here first.
"""

from __future__ import annotations

import asyncio
import time

from opsdeck.api import Unavailable

STILL, BEAT = 6.0, 0.5
"""Seconds without a beat after which nothing is sent (a lease lives twice as long), and between two beats."""


class Pulse:
    """Beats while `run` runs."""

    def __init__(self) -> None:
        self._last = _now()

    async def run(self) -> None:
        """Beat until cancelled. Raises `Unavailable` after a standstill."""
        self._last = _now()
        while True:
            await asyncio.sleep(BEAT)
            self.check()
            self._last = _now()

    def check(self) -> None:
        """Raise `Unavailable` after a standstill."""
        if (still := _now() - self._last) > STILL:
            raise Unavailable(
                f"this process stood still for {still:.0f} s; another node may have the sync.",
                hint="nothing; it goes on from its checkpoint, here or there",
            )


def _now() -> float:
    """Give seconds that go on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
