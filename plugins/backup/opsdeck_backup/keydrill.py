"""The action that proves that a key opens the backups, on the console alone: no host sees a private key for it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from pydantic import Field

from opsdeck.api import Action, NotFound, OpsDeckError, Receipt, Refused, Risk, SecretName, Sensitive, Targets
from opsdeck_backup import catalogue, keys, targets
from opsdeck_backup.models import Proof

if TYPE_CHECKING:
    from opsdeck.api import JobRun
    from opsdeck_backup.manifests import Manifest
    from opsdeck_backup.stores import Store

_ZSTD = b"\x28\xb5\x2f\xfd"
"""What every zstd frame begins with (RFC 8878, 3.1.1)."""


class KeyParams(targets.NameParams):
    """Which backups, which key."""

    key: SecretName = Field(
        "", title="Key", description="Empty takes the target's; better: your copy from the safe, sealed for the while."
    )


async def _open(store: Store, link: Manifest, identity: Sensitive) -> None:
    """Open what was sealed beside a backup, with the same recipients. Raises `Refused`."""
    sealed = await store.read(f"{link.planned.object}.config")
    if hashlib.sha256(sealed).hexdigest() != link.result.config_sha256:
        raise Refused(f"what lies beside {link.id} was changed in the store.", hint="look at who can write there")
    if not keys.opened(sealed, identity).startswith(_ZSTD):
        raise Refused(f"what the key opened beside {link.id} is no zstd.")


async def _drill(job: JobRun, params: KeyParams) -> Receipt:
    found = await targets.opened(job, params.target)
    row = found.row
    holding = await catalogue.look(found.store, row.name, await catalogue.known(job, row.name))
    links = [chain.last for chain in holding.chains if chain.links and not chain.last.planned.foreign]
    if not links:
        raise NotFound("there is no backup to open.", field="target", hint="run a backup first")
    identity = await targets.identity(job, row, params.key)
    public = keys.public_of(identity)[0][:20]  # the whole stands in the identity's text, and is masked with it
    proof = Proof(target=row.name, item=links[-1].id, depth="key", ok=False, job_id=job.id)
    incident = f"backup:{row.name}:key"
    try:
        async with catalogue.proving(job, proof):
            proof.detail = {"key": public}
            for link in links:
                await _open(found.store, link, identity)
            proof.detail = {"key": public, "opened": len(links)}
    except OpsDeckError as fault:
        await job.open_incident(incident, f"A key does not open the backups of {row.name}", detail=fault.message)
        raise
    await job.close_incident(incident)
    job.log(f"{public} opens the newest backup of each of {len(links)} chains", "good")
    return {"key": public, "opened": [link.id for link in links]}


drill_key = Action(
    "drill_key",
    "Prove a key",
    "Open what was sealed beside the newest backup of each chain, on the console: does the key in the safe fit?",
    params=KeyParams,
    risk=Risk.READ,
    targets=Targets.CONSOLE,
    run=_drill,
    timeout=3600,
)
