"""How a sync does: how far behind, how much log its source keeps for it, and telling people when that is bad."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from opsdeck.api import OpsDeckError, utcnow
from opsdeck_search_sync import ledger
from opsdeck_search_sync.changes import Head, LogLost
from opsdeck_search_sync.models import Phase, Reading, Sync

if TYPE_CHECKING:
    from opsdeck.api import ServiceRun
    from opsdeck_search_sync.lane import Lane

KEPT = timedelta(days=30)
"""How long the counts of minutes are kept."""
GRACE = 20.0
"""Seconds that a source may take to tell where its log ended: PostgreSQL can keep the end of a record for 15 s."""
GROWN = 0.5
"""Share of a sync's limit of log from which on people are told."""
INCIDENTS = ("problem", "behind", "silent", "grown", "window", "hook")


class TooMuchLog(LogLost):
    """The source keeps more log for us than it may: what makes it do so must go."""


@dataclass
class Seen:
    """What one look gave: the reading, and the lanes that cannot go on."""

    reading: Reading
    faults: dict[int, OpsDeckError] = field(default_factory=dict)


class Watch:
    """Looks at the lanes of one sync again and again."""

    def __init__(self, run: ServiceRun, name: str) -> None:
        self._run, self._name = run, name
        self._goals: dict[int, tuple[str, float]] = {}
        """Where the log ended at some look, and since when that was not reached."""
        self._pruned = 0.0
        self._well: set[str] = set()
        """Incidents that are known to be closed."""

    async def look(self, sync: Sync, lanes: Mapping[int, Lane], stops: tuple[type[OpsDeckError], ...]) -> Seen:
        """Look at every lane; an error of the kinds `stops` is a fault of its lane, others are raised."""
        seen = Seen(Reading(sync=self._name, at=utcnow(), state="working"))
        reading = seen.reading
        silent, complaint = 0.0, ""
        window: int | None = None
        for number, lane in lanes.items():
            reading.in_flight += lane.in_flight
            complaint = lane.complaint or complaint
            if lane.generation.phase in {Phase.NEW, Phase.COPYING} or not lane.position:
                reading.state = "copying"
                continue
            try:
                head = await lane.reader.head(lane.position)
                guard(sync, head)
            except stops as fault:
                seen.faults[number] = fault
                continue
            if head.retained_bytes is not None:
                reading.retained_bytes = max(reading.retained_bytes or 0, head.retained_bytes)
            if lane.generation.phase == Phase.LIVE:
                waits = self._waits(number, lane, head)
                silent = 0.0 if lane.in_flight else waits
                reading.behind_bytes = head.behind_bytes
                reading.oldest_seconds = round(lane.oldest, 3)
                busy = max(lane.oldest, lane.lag or 0.0) if lane.in_flight else 0.0
                reading.behind_seconds = round(max(busy, waits), 3)
                window = head.window_seconds
        reading.detail = complaint
        await self._tell(sync, reading, silent, window)
        if time.monotonic() - self._pruned > 3600:
            self._pruned = time.monotonic()
            await ledger.prune(self._run.db, utcnow() - KEPT)
        return seen

    def _waits(self, number: int, lane: Lane, head: Head) -> float:
        """Give for how many seconds the lane has not reached where the log ended."""
        goal, since = self._goals.get(number, ("", 0.0))
        if not goal or lane.reader.reached(lane.position, goal):
            goal, since = self._goals[number] = (head.position, time.monotonic())
        waits = 0.0 if lane.reader.reached(lane.position, goal) else time.monotonic() - since
        return waits if waits > GRACE else 0.0

    async def _tell(self, sync: Sync, reading: Reading, silent: float, window: int | None) -> None:
        behind, kept = reading.behind_seconds or 0.0, (reading.retained_bytes or 0) / 1e6
        quiet = silent > sync.alarm_seconds
        await self._incident("behind", behind > sync.alarm_seconds and not quiet, "is behind", f"by {behind:.0f} s")
        await self._incident(
            "silent", quiet, "hears nothing of its source",
            f"for {silent:.0f} s, though the source's log went on; its link is opened anew by itself",
        )  # fmt: skip
        await self._incident(
            "grown", kept > GROWN * sync.limit_mb, "makes its source keep much log",
            f"{kept:.0f} MB; at {sync.limit_mb} MB it is given up and the sync needs a rebuild",
        )  # fmt: skip
        await self._incident(
            "window", window is not None and behind > window / 2, "may lose its place in its source's log",
            f"it is {behind:.0f} s behind, and the source keeps its log for {window} s; then it needs a rebuild",
        )  # fmt: skip
        await self._incident("hook", bool(reading.detail), "has a hook that fails", reading.detail)

    async def _incident(self, what: str, wrong: bool, words: str, detail: str) -> None:
        key = f"search_sync:{self._name}:{what}"
        if wrong:
            self._well.discard(what)
            await self._run.open_incident(key, f"The sync {self._name} {words}", detail=detail, severity="attention")
        elif what not in self._well:
            await self._run.close_incident(key)
            self._well.add(what)


def guard(sync: Sync, head: Head) -> None:
    """The source's disk comes first. Raises `TooMuchLog`."""
    kept = (head.retained_bytes or 0) / 1e6
    if kept > sync.limit_mb:
        raise TooMuchLog(
            f"the source kept {kept:.0f} MB of its log for this sync, more than {sync.limit_mb} MB; the slot was"
            " dropped.",
            hint="see why Meilisearch did not keep up, then rebuild",
        )
