"""Services: the long-running tasks of plugins, each instance on one node at a time, restarted when it falls over.

A service that raises, hangs in `instances`, or calls `sys.exit()` is restarted or reported by its own name and stops
nobody else. One that never gives the event loop back cannot be helped from inside the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from opsdeck.clock import utcnow
from opsdeck.errors import Conflict, OpsDeckError
from opsdeck.jobs.attendance import Attendance, Said, attendance, name_of

if TYPE_CHECKING:
    from opsdeck.deck import Deck
    from opsdeck.jobs.leases import LeaseLost
    from opsdeck.manifest import Service

_log = logging.getLogger("opsdeck.services")

KEY_LENGTH = 200
MOST_INSTANCES = 1000


@dataclass(frozen=True)
class Pace:
    """How long things wait, in seconds."""

    ask: float = 5.0
    """Between two questions for the instances."""
    answer: float = 10.0
    """For an answer to that question."""
    stop: float = 10.0
    """For an instance to end after it was cancelled."""
    elsewhere: float = 1.0
    """Before a lease that another node holds is asked for again, spread by half: with a lease's life of 12 s another
    node goes on within 15 s of a kill."""
    first: float = 1.0
    longest: float = 60.0
    """Before a restart: doubled from `first` to `longest`, each spread by half."""
    healthy: float = 60.0
    """An instance that ran this long starts counting its crashes anew."""
    crashes: int = 3
    """In a row, before an incident says so."""


class Phase(StrEnum):
    """Where an instance is."""

    STARTING = "starting"
    RUNNING = "running"
    WAITING = "waiting"
    """It fell over and is restarted after a while."""
    ELSEWHERE = "elsewhere"
    """Another node runs it."""
    STOPPING = "stopping"
    STUCK = "stuck"
    """It was told to stop and goes on."""


@dataclass(frozen=True)
class ServiceStatus:
    """A service instance as pages show it. `key` is None for the service as a whole, when its plugin cannot say."""

    plugin: str
    service: str
    title: str
    key: str | None
    phase: str
    since: datetime
    crashes: int = 0
    error: str = ""
    log: tuple[Said, ...] = ()


@dataclass(eq=False)
class _Instance:
    key: str
    work: Attendance
    phase: Phase = Phase.STARTING
    since: datetime = field(default_factory=utcnow)
    crashes: int = 0
    error: str = ""
    task: asyncio.Task[None] | None = None

    def enter(self, phase: Phase) -> None:
        self.phase, self.since = phase, utcnow()


@dataclass(eq=False)
class _Tended:
    """A service with its instances on this node."""

    plugin: str
    service: Service
    instances: dict[str, _Instance] = field(default_factory=dict)
    error: str = ""
    failures: int = 0
    since: datetime = field(default_factory=utcnow)


class Services:
    """Supervises the services of all plugins on this node."""

    def __init__(self, deck: Deck, *, pace: Pace | None = None) -> None:
        self._deck = deck
        self._pace = pace or Pace()
        self._tended: list[_Tended] = []

    async def serve(self, stop: asyncio.Event) -> None:
        """Run what should run until `stop`, then end it within a bound."""
        mine = self._tended = [
            _Tended(manifest.name, service)
            for manifest in self._deck.plugins.ordered()
            for service in manifest.services
        ]
        tasks = [asyncio.create_task(self._tend(tended), name=_name(tended)) for tended in mine]
        try:
            await stop.wait()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(
                *(self._end(tended, one) for tended in mine for one in tuple(tended.instances.values()))
            )

    def status(self) -> tuple[ServiceStatus, ...]:
        """Tell how every instance on this node does; services whose plugin cannot name its instances come too."""
        found = []
        for tended in self._tended:
            about = (tended.plugin, tended.service.name, tended.service.title)
            if tended.error:
                found.append(ServiceStatus(*about, None, "unknown", tended.since, tended.failures, tended.error))
            for one in tended.instances.values():
                said = tuple(one.work.diary.said)
                found.append(ServiceStatus(*about, one.key, one.phase, one.since, one.crashes, one.error, said))
        return tuple(found)

    async def _tend(self, tended: _Tended) -> None:
        """Ask for the instances again and again; start those that came, end those that went."""
        while True:
            try:
                wanted = await self._ask(tended)
            except _Fallen as fault:
                await self._cannot_say(tended, str(fault))
            else:
                await self._can_say(tended)
                for key in tended.instances.keys() - set(wanted):
                    await self._end(tended, tended.instances[key])
                for key in wanted:
                    if key not in tended.instances:
                        self._start(tended, key)
            await asyncio.sleep(self._pace.ask)

    async def _ask(self, tended: _Tended) -> tuple[str, ...]:
        asked = attendance(self._deck, tended.plugin, tended.service.name)
        keys = await _contained(lambda: tended.service.instances(asked), self._pace.answer)
        if isinstance(keys, str) or not isinstance(keys, Sequence) or not all(isinstance(key, str) for key in keys):
            raise _Fallen("instances gave something else than a sequence of keys")
        if len(keys) > MOST_INSTANCES or any(len(key) > KEY_LENGTH for key in keys):
            raise _Fallen(f"instances gave more than {MOST_INSTANCES} keys, or one longer than {KEY_LENGTH}")
        return tuple(dict.fromkeys(keys))

    async def _cannot_say(self, tended: _Tended, error: str) -> None:
        """Leave running what runs; say it once when it lasts."""
        if not tended.error:
            tended.since = utcnow()
            _log.error("%s: cannot tell its instances: %s", _name(tended), error)
        tended.error, tended.failures = error, tended.failures + 1
        if tended.failures == self._pace.crashes:
            await self._tell(tended, "", f"{tended.service.title} cannot tell what should run", error)

    async def _can_say(self, tended: _Tended) -> None:
        if tended.failures >= self._pace.crashes:
            await self._over(_name(tended))
        tended.error, tended.failures = "", 0

    def _start(self, tended: _Tended, key: str) -> None:
        one = _Instance(key, attendance(self._deck, tended.plugin, tended.service.name, key))
        tended.instances[key] = one
        one.task = asyncio.create_task(self._keep(tended, one), name=_name(tended, key))

    async def _end(self, tended: _Tended, one: _Instance) -> None:
        """Cancel an instance; one that does not heed it is said to be stuck and not started again here."""
        if one.task is not None and not one.task.done():
            one.enter(Phase.STOPPING)
            one.task.cancel()
            await asyncio.wait([one.task], timeout=self._pace.stop)
            if not one.task.done():
                one.enter(Phase.STUCK)
                _log.error("%s was told to stop and goes on", _name(tended, one.key))
                return
        tended.instances.pop(one.key, None)
        if one.crashes >= self._pace.crashes:
            await self._over(_name(tended, one.key))

    async def _keep(self, tended: _Tended, one: _Instance) -> None:
        """Run an instance under its lease, over and over."""
        name = _name(tended, one.key)
        while True:
            one.enter(Phase.STARTING)
            try:
                await self._run(tended, one, name)
                one.error = "it ended by itself"
                one.work.log(one.error)
            except Conflict as fault:
                one.enter(Phase.ELSEWHERE)
                one.error = fault.message
                await asyncio.sleep(self._pace.elsewhere * random.uniform(0.5, 1.5))  # noqa: S311 - spread, not a secret
                continue
            except Exception as fault:  # whatever ended it, it is said and started again
                one.crashes += 1
                one.error = str(fault) if isinstance(fault, (_Fallen, OpsDeckError)) else repr(fault)
                one.work.log(f"fell over ({one.crashes}): {one.error}", "bad")
                if one.crashes == self._pace.crashes:
                    await self._tell(tended, one.key, f"{tended.service.title} falls over again and again", one.error)
            one.enter(Phase.WAITING)
            wait = min(self._pace.longest, self._pace.first * 2.0 ** min(max(0, one.crashes - 1), 20))
            await asyncio.sleep(wait * random.uniform(0.5, 1.5))  # noqa: S311 - spread, not a secret

    async def _run(self, tended: _Tended, one: _Instance, name: str) -> None:
        """Take the lease and run until the end. Raises `_Fallen`, `Conflict` when another node has the lease."""
        lost: list[LeaseLost] = []
        body: asyncio.Task[Any] | None = None

        def on_lost(reason: LeaseLost) -> None:
            lost.append(reason)
            if body is not None:
                body.cancel()

        title = tended.service.title
        async with self._deck.leases.hold([name], name, title, lost=on_lost) as (grant,):
            one.work.fence = grant.fence
            one.enter(Phase.RUNNING)
            one.work.log(f"runs on {self._deck.node}, fence {grant.fence}")
            body = asyncio.create_task(_contained(lambda: tended.service.run(one.work)), name=f"{name} body")
            well = asyncio.create_task(self._grow_well(tended, one))
            try:
                if lost:
                    body.cancel()
                await asyncio.wait([body])
            finally:
                well.cancel()
                if not body.done():
                    body.cancel()
                    await _patiently(asyncio.wait([body]))
                await _patiently(self._flush(one))
        if lost:
            raise Conflict(lost[0].message)
        if body.cancelled():
            raise _Fallen("it cancelled itself")
        body.result()

    async def _grow_well(self, tended: _Tended, one: _Instance) -> None:
        """Write what waits for the audit trail; after a healthy while forget the crashes."""
        began = time.monotonic()
        while True:
            await asyncio.sleep(min(2.0, self._pace.healthy))
            await self._flush(one)
            if one.crashes and time.monotonic() - began >= self._pace.healthy:
                if one.crashes >= self._pace.crashes:
                    await self._over(_name(tended, one.key))
                one.crashes, one.error = 0, ""

    async def _flush(self, one: _Instance) -> None:
        with contextlib.suppress(OpsDeckError):  # the notes stay and are tried again
            await one.work.diary.flush()

    async def _tell(self, tended: _Tended, key: str, title: str, detail: str) -> None:
        with contextlib.suppress(OpsDeckError):  # the log has it, and the next crash tries again
            name = _name(tended, key)
            title = f"{title} ({key})" if key else title
            await self._deck.incidents.open(name, title, detail=detail, plugin=tended.plugin)

    async def _over(self, name: str) -> None:
        with contextlib.suppress(OpsDeckError):  # stays open until the next time it is well
            await self._deck.incidents.close(name)


class _Fallen(Exception):
    """A plugin's code did not come back with a result."""


async def _contained(call: Callable[[], Awaitable[Any]], seconds: float | None = None) -> Any:
    """Await a plugin's code; whatever it does comes out as `_Fallen`, only cancelling goes through."""
    try:
        async with asyncio.timeout(seconds):
            return await call()
    except TimeoutError as fault:
        bound = f"it did not answer within {seconds:g} s" if seconds else f"TimeoutError: {fault}"
        raise _Fallen(bound) from fault
    except OpsDeckError as fault:
        raise _Fallen(str(fault)) from fault
    except (Exception, SystemExit, KeyboardInterrupt) as fault:  # a plugin's fault is its own
        raise _Fallen(f"{type(fault).__name__}: {fault}") from fault


async def _patiently(work: Coroutine[Any, Any, Any]) -> None:
    """Finish a short clean-up although this task is being cancelled."""
    await asyncio.shield(asyncio.ensure_future(work))


def _name(tended: _Tended, key: str = "") -> str:
    return name_of(tended.plugin, tended.service.name, key)
