"""The service that keeps load and traffic of all hosts. What it does is in `sampler`, loaded when it starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, cast

from opsdeck.manifest import Service

if TYPE_CHECKING:
    from opsdeck.deck import Deck
    from opsdeck.jobs.context import ServiceRun


class DeckService(Protocol):
    """What a service of the core is given beyond `ServiceRun`."""

    deck: Deck


async def _run(run: ServiceRun) -> None:
    from opsdeck.builtin.sampler import Sampler

    deck = cast(DeckService, run).deck
    await Sampler(deck, float(deck.settings.sample_seconds)).run()


async def _once(_run: ServiceRun) -> Sequence[str]:
    return ("",)


sampling = Service(name="samples", title="Load and traffic of all hosts", run=_run, instances=_once)
