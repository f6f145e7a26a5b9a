"""What can be done with syncs. Most change rows only; the service that runs the sync does the rest."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from sqlmodel import select

from opsdeck.api import (
    Action,
    Change,
    Conflict,
    JobRun,
    NotFound,
    Plan,
    PlanRun,
    Receipt,
    Refused,
    Risk,
    Targets,
    Verb,
)
from opsdeck_search_sync import ledger, reaching
from opsdeck_search_sync.definitions import SyncIn, save_sync, save_sync_plan, told, written
from opsdeck_search_sync.ends import (
    InstanceIn,
    OneName,
    SourceIn,
    remove_instance,
    remove_source,
    save_instance,
    save_source,
)
from opsdeck_search_sync.ledger import Whole
from opsdeck_search_sync.looking import CheckIn, OneSync, check, look
from opsdeck_search_sync.models import Generation, Phase, Shown, Sync, Wanted
from opsdeck_search_sync.rules import MappingRules

SWAPPING = 10.0
"""Seconds that a swap may take before who wants another rebuild is sent away."""


async def _next(run: JobRun, name: str, *, replace: bool) -> int:
    """Add a generation from the sync's present definition; retire one that is being built."""
    async with run.db.write() as session:
        sync = await session.get(Sync, name)
        if sync is None:
            raise NotFound(f"there is no sync {name!r}.", field="sync")
        rows = list((await session.exec(select(Generation).where(Generation.sync == name))).all())
        building = [row for row in rows if row.phase not in {Phase.LIVE, Phase.RETIRED}]
        if any(row.phase == Phase.SWAPPING for row in building):
            raise Conflict(f"{name} is swapping right now.", field="sync", hint="try again in a moment")
        if building and not replace:
            return building[0].number
        for row in building:
            row.phase = Phase.RETIRED
        number = max([sync.generation, *(row.number for row in rows)]) + 1
        sync.generation = number
        session.add(
            Generation(
                sync=name,
                number=number,
                mapping=sync.mapping,
                settings=sync.settings,
                shadow=f"{sync.index}__b{number}",
            )
        )
        sync.wanted, sync.problem, sync.hint = Wanted.RUNNING, "", ""
    return number


async def start(run: JobRun, params: OneSync) -> Receipt:
    """Let a sync run: the first time it copies the table, later it goes on where it was."""
    whole = await ledger.whole(run.db, params.sync)
    _not_going(whole)
    if whole.live is None and whole.building is None:
        rules = MappingRules.model_validate(whole.sync.mapping)
        seen = await look(reaching.JobWay(run), run.home, whole.source, whole.sync.table, rules)
        stops = [finding for finding in told(run, seen) if finding["stop"]]
        if stops:
            raise Refused(stops[0]["text"], field="sync", hint=stops[0]["sql"] or "mend it, then start again")
        return {"sync": params.sync, "generation": await _next(run, params.sync, replace=False)}
    await _want(run, params.sync, Wanted.RUNNING)
    return {"sync": params.sync}


def _not_going(whole: Whole) -> None:
    if whole.sync.wanted == Wanted.GONE:
        raise Refused(f"{whole.sync.name} is being dropped.", field="sync")


async def pause(run: JobRun, params: OneSync) -> Receipt:
    """Stop a sync; its source keeps the log for it until it is resumed."""
    _not_going(await ledger.whole(run.db, params.sync))
    await _want(run, params.sync, Wanted.PAUSED)
    return {"sync": params.sync}


async def _want(run: JobRun, name: str, wanted: Wanted) -> None:
    async with run.db.write() as session:
        row = await session.get(Sync, name)
        if row is not None:
            row.wanted = wanted
            if wanted is Wanted.RUNNING:
                row.problem = row.hint = ""


async def rebuild_plan(run: PlanRun, params: OneSync) -> Plan:
    """Say what a rebuild would make and replace."""
    whole = await ledger.whole(run.db, params.sync)
    live = whole.live
    before = written({"mapping": live.mapping, "settings": live.settings}) if live else ""
    after = written({"mapping": whole.sync.mapping, "settings": whole.sync.settings})
    changes = [Change("", Verb.CREATE, f"{whole.sync.index}__b…", "a shadow index, copied while the live one goes on")]
    if before != after:
        changes.append(Change("", Verb.UPDATE, whole.sync.index, "mapping and settings", before, after))
    changes.append(
        Change("", Verb.UPDATE, whole.sync.index, f"swapped in; the old content is kept {whole.sync.undo_hours} h")
    )
    notes = ("the rebuild that is under way is given up",) if whole.building and live else ()
    return Plan(tuple(changes), notes)


async def _swapped(run: JobRun, name: str) -> Whole:
    """Read a sync; a moment later where it is swapping, since people see the new content before that is written down.

    Raises `Conflict` when that goes on, `Refused` for a sync that is being dropped.
    """
    until = time.monotonic() + SWAPPING
    while True:
        whole = await ledger.whole(run.db, name)
        _not_going(whole)
        if whole.building is None or whole.building.phase != Phase.SWAPPING:
            return whole
        if time.monotonic() > until:
            raise Conflict(f"{name} is swapping right now.", field="sync", hint="try again in a moment")
        await asyncio.sleep(0.2)


async def rebuild(run: JobRun, params: OneSync) -> Receipt:
    """Copy the table anew beside the live index and swap; search goes on all the time."""
    await _swapped(run, params.sync)
    number = await _next(run, params.sync, replace=True)
    return {"sync": params.sync, "generation": number}


async def swap_back(run: JobRun, params: OneSync) -> Receipt:
    """Let people search what there was before the last rebuild; once more, and it is the newest again."""
    whole = await _swapped(run, params.sync)
    live = whole.live
    if live is None or not live.shadow:
        raise Refused(f"{params.sync} keeps no earlier content.", field="sync", hint="it is kept after a rebuild")
    if whole.building is not None:
        raise Conflict(f"{params.sync} is being rebuilt.", field="sync", hint="wait until that is over")
    if whole.sync.wanted != Wanted.RUNNING:
        raise Refused(f"{params.sync} does not run.", field="sync", hint="resume it first")
    shown = Shown.NEWEST if whole.sync.shown == Shown.PREVIOUS else Shown.PREVIOUS
    await ledger.show(run.db, params.sync, shown)
    return {"sync": params.sync, "shown": shown}


async def drop_plan(run: PlanRun, params: OneSync) -> Plan:
    """Say what goes with a sync."""
    whole = await ledger.whole(run.db, params.sync)
    changes = [Change("", Verb.DELETE, params.sync, "the sync, its counts and its dead letters")]
    for generation in whole.generations:
        changes.append(Change("", Verb.DELETE, f"opsdeck_{params.sync}_{generation.number}", f"at {whole.source.name}"))
        if generation.shadow:
            changes.append(Change("", Verb.DELETE, generation.shadow, "the shadow or kept index"))
    return Plan(tuple(changes), (f"the index {whole.sync.index} stays as it is",))


async def drop(run: JobRun, params: OneSync) -> Receipt:
    """End a sync for good; the service removes what it made at the source, then the rows."""
    await ledger.whole(run.db, params.sync)
    await _want(run, params.sync, Wanted.GONE)
    return {"sync": params.sync}


async def retry_dead(run: JobRun, params: OneSync) -> Receipt:
    """Have the service try the dead letters again."""
    whole = await ledger.whole(run.db, params.sync)
    number = (await ledger.dead_counts(run.db)).get(params.sync, 0)
    if not number:
        raise NotFound(f"{params.sync} has no dead letters.", field="sync")
    if whole.sync.wanted != Wanted.RUNNING:
        raise Refused(f"{params.sync} does not run.", field="sync", hint="resume it first")
    async with run.db.write() as session:
        row = await session.get(Sync, params.sync)
        if row is not None:
            row.retry += 1
    return {"sync": params.sync, "dead_letters": number}


def _touches(params: Any, _hosts: Sequence[str]) -> Sequence[str]:
    return [f"search_sync:{getattr(params, 'sync', None) or params.name}"]


def _action(name: str, title: str, summary: str, work: Any, params: type[BaseModel], **more: Any) -> Action:
    given: dict[str, Any] = {"targets": Targets.CONSOLE, "run": work, "params": params, "touches": _touches} | more
    return Action(name, title, summary, **given)


ACTIONS = (
    _action(
        "save_source",
        "Save a source",
        "Keeps a database that syncs read from, once it answered.",
        save_source,
        SourceIn,
    ),
    _action("remove_source", "Remove a source", "Forgets a database that no sync reads.", remove_source, OneName),
    _action(
        "save_instance",
        "Save a Meilisearch",
        "Keeps a Meilisearch, once it answered to its key.",
        save_instance,
        InstanceIn,
    ),
    _action(
        "remove_instance",
        "Remove a Meilisearch",
        "Forgets a Meilisearch that no sync writes to.",
        remove_instance,
        OneName,
    ),
    _action(
        "save_sync",
        "Save a sync",
        "Keeps which table goes into which index, and how; shows findings and real rows.",
        save_sync,
        SyncIn,
        plan=save_sync_plan,
    ),
    _action("start", "Start a sync", "Copies the table the first time, then follows its changes.", start, OneSync),
    _action("pause", "Pause a sync", "Stops it; the source keeps its log for it.", pause, OneSync),
    _action("resume", "Resume a sync", "Lets it go on where it was.", start, OneSync),
    _action(
        "rebuild",
        "Rebuild an index",
        "Copies the table anew beside the live index, then swaps the two.",
        rebuild,
        OneSync,
        plan=rebuild_plan,
    ),
    _action(
        "swap_back",
        "Swap back",
        "Shows what there was before the last rebuild, as it was then; once more shows the newest.",
        swap_back,
        OneSync,
    ),
    _action(
        "retry_dead", "Try dead letters again", "Sends the refused documents of a sync once more.", retry_dead, OneSync
    ),
    _action(
        "check",
        "Check a sync",
        "Compares counts and sampled content of table and index.",
        check,
        CheckIn,
        risk=Risk.READ,
        touches=None,
    ),
    _action(
        "drop",
        "Drop a sync",
        "Removes the sync and what it made at its source; the index stays.",
        drop,
        OneSync,
        plan=drop_plan,
        risk=Risk.DESTROY,
    ),
)
