"""The action that restores a backup onto a claim in Kubernetes: scale to 0, a Job on the claim, chown, scale up."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from opsdeck.api import (
    Action,
    Change,
    NotDone,
    OpsDeckError,
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
from opsdeck_backup.kube import charts
from opsdeck_backup.kube import pod as pods
from opsdeck_backup.models import Proof, Target
from opsdeck_backup.targets import TargetName

if TYPE_CHECKING:
    from opsdeck.api import HostAccess, JobRun, PlanRun, StepRun
    from opsdeck_backup.manifests import Manifest
    from opsdeck_backup.targets import Opened

GONE, READY = 300, 600
"""Seconds that a pod gets to end, and a workload to serve."""


class PodParams(BaseModel):
    """From where, to where: the source is a target, the destination a target in Kubernetes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: TargetName = Field(title="From target")
    backup: str = Field("latest", title="Backup", description="`latest`, or a backup's name.", max_length=40)
    into: TargetName = Field(
        title="Into target", description="A target in Kubernetes: its data is moved aside on the claim, not deleted."
    )
    key: SecretName = Field("", title="Key", description="Empty takes the target's.")


async def _into(run: JobRun | PlanRun, name: str) -> Target:
    row = await catalogue.find(run, name)
    if row.kind != "kubernetes":
        raise Refused(f"{name} is not in Kubernetes.", field="into", hint="restore it onto its host")
    return row


async def _workload(host: HostAccess, row: Target) -> tuple[int, str]:
    """Look at the workload; give how many pods it wants and the sidecar's image. Raises `Refused`, `NotFound`."""
    found = await pods.get(host, row, "statefulset", row.workload)
    replicas = int(found["spec"].get("replicas", 1))
    if replicas > 1:
        raise Refused(
            f"{row.workload} has {replicas} pods: the others would keep the data they have.",
            host=row.host,
            hint="scale it to 1, restore, then let the others copy from it",
        )
    images = pods.images(found)
    if not images:
        raise Refused(
            f"{row.workload} has no container {charts.CONTAINER}.",
            host=row.host,
            hint=f"add the sidecar: `opsdeck backup sidecar {row.name}` prints it",
        )
    claim = await pods.get(host, row, "persistentvolumeclaim", _claim(row))
    if claim.get("status", {}).get("phase") != "Bound":
        raise Refused(f"the claim {_claim(row)} is not bound.", host=row.host)
    return replicas, images[0]


def _claim(row: Target) -> str:
    return row.claim or charts.chart(row.chart).claim_of(row.workload)


async def _plan(run: PlanRun, params: PodParams) -> Plan:
    found, row = await targets.opened(run, params.target), await _into(run, params.into)
    holding = await catalogue.look(found.store, params.target, await catalogue.known(run, params.target))
    links = chains.path_to(holding.chains, params.backup)
    replicas, _ = await _workload(run.on(row.host), row)
    where = f"{row.namespace}/{row.workload}"
    old = f"what is there is kept on the claim as {_aside(links[-1].id, 0)}"
    return Plan(
        (
            Change(row.host, Verb.UPDATE, where, f"{replicas} → 0"),
            Change(row.host, Verb.UPDATE, _claim(row), f"replaced by {links[-1].id} ({len(links)} parts); {old}"),
            Change(row.host, Verb.RESTART, where, "0 → 1"),
        ),
        (f"room needed on the claim: {bring.needed(links)} MiB",),
    )


def _aside(backup: str, job: int) -> str:
    return f"{charts.CLAIM}/.opsdeck-before-{backup}" + (f".{job}" if job else "")


async def _kubectl(step: StepRun, row: Target, *words: str, timeout: float = 90, given: str = "") -> None:
    await step.run(pods.kubectl(row, *words), sudo=True, timeout=timeout, stdin=given.encode() or None)


async def _scale(step: StepRun, row: Target, to: int) -> None:
    """Scale the workload and wait until its pod is gone, or serves."""
    await _kubectl(step, row, "scale", f"statefulset/{row.workload}", f"--replicas={to}")
    if to:  # `rollout status` knows no workload whose operator updates it (OnDelete)
        ready = f"--for=jsonpath={{.status.readyReplicas}}={to}"
        words = ("wait", ready, f"statefulset/{row.workload}", f"--timeout={READY}s")
        await _kubectl(step, row, *words, timeout=READY + 30)
        return
    words = ("wait", "--for=delete", f"pod/{row.workload}-0", f"--timeout={GONE}s")
    await _kubectl(step, row, *words, timeout=GONE + 30)


async def _stop(step: StepRun, row: Target) -> None:
    """Keep the operator, if there is one, from starting the server, and stop it."""
    kept = charts.chart(row.chart)
    step.note("stopping the server")
    if resource := kept.resource_of(row.workload):
        await _kubectl(step, row, "patch", resource, "--type=merge", f"--patch={kept.pause}")
    await _scale(step, row, 0)


async def _start(step: StepRun, row: Target) -> None:
    """Start the server and wait until it is ready."""
    kept = charts.chart(row.chart)
    step.note("starting the server")
    if resource := kept.resource_of(row.workload):
        await _kubectl(step, row, "patch", resource, "--type=merge", f"--patch={kept.resume}")
    await _scale(step, row, 1)


@contextlib.asynccontextmanager
async def _holder(step: StepRun, row: Target, image: str, name: str) -> AsyncIterator[pods.Pod]:
    """Let a Job hold the claim meanwhile; give its pod."""
    kept = charts.chart(row.chart)
    manifest = charts.job(kept, name=name, namespace=row.namespace, claim=_claim(row), image=image)
    await _kubectl(step, row, "create", "--filename=-", given=json.dumps(manifest))
    try:
        selector = f"--selector=job-name={name}"
        words = ("wait", "--for=condition=Ready", "pod", selector, f"--timeout={GONE}s")
        await _kubectl(step, row, *words, timeout=GONE + 30)
        listed: Any = await pods.get(step, row, "pods", selector)
        yield pods.Pod(step, row, listed["items"][0]["metadata"]["name"], name)
    finally:
        words = ("delete", f"job/{name}", "--cascade=foreground", "--wait=true", f"--timeout={GONE}s")
        await _kubectl(step, row, *words, timeout=GONE + 30)


async def _onto_claim(
    pod: pods.Pod, found: Opened, links: Sequence[Manifest], *, identity: Any, aside: str, job: int
) -> bring.Brought:
    """Bring a backup onto the claim and put it in the place of what is there."""
    row, engine = pod.row, found.engine
    has = await bring.room(pod, pod.work)
    bring.check_room(row.host, links, has, pod.work)
    seen = await look.at(pod, engine)
    look.need_tools(seen, pod.pod)
    bring.check_tool(row.host, engine, links, seen)
    kept = charts.chart(row.chart)
    async with bring.work_folder(pod, f"{links[-1].id}.{job}", pod.work) as folder:
        brought = await bring.bring(
            pod,
            engine,
            found.store,
            links,
            rclone=look.SYSTEM_RCLONE,
            identity=identity,
            folder=folder,
            memory=has.prepare_memory,
            tool=seen.tool,
        )
        pod.note("putting it in place")
        words = ("place", kept.claimed, aside, f"{kept.uid}:{kept.gid}", *engine.place(brought.folder, kept.claimed))
        await pod.detached(
            "place", Script(look.shell("place", "claim"), words, f"moving {brought.folder} into {kept.claimed}")
        )
    return brought


async def _restore(job: JobRun, params: PodParams) -> Receipt:
    found, row = await targets.opened(job, params.target), await _into(job, params.into)
    if charts.chart(row.chart).engine != found.row.engine:
        raise Refused(f"{params.into} runs another engine than {params.target}.", field="into")
    destination = await targets.opened(job, params.into)
    holding = await catalogue.sync(job, params.target, found.store)
    links = chains.path_to(holding.chains, params.backup)
    identity = await targets.identity(job, found.row, params.key)
    name, aside = f"opsdeck-restore-{job.id}", _aside(links[-1].id, job.id)
    proof = Proof(target=params.target, item=links[-1].id, depth="restore", host=row.host, ok=False, job_id=job.id)
    purpose, busy = f"restore of {params.target} into {params.into}", {params.target, params.into}
    async with (
        job.hold_schedules(purpose, lambda _action, given: given.get("target") in busy) as held,
        job.lease(targets.database_of(row), purpose),
        job.step(row.host) as step,
        catalogue.proving(job, proof, failures=stores.Changed),
    ):
        if held:
            job.log(f"held meanwhile: the schedules {', '.join(held)}")
        _, image = await _workload(step, row)
        placed = False
        try:
            await _stop(step, row)
            async with _holder(step, row, image, name) as pod:
                brought = await _onto_claim(pod, found, links, identity=identity, aside=aside, job=job.id)
            placed, proof.detail = True, brought.figures(links)
        finally:
            if not placed:
                await _start(step, row)
        try:
            await _start(step, row)
            said = await _answers(step, destination)
        except OpsDeckError as fault:
            step.log(f"{fault.message} The old data is put back.", "bad")
            await _put_back(step, row, image, f"{name}-back", aside)
            raise
        step.log(f"{row.workload} serves {links[-1].id}; its former data is {aside} on the claim", "good")
        step.note("restored")
    return bring.told(links, proof, into=params.into, claim=_claim(row), aside=aside, server=said)


async def _put_back(step: StepRun, row: Target, image: str, name: str, aside: str) -> None:
    """Put the former data of a claim back in its place, and start the server on it."""
    kept = charts.chart(row.chart)
    await _stop(step, row)
    try:
        async with _holder(step, row, image, name) as pod:
            words = ("back", kept.claimed, aside, f"{kept.uid}:{kept.gid}")
            await pod.detached("back", Script(look.shell("place", "claim"), words, f"moving {aside} back"))
    finally:
        await _start(step, row)


async def _answers(step: StepRun, destination: Opened) -> str:
    """Ask the server through its sidecar. Raises `NotDone` when it does not serve what was restored."""
    row, engine = destination.row, destination.engine
    pod = pods.Pod(step, row, pods.pod_of(row), f"job{step.job.id}")
    script = Script(look.shell("check", "answer"), (engine.client,))
    done = await pod.run(script, check=False, timeout=600, stdin=pods.options(row, destination.login))
    if not done.ok:
        lines = (done.stdout + b"\n" + done.stderr).decode("utf-8", "replace").splitlines()
        said = "; ".join(line.strip() for line in lines if line.strip() and "exit code" not in line)
        raise NotDone(f"{row.workload} does not serve what was restored: {said[:300]}.", host=row.host)
    return done.stdout.decode("utf-8", "replace").strip()[:200]


restore_pod = Action(
    "restore_pod",
    "Restore into Kubernetes",
    "Put a backup onto the claim of a workload, through a Job while the workload is stopped. What was there is kept, "
    "and put back if the server does not answer.",
    params=PodParams,
    risk=Risk.DESTROY,
    targets=Targets.CONSOLE,
    run=_restore,
    plan=_plan,
    touches=lambda params, _hosts: sorted({f"backup:{params.target}", f"backup:{params.into}"}),
    timeout=24 * 3600,
    silence=3600,
)
