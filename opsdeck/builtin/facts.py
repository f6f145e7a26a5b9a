"""The action that reads facts from hosts and keeps them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from opsdeck.errors import OpsDeckError
from opsdeck.manifest import Action, NoParams, Receipt, Risk

if TYPE_CHECKING:
    from opsdeck.inventory.facts.book import FactChange
    from opsdeck.jobs.context import StepRun

LIMIT = 20
"""Changes told in the log, each host."""


class NoFacts(OpsDeckError):
    """A host answered without a single fact."""


async def gather(step: StepRun, _params: NoParams) -> Receipt:
    """Read all facts in one round trip, keep them, and tell what changed since the last time."""
    from opsdeck.inventory.facts import sections
    from opsdeck.inventory.facts.book import FactBook
    from opsdeck.inventory.facts.catalogue import read

    mark = sections.new_mark()
    sent = time.time()
    done = await step.run(sections.script(mark), log=False, check=False)
    reading = read(done.stdout, mark, sent=sent, received=time.time())
    if not reading.facts:
        raise NoFacts(
            "it answered without a single fact.",
            host=step.host.name,
            hint="see what its login shell prints with `opsdeck plugin run core command`",
        )
    if not reading.whole:
        step.log("The answer was cut short; facts that came later in it are missing.", "bad")
    for name, why in reading.faults.items():
        step.log(f"{name} was not understood: {why}")
    book = FactBook(step.job.db)
    first = await book.latest(step.host.name) is None
    changes = await book.store(step.host.name, reading)
    step.note(f"{len(reading.facts)} facts" + ("" if first or not changes else f", {len(changes)} changed"))
    if not first:
        for change in changes[:LIMIT]:
            step.log(describe(change))
        if len(changes) > LIMIT:
            step.log(f"… and {len(changes) - LIMIT} more; see `opsdeck host facts {step.host.name} --diff …`")
    return {
        "facts": len(reading.facts),
        "changed": 0 if first else len(changes),
        "not_understood": sorted(reading.faults),
        "whole": reading.whole,
    }


def describe(change: FactChange) -> str:
    """Say one change in one line: what went and what came in a list, else before and after."""
    parts = change.phrases
    more = f" and {len(parts) - 5} more" if len(parts) > 5 else ""
    return f"{change.title}: {', '.join(parts[:5])}{more}"


facts = Action(
    name="facts",
    title="Gather facts",
    summary="Read what each host is and has, in one round trip, and keep it with its history.",
    risk=Risk.READ,
    step=gather,
    timeout=300.0,
    silence=120.0,
)
