"""Leaving a greeting: what it asks for, what it would change, how it is done and proven."""

from pydantic import BaseModel, Field

from opsdeck.api import (
    Action,
    Change,
    HostAccess,
    NotFound,
    OpsDeckError,
    Plan,
    PlanRun,
    Receipt,
    StepRun,
    Verb,
    utcnow,
)
from opsdeck_hello.models import Greeting

FILE = "hello.txt"


class Greet(BaseModel):
    """The parameters of `greet`."""

    text: str = Field(description="What the file says", min_length=1, max_length=1000)


async def left_there(host: HostAccess) -> str | None:
    """Read the greeting on a host; None when there is none."""
    try:
        return (await host.get(FILE)).decode(errors="replace")
    except NotFound:
        return None


async def plan(run: PlanRun, params: Greet) -> Plan:
    """Say on which hosts the file would be made or changed."""
    wanted = params.text + "\n"
    found = await run.gather(left_there)
    return Plan(
        tuple(
            Change(host, Verb.UPDATE if text is not None else Verb.CREATE, FILE, before=text, after=wanted)
            for host, text in found.items()
            if text != wanted
        )
    )


async def step(run: StepRun, params: Greet) -> Receipt:
    """Leave the greeting, read it back, remember it."""
    wanted = params.text + "\n"
    if await left_there(run) == wanted:
        run.note("is there already")
        return {"changed": False}
    await run.put(wanted.encode(), FILE)
    if await left_there(run) != wanted:
        raise OpsDeckError("the greeting was written, and is not there.", host=run.host.name, hint="look at its disk")
    async with run.job.db.write() as session:
        await session.merge(Greeting(host=run.host.name, text=params.text, at=utcnow()))
    return {"changed": True, "bytes": len(wanted.encode())}


greet = Action(
    name="greet",
    title="Leave a greeting",
    summary="Leaves a file with a greeting in the login's home.",
    params=Greet,
    step=step,
    plan=plan,
    touches=lambda _params, hosts: [f"hello:{host}" for host in hosts],
    timeout=60,
)
