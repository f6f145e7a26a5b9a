"""The action that proves that a backup restores, and how long that takes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from opsdeck.api import Action, HostName, OpsDeckError, Receipt, Risk, Script, SecretName, Targets
from opsdeck_backup import bring, catalogue, chains, look, targets
from opsdeck_backup.models import Proof

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opsdeck.api import JobRun
    from opsdeck_backup.manifests import Manifest
    from opsdeck_backup.targets import Opened


class DrillParams(targets.NameParams):
    """What to prove, and where."""

    backup: str = Field("latest", title="Backup", description="`latest`, or a backup's name.", max_length=40)
    depth: Literal["read", "prepare", "server"] = Field(
        "server",
        title="How deep",
        description="read: fetch, compare, decrypt, unpack. prepare: make one copy of them. server: start it, check "
        "every table, ask the target's questions.",
    )
    host: HostName = Field("", title="Where", description="Empty takes the target's drill host, else its own host.")
    key: SecretName = Field(
        "", title="Key", description="Empty takes the target's; name another to prove that it opens the backups too."
    )


async def _drill(job: JobRun, params: DrillParams) -> Receipt:
    found = await targets.opened(job, params.target)
    row = found.row
    incident = f"backup:{row.name}:proof"
    holding = await catalogue.look(found.store, row.name, await catalogue.known(job, row.name))
    links = chains.path_to(holding.chains, params.backup)
    where = params.host or row.drill_host or row.host
    proof = Proof(target=row.name, item=links[-1].id, depth=params.depth, host=where, ok=False, job_id=job.id)
    # The chain alone is held: backups go on meanwhile, however long this takes.
    async with job.lease(chains.use_of(row.name, links[0].id), f"drill of {row.name}"):
        try:
            async with catalogue.proving(job, proof):
                proof.detail = await _prove(job, found, links, where, params)
        except OpsDeckError as fault:
            what = f"The backup {links[-1].id} of {row.name} was not proven"
            await job.open_incident(incident, what, detail=fault.message, host=where)
            raise
    await job.close_incident(incident)
    job.log(f"{links[-1].id} is proven ({params.depth}) in {proof.seconds} s", "good")
    return bring.told(links, proof, depth=params.depth)


async def _prove(
    job: JobRun, found: Opened, links: Sequence[Manifest], where: str, params: DrillParams
) -> dict[str, object]:
    identity = await targets.identity(job, found.row, params.key)
    async with job.step(where) as step:
        bring.check_room(where, links, await bring.room(step))
        made = links[-1].planned.server
        rclone = await look.tools(step, found.engine, made, server=params.depth == "server")
        server = await look.at(step, found.engine, rclone=rclone)
        if params.depth != "read":
            bring.check_fits(where, found.engine, links, server)
        room = await bring.room(step)
        async with bring.work_folder(step, f"{links[-1].id}.{job.id}") as folder:
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
                prepare=params.depth != "read",
            )
            detail = brought.figures(links)
            if params.depth == "server":
                step.note("asking a server of its own")
                began = time.monotonic()
                engine = found.engine
                programs = (engine.server, engine.client)
                words = (brought.folder, engine.user, str(room.prepare_memory), *programs, *found.row.questions)
                script = Script(look.shell("check", "drill"), words, f"starting {engine.server} on {brought.folder}")
                done = await step.detached("server", script, sudo=True)
                detail |= {"check": round(time.monotonic() - began, 1), "tables": tables(done.stdout)}
        step.note(f"proven: {params.depth}")
    return detail


def tables(output: bytes) -> int:
    """Give how many tables the drill found sound."""
    for line in output.decode("utf-8", "replace").splitlines():
        word, _, count = line.partition(" ")
        if word == "tables" and count.isdigit():
            return int(count)
    return 0


drill = Action(
    "drill",
    "Prove that it restores",
    "Restore a backup beside everything, start a server on it, check every table, and note how long it took.",
    params=DrillParams,
    risk=Risk.CHANGE,
    targets=Targets.CONSOLE,
    run=_drill,
    timeout=24 * 3600,
    silence=3600,
)
