"""Taking an edge out of DNS and waiting until its visitors have left; letting it back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from opsdeck.api import Action, HostAccess, HostName, JobRun, NotDone, Receipt, Refused, StepRun, Targets
from opsdeck_cdn import book, edgehost, naming
from opsdeck_cdn.render import layout
from opsdeck_cdn.sites import Edge

LOOK_EVERY = 3.0


class DrainParams(BaseModel):
    """Which edge, which way, and how long to wait."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: HostName = Field(title="Edge")
    back: bool = Field(False, title="Let it back", description="Instead of taking it out.")
    wait: int = Field(
        300, ge=0, le=3600, title="Wait for visitors to leave", json_schema_extra={"unit": "s"},
        description="At most; whoever is still served then is counted, and not cut off. 0 does not wait.",
    )  # fmt: skip


@dataclass(frozen=True)
class Left:
    """Who is still there: connections, requests under way, and those answered since the last look.

    Browsers keep connections open for minutes without asking for anything, so these do not count as being served.
    """

    open: int
    busy: int
    asked: int
    log: tuple[str, str] = ("0", "0")
    """Inode and size of the front's log, where the next look goes on."""

    @property
    def none(self) -> bool:
        """Tell whether nobody is being served."""
        return not self.busy and not self.asked

    def __str__(self) -> str:
        """Say it to people."""
        return f"{self.busy} requests under way, {self.asked} answered lately, {self.open} connections open"

    @property
    def told(self) -> dict[str, int]:
        """Give it for a receipt."""
        return {"under_way": self.busy, "lately": self.asked, "open": self.open}


def parse(host: str, output: bytes) -> Left:
    """Read what the look printed. Raises `NotDone`."""
    found = dict(line.partition(" ")[::2] for line in output.decode("ascii", "replace").splitlines())
    try:
        inode, size = found["log"].split(" ")
        return Left(int(found["open"]), int(found["busy"]), int(found["asked"]), (str(int(inode)), str(int(size))))
    except (KeyError, ValueError):
        raise NotDone("the count of its visitors broke off.", host=host, hint="run it again") from None


async def count(host: HostAccess, before: Left | None) -> Left:
    """Count who is being served; requests are counted from the look before on."""
    log = before.log if before else ("0", "0")
    body = "\n".join((layout.ADMIN, layout.LOG_FILE, *log)) + "\n"
    words = ("perl", "-e", edgehost.shell("left.pl"))
    done = await host.run(words, sudo=True, stdin=body.encode(), check=False, log=False, timeout=20)
    return parse(host.host.name, done.stdout)


async def _drain(job: JobRun, params: DrainParams) -> Receipt:
    model = await book.load(job.db)
    edge = model.edge(params.host)

    def serves(other: Edge) -> bool:
        row = model.rows[other.host]
        return other.admitted and not other.drained and not row.owing and row.health != "down"

    others = [other for other in model.edges if other.host != edge.host and serves(other)]
    if not params.back and edge.admitted and not others:
        raise Refused(
            f"beside {edge.host} no edge serves.", field="host", hint="bring another one back, or deploy it, first"
        )
    await book.change_edge(job.db, edge.host, drained=not params.back)
    failed = await naming.announce(job)
    ttl = model.setup.ttl
    job.log(f"{edge.host} is {'back in' if params.back else 'out of'} DNS; answers are kept for {ttl} s")
    receipt = {"failed": failed, "edge": edge.host, "drained": not params.back, "ttl": ttl}
    if not params.back and params.wait and model.rows[edge.host].generation:
        receipt["left"] = await _wait(job, edge.host, ttl, params.wait)
    return receipt


async def _wait(job: JobRun, host: str, ttl: int, seconds: int) -> dict[str, int] | None:
    """Wait until nobody is served, at most `seconds`; give who is left, None when the edge cannot say."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    left: list[Left] = []

    async def work(step: StepRun) -> Receipt:
        # An answer of DNS is kept for its TTL, and browsers take their time: one look without anybody is not enough.
        quiet_from = begun + ttl + LOOK_EVERY
        while True:
            left[:] = [await count(step, left[0] if left else None)]
            waited = loop.time() - begun
            step.note(str(left[0]))
            if (left[0].none and loop.time() >= quiet_from) or waited >= seconds:
                break
            await asyncio.sleep(min(LOOK_EVERY, max(0.1, seconds - waited)))
        if left[0].none:
            step.log(f"nobody is served any more after {waited:.0f} s", "good")
        else:
            step.log(f"after {waited:.0f} s there are still {left[0]}; they are not cut off", "bad")
        return left[0].told

    await job.each(work, [host])
    return left[0].told if left else None


def _touches(_params: BaseModel, _hosts: Sequence[str]) -> Sequence[str]:
    return ["cdn:dns"]


drain = Action(
    "drain", "Drain an edge", "Take an edge out of DNS and wait for its visitors to leave, or let it back.",
    params=DrainParams, targets=Targets.CONSOLE, run=_drain, touches=_touches, timeout=4000.0, silence=None,
)  # fmt: skip
