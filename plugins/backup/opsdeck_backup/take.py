"""The action that takes a backup."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from pydantic import Field

from opsdeck.api import Action, OpsDeckError, Receipt, Recover, Risk, Script, Sensitive, Targets, stamp, utcnow
from opsdeck_backup import catalogue, chains, keep, look, targets, watch
from opsdeck_backup.engines import Order, Server
from opsdeck_backup.kube import pod as pods
from opsdeck_backup.manifests import Planned
from opsdeck_backup.models import Item
from opsdeck_backup.stores import DATA, MANIFESTS
from opsdeck_backup.targets import Opened

if TYPE_CHECKING:
    from opsdeck.api import JobRun, StepRun

EMPTY_LOGIN = Sensitive("[client]\n")
PARTS = 9000
"""An object in S3 has at most 10,000 parts."""


class RunParams(targets.NameParams):
    """What to back up."""

    full: bool = Field(False, title="Full", description="Begin a new chain, whatever is there.")


def next_id(last: str, now: datetime) -> str:
    """Name the next backup: by time, never before `last`, also when the clock went back."""
    if last:
        after = datetime.strptime(last[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) + timedelta(seconds=1)
        now = max(now, after)
    return f"{stamp(now)}-{secrets.token_hex(4)}"


def part_size(used: int) -> int:
    """Give the size of the parts of an upload in MiB, for a database of `used` MiB."""
    return max(16, -(-used * 5 // 4 // PARTS))


def script(found: Opened, planned: Planned, server: Server, parent: chains.Next, rclone: str) -> Script:
    """Build the whole run on the host."""
    row, engine = found.row, found.engine
    before = parent.parent
    order = Order(before is not None, parallel=min(4, server.cores), throttle=row.throttle, tool=server.tool)
    accounts = engine.accounts()
    words = (
        f"{found.store.root}/{planned.object}",
        f"{found.store.root}/{MANIFESTS}/{planned.id}.json",
        planned.model_dump_json(),
        planned.kind,
        str(before.lsn("to_lsn") if before else 0),
        before.result.checkpoints if before else "",
        before.result.checkpoints_name if before else "",
        engine.marker(server.version).hex(),
        str(row.level),
        str(min(4, server.cores)),
        str(part_size(server.used)),
        row.limit,
        "y" if row.read_back else "n",
        "\n".join(row.recipients),
        str(len(accounts)),
        *accounts,
        *engine.backup(order),
    )
    title = f"streaming the {planned.kind} backup {planned.id} to {found.store.root}"
    return Script(look.shell("common", "pass", "backup"), (planned.id, rclone, *words), title)


async def _take(job: JobRun, params: RunParams) -> Receipt:
    found = await targets.opened(job, params.target)
    row = found.row
    holding = await catalogue.sync(job, row.name, found.store)
    mine = await catalogue.of_job(job, job.id)
    if mine is not None and any(manifest.id == mine.id for manifest in holding.manifests):
        job.log(f"{mine.id} was committed while nobody looked", "good")
        return {"backup": mine.id, "kind": mine.kind}
    await catalogue.give_up(job, row.name, mine.id if mine else "")
    async with job.lease(targets.database_of(row), f"backup of {row.name}"), job.step(row.host) as step:
        place, rclone, server, login = await _ready(step, found)
        found.engine.gate(server, row.host)
        changed = await catalogue.changed(job, row.name)
        planned, parent = plan(found, holding, server, mine.id if mine else "", full=params.full, changed=changed)
        step.log(f"{planned.kind} backup {planned.id}: {planned.reason}")
        item = Item(
            id=planned.id,
            target=row.name,
            chain=planned.chain,
            parent=planned.parent,
            kind=planned.kind,
            reason=planned.reason,
            job_id=job.id,
            started=utcnow(),
            version=server.version,
        )
        if mine is None:
            await catalogue.begin(job, item)
        try:
            await place.detached(
                "backup",
                script(found, planned, server, parent, rclone),
                sudo=True,
                stdin=look.sealed(found.store.config, login, None),
            )
        except OpsDeckError as fault:
            await catalogue.failed(job, planned.id, fault.message)
            raise
        return await _commit(job, step, found, planned.id)


async def _ready(step: StepRun, found: Opened) -> tuple[look.Place, str, Server, Sensitive]:
    """See that the database answers and the tools are there; give where to run, rclone, the server, its login."""
    row = found.row
    if row.kind == "kubernetes":
        login = pods.options(row, found.login)
        pod = pods.Pod(step, row, pods.pod_of(row), f"job{step.job.id}")
        server = await look.at(pod, found.engine, login)
        look.need_server(server, row.host)
        look.need_tools(server, pod.pod)
        return pod, look.SYSTEM_RCLONE, server, login
    login = found.login or EMPTY_LOGIN
    server = await look.at(step, found.engine, login)
    look.need_server(server, row.host)
    rclone = await look.tools(step, found.engine, server.version)
    return step, rclone, await look.at(step, found.engine, login, rclone), login


def plan(
    found: Opened,
    holding: catalogue.Holding,
    server: Server,
    name: str = "",
    *,
    full: bool = False,
    changed: Collection[str] = (),
) -> tuple[Planned, chains.Next]:
    """Settle what the next backup is, under the target's lease."""
    row, there = found.row, holding.chains
    following = chains.decide(
        there,
        found.rules,
        identity=server.identity,
        server=server.version,
        tool=server.tool,
        lsn=server.lsn,
        recipients=row.recipients,
        now=utcnow(),
        changed=changed,
    )
    if full:
        following = chains.Next(None, "asked for")
    elif following.parent is None and not holding.manifests and holding.damaged:
        following = chains.Next(None, "none of the backups in the store is whole")
    parent = following.parent
    last = max((manifest.id for manifest in holding.manifests), default="")
    name = name or next_id(last, utcnow())
    planned = Planned(
        id=name,
        target=row.name,
        chain=parent.planned.chain if parent else name,
        parent=parent.id if parent else "",
        number=parent.planned.number + 1 if parent else 0,
        kind="incremental" if parent else "full",
        reason=following.reason,
        engine=row.engine,
        server=server.version,
        tool=server.tool,
        identity=server.identity,
        data=server.data,
        host=row.host,
        object=f"{DATA}/{name}.xb.zst.age",
        recipients=tuple(row.recipients),
        at=utcnow(),
    )
    return planned, following


async def _commit(job: JobRun, step: StepRun, found: Opened, name: str) -> Receipt:
    holding = await catalogue.sync(job, found.row.name, found.store)
    made = next((manifest for manifest in holding.manifests if manifest.id == name), None)
    if made is None:
        why = holding.damaged.get(name, "the store has no manifest of it")
        await catalogue.failed(job, name, why)
        raise OpsDeckError(f"the backup {name} ended well, yet {why}.", hint="look at the store, then run it again")
    if abs(ahead := made.result.started - made.at) > watch.AHEAD:
        step.log(f"the clock of {found.row.host} is {ahead / timedelta(minutes=1):+.0f} min off: look at it", "bad")
    await job.close_incident(f"backup:{found.row.name}:rpo")
    step.note(f"{made.planned.kind}, {made.result.stored} bytes")
    swept = await keep.sweep(job, found, holding)
    return {
        "backup": name,
        "kind": made.planned.kind,
        "reason": made.planned.reason,
        "raw": made.result.raw,
        "stored": made.result.stored,
        "sha256": made.result.sha256,
        "read_back": made.result.read_back,
        "to_lsn": made.lsn("to_lsn"),
        "position": made.position,
        "removed": list(swept),
    }


run = Action(
    "run",
    "Back up",
    "Stream a full or incremental backup to the store; it counts once its manifest is there.",
    params=RunParams,
    risk=Risk.CHANGE,
    targets=Targets.CONSOLE,
    run=_take,
    touches=targets.touches,
    timeout=24 * 3600,
    silence=900,
    recover=Recover.RESUME,
)
