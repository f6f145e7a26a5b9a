"""Telling plugins what happened: `opsdeck_on_event`, in a thread of each plugin's own.

Nobody waits for a plugin. Each has a bounded queue; what does not fit is lost and counted. One that raises again and
again, or does not come back, is reported by name and hears no more; the others do.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opsdeck.events import Event, LogWritten

if TYPE_CHECKING:
    from opsdeck.events import Bus
    from opsdeck.plugins import Plugins

HOOK = "opsdeck_on_event"


@dataclass(frozen=True)
class Patience:
    """How much a plugin may get wrong."""

    queue: int = 1000
    """Events that wait for a plugin; more are lost."""
    faults: int = 10
    """Faults in a row before it hears no more."""
    seconds: float = 30.0
    """One call may take this long before it hears no more."""
    drain: float = 2.0
    """For what still waits when the process ends."""


class Fanout:
    """Hears the bus of this process and tells the plugins that want to hear."""

    def __init__(self, plugins: Plugins, bus: Bus, *, patience: Patience | None = None) -> None:
        self._patience = patience or Patience()
        self._ears = tuple(
            _Ear(name, hear, plugins.report, self._patience) for name, hear in plugins.callers(HOOK).items()
        )
        if self._ears:
            bus.listen(self._offer)

    def _offer(self, event: Event) -> None:
        """Pass an event on; log lines are left out, since they come in hundreds and stand in the job's log."""
        if not isinstance(event, LogWritten):
            for ear in self._ears:
                ear.offer(event)

    def close(self) -> None:
        """Let what waits be heard, within a bound."""
        until = time.monotonic() + self._patience.drain
        for ear in self._ears:
            ear.close(max(0.0, until - time.monotonic()))


class _Ear:
    """One plugin's queue and thread."""

    def __init__(
        self, plugin: str, hear: Callable[..., object], report: Callable[[str, str, str], None], patience: Patience
    ) -> None:
        self._plugin, self._hear, self._tell, self._patience = plugin, hear, report, patience
        self._queue: queue.Queue[Event | None] = queue.Queue(patience.queue)
        self._thread: threading.Thread | None = None
        self._deaf = False
        self._lost = False
        self._began: float | None = None

    def offer(self, event: Event) -> None:
        """Queue an event; never waits, never raises."""
        if self._deaf or self._is_stuck():
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True, name=f"events to {self._plugin}")
            self._thread.start()
        try:
            self._queue.put_nowait(event)
        except queue.Full:
            if not self._lost:
                self._lost = True
                self._tell(self._plugin, HOOK, f"it is too slow: more than {self._patience.queue} events waited")

    def close(self, seconds: float) -> None:
        """End the thread after what waits, at most `seconds` from now."""
        if self._thread is None or self._deaf:
            return
        try:
            self._queue.put(None, timeout=seconds)
        except queue.Full:
            return
        self._thread.join(seconds)

    def _is_stuck(self) -> bool:
        began = self._began
        if began is None or time.monotonic() - began < self._patience.seconds:
            return False
        self._deaf = True
        self._tell(
            self._plugin, HOOK, f"it did not come back for {self._patience.seconds:g} s and hears no more events"
        )
        return True

    def _work(self) -> None:
        faults = 0
        while (event := self._queue.get()) is not None and not self._deaf:
            self._began = time.monotonic()
            try:
                self._hear(event=event)
                faults = 0
            except BaseException as fault:  # whatever a plugin does, it stops nobody else
                faults += 1
                self._tell(self._plugin, HOOK, f"{type(fault).__name__}: {fault}")
                if faults >= self._patience.faults:
                    self._deaf = True
                    self._tell(self._plugin, HOOK, f"it failed {faults} times in a row and hears no more events")
                    return
            finally:
                self._began = None
