"""The action that restores a backup onto a host, the same or another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from opsdeck.api import (
    Action,
    Change,
    HostName,
    Plan,
    Receipt,
    Refused,
    Risk,
    Script,
    SecretName,
    Targets,
    Verb,
)
from opsdeck_backup import bring, catalogue, chains, look, stores, targets
from opsdeck_backup.models import Proof
from opsdeck_backup.targets import TargetName

if TYPE_CHECKING:
    from opsdeck.api import HostAccess, JobRun, PlanRun
    from opsdeck_backup.engines import Server
    from opsdeck_backup.manifests import Manifest

DATA = "/var/lib/mysql"


async def _places(host: HostAccess, data: str, name: str) -> tuple[str, str]:
    """Give where the work is done and where the old data goes: of a mount of its own, both stay within it."""
    mounted = (await host.run(("mountpoint", "-q", data), sudo=True, check=False, log=False, timeout=30)).ok
    if mounted:
        return f"{data}/.opsdeck-restore", f"{data}/.opsdeck-before-{name}"
    return bring.WORK, f"{data}.before-{name}"


class RestoreParams(BaseModel):
    """From where, to where: the source is a target, the destination a host."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: TargetName = Field(title="From target")
    backup: str = Field("latest", title="Backup", description="`latest`, or a backup's name.", max_length=40)
    onto: HostName = Field(title="Onto host", description="Its present data is moved aside, not deleted.")
    unit: str = Field(
        "",
        title="Unit there",
        description="Empty takes the engine's own.",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9@._-]{0,99})?$",
    )
    data: str = Field(
        "", title="Data folder there", description="Empty takes the server's own.", pattern=r"^(/[A-Za-z0-9._-]+)*$"
    )
    key: SecretName = Field("", title="Key", description="Empty takes the target's.")


def _touches(params: RestoreParams, _hosts: Sequence[str]) -> Sequence[str]:
    return [f"backup:{params.target}"]


def estimate(proofs: Sequence[Proof], links: Sequence[Manifest]) -> float | None:
    """Say how many seconds it will take, by the newest proof that has sizes; None without one."""
    raw = sum(link.result.raw for link in links)
    for proof in proofs:
        if proof.ok and proof.depth in ("server", "restore") and proof.detail.get("raw"):
            return float(proof.seconds * raw / proof.detail["raw"])
    return None


async def _busy(run: JobRun | PlanRun, params: RestoreParams) -> set[str]:
    """Give the targets that must not be backed up meanwhile: the one that is restored, and those of the host."""
    return {params.target, *(row.name for row in await catalogue.targets(run) if row.host == params.onto)}


async def _plan(run: PlanRun, params: RestoreParams) -> Plan:
    found = await targets.opened(run, params.target)
    holding = await catalogue.look(found.store, params.target, await catalogue.known(run, params.target))
    links = chains.path_to(holding.chains, params.backup)
    host = run.on(params.onto)
    server = await look.at(host, found.engine)
    data = _folder(params, server)
    work, aside = await _places(host, data, links[-1].id)
    has = await bring.room(host, work)
    bring.check_room(params.onto, links, has, work)
    changes = []
    if not server.program and found.engine.server_packages:
        changes.append(Change(params.onto, Verb.INSTALL, " ".join(found.engine.server_packages)))
    elif "not found" not in server.tool or not server.program:
        bring.check_fits(params.onto, found.engine, links, server)
    changes.append(
        Change(
            params.onto,
            Verb.UPDATE,
            data,
            f"replaced by {links[-1].id} ({len(links)} parts, {sum(link.result.stored for link in links)} bytes); "
            f"what is there is kept as {aside}",
        )
    )
    changes.append(Change(params.onto, Verb.RESTART, params.unit or found.engine.unit))
    seconds = estimate(await catalogue.proofs(run, params.target), links)
    there = server.program or server.version or "none yet"
    notes = (
        f"version: made on {links[-1].planned.server}; there: {there}",
        f"room: {has.disk} MiB left, {bring.needed(links)} MiB needed",
        f"time: about {seconds:.0f} s, as the last one took" if seconds else "time: unknown before the first drill",
        f"held meanwhile: the schedules of {', '.join(sorted(await _busy(run, params)))}",
    )
    return Plan(tuple(changes), notes)


async def _restore(job: JobRun, params: RestoreParams) -> Receipt:
    found = await targets.opened(job, params.target)
    holding = await catalogue.sync(job, params.target, found.store)
    links = chains.path_to(holding.chains, params.backup)
    identity = await targets.identity(job, found.row, params.key)
    purpose = f"restore of {params.target} onto {params.onto}"
    proof = Proof(target=params.target, item=links[-1].id, depth="restore", host=params.onto, ok=False, job_id=job.id)
    busy = await _busy(job, params)
    async with (
        job.hold_schedules(purpose, lambda _action, given: given.get("target") in busy) as held,
        job.lease(f"database:{params.onto}", purpose),
        job.step(params.onto) as step,
        catalogue.proving(job, proof, failures=stores.Changed),
    ):
        if held:
            job.log(f"held meanwhile: the schedules {', '.join(held)}")
        data = _folder(params, await look.at(step, found.engine))
        work, aside = await _places(step, data, f"{links[-1].id}.{job.id}")
        bring.check_room(params.onto, links, await bring.room(step, work), work)
        rclone = await look.tools(step, found.engine, links[-1].planned.server, server=True)
        server = await look.at(step, found.engine, rclone=rclone)
        bring.check_fits(params.onto, found.engine, links, server)
        room = await bring.room(step, work)
        async with bring.work_folder(step, f"{links[-1].id}.{job.id}", work) as folder:
            brought = await bring.bring(
                step,
                found.engine,
                found.store,
                links,
                rclone=rclone,
                identity=identity,
                folder=folder,
                memory=room.prepare_memory,
                tool=server.tool,
            )
            proof.detail = brought.figures(links)
            step.note("putting it in place")
            engine, unit = found.engine, params.unit or found.engine.unit
            words = (data, aside, unit, f"{engine.user}:{engine.user}", engine.client)
            title = f"stopping {unit}, and moving {brought.folder} into {data}"
            script = Script(
                look.shell("check", "place", "switch"), (*words, *engine.place(brought.folder, data)), title
            )
            done = await step.detached("switch", script, sudo=True)
        step.log(f"{params.onto} serves {links[-1].id}; its former data is {aside}", "good")
        step.note("restored")
    said = done.stdout.decode("utf-8", "replace").splitlines()[-1:]
    return bring.told(links, proof, onto=params.onto, data=data, aside=aside, server=said[0][:200] if said else "")


def _folder(params: RestoreParams, server: Server) -> str:
    data = (params.data or server.data or DATA).rstrip("/")
    if data.count("/") < 2 or "/.." in data:
        raise Refused(f"{data or '/'} cannot be a data folder.", host=params.onto, field="data", hint=f"such as {DATA}")
    return data


restore = Action(
    "restore",
    "Restore",
    "Put a backup in the place of a host's database. What was there is kept, and put back if the new does not answer.",
    params=RestoreParams,
    risk=Risk.DESTROY,
    targets=Targets.CONSOLE,
    run=_restore,
    plan=_plan,
    touches=_touches,
    timeout=24 * 3600,
    silence=3600,
)
