"""The action that installs, upgrades and removes Debian packages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from opsdeck.errors import NotFound, as_value_error
from opsdeck.manifest import Action, Receipt, Recover, Risk
from opsdeck.plan import Plan

if TYPE_CHECKING:
    from opsdeck.jobs.context import HostAccess, PlanRun, StepRun
    from opsdeck.remote.packages import Request


@as_value_error()
def _name(text: str) -> str:
    from opsdeck.remote.packages import package_name

    return package_name(text)


class PackagesParams(BaseModel):
    """What shall become of which packages."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    what: Literal["install", "upgrade", "remove", "purge"] = Field(
        "install", title="What to do", description="Upgrade without names means everything that has a newer version."
    )
    names: list[Annotated[str, AfterValidator(_name)]] = Field(
        default_factory=list, title="Packages", description="Names, each with =version if one is meant.", max_length=500
    )
    update: bool = Field(
        True, title="Refresh the lists first", description="Done when it runs; the plan shows what the lists say now."
    )
    allow_removals: bool = Field(
        False, title="May remove others", description="Otherwise it is refused when other packages would go."
    )
    lock_wait: int = Field(
        120,
        ge=0,
        le=3600,
        title="Wait for another apt",
        description="How long the lock of another apt is waited for.",
        json_schema_extra={"unit": "s"},
    )

    @model_validator(mode="after")
    def _named(self) -> Self:
        if not self.names and self.what != "upgrade":
            raise ValueError(f"name the packages to {self.what}")
        return self

    def request(self) -> Request:
        """Give it as the operation takes it."""
        from opsdeck.remote.packages import Intent, Request

        return Request(
            Intent(self.what), tuple(self.names), lock_wait=self.lock_wait, allow_removals=self.allow_removals
        )


async def _step(step: StepRun, params: PackagesParams) -> Receipt:
    from opsdeck.remote import packages

    request = params.request()
    changed = await packages.apply(step, request, update=params.update)
    seen = await packages.look(step, params.names)
    for move in changed:
        step.log(f"{move.name} {move.old or 'none'} → {move.new or 'removed'}", "good")
    step.note(f"{len(changed)} changed" if changed else "nothing to do")
    return {
        "changed": [{"name": move.name, "from": move.old, "to": move.new} for move in changed],
        "installed": {name: package.installed for name, package in seen.packages.items() if package.installed},
        "reboot_needed": seen.reboot_needed,
    }


async def _plan(run: PlanRun, params: PackagesParams) -> Plan:
    from opsdeck.remote import packages

    request = params.request()

    async def look(host: HostAccess) -> object:
        seen = await packages.look(host, params.names)
        try:
            return await packages.plan(host, request), seen
        except NotFound as fault:
            age = "it has no package lists yet" if seen.lists_age is None else "its package lists may be old"
            hint = f"check the name; {age}, and a plan refreshes none"
            raise NotFound(fault.message, host=fault.host, field=fault.field, hint=hint) from fault

    found = await run.gather(look)
    notes = [
        f"{name}: its package lists are {seen.lists_age // 86400} days old"
        for name, (_, seen) in found.items()
        if seen.lists_age is not None and seen.lists_age > 2 * 86400
    ]
    notes += [f"{name}: it has no package lists yet" for name, (_, seen) in found.items() if seen.lists_age is None]
    if params.update:
        notes.append("The lists are refreshed first, so versions may be newer than shown.")
    return Plan(tuple(change for changes, _ in found.values() for change in changes), tuple(notes))


def _touches(params: PackagesParams, hosts: Sequence[str]) -> Sequence[str]:
    return [f"packages:{host}" for host in hosts]


packages = Action(
    "packages",
    "Install or upgrade packages",
    "Change Debian packages without questions: exact versions in the plan, proven afterwards.",
    params=PackagesParams,
    risk=Risk.CHANGE,
    step=_step,
    plan=_plan,
    touches=_touches,
    recover=Recover.RESUME,
)
