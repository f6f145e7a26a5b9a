"""What happened, told to whoever listens: pages, notifications, plugins.

An event is a frozen dataclass whose docstring is its documentation. The bus is in-process and bounded: a slow
listener loses its oldest events and is told how many, and nobody waits for it. The rows stay the truth.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime

from opsdeck.clock import utcnow


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something happened. `at` is when."""

    at: datetime = field(default_factory=utcnow)


@dataclass(frozen=True, kw_only=True)
class JobChanged(Event):
    """A job or one of its steps entered another state."""

    job_id: int
    state: str
    host: str = ""


@dataclass(frozen=True, kw_only=True)
class LogWritten(Event):
    """Lines `first` to `first + count - 1` of a job's log are in the database."""

    job_id: int
    first: int
    count: int


@dataclass(frozen=True, kw_only=True)
class HostChanged(Event):
    """A host was added, edited, removed, or its reach changed."""

    host: str
    what: str


@dataclass(frozen=True, kw_only=True)
class SlotMissed(Event):
    """A planned time of a schedule passed without a job."""

    schedule: str
    planned: datetime
    reason: str


@dataclass(frozen=True, kw_only=True)
class IncidentOpened(Event):
    """Something is wrong."""

    key: str
    title: str


@dataclass(frozen=True, kw_only=True)
class IncidentClosed(Event):
    """Something that was wrong is over."""

    key: str
    title: str


class Subscription:
    """One listener's queue: at most `size` events; the oldest go first and are counted in `lost`."""

    def __init__(self, size: int, wanted: Callable[[Event], bool] | None) -> None:
        self._queue: deque[Event] = deque(maxlen=size)
        self._ready = asyncio.Event()
        self._wanted = wanted
        self.lost = 0

    def offer(self, event: Event) -> None:
        """Take an event, if it is wanted."""
        if self._wanted is not None and not self._wanted(event):
            return
        if len(self._queue) == self._queue.maxlen:
            self.lost += 1
        self._queue.append(event)
        self._ready.set()

    async def next(self, timeout: float | None = None) -> Event | None:
        """Wait for the next event, at most `timeout` seconds; None when there was none."""
        while not self._queue:
            self._ready.clear()
            try:
                async with asyncio.timeout(timeout):
                    await self._ready.wait()
            except TimeoutError:
                return None
        return self._queue.popleft()


class Bus:
    """Publishes events to the subscriptions of this process."""

    def __init__(self) -> None:
        self._subscriptions: set[Subscription] = set()
        self._listeners: list[Callable[[Event], None]] = []

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call `listener` for each event, at once; it must not raise and not wait."""
        self._listeners.append(listener)

    def publish(self, event: Event) -> None:
        """Tell everyone."""
        for subscription in tuple(self._subscriptions):
            subscription.offer(event)
        for listener in self._listeners:
            listener(event)

    @contextlib.asynccontextmanager
    async def subscribe(
        self, wanted: Callable[[Event], bool] | None = None, *, size: int = 1000
    ) -> AsyncIterator[Subscription]:
        """Listen for a while to the events that `wanted` accepts."""
        subscription = Subscription(size, wanted)
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
