"""Chains of backups: what follows on what, what the next backup should be, and what may go."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from opsdeck.api import NotFound, Refused
from opsdeck_backup.manifests import Manifest
from opsdeck_backup.words import Said, marked


@dataclass(frozen=True)
class Rules:
    """When a new full backup is due, and what is kept."""

    full_hours: int
    chain_length: int
    keep_hourly: int = 0
    keep_daily: int = 0
    keep_weekly: int = 0
    keep_monthly: int = 0
    keep_chains: int = 2


@dataclass(frozen=True)
class Chain:
    """A full backup with the increments that follow on it, in order; `broken` are those whose parent is gone."""

    links: tuple[Manifest, ...]
    broken: tuple[Manifest, ...] = ()

    @property
    def id(self) -> str:
        """Give the chain's name: that of its full backup."""
        first = self.links[0] if self.links else self.broken[0]
        return first.planned.chain

    @property
    def last(self) -> Manifest:
        """Give the newest backup that restores."""
        return self.links[-1]

    @property
    def began(self) -> datetime:
        """Give when the full backup began."""
        return (self.links or self.broken)[0].at

    @property
    def stored(self) -> int:
        """Give the bytes that it takes in the store."""
        return sum(link.result.stored for link in (*self.links, *self.broken))


@dataclass(frozen=True)
class Next:
    """What the next backup should be, and why."""

    parent: Manifest | None
    reason: str


def build(manifests: Iterable[Manifest]) -> tuple[Chain, ...]:
    """Put manifests together by their parents' names (log positions do not tell a parent), the oldest chain first.

    Where two backups name the same parent, the chain goes on with the older one; the other is broken.
    """
    by_chain: dict[str, dict[str, Manifest]] = {}
    for manifest in manifests:
        by_chain.setdefault(manifest.planned.chain, {})[manifest.id] = manifest
    chains = []
    for name, members in by_chain.items():
        links: list[Manifest] = []
        here = members.pop(name, None)
        while here is not None:
            links.append(here)
            after = sorted((one for one in members.values() if one.planned.parent == here.id), key=lambda one: one.id)
            here = members.pop(after[0].id) if after else None
        chains.append(Chain(tuple(links), tuple(sorted(members.values(), key=lambda one: one.id))))
    return tuple(sorted(chains, key=lambda chain: chain.id))


def newest(chains: Sequence[Chain]) -> Manifest | None:
    """Give the newest backup that restores; None when there is none."""
    ends = [chain.last for chain in chains if chain.links]
    return max(ends, key=lambda manifest: manifest.id) if ends else None


def path_to(chains: Sequence[Chain], wanted: str) -> tuple[Manifest, ...]:
    """Give the backups that are needed to restore `wanted` (`latest` or a name), the full one first.

    Raises `NotFound`, `Refused` when a link before it is missing.
    """
    last = newest(chains)
    if wanted in ("", "latest"):
        if last is None:
            raise NotFound("there is no backup to restore.", field="backup", hint="run a backup first")
        wanted = last.id
    for chain in chains:
        for place, link in enumerate(chain.links):
            if link.id == wanted:
                return chain.links[: place + 1]
        if any(link.id == wanted for link in chain.broken):
            raise Refused(
                f"the backup {wanted} cannot be restored: a backup before it is missing in the store.",
                field="backup",
                hint=f"choose {chain.last.id}" if chain.links else "choose one of another chain",
            )
    raise NotFound(f"there is no backup {wanted}.", field="backup", hint="`opsdeck backup list` shows them")


def decide(
    chains: Sequence[Chain],
    rules: Rules,
    *,
    identity: str,
    server: str,
    tool: str,
    lsn: int,
    recipients: Sequence[str],
    now: datetime,
    changed: Collection[str] = (),
) -> Next:
    """Say whether the next backup follows on one that is there, or begins a new chain and why.

    `identity`, `server`, `tool`, `lsn` and `recipients` are what was found and set now; `changed` the backups of which
    a proof found that the store has something else than was sent there.
    """
    if not chains:
        return Next(None, "the first backup")
    chain = max(chains, key=lambda one: one.id)
    if not chain.links:
        return Next(None, f"the full backup of chain {chain.id} is missing in the store")
    last, first = chain.last.planned, chain.links[0]
    if chain.broken:
        return Next(None, f"chain {chain.id} has a gap")
    if spoiled := [link.id for link in chain.links if link.id in changed]:
        return Next(None, f"what the store has of {spoiled[0]} was changed")
    if last.foreign:
        return Next(None, f"chain {chain.id} was made by another")
    if last.identity != identity:
        return Next(None, "the data folder is another than at the last backup")
    if last.server != server:
        return Next(None, f"the server was {last.server} and is {server}")
    if last.tool != tool:
        return Next(None, f"the tool was {last.tool} and is {tool}")
    if lsn < chain.last.lsn("to_lsn"):
        return Next(None, f"the log is at {lsn}, before the end of the last backup")
    if set(last.recipients) != set(recipients):
        return Next(None, "the recipients were changed")
    if len(chain.links) > rules.chain_length:
        return Next(None, f"the chain has {rules.chain_length} increments")
    if now - first.at >= timedelta(hours=rules.full_hours):
        return Next(None, f"the full backup is older than {rules.full_hours} h")
    if now < chain.last.at - timedelta(minutes=5):
        return Next(None, f"the clock stands before the last backup ({chain.last.id})")
    return Next(chain.last, "follows on the last backup")


@dataclass(frozen=True)
class Verdict:
    """What becomes of a chain and why; a chain stays or goes whole."""

    chain: Chain
    keep: bool
    reason: Said


def use_of(target: str, chain: str) -> str:
    """Name the lease on a chain that is read, or removed."""
    return f"backup:{target}:{chain}"


def judge(chains: Sequence[Chain], rules: Rules, *, now: datetime) -> tuple[Verdict, ...]:
    """Say of each chain whether it is kept, by grandfather-father-son over chains, the oldest first.

    Of each hour, day, week and month that has one, the newest backup's chain is kept, as many as the rules say; the
    newest `keep_chains` chains that restore always stay, and so does the newest of all. With no rule at all nothing
    goes.
    """
    whole = [chain for chain in chains if chain.links and not chain.links[0].planned.foreign]
    reasons: dict[str, Said] = {}
    for chain in sorted(whole, key=lambda one: one.id)[-max(1, rules.keep_chains) :]:
        reasons[chain.id] = Said(marked("one of the newest %(count)s"), {"count": max(1, rules.keep_chains)})
    periods = (
        (marked("newest of the hour, %(time)s"), "%Y%m%d%H", rules.keep_hourly),
        (marked("newest of the day, %(time)s"), "%Y%m%d", rules.keep_daily),
        (marked("newest of the week, %(time)s"), "%G%V", rules.keep_weekly),
        (marked("newest of the month, %(time)s"), "%Y%m", rules.keep_monthly),
    )
    links = sorted(
        ((link, chain) for chain in whole for link in chain.links), key=lambda pair: pair[0].id, reverse=True
    )
    for word, form, many in periods:
        seen: set[str] = set()
        for link, chain in links:
            when = link.at.strftime(form)
            if when in seen:
                continue
            if len(seen) >= many:
                break
            seen.add(when)
            reasons.setdefault(chain.id, Said(word, {"time": f"{link.at:%Y-%m-%d %H:%M}"}))
    unruled = not any(many for _, _, many in periods)
    verdicts = []
    for chain in sorted(chains, key=lambda one: one.id):
        if any(link.planned.foreign for link in (*chain.links, *chain.broken)):
            verdicts.append(Verdict(chain, True, Said(marked("it was made by another"))))
        elif chain.id in reasons:
            verdicts.append(Verdict(chain, True, reasons[chain.id]))
        elif unruled:
            verdicts.append(Verdict(chain, True, Said(marked("no rule says that anything goes"))))
        elif any(link.at > now for link in (*chain.links, *chain.broken)):
            verdicts.append(Verdict(chain, True, Said(marked("it is from the future: look at the clocks"))))
        else:
            verdicts.append(
                Verdict(
                    chain, False, Said(marked("no rule keeps it") if chain.links else marked("it does not restore"))
                )
            )
    return tuple(verdicts)
