"""Writes whose answer never came: they may still arrive, behind newer ones.

A request that was given up (its time ran out, the link broke, its process was killed) may lie in a proxy or in a
Meilisearch that hangs, and become a task after the same documents were written again: it would put old content back,
and Meilisearch has no conditional write. So as long as such a request may arrive, the checkpoint in the database stays
before it, and the index's tasks are watched: each carries the mark of its request. When a given-up one turns up behind
a write of ours, reading begins again at the checkpoint, which writes all that it could have spoilt once more.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass

from opsdeck_search_sync.meilisearch import Meilisearch
from opsdeck_search_sync.pulse import Pulse

LOOK = 1.0
"""Seconds between two looks."""


@dataclass
class _Doubt:
    until: float
    after: int | None = None
    """The first task that was written behind it; None as long as there is none."""


class Doubts:
    """What one life of a generation, from its start to its end, does not know to have arrived."""

    def __init__(self, client: Meilisearch, index: str, owner: str, pulse: Pulse | None = None) -> None:
        self._client, self._index, self._owner = client, index, owner
        self._pulse = pulse
        self.life = secrets.token_hex(4)
        self._sent = 0
        self._doubts: dict[str, _Doubt] = {}
        self._before: float = 0.0
        self._first: int | None = None
        self._seen, self._looked = -1, 0.0

    @property
    def open(self) -> bool:
        """Tell whether something may still arrive."""
        now = time.monotonic()
        for mark in [mark for mark, doubt in self._doubts.items() if doubt.until <= now]:
            del self._doubts[mark]
        return bool(self._doubts) or self._before > now

    def mark(self) -> str:
        """Give the mark of one more request, which may be sent now. Raises `Unavailable` after a standstill."""
        if self._pulse is not None:
            self._pulse.check()
        self._sent += 1
        return f"{self._owner}:{self.life}:{self._sent}"

    def earlier(self, seconds: float) -> None:
        """Say that an earlier life may have requests under way for so long."""
        self._before = time.monotonic() + seconds

    def begin(self, newest: int) -> None:
        """Watch from here on: what came up to the task `newest` lies before everything that is written now."""
        self._seen, self._first = newest, None
        for doubt in self._doubts.values():
            doubt.after = None

    def given_up(self, mark: str, seconds: float) -> None:
        """Say that a request was not answered."""
        self._doubts[mark] = _Doubt(time.monotonic() + seconds)

    def wrote(self, uid: int) -> None:
        """Say that a request became a task."""
        self._first = uid if self._first is None else self._first
        for doubt in self._doubts.values():
            doubt.after = uid if doubt.after is None else doubt.after

    async def look(self) -> int | None:
        """Look every now and then for what came late; give a task that may have put old content back."""
        if not self.open or time.monotonic() - self._looked < LOOK:
            return None
        tasks = await self._client.marks(self._index, self._seen)
        self._looked = time.monotonic()
        self._seen = max([self._seen, *(uid for uid, _mark in tasks)])
        return next((uid for uid, mark in tasks if self._late(uid, mark)), None)

    def _late(self, uid: int, mark: str) -> bool:
        """Tell whether a task of ours was given up and stands behind what was written since."""
        owner, life, _number = [*mark.rsplit(":", 2), "", ""][:3]
        if mark in self._doubts:
            after = self._doubts.pop(mark).after
        elif owner.partition(":")[0] == self._owner.partition(":")[0] and life != self.life:
            after = self._first
        else:
            return False
        return after is not None and uid > after
