"""The action that restarts a unit of systemd and proves that it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from opsdeck.errors import NotFound, as_value_error
from opsdeck.manifest import Action, Receipt, Risk
from opsdeck.plan import Change, Plan, Verb

if TYPE_CHECKING:
    from opsdeck.jobs.context import HostAccess, PlanRun, StepRun


@as_value_error()
def _unit(text: str) -> str:
    from opsdeck.remote.units import unit_name

    return unit_name(text)


class RestartParams(BaseModel):
    """Which unit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    unit: Annotated[str, AfterValidator(_unit)] = Field(title="Unit", description="nginx is nginx.service.")
    how: Literal["restart", "reload", "start", "stop"] = Field(
        "restart", title="How", description="Reload restarts a unit that cannot reload."
    )
    limit: int = Field(
        90,
        ge=5,
        le=3600,
        title="Time limit",
        description="How long the unit may take.",
        json_schema_extra={"unit": "s"},
    )
    settle: float = Field(
        2.0,
        ge=0,
        le=60,
        title="Watch for",
        description="It must still run after this time, without having been started again.",
        json_schema_extra={"unit": "s"},
    )


async def _step(step: StepRun, params: RestartParams) -> Receipt:
    from opsdeck.remote import units

    act = units.Act.RELOAD if params.how == "reload" else units.Act(params.how)
    state = await units.act(step, act, params.unit, limit=params.limit, settle=params.settle)
    step.log(f"{state.name} is {state.active} ({state.sub})", "good")
    step.note(f"{state.active}")
    return {"unit": state.name, "active": state.active, "sub": state.sub, "pid": state.pid}


async def _plan(run: PlanRun, params: RestartParams) -> Plan:
    from opsdeck.remote import units

    async def look(host: HostAccess) -> object:
        return (await units.look(host, [params.unit]))[0]

    changes: list[Change] = []
    for name, state in (await run.gather(look)).items():
        if not state.known:
            raise NotFound(f"there is no unit {params.unit}.", host=name, field="unit")
        if params.how == "stop" and state.active != "active":
            continue
        if params.how == "start" and state.active == "active":
            continue
        verb = Verb.RESTART if params.how in ("restart", "reload") else Verb.RUN
        changes.append(Change(name, verb, params.unit, f"{params.how}; it is {state.active} now"))
    return Plan(tuple(changes))


def _touches(params: RestartParams, hosts: Sequence[str]) -> Sequence[str]:
    return [f"unit:{host}:{params.unit}" for host in hosts]


restart = Action(
    "restart",
    "Restart a unit",
    "Restart, reload, start or stop a systemd unit, and see that it runs and stays up.",
    params=RestartParams,
    risk=Risk.CHANGE,
    step=_step,
    plan=_plan,
    touches=_touches,
)
