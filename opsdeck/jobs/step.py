"""A job's work on one host: what is on record while it runs there, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from opsdeck.errors import Conflict, Invalid, NotFound, OpsDeckError
from opsdeck.jobs.access import Access, Lane, hide_logins
from opsdeck.secrets.sensitive import Sensitive
from opsdeck.ssh.command import Command, Completed, ProcessGroup, Script, Stream
from opsdeck.ssh.detached import Phase

if TYPE_CHECKING:
    from opsdeck.inventory.models import Host
    from opsdeck.jobs.context import JobRun
    from opsdeck.jobs.endings import Ending
    from opsdeck.jobs.run import JobWork
    from opsdeck.ssh.endpoint import Endpoint

PROOF_SECONDS = 15.0
"""Bound of looking whether a cancelled command is gone, after SSH already tried to end it."""

_LABEL = re.compile(r"[a-z0-9][a-z0-9-]{0,31}\Z")


def unit_name(deployment: str, job_id: int, host: str, label: str) -> str:
    """Give the name under which a detached command is found on its host, from any node; SSH puts `opsdeck-` before."""
    if not _LABEL.match(label):
        raise Invalid(f"{label!r} is no label.", field="label", hint="use small letters, digits and -, at most 32")
    return f"{deployment}-{job_id}-{hashlib.sha256(host.encode()).hexdigest()[:10]}-{label}"


class StepWork(Access):
    """Implements `StepRun`."""

    def __init__(self, job: JobWork, host: Host, *, resuming: bool) -> None:
        super().__init__(
            host,
            self._resolved,
            job.pool,
            job.ledger,
            job.redactor_for(host.name),
            origin=f"job:{job.id}",
            left=job.left,
        )
        self.job: JobRun = job
        self._work = job
        self.resuming = resuming
        before = job.ledger.steps[host.name].remote or {} if resuming else {}
        self._units: dict[str, dict[str, Any]] = {unit["unit"]: unit for unit in before.get("units", ())}
        self._remains: list[dict[str, Any]] = list(before.get("groups", ()))
        self._groups: dict[int, dict[str, Any]] = {}
        self._cut: list[ProcessGroup] = []

    async def _resolved(self) -> Endpoint:
        endpoint = await self._work.endpoint(self.host.name)
        hide_logins(self._redactor, endpoint)
        hide_logins(self._work.redactor_for(""), endpoint)
        return endpoint

    async def clear(self) -> None:
        """Before a step is done again: end what the node that died left running of it, so that nothing runs twice."""
        endpoint = await self._resolved() if self._remains else None
        for left in self._remains:
            group = ProcessGroup(**{field.name: left[field.name] for field in dataclasses.fields(ProcessGroup)})
            if endpoint is not None and not await self._pool.kill(endpoint, group):
                raise Conflict(
                    f"what ran before ({left.get('command', '')}) could not be ended on the host.",
                    host=self.host.name,
                    hint=f"end process group {group.pgid} there, then retry the job",
                )
        self._remains = []

    def log(self, text: str, stream: str = "info") -> None:
        """Add lines to this host's lane."""
        self._say(stream, text)

    def note(self, text: str) -> None:
        """Set the short phrase beside the host."""
        self._work.ledger.change(self.host.name, note=self._redactor.text(text)[:200])

    async def detached(
        self,
        label: str,
        command: Sequence[str] | Command | Script,
        *,
        sudo: bool = False,
        check: bool = True,
        stdin: bytes | Sensitive | None = None,
    ) -> Completed:
        """Run a program that outlives link and console, and follow it to its end; see `StepRun.detached`."""
        task = self._task(command, sudo, None, stdin)
        endpoint = await self._endpoint()
        unit = unit_name(self._work.deployment, self._work.id, self.host.name, label)
        known = self._units.get(unit)
        async with self._noted("command.ran", endpoint, self._words(task) | {"unit": unit}) as detail:
            if known is None:
                self._show(task)
                self._record_unit(
                    unit, {"unit": unit, "sudo": bool(task.sudo or task.run_as), "offset": 0, "began": False}
                )
                await self._work.ledger.flush()
            else:
                self._say("info", f"looking for {label} again, which was begun before")
            started = await self._begin(endpoint, unit, task)
            detail["existed"] = started
            done = await self._follow(endpoint, unit)
            detail |= {"exit_status": done.exit_status, "seconds": round(done.duration, 3)}
        self._ended(done, True)
        await self._forget(endpoint, unit)
        return done.check(self.host.name) if check else done

    async def _begin(self, endpoint: Endpoint, unit: str, task: Command | Script) -> bool:
        """Start the unit unless it is there, or was and its fate cannot be known; tell whether it was there."""
        record = self._units[unit]
        if record["began"]:
            state = await self._pool.detached_state(endpoint, unit, sudo=record["sudo"])
            if state.phase is not Phase.ABSENT:
                return True
            raise NotFound(
                "what was begun there is no longer on the host, and its outcome is not known.",
                host=self.host.name,
                hint="look on the host, then retry the job",
            )
        begun = await self._pool.detach(endpoint, unit, task)
        self._record_unit(unit, record | {"began": True})
        return begun.existed

    async def _follow(self, endpoint: Endpoint, unit: str) -> Completed:
        record = self._units[unit]
        lane = Lane(self, "out", record["offset"])

        def take(_stream: Stream, data: bytes) -> Awaitable[None] | None:
            lane.feed(data)
            if lane.position != self._units[unit]["offset"]:
                self._record_unit(unit, self._units[unit] | {"offset": lane.position})
            return self._book.room() if self._book.full else None

        try:
            done = await self._pool.attach(endpoint, unit, offset=record["offset"], on_output=take, sudo=record["sudo"])
        except asyncio.CancelledError:
            ending = self._work.ending
            if ending is None or not ending.silent:
                await self._stop(endpoint, unit, record["sudo"])
            raise
        lane.end()
        return done

    async def _stop(self, endpoint: Endpoint, unit: str, sudo: bool) -> None:
        try:
            async with asyncio.timeout(PROOF_SECONDS):
                gone = await self._pool.stop_detached(endpoint, unit, sudo=sudo)
        except (OpsDeckError, TimeoutError) as fault:
            gone = False
            self._say("bad", f"{unit} could not be ended: {fault or 'no answer in time'}")
        self._told(gone)
        if gone:
            self._drop_unit(unit)

    async def _forget(self, endpoint: Endpoint, unit: str) -> None:
        """Clean up on the host once the outcome is in the database; what stays behind does no harm."""
        sudo = self._units[unit]["sudo"]
        self._drop_unit(unit)
        await self._work.ledger.flush()
        try:
            await self._pool.forget(endpoint, unit, sudo=sudo)
        except (OpsDeckError, Conflict) as fault:
            self._say("info", f"its files were left on the host: {fault.message}")

    @contextlib.asynccontextmanager
    async def _running(self, task: Command | Script) -> AsyncIterator[Callable[[ProcessGroup], Awaitable[None]] | None]:
        """Keep the process group in the step's row while the command runs."""
        mine: list[ProcessGroup] = []

        async def began(group: ProcessGroup) -> None:
            mine.append(group)
            words = self._redactor.text(" ".join(task.words()))[:200]
            self._groups[id(group)] = dataclasses.asdict(group) | {"command": words}
            self._record()

        try:
            yield began
        except asyncio.CancelledError:
            self._cut += mine
            raise
        finally:
            for group in mine:
                self._groups.pop(id(group), None)
            if mine and not self._cut:
                self._record()

    def _record_unit(self, unit: str, record: dict[str, Any]) -> None:
        self._units[unit] = record
        self._record()

    def _drop_unit(self, unit: str) -> None:
        self._units.pop(unit, None)
        self._record()

    def _record(self) -> None:
        running = {"groups": list(self._groups.values()), "units": list(self._units.values())}
        kept = {name: list(things) for name, things in running.items() if things}
        self._work.ledger.change(self.host.name, remote=kept or None)

    def _ended(self, done: Completed, log: bool) -> None:
        if log:
            self._work.ledger.change(self.host.name, exit_status=done.exit_status)

    async def prove(self, ending: Ending | None) -> None:
        """After a cancel: look whether what ran on the host is gone, end it if not, and say what was seen."""
        if ending is not None and ending.silent:
            return
        for group in self._cut:
            try:
                async with asyncio.timeout(PROOF_SECONDS):
                    gone = await self._pool.kill(await self._endpoint(), group)
            except (OpsDeckError, TimeoutError) as fault:
                gone = False
                self._say("bad", f"process group {group.pgid} could not be looked at: {fault or 'no answer in time'}")
            self._told(gone)
        if self._cut:
            self._cut.clear()
            self._record()

    def _told(self, gone: bool) -> None:
        if gone:
            self._say("info", "ended on the host; nothing is left of its process group")
            if not self._work.ledger.steps[self.host.name].note:
                self.note("ended on the host")
        else:
            self._say("bad", "it may still run on the host: its end was not seen")
            self.note("may still run on the host")
