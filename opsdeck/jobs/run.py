"""A whole job at work: implements `JobRun` over the ledger, the pool and the leases."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from opsdeck.actor import Actor
from opsdeck.clock import utcnow
from opsdeck.errors import Invalid, NotFound, OpsDeckError
from opsdeck.events import Event
from opsdeck.jobs import holds
from opsdeck.jobs.endings import Ending
from opsdeck.jobs.ledger import Ledger
from opsdeck.jobs.lines import cut
from opsdeck.jobs.models import Job, State, number
from opsdeck.jobs.step import StepWork
from opsdeck.secrets.redact import Redactor
from opsdeck.secrets.sensitive import Sensitive
from opsdeck.ssh.errors import HostKeyChanged

if TYPE_CHECKING:
    from opsdeck.db import Database
    from opsdeck.deck import Deck
    from opsdeck.inventory.models import Host
    from opsdeck.jobs.context import StepRun
    from opsdeck.manifest import Receipt
    from opsdeck.ssh.endpoint import Endpoint
    from opsdeck.ssh.pool import Pool

_log = logging.getLogger("opsdeck.jobs")

RECEIPT_LIMIT = 256 * 1024
"""Bytes of a receipt as JSON."""


class Doors:
    """Endpoints of many hosts, opened together when the first is needed."""

    def __init__(self, deck: Deck, names: Sequence[str], actor: Actor, purpose: str) -> None:
        self._deck, self._names, self._actor, self._purpose = deck, tuple(names), actor, purpose
        self._found: dict[str, Endpoint] = {}
        self._lock = asyncio.Lock()
        self._tried = False

    async def endpoint(self, name: str) -> Endpoint:
        """Give the host's endpoint. Raises what resolving that very host raises."""
        async with self._lock:
            if not self._tried:
                self._tried = True
                # One bad host must not fail the others: then each is asked for on its own below.
                with contextlib.suppress(OpsDeckError):
                    self._found |= await self._resolve(self._names)
            if name not in self._found:
                self._found |= await self._resolve((name,))
        return self._found[name]

    async def _resolve(self, names: Sequence[str]) -> dict[str, Endpoint]:
        return await self._deck.endpoints.resolve(names, actor=self._actor, purpose=self._purpose)


class JobWork:
    """Implements `JobRun`."""

    def __init__(
        self, deck: Deck, job: Job, hosts: Sequence[Host], ledger: Ledger, actor: Actor, *, resuming: bool
    ) -> None:
        self.id = number(job)
        self.plugin, self.action, self.actor = job.plugin, job.action, actor
        self.hosts = tuple(hosts)
        self.db: Database = deck.db
        self.home = deck.settings.home
        self.resuming = resuming
        self.ledger = ledger
        self.ending: Ending | None = None
        """Set when the job is ended from outside, before its task is cancelled."""
        self._deck = deck
        self._by_name = {host.name: host for host in hosts}
        self._again = (
            {name for name, step in ledger.steps.items() if step.state is State.RUNNING} if resuming else set()
        )
        self._doors = Doors(deck, [host.name for host in hosts], actor, f"job:{job.id}")
        self._hidden: list[Sensitive] = []
        self._redactors: dict[str, Redactor] = {}
        self._secrets: dict[str, Sensitive] = {}
        self._revealing = asyncio.Lock()
        self._clock = job.timeout
        began = (utcnow() - job.started).total_seconds() if job.started else 0.0
        self._end = time.monotonic() + job.timeout - began if job.timeout is not None else None

    @property
    def pool(self) -> Pool:
        """The warm connections."""
        return self._deck.ssh

    @property
    def deployment(self) -> str:
        """The short name of this installation, part of the names of what is left running on hosts."""
        return self._deck.keyring.derive("deployment")[:4].hex()

    def left(self) -> float | None:
        """Give the seconds left of the job's total clock; None without one."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def redactor_for(self, host: str) -> Redactor:
        """Give what masks the lines of a host's lane (`""`: the job's own)."""
        if host not in self._redactors:
            self._redactors[host] = Redactor(self._hidden)
        return self._redactors[host]

    async def endpoint(self, host: str) -> Endpoint:
        """Give a host's endpoint."""
        return await self._doors.endpoint(host)

    @contextlib.asynccontextmanager
    async def step(self, host: str) -> AsyncIterator[StepWork]:
        """Open the work on one of the job's hosts. An error inside fails the step and goes on outward."""
        known = await self._host(host)
        change = self.ledger.change
        work = StepWork(self, known, resuming=host in self._again)
        self._again.discard(host)
        change(host, state=State.RUNNING, started=self.ledger.steps[host].started or utcnow(), finished=None)
        try:
            await work.clear()
            yield work
        except asyncio.CancelledError:
            await work.prove(self.ending)
            self._cut(host)
            raise
        except GeneratorExit:
            raise
        except BaseException as fault:  # also SystemExit: an action that ends the process ends its own step only
            self._failed(host, work, fault)
            if isinstance(fault, HostKeyChanged):
                await self._deck.host_keys.report(fault)
            raise
        else:
            change(host, state=State.SUCCEEDED, finished=utcnow())

    def skip(self, host: str, note: str) -> None:
        """Record that nothing is done on this host, and why."""
        self.ledger.change(host, state=State.SKIPPED, note=note[:200], finished=utcnow())

    async def each(
        self,
        work: Callable[[StepRun], Awaitable[Receipt | None]],
        hosts: Sequence[str] | None = None,
        *,
        parallel: int = 32,
        stop_after: int | None = None,
    ) -> int:
        """Do `work` on many hosts, a step each; errors fail their own step. Give how many failed.

        A resumed job passes over hosts that were finished before.
        """
        names = tuple(hosts) if hosts is not None else tuple(host.name for host in self.hosts)
        known = self.ledger.steps
        queue = [name for name in names if not (self.resuming and name in known and known[name].state.final)]
        failed = sum(self.ledger.steps[name].state is State.FAILED for name in names if name not in queue)
        waiting = iter(queue)

        async def worker() -> None:
            nonlocal failed
            for name in waiting:
                if stop_after is not None and failed >= stop_after:
                    self.skip(
                        name, "not started: too many failed before" if failed > 1 else "not started: one failed before"
                    )
                    continue
                try:
                    async with self.step(name) as step:
                        receipt = unpack(await work(step), f"{self.plugin}.{self.action}", self.redactor_for(name))
                        if receipt is not None:
                            self.ledger.change(name, receipt=receipt)
                except (Exception, SystemExit, KeyboardInterrupt):  # the step has it on record
                    if name not in self.ledger.steps:
                        raise  # no step was opened, so nothing has it
                    failed += self.ledger.steps[name].state is State.FAILED

        workers = [asyncio.create_task(worker()) for _ in range(max(1, min(parallel, len(queue))))]
        try:
            await asyncio.gather(*workers)
        except asyncio.CancelledError:
            await asyncio.wait(workers)
            raise
        return failed

    def log(self, text: str, stream: str = "info") -> None:
        """Add lines to the job's own lane."""
        masked = self.redactor_for("").text(text).split("\n")
        self.ledger.lines("", stream, [cut(line) for line in masked])

    async def secret(self, name: str, *, fresh: bool = False) -> Sensitive:
        """Open a secret: audited once per job (each time when `fresh`), masked in its log. Raises `NotFound`."""
        async with self._revealing:
            if fresh or name not in self._secrets:
                value = await self._deck.secrets.reveal(name, actor=self.actor, purpose=f"job:{self.id}")
                self._secrets[name] = value
                self.hide(value)
        return self._secrets[name]

    async def remove_secret(self, name: str) -> None:
        """Remove a secret. Raises `NotFound`, `Conflict` while something refers to it, `Refused` below operator."""
        await self._deck.secrets.remove(name, self.actor)

    def hide(self, value: Sensitive) -> None:
        """Mask a value in this job's log from now on."""
        self._hidden.append(value)
        for redactor in self._redactors.values():
            redactor.add(value)

    @contextlib.asynccontextmanager
    async def lease(self, name: str, purpose: str, *, wait: float = 0) -> AsyncIterator[int]:
        """Hold a resource for a while; give the fencing number. Raises `Conflict`, saying who holds it since when."""
        async with self._deck.leases.hold([name], f"job:{self.id}", purpose, wait=wait) as (grant,):
            yield grant.fence

    @contextlib.asynccontextmanager
    async def hold_schedules(
        self, purpose: str, chosen: Callable[[str, Mapping[str, Any]], bool]
    ) -> AsyncIterator[tuple[str, ...]]:
        """Hold back schedules of this plugin's actions while the block runs; give their names."""
        async with self.db.write() as session:
            held = await holds.take(
                session, self.id, purpose, lambda row: row.plugin == self.plugin and chosen(row.action, row.params)
            )
        try:
            yield held
        finally:
            if self.ending is None or not self.ending.silent:
                async with self.db.write() as session:
                    await holds.let_go(session, self.id)

    def publish(self, event: Event) -> None:
        """Tell that something happened."""
        self._deck.events.publish(event)

    async def open_incident(
        self, key: str, title: str, *, detail: str = "", host: str = "", severity: str = "broken"
    ) -> None:
        """Say that something is wrong; the same `key` is one incident until it is closed."""
        mask = self.redactor_for("").text
        link = f"/jobs/{self.id}"
        await self._deck.incidents.open(
            key, mask(title), detail=mask(detail), host=host, severity=severity, plugin=self.plugin, link=link
        )

    async def close_incident(self, key: str) -> None:
        """Say that it is over."""
        await self._deck.incidents.close(key)

    async def _host(self, name: str) -> Host:
        """Find one of the job's hosts; a job that works on the console may open steps on any host."""
        if name in self._by_name and name in self.ledger.steps:
            return self._by_name[name]
        if name in self.ledger.steps and self.hosts:
            fault = NotFound("the host is no longer in the inventory.", host=name, hint="retry with the hosts that are")
            now = utcnow()
            self.ledger.change(
                name, state=State.FAILED, error=_line(fault), fault="NotFound", started=now, finished=now
            )
            raise fault
        if self.hosts:
            raise Invalid(f"job {self.id} does not work on the host {name!r}.", host=name)
        found = await self._deck.inventory.get(name)
        self._by_name[name] = found
        if name not in self.ledger.steps:  # it is there when the job was resumed
            self.ledger.add_step(name)
        return found

    def _cut(self, host: str) -> None:
        """Record a step that was under way when the job was ended, or when a part of the action ended another."""
        if self.ending is None:
            self.ledger.change(host, state=State.CANCELLED, error="ended by another part of the job", finished=utcnow())
        elif not self.ending.silent:
            self.ledger.change(host, state=self.ending.state, error=self.ending.text, finished=utcnow())

    def _failed(self, host: str, work: StepWork, fault: BaseException) -> None:
        text = explain(fault, self.redactor_for(host), host)
        _log.debug("job %s on %s", self.id, host, exc_info=fault)
        work.log(text, "bad")
        self.ledger.change(host, state=State.FAILED, error=text, fault=type(fault).__name__, finished=utcnow())


def explain(fault: BaseException, redactor: Redactor, host: str = "") -> str:
    """Give one clear, masked line for a fault: the house's own as they are, others with their class.

    A fault of another host than `host` (a jump host) is named.
    """
    if isinstance(fault, OpsDeckError):
        text = f"{fault.host}: {_line(fault)}" if fault.host not in (None, host) else _line(fault)
    elif isinstance(fault, SystemExit | KeyboardInterrupt):
        text = f"the action tried to end the process ({type(fault).__name__}); only its own work was ended."
    else:
        text = f"the action failed with {type(fault).__name__}: {fault}"
    return redactor.text(text)[:2000]


def _line(fault: OpsDeckError) -> str:
    return f"{fault.message} Next: {fault.hint}" if fault.hint else fault.message


def unpack(receipt: Any, where: str, redactor: Redactor) -> dict[str, Any] | None:
    """Check that a receipt is JSON-ready, and mask it: it may quote what a host printed.

    Raises `Invalid` naming the action that gave something else.
    """
    if receipt is None:
        return None
    try:
        text = json.dumps(receipt)
        data = json.loads(text)
    except (TypeError, ValueError) as fault:
        raise Invalid(f"{where} gave a receipt that is not plain data: {fault}.") from fault
    if not isinstance(data, dict):
        raise Invalid(f"{where} gave a receipt that is a {type(receipt).__name__}, not a mapping.")
    if len(text) > RECEIPT_LIMIT:
        raise Invalid(f"{where} gave a receipt of {len(text)} bytes; {RECEIPT_LIMIT} is the most.", hint="log the rest")
    return redactor.data(data)
