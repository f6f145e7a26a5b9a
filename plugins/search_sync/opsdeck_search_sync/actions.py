"""What can be done with syncs. Most change rows only; the service that runs the sync does the rest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from sqlmodel import select

from opsdeck.api import (
    Action,
    Change,
    Conflict,
    Database,
    HostName,
    Invalid,
    JobRun,
    Multiline,
    NotFound,
    Plan,
    PlanRun,
    Receipt,
    Refused,
    Risk,
    SecretName,
    Targets,
    Verb,
)
from opsdeck_search_sync import ledger, reaching
from opsdeck_search_sync.ledger import Whole
from opsdeck_search_sync.looking import CheckIn, Look, OneSync, check, look
from opsdeck_search_sync.mapping import MappingRules
from opsdeck_search_sync.models import Generation, Instance, Phase, Shown, Source, Sync, Wanted

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$", description="Small letters, digits and _")]


# --- sources and instances ---------------------------------------------------------------------------------------


class SourceIn(BaseModel):
    """A database."""

    name: Name
    kind: Literal["postgres", "mariadb", "mysql", "mongodb"] = Field("postgres", description="What it is")
    host: HostName = Field("", description="Reach it through this host; empty: directly")
    address: str = Field("127.0.0.1", description="As seen from that host", min_length=1, max_length=255)
    port: int = Field(0, ge=0, le=65535, description="0 takes the usual one of its kind")
    database: str = Field(min_length=1, max_length=128)
    user: str = Field("", max_length=128, description="A MongoDB without logins has none")
    secret: SecretName = Field("", description="Holds the password; empty for none")

    @model_validator(mode="after")
    def _someone(self) -> SourceIn:
        if not self.user and self.kind != "mongodb":
            raise ValueError("user: say as whom to log in")
        return self


async def save_source(run: JobRun, params: SourceIn) -> Receipt:
    """Keep a source, once it answered. What other server it is now is told, not taken over in silence."""
    row = Source(**params.model_dump())
    row.port = row.port or reaching.PORTS[row.kind]
    way = reaching.JobWay(run)
    row.kind = await reaching.true_kind(way, row)
    async with reaching.reached(way, row) as place:
        reader = reaching.reader(row.kind, place, "x", "x_0")
        try:
            row.identity = await reader.identity()
        finally:
            await reader.close()
    run.log(f"{row.name} is {row.identity}", "good")
    async with run.db.write() as session:
        old = await session.get(Source, row.name)
        if old is not None and old.identity and old.identity != row.identity:
            used = (await session.exec(select(Sync.name).where(Sync.source == row.name))).all()
            if used:
                raise Conflict(
                    f"{row.name} is another server now ({row.identity}), and {', '.join(used)} read from it.",
                    field="address",
                    hint="drop those syncs first, or save it under another name",
                )
        await session.merge(row)
    return {"source": row.name, "identity": row.identity}


class InstanceIn(BaseModel):
    """A Meilisearch."""

    name: Name
    url: str = Field("http://127.0.0.1:7700", description="As seen from the host, if one is named", max_length=500)
    host: HostName = Field("", description="Reach it through this host; empty: directly")
    secret: SecretName = Field("", description="Holds the API key; empty for none")
    batch: int = Field(2000, ge=1, le=50_000, description="Most documents sent at once")
    wait: float = Field(0.2, ge=0.02, le=60, description="Seconds that a change waits for company")

    @field_validator("url")
    @classmethod
    def _an_address(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.query:
            raise ValueError("write it like http://127.0.0.1:7700; the key belongs into a secret")
        return url.rstrip("/")


async def save_instance(run: JobRun, params: InstanceIn) -> Receipt:
    """Keep a Meilisearch, once it answered to the key."""
    row = Instance(**params.model_dump())
    async with reaching.meilisearch(reaching.JobWay(run), row) as client:
        version = await client.version()
        await client.newest_task()
    run.log(f"{row.name} is Meilisearch {version}", "good")
    async with run.db.write() as session:
        await session.merge(row)
    return {"instance": row.name, "version": version}


class OneName(BaseModel):
    """The name of a thing."""

    name: Name


async def remove_source(run: JobRun, params: OneName) -> Receipt:
    """Forget a source that no sync reads."""
    return await _remove(run, Source, Sync.source, params.name)


async def remove_instance(run: JobRun, params: OneName) -> Receipt:
    """Forget a Meilisearch that no sync writes to."""
    return await _remove(run, Instance, Sync.instance, params.name)


async def _remove(run: JobRun, table: type[Source | Instance], column: Any, name: str) -> Receipt:
    async with run.db.write() as session:
        row = await session.get(table, name)
        if row is None:
            raise NotFound(f"there is no {name!r}.", field="name")
        used = (await session.exec(select(Sync.name).where(column == name))).all()
        if used:
            raise Refused(f"{name} is used by {', '.join(used)}.", field="name", hint="drop those syncs first")
        await session.delete(row)
    return {"removed": name}


# --- syncs -------------------------------------------------------------------------------------------------------


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
    findings = _told(run, seen)
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


def _told(run: JobRun, seen: Look) -> list[dict[str, Any]]:
    for finding in seen.findings:
        run.log(finding.text + (f" {finding.sql}" if finding.sql else ""), "bad" if finding.stop else "info")
    return [{"text": finding.text, "stop": finding.stop, "sql": finding.sql} for finding in seen.findings]


async def save_sync_plan(run: PlanRun, params: SyncIn) -> Plan:
    """Show what would be kept, what is wrong at the source, and documents of real rows."""
    rules, settings = rules_of(params.mapping), _object(params.settings, "settings")
    source, _instance, old = await _ends(run.db, params)
    seen = await look(reaching.PlanWay(run), run.home, source, params.table, rules)
    after = _written({"mapping": rules.model_dump(mode="json", by_alias=True), "settings": settings})
    before = _written({"mapping": old.mapping, "settings": old.settings}) if old else ""
    verb = Verb.UPDATE if old else Verb.CREATE
    changes = [] if before == after else [Change("", verb, params.name, "mapping and settings", before, after)]
    for document in seen.documents[:3]:
        title = f"document {document.get(rules.id, '')}".strip()
        changes.append(Change("", Verb.CREATE, title, "of a real row, as it would be", "", _written(document)))
    return Plan(tuple(changes), tuple(f"{each.text} {each.sql}".strip() for each in seen.findings))


def _written(data: Any) -> str:
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
        stops = [finding for finding in _told(run, seen) if finding["stop"]]
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
    before = _written({"mapping": live.mapping, "settings": live.settings}) if live else ""
    after = _written({"mapping": whole.sync.mapping, "settings": whole.sync.settings})
    changes = [Change("", Verb.CREATE, f"{whole.sync.index}__b…", "a shadow index, copied while the live one goes on")]
    if before != after:
        changes.append(Change("", Verb.UPDATE, whole.sync.index, "mapping and settings", before, after))
    changes.append(
        Change("", Verb.UPDATE, whole.sync.index, f"swapped in; the old content is kept {whole.sync.undo_hours} h")
    )
    notes = ("the rebuild that is under way is given up",) if whole.building and live else ()
    return Plan(tuple(changes), notes)


async def rebuild(run: JobRun, params: OneSync) -> Receipt:
    """Copy the table anew beside the live index and swap; search goes on all the time."""
    _not_going(await ledger.whole(run.db, params.sync))
    number = await _next(run, params.sync, replace=True)
    return {"sync": params.sync, "generation": number}


async def swap_back(run: JobRun, params: OneSync) -> Receipt:
    """Let people search what there was before the last rebuild; once more, and it is the newest again."""
    whole = await ledger.whole(run.db, params.sync)
    _not_going(whole)
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
