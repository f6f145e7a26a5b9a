"""How each target stands, in a word: for the health page, the host's page, the list and the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from opsdeck.api import Finding, HostCard, utcnow
from opsdeck_backup import catalogue, watch
from opsdeck_backup.models import Item, ItemState, Proof, Target
from opsdeck_backup.words import Said, marked

if TYPE_CHECKING:
    from opsdeck.api import Deck

PROOF_DAYS = 35
"""A proof older than this says little."""


@dataclass(frozen=True)
class Standing:
    """One target: its newest backup, its newest proofs, what is wrong. `rto` in seconds."""

    row: Target
    last: Item | None
    proof: Proof | None
    state: str
    wrong: Said
    stored: int
    count: int
    rto: float | None

    @property
    def since(self) -> datetime | None:
        """Give when the newest good backup began."""
        return self.last.started if self.last else None


def judge(row: Target, items: Sequence[Item], proofs: Sequence[Proof], now: datetime) -> Standing:
    """Say how a target stands; `items` and `proofs` the newest first."""
    good = [item for item in items if item.state == ItemState.GOOD]
    last = max(good, key=lambda item: item.id) if good else None
    proof = proofs[0] if proofs else None
    rto = next((one.seconds for one in proofs if one.ok and one.depth in ("server", "restore")), None)
    missing = [item for item in items if item.state == ItemState.MISSING]
    state, wrong = "ok", Said()
    if late := watch.late(row, last.started if last else None, now):
        state, wrong = "broken", late
    elif missing:
        state, wrong = (
            "broken",
            Said(marked("%(count)s backups are gone from the store or damaged there."), {"count": len(missing)}),
        )
    elif proof is not None and not proof.ok:
        state, wrong = (
            "broken",
            Said(marked("The last proof failed: %(why)s"), {"why": str(proof.detail.get("error", ""))}),
        )
    elif last is None:
        state, wrong = "attention", Said(marked("There is no backup yet."))
    elif rto is None:
        state, wrong = "attention", Said(marked("No drill has shown yet that it restores."))
    elif proof is not None and now - proof.at > timedelta(days=PROOF_DAYS):
        state, wrong = "attention", Said(marked("The last proof is older than %(days)s days."), {"days": PROOF_DAYS})
    return Standing(row, last, proof, state, wrong, sum(item.stored for item in good), len(good), rto)


async def standings(deck: Deck) -> tuple[Standing, ...]:
    """Give how every target stands."""
    now = utcnow()
    return tuple(
        [
            judge(row, await catalogue.items(deck, row.name), await catalogue.proofs(deck, row.name), now)
            for row in await catalogue.targets(deck)
        ]
    )


async def findings(deck: Deck) -> Sequence[Finding]:
    """Give one line for each target."""
    return [
        Finding(
            f"backup of {one.row.name}",
            one.state,
            str(one.wrong) or f"{one.count} backups, the newest of {one.since:%Y-%m-%d %H:%M} UTC",
            f"see /p/backup/{one.row.name}" if one.wrong else "",
        )
        for one in await standings(deck)
    ]


async def cards(deck: Deck, host: str) -> Sequence[HostCard]:
    """Give a card for each target on a host."""
    return [
        HostCard(
            f"Backup {one.row.name}",
            one.state,
            (
                ("newest", f"{one.since:%Y-%m-%d %H:%M} UTC" if one.since else "none"),
                ("restores in", f"{one.rto:.0f} s" if one.rto is not None else "not proven"),
            ),
            f"/p/backup/{one.row.name}",
        )
        for one in await standings(deck)
        if one.row.host == host
    ]
