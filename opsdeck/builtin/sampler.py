"""Polling every host's counters, spread over the interval, and notices who cannot be reached.

A poll is a read by the system: one round trip on the warm connection, kept in batches, without an audit entry each.
The audit trail has one entry when polling starts and one a day, and one for each opening of a credential.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import heapq
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from opsdeck.actor import SYSTEM
from opsdeck.builtin.termwatch import watch_terms
from opsdeck.clock import utcnow
from opsdeck.errors import OpsDeckError
from opsdeck.inventory.hostkeys import alarm_key
from opsdeck.inventory.models import Host, Reach
from opsdeck.inventory.reach import ReachSeen, reach_of
from opsdeck.inventory.samples import reading
from opsdeck.inventory.samples.book import Polled
from opsdeck.ssh.errors import HostKeyChanged

if TYPE_CHECKING:
    from opsdeck.deck import Deck
    from opsdeck.ssh.endpoint import Endpoint

PARALLEL = 64
FLUSH_SECONDS = 2.0
POLL_SECONDS = 30.0
"""The longest that one poll may take, dialling included."""
MISSES = 2
"""Polls in a row that must fail before a host counts as unreachable."""
SLOWEST = 600.0
"""A host that cannot be reached is tried at least this often, seconds."""
FLEET_SECONDS = 15.0
"""How often the list of hosts is read again."""


@dataclass
class Target:
    """A host that is polled."""

    host: Host
    endpoint: Endpoint
    version: tuple[object, ...]
    misses: int = 0
    due: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """How one poll ended."""

    target: Target
    polled: Polled | None = None
    fault: OpsDeckError | None = None


@dataclass
class Sampler:
    """Polls the fleet of one deck until it is cancelled."""

    deck: Deck
    interval: float
    targets: dict[str, Target] = field(default_factory=dict)
    _queue: list[tuple[float, str]] = field(default_factory=list)
    _outcomes: list[Outcome] = field(default_factory=list)
    _alarms: set[str] = field(default_factory=set)
    _doubted: set[str] = field(default_factory=set)
    _full: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Poll, keep and tidy up, side by side; an error of one ends all, so that the service starts anew."""
        self.deck.samples.forget()
        self._alarms = {
            incident.key for incident in await self.deck.incidents.open_now() if incident.key.startswith("unreachable:")
        }
        await self.refresh()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_fleet())
            group.create_task(self._poll_all())
            group.create_task(self._keep())
            group.create_task(self._tidy())

    async def refresh(self) -> None:
        """Read the fleet again: hosts that came, went or changed, credentials and pins that are others now."""
        await self._doubt()
        hosts = {host.name: host for host in await self.deck.inventory.list()}
        versions = await self.deck.endpoints.versions()
        for name in self.targets.keys() - hosts.keys():
            del self.targets[name]
            self.deck.ssh.drop(name)
            await self._over(name)
        fresh = [name for name in hosts if name in versions and self._stale(name, versions[name])]
        resolved = await self._resolve(fresh)
        for name, host in hosts.items():
            if name in resolved:
                known = self.targets.get(name)
                target = Target(host, resolved[name], versions[name])
                self.targets[name] = target
                if known is None:
                    self._schedule(name, offset(name, self.interval))
                else:
                    target.misses, target.due = known.misses, known.due
            elif name in self.targets:
                self.targets[name].host = host
        unpinned = [name for name, target in self.targets.items() if not target.endpoint.host_keys]
        await self.deck.inventory.set_reach(
            ReachSeen(name, Reach.UNTRUSTED, "no key of it is pinned")
            for name in unpinned
            if hosts[name].reach == Reach.UNKNOWN
        )

    async def _doubt(self) -> None:
        """Let go of connections to hosts that showed somebody another key: one from before would answer as if all was
        well. The next poll dials, and sees what the host shows now."""
        found = {
            incident.host
            for incident in await self.deck.incidents.open_now()
            if incident.key == alarm_key(incident.host)
        }
        for name in found - self._doubted:
            self.deck.ssh.drop(name)
        self._doubted = found

    def _stale(self, name: str, version: tuple[object, ...]) -> bool:
        return name not in self.targets or self.targets[name].version != version

    async def _resolve(self, names: Sequence[str]) -> dict[str, Endpoint]:
        """Open credentials for all at once; when one of them cannot be opened, for each alone, so it harms no other."""
        if not names:
            return {}
        try:
            return await self.deck.endpoints.resolve(names, actor=SYSTEM, purpose="sampling")
        except OpsDeckError:
            found: dict[str, Endpoint] = {}
            for name in names:
                try:
                    found |= await self.deck.endpoints.resolve([name], actor=SYSTEM, purpose="sampling")
                except OpsDeckError as fault:
                    self.targets.pop(name, None)
                    await self.deck.inventory.set_reach([ReachSeen(name, Reach.REFUSED, str(fault))])
            return found

    def _schedule(self, name: str, delay: float) -> None:
        due = time.monotonic() + delay
        self.targets[name].due = due
        heapq.heappush(self._queue, (due, name))

    async def _watch_fleet(self) -> None:
        while True:
            await asyncio.sleep(FLEET_SECONDS)
            await self.refresh()

    async def _poll_all(self) -> None:
        slots = asyncio.Semaphore(PARALLEL)
        async with asyncio.TaskGroup() as group:
            while True:
                if not self._queue:
                    await asyncio.sleep(1.0)
                    continue
                due, name = self._queue[0]
                if (wait := due - time.monotonic()) > 0:
                    await asyncio.sleep(min(wait, 1.0))
                    continue
                heapq.heappop(self._queue)
                target = self.targets.get(name)
                if target is None or target.due != due:
                    continue
                if not target.endpoint.host_keys:
                    self._schedule(name, self.interval)
                    continue
                await slots.acquire()
                group.create_task(self._poll_one(target)).add_done_callback(lambda _: slots.release())

    async def _poll_one(self, target: Target) -> None:
        outcome = await self.poll(target)
        target.misses = 0 if outcome.fault is None else target.misses + 1
        self._outcomes.append(outcome)
        if len(self._outcomes) >= PARALLEL * 4:
            self._full.set()
        if self.targets.get(target.host.name) is not None:
            delay = min(self.interval * 2 ** max(0, target.misses - MISSES), max(SLOWEST, self.interval))
            self.targets[target.host.name].misses = target.misses
            late = time.monotonic() - target.due
            self._schedule(target.host.name, max(1.0, delay - (late if late < delay else 0.0)))

    async def poll(self, target: Target) -> Outcome:
        """Read one host's counters."""
        host, mark = target.host, reading.new_mark()
        try:
            async with asyncio.timeout(POLL_SECONDS):
                done = await self.deck.ssh.run(target.endpoint, reading.script(mark), capture_limit=1 << 19)
            counters = reading.read(done.stdout, mark, host=host.name)
        except TimeoutError:
            return Outcome(target, fault=_Late(f"it gave no answer within {POLL_SECONDS:g} s.", host=host.name))
        except OpsDeckError as fault:
            return Outcome(target, fault=fault)
        return Outcome(target, Polled(host.id or 0, host.quota_reset_day, utcnow(), counters))

    async def _keep(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self._full.wait()
            self._full.clear()
            await self.flush()

    async def flush(self) -> None:
        """Write what was gathered: samples, reaches, incidents."""
        outcomes, self._outcomes = self._outcomes, []
        if not outcomes:
            return
        await self.deck.samples.store([outcome.polled for outcome in outcomes if outcome.polled])
        seen = [found for outcome in outcomes if (found := _reach(outcome)) is not None]
        current = {name: target.host.reach for name, target in self.targets.items()}
        stale = utcnow() - timedelta(seconds=4 * self.interval)
        telling = [item for item in seen if _worth(item, current.get(item.host), self.targets.get(item.host), stale)]
        await self.deck.inventory.set_reach(telling)
        for item in telling:
            if target := self.targets.get(item.host):
                target.host.reach, target.host.last_seen = item.reach, utcnow()
        for outcome in outcomes:
            await self._tell(outcome)

    async def _tell(self, outcome: Outcome) -> None:
        host = outcome.target.host
        if outcome.fault is None:
            await self._over(host.name)
        elif isinstance(outcome.fault, HostKeyChanged) and outcome.fault.host == host.name:
            if outcome.target.misses == 1:
                await self.deck.host_keys.report(outcome.fault)
        elif outcome.target.misses == MISSES:
            self._alarms.add(f"unreachable:{host.name}")
            await self.deck.incidents.open(
                f"unreachable:{host.name}",
                f"{host.name} cannot be reached",
                detail=str(outcome.fault),
                host=host.name,
                severity="broken",
            )

    async def _over(self, name: str) -> None:
        key = f"unreachable:{name}"
        if key in self._alarms:
            await self.deck.incidents.close(key)
            self._alarms.discard(key)
        if name in self._doubted:
            # Its connections were let go of when the doubt came: it was dialled anew, and showed a pinned key.
            await self.deck.incidents.close(alarm_key(name))
            self._doubted.discard(name)

    async def _tidy(self) -> None:
        while True:
            await self.deck.audit.record(
                SYSTEM, "sampling.ran", "fleet", detail={"hosts": len(self.targets), "seconds": self.interval}
            )
            for _ in range(24):
                await self.deck.samples.thin()
                await watch_terms(self.deck)
                await asyncio.sleep(3600)
            await self.deck.facts.prune()


class _Late(OpsDeckError):
    """A poll took too long."""


def offset(name: str, interval: float) -> float:
    """Give when within the interval a host's polls begin: spread evenly, the same after each restart."""
    share = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32
    return share * min(interval, 60.0)


def _reach(outcome: Outcome) -> ReachSeen | None:
    name = outcome.target.host.name
    if outcome.fault is None:
        return ReachSeen(name, Reach.OK)
    if isinstance(outcome.fault, _Late):
        found: ReachSeen | None = ReachSeen(name, Reach.UNREACHABLE, outcome.fault.message)
    else:
        found = reach_of(name, outcome.fault)
    if found is not None and found.reach is Reach.UNREACHABLE and outcome.target.misses < MISSES:
        return None
    return found


def _worth(item: ReachSeen, current: str | None, target: Target | None, stale: datetime) -> bool:
    """Tell whether a reach needs a write: another one, or the last sight of a host grows old."""
    if target is None:
        return False
    if item.reach != current:
        return True
    return item.reach is Reach.OK and (target.host.last_seen is None or target.host.last_seen < stale)
