"""The door for programs: JSON over the same services, with a bearer token, the same checks, log and audit trail."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from litestar import Request, Router, get, post
from litestar.di import NamedDependency, Provide
from litestar.exceptions import NotAuthorizedException
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.params import FromPath, FromQuery, JSONBody
from pydantic import BaseModel, ConfigDict, Field

from opsdeck.accounts import permissions
from opsdeck.actor import Actor, Role
from opsdeck.deck import Deck
from opsdeck.jobs.jobs import Submission
from opsdeck.jobs.models import Job, Step
from opsdeck_web.identity import source_of

RENDER = [JsonRenderPlugin(path="/openapi.json")]


class SubmitIn(BaseModel):
    """A job to submit."""

    model_config = ConfigDict(extra="forbid")

    params: dict[str, Any] = Field(default_factory=dict, description="The action's parameters, as its schema says")
    selector: str = Field("", description="Hosts: web1, edge-*, tag:role=edge, all, a,b, !x")
    confirm: str | None = Field(None, description="The count of hosts, or the host's name, where consent is asked for")


async def provide_actor(request: Request[Any, Any, Any], deck: NamedDependency[Deck]) -> Actor:
    """Give who the token stands for. Raises 401 without one, `Refused` for a wrong one."""
    scheme, _space, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise NotAuthorizedException("a bearer token is needed")
    return await deck.accounts.authenticate_token(token.strip(), source_of(request.scope))


@get("/actions")
async def actions(deck: NamedDependency[Deck], actor: NamedDependency[Actor]) -> list[dict[str, Any]]:
    """List what can be done."""
    return [
        {
            "plugin": manifest.name,
            "action": action.name,
            "title": action.title,
            "summary": action.summary,
            "risk": action.risk,
            "targets": action.targets,
            "plan": action.plan is not None,
        }
        for manifest in deck.plugins.ordered()
        for action in manifest.offered
        if permissions.in_scope(actor, f"{manifest.name}.{action.name}")
    ]


@get("/actions/{plugin:str}/{action:str}")
async def schema(
    deck: NamedDependency[Deck], actor: NamedDependency[Actor], plugin: FromPath[str], action: FromPath[str]
) -> dict[str, Any]:
    """Give an action's parameters as JSON Schema."""
    found = deck.plugins.action(plugin, action)
    return {"plugin": plugin, "action": action, "risk": found.risk, "params": found.params.model_json_schema()}


@post("/actions/{plugin:str}/{action:str}/plan", status_code=200)
async def plan(
    deck: NamedDependency[Deck],
    actor: NamedDependency[Actor],
    plugin: FromPath[str],
    action: FromPath[str],
    data: JSONBody[SubmitIn],
) -> dict[str, Any]:
    """Say what would change."""
    return (await deck.jobs.plan(Submission(plugin, action, data.params, data.selector), actor)).as_dict()


@post("/actions/{plugin:str}/{action:str}/jobs", status_code=202)
async def submit(
    deck: NamedDependency[Deck],
    actor: NamedDependency[Actor],
    plugin: FromPath[str],
    action: FromPath[str],
    data: JSONBody[SubmitIn],
) -> dict[str, Any]:
    """Submit a job."""
    order = Submission(plugin, action, data.params, data.selector, data.confirm)
    return as_dict(await deck.jobs.submit(order, actor), ())


@get("/jobs")
async def jobs(
    deck: NamedDependency[Deck],
    actor: NamedDependency[Actor],
    before: FromQuery[int | None] = None,
    limit: FromQuery[int] = 50,
) -> list[dict[str, Any]]:
    """List jobs, the newest first; a token that is limited to actions sees the jobs of these."""
    found = await deck.jobs.list(before=before, limit=limit, actions=actor.scopes)
    return [as_dict(job, ()) for job in found]


@get("/jobs/{number:int}")
async def job(deck: NamedDependency[Deck], actor: NamedDependency[Actor], number: FromPath[int]) -> dict[str, Any]:
    """Give a job with its steps."""
    return as_dict(await _seen(deck, actor, number), await deck.jobs.steps(number))


@get("/jobs/{number:int}/log")
async def log(
    deck: NamedDependency[Deck],
    actor: NamedDependency[Actor],
    number: FromPath[int],
    after: FromQuery[int] = 0,
    host: FromQuery[str | None] = None,
    limit: FromQuery[int] = 1000,
) -> list[dict[str, Any]]:
    """Give lines of a job's log above number `after`, at most 5,000."""
    await _seen(deck, actor, number)
    lines = await deck.jobs.log(number, after=after, host=host, limit=max(1, min(limit, 5000)))
    return [asdict(line) for line in lines]


@post("/jobs/{number:int}/cancel", status_code=202)
async def cancel(deck: NamedDependency[Deck], actor: NamedDependency[Actor], number: FromPath[int]) -> dict[str, Any]:
    """Ask for a job's end."""
    return as_dict(await deck.jobs.cancel(number, actor), ())


@get("/hosts")
async def hosts(
    deck: NamedDependency[Deck], actor: NamedDependency[Actor], on: FromQuery[str] = "all"
) -> list[dict[str, Any]]:
    """List the hosts that a selector names."""
    permissions.require(actor, Role.VIEWER, "list hosts")
    return [host.model_dump(mode="json", exclude={"id"}) for host in await deck.inventory.list(on)]


async def _seen(deck: Deck, actor: Actor, number: int) -> Job:
    """Give a job that the token may look at. Raises `NotFound`, `Refused`."""
    found = await deck.jobs.get(number)
    if not permissions.in_scope(actor, f"{found.plugin}.{found.action}"):
        permissions.require(actor, Role.VIEWER, f"look at job {number}")
    return found


def as_dict(job: Job, steps: tuple[Step, ...]) -> dict[str, Any]:
    """Give a job as JSON-ready data."""
    left_out = {"node", "fence", "lease_until", "slot_id"}
    data = job.model_dump(mode="json", exclude=left_out)
    if steps:
        data["steps"] = [step.model_dump(mode="json", exclude={"id", "job_id", "remote"}) for step in steps]
    return data


router = Router(
    "/api/v1",
    route_handlers=[actions, schema, plan, submit, jobs, job, log, cancel, hosts],
    dependencies={"actor": Provide(provide_actor)},
    tags=["v1"],
)
