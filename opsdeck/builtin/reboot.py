"""The action that reboots hosts and waits for each to return."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from opsdeck.errors import Refused
from opsdeck.manifest import Action, Receipt, Risk
from opsdeck.plan import Change, Plan, Verb

if TYPE_CHECKING:
    from opsdeck.jobs.context import HostAccess, PlanRun, StepRun


class RebootParams(BaseModel):
    """How long to wait."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: int = Field(
        600,
        ge=20,
        le=7200,
        title="Wait at most",
        description="A host that is not back by then has failed.",
        json_schema_extra={"unit": "s"},
    )


async def _step(step: StepRun, params: RebootParams) -> Receipt:
    from opsdeck.remote import boots

    def tell(text: str) -> None:
        step.log(text)
        step.note(text)

    after, seconds = await boots.reboot(step, limit=params.limit, tell=tell)
    step.log(f"back after {seconds:g} s, system {after.system}", "good")
    step.note(f"back after {seconds:g} s")
    return {"seconds": seconds, "boot": after.identity.partition(":")[0], "system": after.system}


async def _plan(run: PlanRun, params: RebootParams) -> Plan:
    from opsdeck.remote import boots

    async def look(host: HostAccess) -> object:
        return await boots.look(host)

    found = await run.gather(look)
    if played := [name for name, boot in found.items() if boot.play]:
        raise Refused("it is a host to play with, on the console's own machine; that is not rebooted.", host=played[0])
    return Plan(
        tuple(Change(name, Verb.RESTART, "the host", f"system {boot.system} now") for name, boot in found.items())
    )


def _touches(params: RebootParams, hosts: Sequence[str]) -> Sequence[str]:
    return [f"packages:{host}" for host in hosts]


reboot = Action(
    "reboot",
    "Reboot",
    "Reboot hosts and wait until each is back in a new boot with its services up; one after another, stop at the first "
    "that fails.",
    params=RebootParams,
    risk=Risk.CHANGE,
    step=_step,
    plan=_plan,
    touches=_touches,
    parallel=1,
    stop_after=1,
    timeout=None,
    silence=7500.0,
)
