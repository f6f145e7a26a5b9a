"""The action that brings the model to the edges.

All edges are made ready and check the new configuration first; only when every one of them takes it, the first edge
is switched and proven from outside, then the rest. An edge that fails its proof goes back to what it had.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, Field

from opsdeck.api import (
    Action,
    Change,
    Depot,
    HostAccess,
    HostName,
    Invalid,
    JobRun,
    LinkLost,
    OpsDeckError,
    Plan,
    PlanRun,
    Program,
    Receipt,
    Refused,
    StepRun,
    Targets,
    Unavailable,
    Unreachable,
    Verb,
    artefacts,
    files,
)
from opsdeck_cdn import account, book, caddy, edgehost, naming, origins, proof, purging
from opsdeck_cdn.account import Account
from opsdeck_cdn.book import Model
from opsdeck_cdn.edgehost import EdgeState
from opsdeck_cdn.engines import Cache, Front
from opsdeck_cdn.render import layout
from opsdeck_cdn.render.generation import Generation, generation
from opsdeck_cdn.sites import Edge

LINK = (Unreachable, LinkLost)
PARALLEL = 16
"""Edges that are switched side by side, once the first one is proven."""


class DeployParams(BaseModel):
    """Which edges, and how long a certificate may take."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    edges: list[HostName] = Field(
        default_factory=list, title="Edges", description="None means all; the first is tried before the others."
    )
    certificate_wait: int = Field(
        120, ge=0, le=1800, title="Wait for certificates", json_schema_extra={"unit": "s"},
        description="How long a new name may take to get its certificate on the first edge.",
    )  # fmt: skip


def chosen(model: Model, names: Sequence[str]) -> tuple[Edge, ...]:
    """Give the edges that are meant, in order. Raises `Invalid`, `NotFound`."""
    edges = tuple(model.edge(name) for name in dict.fromkeys(names)) if names else model.edges
    if not edges:
        raise Invalid("there is no edge yet.", field="edges", hint="`opsdeck plugin run cdn edge --host HOST`")
    return edges


@dataclass
class _Work:
    """One deploy under way."""

    model: Model
    program: Program
    wait: float
    generations: dict[str, Generation]
    staged: dict[str, str] = field(default_factory=dict)
    same: set[str] = field(default_factory=set)
    """Edges that have what they should: they are proven again, and not switched."""
    restart: set[str] = field(default_factory=set)
    """Edges that get another Caddy or unit, for which a reload is not enough."""
    states: dict[str, EdgeState] = field(default_factory=dict)
    faults: dict[str, OpsDeckError] = field(default_factory=dict)
    account: Account | None = None
    named: set[str] = field(default_factory=set)
    lost: list[str] = field(default_factory=list)
    """Edges whose link ended under way: left out of DNS, and no word against the configuration."""

    async def ready(self, step: StepRun) -> Receipt:
        """Make one host ready and have it check its generation."""
        host = step.host.name
        try:
            edge, made = self.model.edge(host), self.generations[host]
            step.note("making ready")
            state = self.states[host] = await edgehost.look(step, origins.names(self.model))
            for fault in edgehost.wrong(edge, state):
                raise fault
            origins.check(self.model, state.names, host)
            changed = await edgehost.prepare(step, self.program, made)
            row = self.model.rows[host]
            same = not changed and row.files == made.digests and await edgehost.in_force(step, state.current, made)
            # The link may have been set, and the engines not told, when the way to the edge broke.
            same = same and not await proof.serves(edge, made.id)
            if changed:
                self.restart.add(host)
            self.staged[host] = state.current if same else await edgehost.stage(step, made, row.generation)
            if same:
                self.same.add(host)
            step.note("as it should be" if same else "checked")
        except OpsDeckError as fault:
            if isinstance(fault, LINK):
                await self.lose(step)
            self.faults[host] = fault
            raise
        return {"staged": self.staged[host]}

    async def lose(self, step: StepRun) -> None:
        """Leave an edge out whose link has ended."""
        host = step.host.name
        if host not in self.lost:
            self.lost.append(host)
        text = "not reached by a deploy"
        await book.change_edge(step.job.db, host, admitted=False, health="down", health_text=text)

    async def switch(self, step: StepRun) -> Receipt:
        """Switch one edge and prove it; go back when it does not work."""
        try:
            return await self._switch(step)
        except LINK:
            await self.lose(step)
            raise

    async def _switch(self, step: StepRun) -> Receipt:
        host = step.host.name
        edge, made, state = self.model.edge(host), self.generations[host], self.states[host]
        if self.account is not None:
            await account.give(step, self.account, self.model.setup, state.accounts)
        step.note("switching")
        # What was proven last, which is not what a switch that broke off has left there.
        before = state.current and (self.model.rows[host].generation or state.current)
        swapped = host in self.restart and await artefacts.switch(step, "caddy", self.program.artefact.version)
        try:
            if host in self.same:
                await purging.bring_epochs(step, self.model)
            else:
                await edgehost.switch(step, self.staged[host], made, restart=host in self.restart)
            await proof.alive(edge, made.id)
            if not any(other.admitted for other in self.model.edges) and host not in self.named:
                # The CA must find somebody at the names; while nobody serves yet, that is this edge.
                self.named.add(host)
                await naming.announce(step.job, also=host)
            settled = await purging.settle(step)
            seen = await proof.prove(edge, self.model.sites, self.model.setup, wait=self.wait, say=step.log)
        except proof.NoCertificate:
            if before:
                await self._back(step, before, swapped)
            else:
                step.log("left running without DNS, so that it can get its certificate", "bad")
            raise
        except OpsDeckError:
            await self._back(step, before, swapped)
            raise
        for note in seen.notes:
            step.log(note)
        await book.deployed(step.job.db, host, self.staged[host], made.digests, seen.lives)
        step.note(f"serves {made.id}")
        step.log(f"generation {made.id} proven from outside", "good")
        return {"generation": made.id, "folder": self.staged[host], "before": before, "purges": settled,
                "probe": seen.as_receipt()}  # fmt: skip

    async def _back(self, step: StepRun, before: str, swapped: bool) -> None:
        step.log("it does not work: going back", "bad")
        try:
            if swapped and before:
                await artefacts.roll_back(step, "caddy")
            await edgehost.back(step, before, self.generations[step.host.name])
        except OpsDeckError as fault:
            if isinstance(fault, LINK):
                await self.lose(step)
            # The first fault is the one to show; that the edge is left between two states is said beside it.
            step.log(f"not gone back: {fault}", "bad")
            step.note("failed, and not gone back")
            await book.change_edge(step.job.db, step.host.name, admitted=False)
            return
        step.note("went back")
        step.log(f"back at {before or 'nothing'}", "good")


async def _run(job: JobRun, params: DeployParams) -> Receipt:
    model = await book.load(job.db)
    edges = chosen(model, params.edges)
    origins.check(model, await origins.look_up(origins.names(model)))
    program = await Depot(job.home).obtain(caddy.artefact(model.setup.caddy))
    engines = (Cache(), Front(f"{artefacts.ROOT}/caddy/{program.artefact.version}/caddy"))
    work = _Work(
        model, program, params.certificate_wait,
        {edge.host: generation(model.sites, model.setup, edge, engines) for edge in edges},
    )  # fmt: skip
    names = [edge.host for edge in edges]
    await job.each(work.ready, names, parallel=PARALLEL)
    refused = [host for host in names if host not in work.staged and host not in work.lost]
    if refused:
        fault = work.faults.get(refused[0])
        raise Refused(
            f"nothing was switched: {refused[0]} does not take it{f' ({fault.message})' if fault else ''}.",
            hint=(fault.hint if fault else None) or "see the log of its step",
        )
    ready = [host for host in names if host in work.staged]
    if ready:
        await _find_account(job, work, ready)
    if model.new_names and any(edge.admitted for edge in model.edges):
        # The CA asks for a new name as soon as the first edge has it, and any edge answers.
        await naming.announce(job)
    failed = await _switch_all(job, work, [host for host in ready if host not in work.lost])
    silent = await naming.announce(job)
    return {"failed": failed + len(work.lost) + silent, "edges": names, "not_reached": work.lost,
            "name_servers_failed": silent}  # fmt: skip


async def _switch_all(job: JobRun, work: _Work, ready: Sequence[str]) -> int:
    """Switch one edge; when it is proven, the rest. Give how many failed without being lost.

    Raises `Unavailable` when all are lost.
    """
    waiting = iter(ready)
    failed: list[str] = []
    proven = ""

    async def one(host: str) -> bool:
        if failed:
            job.skip(host, f"not switched: {failed[0]} failed first")
        elif await job.each(work.switch, [host]):
            if host not in work.lost:
                failed.append(host)
            else:
                job.log(f"{host} was lost under way; going on without it", "bad")
        else:
            return True
        return False

    async def worker() -> None:
        for host in waiting:
            await one(host)

    for host in waiting:
        if await one(host):
            proven = host
            job.log(f"{host} works; going on with the rest", "good")
            break
    await asyncio.gather(*(worker() for _ in range(PARALLEL)))
    if not proven and not failed:
        raise Unavailable("none of the edges can be reached.", hint="`opsdeck host check` says why")
    return len(failed)


async def _find_account(job: JobRun, work: _Work, hosts: Sequence[str]) -> None:
    """Take the key of the ACME account from an edge that has it, also one that is not meant; make it for the first.

    Raises `Unavailable` when only edges have it that cannot be reached: with another key they would not answer for
    these.
    """
    deployed = [edge.host for edge in work.model.edges if work.model.rows[edge.host].generation]

    async def read(step: StepRun) -> Receipt | None:
        host = step.host.name
        try:
            state = work.states.get(host) or await edgehost.look(step)
            work.account = await account.read(step, work.model.setup, state.accounts)
        except LINK:
            if host in hosts:
                await work.lose(step)
            raise
        return None

    failed = 0
    for host in sorted(dict.fromkeys((*hosts, *deployed)), key=lambda host: (host not in deployed, host not in hosts)):
        if work.account is None and (host not in hosts or work.states[host].accounts):
            failed += await job.each(read, [host], parallel=1)
    if work.account is None and failed:
        raise Unavailable(
            "no edge that has the ACME account can be reached.", hint="bring one back, or take it out: `remove_edge`"
        )
    work.account = work.account or Account.make()


async def _plan(run: PlanRun, params: DeployParams) -> Plan:
    model = await book.load(run.db)
    edges = chosen(model, params.edges)
    origins.check(model, await origins.look_up(origins.names(model)))
    wanted = caddy.artefact(model.setup.caddy)
    found = Depot(run.home).has(wanted)
    notes: list[str] = []

    async def look(host: HostAccess) -> tuple[Change, ...]:
        name = host.host.name
        made = generation(model.sites, model.setup, model.edge(name))
        state = await edgehost.look(host, origins.names(model))
        notes.extend(f"{name}: {fault.message} A deploy is refused until then." for fault in edgehost.wrong(
            model.edge(name), state))  # fmt: skip
        origins.check(model, state.names, name)
        changes = [*await artefacts.plan(host, wanted, found)]
        paths = [f"{layout.CURRENT}/{file}" for file in made.files]
        seen = await files.look(host, paths)
        known = model.rows[name].files
        for (file, data), there, path in zip(made.files.items(), seen, paths, strict=True):
            old = there.content.decode("utf-8", "replace") if there.content is not None else None
            if there.digest and known.get(file) and there.digest not in (known[file], made.digests[file]):
                why = "changed by hand, or by a deploy that broke off"
                notes.append(f"{name}: {path} is not what was proven last ({why}); the deploy takes that back.")
            if there.digest != made.digests[file]:
                verb = Verb.UPDATE if there.digest else Verb.CREATE
                changes.append(Change(name, verb, path, "", old, data.decode()))
        for unit in await files.plan(
            host, [files.File(f"/etc/systemd/system/{unit}", data) for unit, data in made.units.items()]
        ):
            changes.append(unit)
        return tuple(changes)

    lost: list[str] = []

    async def guarded(host: HostAccess) -> tuple[Change, ...]:
        try:
            return await look(host)
        except Unreachable as fault:
            lost.append(f"{host.host.name} cannot be reached and is left out: {fault.message}")
            return ()

    seen: Mapping[str, tuple[Change, ...]] = await run.gather(guarded, [edge.host for edge in edges], parallel=8)
    if len(lost) == len(edges):
        raise Unavailable(f"none of the edges can be reached: {lost[0]}", hint="`opsdeck host check` says why")
    changes = tuple(change for edge in edges for change in seen[edge.host])
    return Plan(changes, (*notes, *lost))


def _touches(_params: DeployParams, _hosts: Sequence[str]) -> Sequence[str]:
    return ["cdn:edges", "cdn:dns", "cdn:purge"]


deploy = Action(
    "deploy", "Deploy the CDN",
    "Bring sites to the edges: checked on each, the first proven from outside, then the rest; put back on a fault.",
    params=DeployParams, targets=Targets.CONSOLE, run=_run, plan=_plan, touches=_touches, timeout=3600.0,
)  # fmt: skip
