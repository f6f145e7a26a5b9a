"""Filling caches before visitors come: a list of URLs, asked for edge by edge, no faster than allowed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field, model_validator

from opsdeck.api import (
    Action,
    HostName,
    Invalid,
    JobRun,
    Multiline,
    ProbeFailed,
    Receipt,
    Risk,
    StepRun,
    Targets,
    as_value_error,
)
from opsdeck_cdn import book
from opsdeck_cdn.probing import NoAnswer, ask, context
from opsdeck_cdn.purging import split

MOST = 5000
WAIT = 60.0


class WarmParams(BaseModel):
    """What to fetch, where, and how fast."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    urls: Multiline = Field(title="URLs", description="One on each line; the command line takes @FILE.")
    edges: list[HostName] = Field(default_factory=list, title="Edges", description="None means all that serve.")
    rate: float = Field(
        10.0, gt=0, le=1000, title="At most", description="On each edge.", json_schema_extra={"unit": "URLs/s"}
    )

    @property
    def listed(self) -> tuple[str, ...]:
        """Give the URLs, each once."""
        return tuple(dict.fromkeys(line.strip() for line in self.urls.splitlines() if line.strip()))

    @model_validator(mode="after")
    def _some(self) -> WarmParams:
        if not self.listed:
            raise ValueError("say which URLs")
        if len(self.listed) > MOST:
            raise ValueError(f"at most {MOST} URLs at once")
        with as_value_error():
            for url in self.listed:
                split(url)
        return self


async def _run(job: JobRun, params: WarmParams) -> Receipt:
    model = await book.load(job.db)
    wanted = [split(url) for url in params.listed]
    for host, _ in wanted:
        model.site_of(host)
    names = [model.edge(name).host for name in params.edges] or [
        edge.host for edge in model.edges if model.rows[edge.host].generation
    ]
    if not names:
        raise Invalid("no edge serves yet.", field="edges", hint="deploy first")
    trust = context(model.setup.visitor_roots)

    async def work(step: StepRun) -> Receipt:
        edge = model.edge(step.host.name)
        seen: Counter[str] = Counter()
        faults = 0
        loop = asyncio.get_running_loop()
        for place, (host, path) in enumerate(wanted):
            begun = loop.time()
            try:
                answer = await ask(edge.v4, host, path, tls=trust, timeout=WAIT)
                seen[answer.header("x-cache") or str(answer.status)] += 1
                if answer.status >= 400:
                    step.log(f"https://{host}{path} answers {answer.status}", "bad")
            except NoAnswer as fault:
                faults += 1
                step.log(fault.message, "bad")
                if faults >= 5:
                    raise ProbeFailed("it does not answer.", host=edge.host, hint="see the log") from fault
            step.note(f"{place + 1} of {len(wanted)}")
            await asyncio.sleep(max(0.0, 1 / params.rate - (loop.time() - begun)))
        step.log(", ".join(f"{word} {count}" for word, count in sorted(seen.items())), "good")
        return {"seen": dict(seen), "faults": faults}

    return {"failed": await job.each(work, names, parallel=8), "edges": names, "urls": len(wanted)}


def _touches(_params: WarmParams, _hosts: Sequence[str]) -> Sequence[str]:
    return ["cdn:warm"]


warm = Action(
    "warm", "Warm caches", "Have edges fetch a list of URLs before visitors ask, at a bounded rate.",
    params=WarmParams, risk=Risk.CHANGE, targets=Targets.CONSOLE, run=_run, touches=_touches, timeout=7200.0,
)  # fmt: skip
