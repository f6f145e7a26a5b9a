"""The actions that set and drop a target, and what every other action needs of one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from opsdeck.api import (
    Action,
    Change,
    HostName,
    Invalid,
    NotFound,
    OpsDeckError,
    Plan,
    Receipt,
    Risk,
    SecretName,
    Sensitive,
    Targets,
    Verb,
)
from opsdeck_backup import catalogue, keys, stores
from opsdeck_backup.chains import Rules
from opsdeck_backup.engines import Engine, engine
from opsdeck_backup.kube.charts import CHARTS
from opsdeck_backup.models import Target

if TYPE_CHECKING:
    from opsdeck.api import JobRun, PlanRun

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_KUBE = re.compile(r"([a-z0-9]([a-z0-9.-]{0,200}[a-z0-9])?)?")
_LIMIT = re.compile(r"off|[1-9][0-9]{0,6}[kKMG]?")


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError("use small letters, digits and -, at most 40")
    return text


def remote_place(text: str) -> str:
    """Give a place in rclone's words, without a slash at its end. Raises `ValueError`."""
    try:
        stores.section_of(text)
    except OpsDeckError as fault:
        raise ValueError(f"{fault.message} {fault.hint or ''}".strip()) from None
    return text.rstrip("/")


def _kube_name(text: str) -> str:
    if not _KUBE.fullmatch(text):
        raise ValueError("use small letters, digits, - and ., as Kubernetes does")
    return text


def _limit(text: str) -> str:
    if not _LIMIT.fullmatch(text):
        raise ValueError("write off, or bytes per second such as 10M")
    return text


TargetName = Annotated[str, AfterValidator(_name)]


class TargetParams(BaseModel):
    """A target as a person sets it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: TargetName = Field(title="Name")
    kind: Literal["host", "kubernetes"] = Field(
        "host", title="Kind", description="kubernetes: a sidecar beside the server, reached by kubectl on the host."
    )
    host: HostName = Field(title="Host", description="Where the database runs, or where kubectl is.")
    remote: Annotated[str, AfterValidator(remote_place)] = Field(
        title="Store", description="A place in rclone's words, such as store:bucket/folder.", examples=["store:backups"]
    )
    store_secret: SecretName = Field(title="Store's configuration", description="A secret that holds rclone.conf.")
    key_secret: SecretName = Field(
        "", title="Key", description="A secret with an age identity: restores and drills open backups with it."
    )
    recipients: list[str] = Field(
        default_factory=list,
        title="Recipients",
        description="Public age keys beside that of the key, such as one whose private half lies in a safe.",
        max_length=10,
    )
    login_secret: SecretName = Field(
        "",
        title="Database login",
        description="A secret with an options file ([client] user, password); empty enters as root through the socket.",
    )
    engine: Literal["mariadb", "mysql"] = Field(
        "mariadb", title="Engine", description="mysql: MySQL or Percona Server, copied by XtraBackup."
    )
    chart: Literal["", "bitnami-mysql", "bitnami-mariadb", "mariadb-operator", "percona-operator", "plain-mariadb"] = (
        Field("", title="Chart", description="What made the workload; Kubernetes only.")
    )
    namespace: Annotated[str, AfterValidator(_kube_name)] = Field("", title="Namespace")
    workload: Annotated[str, AfterValidator(_kube_name)] = Field(
        "", title="Workload", description="Name of the StatefulSet."
    )
    pod: Annotated[str, AfterValidator(_kube_name)] = Field("", title="Pod", description="Empty takes the first.")
    claim: Annotated[str, AfterValidator(_kube_name)] = Field(
        "", title="Claim", description="Empty takes that of the chart."
    )
    kubeconfig: str = Field(
        "", title="Configuration of kubectl", description="A file on the host; empty takes kubectl's own.",
        pattern=r"^(/[A-Za-z0-9._-]+)*$",
    )  # fmt: skip
    rpo_minutes: int = Field(
        120, ge=5, le=100_000, title="At most lost",
        description="Without a good backup for this long, an incident opens.",
        json_schema_extra={"unit": "min"},
    )  # fmt: skip
    full_hours: int = Field(168, ge=1, le=10_000, title="New full backup after", json_schema_extra={"unit": "h"})
    chain_length: int = Field(
        24, ge=0, le=200, title="Increments in a chain", description="At most; 0 makes every one full."
    )
    level: int = Field(1, ge=1, le=9, title="Compression", description="Level of zstd.")
    throttle: int = Field(0, ge=0, le=10_000, title="Throttle", description="In the engine's own unit; 0 does not.")
    limit: Annotated[str, AfterValidator(_limit)] = Field(
        "off", title="Bandwidth limit", description="Bytes per second, such as 10M; off has none."
    )
    read_back: bool = Field(
        True, title="Read back", description="Compare the sha256 of what the store has before a backup counts."
    )
    keep_hourly: int = Field(0, ge=0, le=1000, title="Keep hours")
    keep_daily: int = Field(0, ge=0, le=1000, title="Keep days")
    keep_weekly: int = Field(0, ge=0, le=1000, title="Keep weeks")
    keep_monthly: int = Field(0, ge=0, le=1000, title="Keep months")
    keep_chains: int = Field(2, ge=1, le=1000, title="Keep chains at least")
    drill_host: HostName = Field(
        "", title="Drill host", description="Where drills restore; empty takes the host itself."
    )
    questions: list[str] = Field(
        default_factory=list,
        title="Questions",
        description="SQL that a restored copy must answer with something else than nothing, 0 or NULL.",
        max_length=20,
    )

    @model_validator(mode="after")
    def _placed(self) -> TargetParams:
        where = {"chart": self.chart, "namespace": self.namespace, "workload": self.workload}
        more = where | {"pod": self.pod, "claim": self.claim, "kubeconfig": self.kubeconfig}
        if self.kind == "kubernetes" and (missing := [name for name, value in where.items() if not value]):
            raise ValueError(f"a target in Kubernetes needs {', '.join(missing)}")
        if self.kind == "host" and (given := [name for name, value in more.items() if value]):
            raise ValueError(f"{', '.join(given)} is for targets in Kubernetes")
        if self.chart and CHARTS[self.chart].engine != self.engine:
            raise ValueError(f"{self.chart} runs {CHARTS[self.chart].engine}: set the engine so")
        return self


@dataclass(frozen=True)
class Opened:
    """A target with its secrets opened."""

    row: Target
    engine: Engine
    store: stores.Store
    login: Sensitive | None
    rules: Rules


def root_of(row: Target) -> str:
    """Give the target's own folder in the store."""
    return f"{row.remote}/{row.name}"


def database_of(row: Target) -> str:
    """Name what two jobs must not touch at once: the host's database, or the workload's."""
    return f"database:{row.host}" + (f"/{row.namespace}/{row.workload}" if row.kind == "kubernetes" else "")


def rules_of(row: Target) -> Rules:
    """Give the rules of a target."""
    return Rules(
        row.full_hours,
        row.chain_length,
        row.keep_hourly,
        row.keep_daily,
        row.keep_weekly,
        row.keep_monthly,
        row.keep_chains,
    )


async def opened(run: JobRun | PlanRun, name: str) -> Opened:
    """Open a target. Raises `NotFound` for it or a secret that it names."""
    row = await catalogue.find(run, name)
    config = await run.secret(row.store_secret)
    login = await run.secret(row.login_secret) if row.login_secret else None
    return Opened(row, engine(row.engine), stores.Store(config, root_of(row)), login, rules_of(row))


async def identity(run: JobRun, row: Target, secret: str = "") -> Sensitive:
    """Open the key of a target, or the one that was named. Raises `Invalid` when there is none."""
    name = secret or row.key_secret
    if not name:
        raise Invalid(
            f"the target {row.name} has no key on this console.",
            field="key_secret",
            hint="name the secret with its identity",
        )
    found = await run.secret(name)
    keys.check_identity(found.reveal())
    return found


async def _recipients(run: JobRun | PlanRun, params: TargetParams) -> tuple[str, ...]:
    mine = keys.public_of(await run.secret(params.key_secret)) if params.key_secret else ()
    found = keys.check_recipients([*mine, *params.recipients])
    if not found:
        raise Invalid("nobody could open the backups.", field="key_secret", hint="name a key, or give recipients")
    return found


async def _row(run: JobRun | PlanRun, params: TargetParams) -> Target:
    config = (await run.secret(params.store_secret)).reveal()
    stores.check_config(config)
    section = stores.section_of(params.remote)
    if f"[{section}]" not in {line.strip() for line in config.splitlines()}:
        raise Invalid(f"{params.store_secret} has no [{section}].", field="remote", hint="write the name that it has")
    given = params.model_dump() | {"recipients": list(await _recipients(run, params))}
    return Target(**given)


def _shown(row: Target) -> str:
    return "".join(f"{name}: {value}\n" for name, value in sorted(row.model_dump(exclude={"created"}).items()))


async def _old(run: JobRun | PlanRun, name: str) -> Target | None:
    try:
        return await catalogue.find(run, name)
    except NotFound:
        return None


async def _plan_set(run: PlanRun, params: TargetParams) -> Plan:
    row, old = await _row(run, params), await _old(run, params.name)
    before, after = _shown(old) if old else None, _shown(row)
    if before == after:
        return Plan()
    verb = Verb.UPDATE if old else Verb.CREATE
    return Plan((Change("", verb, f"target {params.name}", before=before, after=after),))


async def _set(job: JobRun, params: TargetParams) -> Receipt:
    row, old = await _row(job, params), await _old(job, params.name)
    store = stores.Store(await job.secret(params.store_secret), root_of(row))
    holding = await catalogue.look(store, params.name, {})
    if old:
        row.created = old.created
    async with job.step(params.host):
        pass  # the host must be known
    async with job.db.write() as session:
        await session.merge(row)
    await catalogue.sync(job, params.name, store)
    job.log(f"the store answers; it holds {len(holding.manifests)} backups of {params.name}", "good")
    return {"target": params.name, "backups": len(holding.manifests), "recipients": row.recipients}


class NameParams(BaseModel):
    """Which target."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: TargetName = Field(title="Target")


async def _drop(job: JobRun, params: NameParams) -> Receipt:
    row = await catalogue.find(job, params.target)
    names = [item.id for item in await catalogue.items(job, params.target)]
    await catalogue.forget(job, names)
    async with job.db.write() as session:
        found = await session.get(Target, row.name)
        if found is not None:
            await session.delete(found)
    for incident in ("rpo", "proof", "key"):
        await job.close_incident(f"backup:{params.target}:{incident}")
    job.log(f"{params.target} is no longer backed up; what the store holds stays there")
    return {"target": params.target, "left_in_store": len(names)}


def touches(params: NameParams, _hosts: Sequence[str]) -> Sequence[str]:
    """Give the lease of a target: taken before a parent is chosen, held to the commit."""
    return [f"backup:{params.target}"]


async def _refresh(job: JobRun, params: NameParams) -> Receipt:
    found = await opened(job, params.target)
    holding = await catalogue.sync(job, params.target, found.store)
    for name, why in holding.damaged.items():
        job.log(f"{name}: {why}", "bad")
    job.log(f"{len(holding.manifests)} backups in {len(holding.chains)} chains, {len(holding.orphans)} orphans")
    return {"backups": len(holding.manifests), "damaged": dict(holding.damaged), "orphans": len(holding.orphans)}


target = Action(
    "target",
    "Set a backup target",
    "Say which database is backed up, where to, by which rules. The store must answer.",
    params=TargetParams,
    risk=Risk.CHANGE,
    targets=Targets.CONSOLE,
    run=_set,
    plan=_plan_set,
    touches=lambda params, _hosts: [f"backup:{params.name}"],
    timeout=600,
)
drop = Action(
    "drop",
    "Drop a backup target",
    "Stop backing up a database. What the store holds stays, and is found again when the target is set again.",
    params=NameParams,
    risk=Risk.CHANGE,
    targets=Targets.CONSOLE,
    run=_drop,
    touches=touches,
    timeout=600,
)
refresh = Action(
    "refresh",
    "Read the catalogue anew",
    "Rebuild the list of a target's backups from the store alone.",
    params=NameParams,
    risk=Risk.READ,
    targets=Targets.CONSOLE,
    run=_refresh,
    touches=touches,
    timeout=1800,
)
