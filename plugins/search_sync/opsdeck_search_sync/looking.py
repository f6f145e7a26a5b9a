"""Looking at a table and its index before and after: findings, documents of real rows, and whether the two agree."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from opsdeck.api import JobRun, Receipt, Refused, utcnow
from opsdeck_search_sync import hooks, ledger, reaching
from opsdeck_search_sync.changes import Finding, Json, Reader
from opsdeck_search_sync.mapping import Mapper
from opsdeck_search_sync.meilisearch import Meilisearch
from opsdeck_search_sync.models import Source
from opsdeck_search_sync.pipeline import Id, Verb
from opsdeck_search_sync.rules import MappingRules
from opsdeck_search_sync.sources.place import Tls, local

SETTLE = (0.5, 1.0, 2.0, 4.0)
"""Seconds between looks at what differed: a change may be on its way."""


class OneSync(BaseModel):
    """A sync."""

    sync: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$", description="Small letters, digits and _")


@dataclass(frozen=True)
class Look:
    """What a table gives with a mapping."""

    findings: tuple[Finding, ...]
    documents: tuple[dict[str, Json], ...]
    """Of some real rows; a document that a hook failed on has its fault as `!`."""


@asynccontextmanager
async def opened(
    way: reaching.Way, home: Path, source: Source, table: str, rules: MappingRules
) -> AsyncIterator[tuple[Reader, Mapper]]:
    """Open a reader for looking, with the mapper of its table. Raises what a mapping that does not fit raises."""
    async with reaching.reached(way, source) as place:
        reader = reaching.reader(source.kind, place, table, "look_0")
        try:
            mapper = Mapper(rules, await reader.columns(), hooks.load(home, rules.hooks))
        finally:
            await reader.close()
        reader = reaching.reader(source.kind, place, table, "look_0", mapper.needed)
        try:
            yield reader, mapper
        finally:
            await reader.close()


async def look(way: reaching.Way, home: Path, source: Source, table: str, rules: MappingRules) -> Look:
    """Look at a table with a mapping; what stops a sync is looked at before any row."""
    async with opened(way, home, source, table, rules) as (reader, mapper):
        findings = (*on_the_way(source), *await reader.preflight())
        rows = [] if any(finding.stop for finding in findings) else await reader.sample(5)
        ops = await hooks.bounded(lambda: [mapper.op(row) for row in rows])
        held = [{"!": op.why} for op in ops if op.verb is Verb.HOLD]
        return Look(findings, tuple([*held, *(op.body for op in ops if op.verb is Verb.REPLACE)]))


def on_the_way(source: Source) -> tuple[Finding, ...]:
    """Tell when others may read and change what goes between a source and whoever reaches it."""
    if local(source.address) or source.tls in {Tls.REQUIRE, Tls.VERIFY}:
        return ()
    text = f"who is on the way to {source.address} may read and change rows: its certificate is not checked."
    return (Finding(text, False, "save the source with tls = verify"),)


class CheckIn(OneSync):
    """What to compare."""

    sample: int = Field(1000, ge=1, le=50_000, description="Rows whose content is compared")


async def check(run: JobRun, params: CheckIn) -> Receipt:
    """Compare counts, and the content of sampled rows. What is on its way counts as different only if it stays so."""
    whole = await ledger.whole(run.db, params.sync)
    live = whole.live
    if live is None:
        raise Refused(f"{params.sync} has no index yet.", field="sync", hint="start it and wait for the first copy")
    rules, way = MappingRules.model_validate(live.mapping), reaching.JobWay(run)
    async with (
        opened(way, run.home, whole.source, whole.sync.table, rules) as (reader, mapper),
        reaching.meilisearch(way, whole.instance) as client,
    ):
        wrong = await _different(reader, mapper, client, whole.sync.index, params.sample)
        rows, documents = await reader.count(), await client.count(whole.sync.index)
    filtered = bool(rules.filter or rules.hooks)
    dead = len(await ledger.dead(run.db, params.sync, live.number))
    even = filtered or rows - dead == documents
    run.log(
        f"{rows} rows, {documents} documents, {len(wrong)} of the sample differ",
        "good" if even and not wrong else "bad",
    )
    return {
        "sync": params.sync, "rows": rows, "documents": documents, "dead_letters": dead, "filtered": filtered,
        "different": wrong[:50], "differences": len(wrong), "equal": even and not wrong, "at": utcnow().isoformat(),
    }  # fmt: skip


async def _different(reader: Reader, mapper: Mapper, client: Meilisearch, index: str, sample: int) -> list[Id]:
    rows = await reader.sample(sample)
    ops: list[Any] = await hooks.bounded(lambda: [(mapper.id_of(row), mapper.op(row)) for row in rows])
    wrong = {id_: op.body if op.verb is Verb.REPLACE else None for id_, op in ops if op.verb is not Verb.HOLD}
    for pause in (*SETTLE, 0.0):
        there = await _documents(client, index, list(wrong))
        wrong = {id_: body for (id_, body), document in zip(wrong.items(), there, strict=True) if document != body}
        if not wrong:
            break
        await asyncio.sleep(pause)
    return list(wrong)


async def _documents(client: Meilisearch, index: str, ids: list[Id]) -> list[dict[str, Any] | None]:
    """Give documents by their ids, a few requests at once."""
    gate = asyncio.Semaphore(8)

    async def one(id_: Id) -> dict[str, Any] | None:
        async with gate:
            return await client.document(index, id_)

    return await asyncio.gather(*map(one, ids))
