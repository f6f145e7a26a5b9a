"""The action that brings a program to hosts as an artefact: install, upgrade, hold, let go, roll back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from opsdeck.builtin.copying import local_file
from opsdeck.errors import as_value_error
from opsdeck.manifest import Action, Receipt, Risk
from opsdeck.plan import Change, Plan, Verb

if TYPE_CHECKING:
    from pathlib import Path

    from opsdeck.actor import Actor
    from opsdeck.jobs.context import HostAccess, JobRun, PlanRun, StepRun
    from opsdeck.remote.artefacts import Artefact


@as_value_error()
def _unit(text: str) -> str:
    from opsdeck.remote.units import unit_name

    return unit_name(text) if text else ""


class ArtefactParams(BaseModel):
    """Which program, and what shall become of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(title="Program", description="Its name; on hosts it lies below /opt/opsdeck/artefacts.")
    what: Literal["install", "roll_back", "hold", "let_go"] = Field(
        "install", title="What to do", description="Install also upgrades; hold keeps the version against installs."
    )
    version: str = Field("", title="Version", description="To install.")
    sha256: str = Field("", title="SHA-256", description="Of the source as it is fetched; anything else is refused.")
    source: str = Field(
        "",
        title="Source",
        description="A web address, or a file below `files` in the data folder; the console fetches it once.",
        max_length=2000,
    )
    member: str = Field("", title="File inside", description="Where it lies in a wheel, zip, tar or Debian package.")
    file: str = Field("", title="File name", description="Of the program on hosts; empty takes its name.")
    arch: str = Field("amd64", title="Architecture", description="In Debian's words; `all` fits every machine.")
    unit: Annotated[str, AfterValidator(_unit)] = Field(
        "", title="Restart unit", description="Restarted after a change; when it does not stay up, all is put back."
    )
    why: str = Field("", title="Why", description="Shown to whoever meets the hold.", max_length=180)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        from opsdeck.remote import artefacts

        with as_value_error():
            artefacts.artefact_name(self.name)
            if self.what == "install":
                self._artefact(self.source)
        return self

    def _artefact(self, source: str) -> Artefact:
        from opsdeck.remote.artefacts import Artefact

        return Artefact(self.name, self.version, self.sha256, source, self.arch, self.member, self.file)

    def artefact(self, actor: Actor, home: Path) -> Artefact:
        """Give the artefact. Raises `NotFound`, `Refused` for a file that this door may not read."""
        web = self.source.startswith(("https://", "http://"))
        return self._artefact(self.source if web else str(local_file(self.source, actor, home)))


async def _run(job: JobRun, params: ArtefactParams) -> Receipt:
    from opsdeck.remote import artefacts
    from opsdeck.remote.deploy import Rollout
    from opsdeck.remote.depot import Depot
    from opsdeck.remote.units import Act, act

    program = None
    if params.what == "install":
        artefact = params.artefact(job.actor, job.home)
        job.log(f"fetching {artefact.source}")
        program = await Depot(job.home).obtain(artefact)
        job.log(f"{artefact.name} {artefact.version}: sha256 of the program {program.digest}", "good")
    changed: set[str] = set()

    async def work(step: StepRun) -> Receipt:
        before = await artefacts.look(step, params.name)
        match params.what:
            case "install":
                if program is not None and await artefacts.install(step, program):
                    changed.add(step.host.name)
            case "roll_back":
                await artefacts.roll_back(step, params.name)
                changed.add(step.host.name)
            case "hold":
                await artefacts.hold(step, params.name, params.why or f"held by {job.actor.name}")
            case "let_go":
                await artefacts.let_go(step, params.name)
        after = await artefacts.look(step, params.name)
        step.note(f"{params.name} {after.current or 'not there'}{', held' if after.hold is not None else ''}")
        return {"before": before.current, "current": after.current, "held": after.hold is not None}

    async def probe(step: StepRun) -> Receipt | None:
        if not params.unit or step.host.name not in changed:
            return None
        state = await act(step, Act.RESTART, params.unit)
        return {"unit": state.name, "active": state.active}

    async def put_back(step: StepRun) -> None:
        if step.host.name in changed:
            await artefacts.roll_back(step, params.name)
            if params.unit:
                await act(step, Act.RESTART, params.unit)

    failed = await Rollout(work, probe, put_back).run(job)
    return {"failed": failed, "changed": sorted(changed)}


async def _plan(run: PlanRun, params: ArtefactParams) -> Plan:
    from opsdeck.remote import artefacts
    from opsdeck.remote.depot import Depot

    wanted = params.artefact(run.actor, run.home) if params.what == "install" else None

    async def look(host: HostAccess) -> Sequence[Change]:
        if wanted is not None:
            return await artefacts.plan(host, wanted, Depot(run.home).has(wanted))
        state, name = await artefacts.look(host, params.name), host.host.name
        match params.what:
            case "roll_back" if state.previous:
                return (Change(name, Verb.UPDATE, params.name, f"{state.current} → {state.previous}"),)
            case "hold" if state.hold is None:
                return (Change(name, Verb.CREATE, f"hold of {params.name}", f"at {state.current}"),)
            case "let_go" if state.hold is not None:
                return (Change(name, Verb.DELETE, f"hold of {params.name}", state.hold),)
        return ()

    found = await run.gather(look)
    return Plan(tuple(change for changes in found.values() for change in changes))


def _touches(params: ArtefactParams, hosts: Sequence[str]) -> Sequence[str]:
    return [f"artefact:{host}:{params.name}" for host in hosts]


artefact = Action(
    "artefact",
    "Install a program",
    "Bring a program that the distribution lacks to hosts: verified, one host first, put back when its unit fails.",
    params=ArtefactParams,
    risk=Risk.CHANGE,
    run=_run,
    plan=_plan,
    touches=_touches,
)
