"""What a sync is: which table goes into which index, and how; checked against the table before it is kept."""

from __future__ import annotations

import json
from typing import Any

import yaml
from pydantic import BaseModel, Field, ValidationError
from sqlmodel import select

from opsdeck.api import (
    Change,
    Conflict,
    Database,
    Invalid,
    JobRun,
    Multiline,
    NotFound,
    Plan,
    PlanRun,
    Receipt,
    Refused,
    Verb,
)
from opsdeck_search_sync import reaching
from opsdeck_search_sync.ends import Name
from opsdeck_search_sync.looking import Look, look
from opsdeck_search_sync.models import Instance, Source, Sync
from opsdeck_search_sync.rules import MappingRules


def _object(text: str, field: str) -> dict[str, Any]:
    """Read JSON or YAML that must be an object. Raises `Invalid`."""
    try:
        found = yaml.safe_load(text) if text.strip() else {}
    except yaml.YAMLError as fault:
        where = getattr(fault, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise Invalid(f"this is neither JSON nor YAML{line}.", field=field) from fault
    if not isinstance(found, dict):
        raise Invalid("this must be an object of names and values.", field=field)
    return found


def rules_of(text: str) -> MappingRules:
    """Read a mapping. Raises `Invalid` with the place."""
    try:
        return MappingRules.model_validate(_object(text, "mapping"))
    except ValidationError as fault:
        first = fault.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise Invalid(f"{place}: {first['msg']}".lstrip(": "), field="mapping") from fault


class SyncIn(BaseModel):
    """A table kept in an index."""

    name: Name
    source: str = Field(max_length=40)
    instance: str = Field(max_length=40, description="The Meilisearch")
    table: str = Field(max_length=255, description="Such as public.products")
    index: str = Field(pattern=r"^[A-Za-z0-9_-]{1,200}$")
    mapping: Multiline = Field(
        "",
        max_length=100_000,
        description="JSON or YAML: fields, leave_out, id, constants, templates, geo, filter; empty takes every column",
    )
    settings: Multiline = Field("", max_length=100_000, description="The index's settings, as Meilisearch takes them")
    undo_hours: int = Field(24, ge=0, le=720, description="How long the old index is kept after a rebuild")
    limit_mb: int = Field(4096, ge=64, le=1_000_000, description="Most log the source may keep for this sync")
    alarm_seconds: int = Field(300, ge=1, le=86_400, description="Seconds behind its source that people are told of")


async def save_sync(run: JobRun, params: SyncIn) -> Receipt:
    """Keep a sync's definition. A changed mapping reaches the index with the next rebuild."""
    rules, settings = rules_of(params.mapping), _object(params.settings, "settings")
    source, _instance, _old = await _ends(run.db, params)
    seen = await look(reaching.JobWay(run), run.home, source, params.table, rules)
    findings = told(run, seen)
    mapping = rules.model_dump(mode="json", by_alias=True)
    async with run.db.write() as session:
        row = await session.get(Sync, params.name)
        if row is not None and (row.source, row.instance, row.table, row.index) != (
            params.source, params.instance, params.table, params.index,
        ):  # fmt: skip
            raise Refused(
                f"{params.name} exists and leads elsewhere.", field="name", hint="drop it first, or take another name"
            )
        if row is None:
            row = Sync(
                name=params.name, source=params.source, instance=params.instance, table=params.table, index=params.index
            )
        changed = (row.mapping, row.settings) != (mapping, settings)
        row.mapping, row.settings = mapping, settings
        row.undo_hours, row.limit_mb, row.alarm_seconds = params.undo_hours, params.limit_mb, params.alarm_seconds
        session.add(row)
    return {"sync": params.name, "findings": findings, "preview": seen.documents[:3], "changed": changed}


def told(run: JobRun, seen: Look) -> list[dict[str, Any]]:
    for finding in seen.findings:
        run.log(finding.text + (f" {finding.sql}" if finding.sql else ""), "bad" if finding.stop else "info")
    return [{"text": finding.text, "stop": finding.stop, "sql": finding.sql} for finding in seen.findings]


async def save_sync_plan(run: PlanRun, params: SyncIn) -> Plan:
    """Show what would be kept, what is wrong at the source, and documents of real rows."""
    rules, settings = rules_of(params.mapping), _object(params.settings, "settings")
    source, _instance, old = await _ends(run.db, params)
    seen = await look(reaching.PlanWay(run), run.home, source, params.table, rules)
    after = written({"mapping": rules.model_dump(mode="json", by_alias=True), "settings": settings})
    before = written({"mapping": old.mapping, "settings": old.settings}) if old else ""
    verb = Verb.UPDATE if old else Verb.CREATE
    changes = [] if before == after else [Change("", verb, params.name, "mapping and settings", before, after)]
    for document in seen.documents[:3]:
        title = f"document {document.get(rules.id, '')}".strip()
        changes.append(Change("", Verb.CREATE, title, "of a real row, as it would be", "", written(document)))
    return Plan(tuple(changes), tuple(f"{each.text} {each.sql}".strip() for each in seen.findings))


def written(data: Any) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False)


async def _ends(db: Database, params: SyncIn) -> tuple[Source, Instance, Sync | None]:
    """Find what a definition leans on. Raises `NotFound`, and `Conflict` where another sync has the index."""
    async with db.read() as session:
        source = await session.get(Source, params.source)
        instance = await session.get(Instance, params.instance)
        old = await session.get(Sync, params.name)
        twin = (
            await session.exec(
                select(Sync.name).where(
                    Sync.instance == params.instance, Sync.index == params.index, Sync.name != params.name
                )
            )
        ).first()
    if source is None:
        raise NotFound(f"there is no source {params.source!r}.", field="source", hint="save it first")
    if instance is None:
        raise NotFound(f"there is no Meilisearch {params.instance!r}.", field="instance", hint="save it first")
    if twin is not None:
        raise Conflict(f"{twin} writes to the index {params.index} already.", field="index", hint="name another index")
    return source, instance, old
