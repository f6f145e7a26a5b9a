"""The actions that change the model: sites and edges. They touch no host; `deploy` does."""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from sqlalchemy import delete
from sqlmodel import col, select

from opsdeck.api import (
    Action,
    Change,
    Conflict,
    Host,
    HostName,
    Invalid,
    JobRun,
    NotFound,
    Plan,
    PlanRun,
    Receipt,
    Refused,
    Risk,
    Targets,
    Verb,
    as_value_error,
    utcnow,
)
from opsdeck_cdn import book, naming
from opsdeck_cdn.models import DebtRow, EdgeRow, FaultRow, NameRow, SetupRow, SiteRow
from opsdeck_cdn.places import find, place
from opsdeck_cdn.sites import DEFAULT_RULES, Origin, Rule, address, domain, outside_servers, slug


class _Given(BaseModel):
    """Parameters that are checked when they are made; a fault of the house becomes one of the field."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SiteParams(_Given):
    """A site; what is left out keeps what it has, or takes the safe default for a new one."""

    name: str = Field(title="Site", description="Its short name here: a-z, 0-9 and -.", max_length=40)
    names: list[str] | None = Field(
        None, title="Names", description="What visitors type, such as www.example.com.", max_length=100
    )
    origins: list[str] | None = Field(
        None, title="Origins", max_length=16,
        description="Where it comes from, such as https://origin.example.com; the first that answers is used.",
    )  # fmt: skip
    rules: list[str] | None = Field(
        None, title="Rules", max_length=200,
        description="In order; the first that fits counts: static PATH,… [ttl=1h] [query=all|ignore|only:a,b] "
        "[cookie=NAME] [max=100MB] [big] [host=] [method=], or dynamic PATH. What fits none is dynamic.",
    )  # fmt: skip
    host_header: str | None = Field(
        None, title="Host header", description="What the origin is asked for; empty passes the visitor's."
    )
    tls_name: str | None = Field(
        None, title="TLS name of the origin", description="Empty takes the host header, else the origin's own name."
    )
    quota_mb: int | None = Field(
        None, ge=16, le=10_000_000, title="Cache on each edge", json_schema_extra={"unit": "MB"}
    )
    origin_timeout: int | None = Field(
        None, ge=1, le=600, title="Patience with the origin", json_schema_extra={"unit": "s"},
        description="How long it may take to begin an answer. Then the next origin is asked, or what is kept is given.",
    )  # fmt: skip
    probe_static: str | None = Field(
        None,
        title="A static object",
        description="Asked for after a deploy: it must come from the cache the second time.",
    )
    probe_dynamic: str | None = Field(None, title="A dynamic page", description="It must reach the origin.")

    @field_validator("name")
    @classmethod
    @as_value_error()
    def _name(cls, value: str) -> str:
        if re.fullmatch(r"ns\d+", value):
            raise ValueError(f"{value} is the name of a name server in the zone; choose another")
        return slug(value)

    @field_validator("names")
    @classmethod
    @as_value_error()
    def _names(cls, value: list[str] | None) -> list[str] | None:
        return value and list(dict.fromkeys(domain(name) for name in value))

    @field_validator("origins")
    @classmethod
    @as_value_error()
    def _origins(cls, value: list[str] | None) -> list[str] | None:
        return value and [str(Origin.parse(text)) for text in value]

    @field_validator("rules")
    @classmethod
    @as_value_error()
    def _rules(cls, value: list[str] | None) -> list[str] | None:
        for text in value or ():
            Rule.parse(text)
        return value

    @field_validator("host_header", "tls_name")
    @classmethod
    @as_value_error()
    def _domains(cls, value: str | None) -> str | None:
        return value and domain(value, "host_header")

    @property
    def given(self) -> dict[str, Any]:
        """Give what was said, without what was left out."""
        return {key: value for key, value in self.model_dump(exclude={"name"}).items() if value is not None}


async def _site(run: JobRun, params: SiteParams) -> Receipt:
    async with run.db.write() as session:
        row = (await session.exec(select(SiteRow).where(SiteRow.name == params.name))).first()
        fresh = row is None
        if row is None:
            row = SiteRow(name=params.name, rules=list(DEFAULT_RULES))
            session.add(row)
        for key, value in params.given.items():
            setattr(row, key, value)
        row.changed = utcnow()
        book.site_of(row)
        setup = (await session.exec(select(SetupRow))).first()
        outside_servers(row.names, setup.zone if setup else "")
        taken = (await session.exec(select(NameRow).where(col(NameRow.name).in_(row.names)))).all()
        for name in taken:
            if name.site != row.name:
                raise Conflict(
                    f"{name.name} belongs to the site {name.site}.", field="names", hint="one name, one site"
                )
        await session.exec(delete(NameRow).where(col(NameRow.site) == row.name))
        await session.flush()
        session.add_all([NameRow(name=name, site=row.name) for name in row.names])
    run.log(f"site {params.name} {'added' if fresh else 'changed'}; edges have it after the next deploy", "good")
    return {"site": params.name, "new": fresh}


async def _plan_site(run: PlanRun, params: SiteParams) -> Plan:
    async with run.db.read() as session:
        row = (await session.exec(select(SiteRow).where(SiteRow.name == params.name))).first()
    before = _text(row) if row else None
    draft = SiteRow(name=params.name, rules=list(DEFAULT_RULES))
    for key in ("names", "origins", "rules", "host_header", "tls_name", "quota_mb", "origin_timeout", "probe_static",
                "probe_dynamic"):  # fmt: skip
        setattr(draft, key, params.given.get(key, getattr(row, key) if row else getattr(draft, key)))
    book.site_of(draft)
    after = _text(draft)
    if before == after:
        return Plan()
    verb = Verb.UPDATE if row else Verb.CREATE
    return Plan(
        (Change("", verb, f"site {params.name}", "", before, after),), ("Edges have it after the next deploy.",)
    )


def _text(row: SiteRow) -> str:
    lines = [
        *(f"name {name}" for name in row.names),
        *(f"origin {origin}" for origin in row.origins),
        *(f"rule {rule}" for rule in row.rules),
        f"host header {row.host_header or 'as the visitor asks'}",
        f"TLS name {row.tls_name or 'of the origin'}",
        f"cache {row.quota_mb} MB",
        f"patience with the origin {row.origin_timeout} s",
        f"probe static {row.probe_static or 'none'}",
        f"probe dynamic {row.probe_dynamic}",
    ]
    return "\n".join(lines) + "\n"


class SiteName(_Given):
    """Which site."""

    name: str = Field(title="Site", max_length=40)


async def _remove_site(run: JobRun, params: SiteName) -> Receipt:
    async with run.db.write() as session:
        row = (await session.exec(select(SiteRow).where(SiteRow.name == params.name))).first()
        if row is None:
            raise NotFound(f"there is no site {params.name!r}.", field="name", hint="see the sites")
        await session.exec(delete(NameRow).where(col(NameRow.site) == params.name))
        await session.exec(delete(DebtRow).where(col(DebtRow.site) == params.name))
        await session.delete(row)
    run.log(f"site {params.name} removed here; edges serve it until the next deploy", "good")
    return {"site": params.name}


class EdgeParams(_Given):
    """A host as an edge; what is left out keeps what it has."""

    host: HostName = Field(title="Host")
    region: str | None = Field(
        None, title="Region", max_length=40,
        description="A large city near it, such as frankfurt or fra, in the place of coordinates.",
    )  # fmt: skip
    latitude: float | None = Field(None, ge=-90, le=90, title="Latitude", description="Empty takes the host's.")
    longitude: float | None = Field(None, ge=-180, le=180, title="Longitude", description="Empty takes the host's.")
    v4: str | None = Field(None, title="IPv4 for visitors", description="Empty takes the host's address.")
    v6: str | None = Field(None, title="IPv6 for visitors")
    quota_percent: int | None = Field(
        None, ge=1, le=100, title="Share of the caches", description="Less for an edge with a small disk.",
        json_schema_extra={"unit": "%"},
    )  # fmt: skip
    bind: bool | None = Field(
        None, title="Only on its addresses", description="For a host where others use 80 or 443 on another address.",
    )  # fmt: skip

    @field_validator("region")
    @classmethod
    @as_value_error()
    def _region(cls, value: str | None) -> str | None:
        if value:
            place(value)
        return value or None

    @field_validator("v4", "v6")
    @classmethod
    @as_value_error()
    def _addresses(cls, value: str | None, info: ValidationInfo) -> str | None:
        if not value:
            return value
        found = address(value, str(info.field_name))
        if info.field_name != f"v{ipaddress.ip_address(found).version}":
            raise ValueError(f"{value} is no IP{info.field_name} address")
        return found


async def _edge(run: JobRun, params: EdgeParams) -> Receipt:
    async with run.db.write() as session:
        host = (await session.exec(select(Host).where(Host.name == params.host))).first()
        if host is None:
            raise NotFound(f"there is no host {params.host!r}.", field="host", hint="`opsdeck host add` it first")
        row = (await session.exec(select(EdgeRow).where(EdgeRow.host == params.host))).first()
        fresh = row is None
        if row is None:
            row = EdgeRow(host=params.host, v4=_address(host.address))
            row.latitude, row.longitude = find(host.region or "") or (0.0, 0.0)
            if host.latitude is not None and host.longitude is not None:
                row.latitude, row.longitude = host.latitude, host.longitude
            session.add(row)
        if params.region:
            row.latitude, row.longitude = place(params.region)
        for key, value in params.model_dump(exclude={"host", "region"}).items():
            if value is not None:
                setattr(row, key, value)
        if not row.v4:
            raise Invalid(
                f"{params.host} is reached by the name {host.address}; say which IPv4 address visitors use.",
                host=params.host, field="v4", hint="--v4 ADDRESS",
            )  # fmt: skip
        for other in (await session.exec(select(EdgeRow).where(EdgeRow.host != params.host))).all():
            if shared := {row.v4, row.v6} & {other.v4, other.v6} - {""}:
                raise Conflict(
                    f"{shared.pop()} is the address of the edge {other.host}.", host=params.host, field="v4",
                    hint="each edge has addresses of its own",
                )  # fmt: skip
    run.log(f"edge {params.host} {'added' if fresh else 'changed'}; it serves after the next deploy", "good")
    return {"edge": params.host, "new": fresh}


def _address(text: str) -> str:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return ""
    return text if found.version == 4 else ""


class EdgeName(_Given):
    """Which edge."""

    host: HostName = Field(title="Edge")


async def _remove_edge(run: JobRun, params: EdgeName) -> Receipt:
    model = await book.load(run.db)
    left = [other for other in model.edges if other.host != params.host and model.rows[other.host].generation]
    asked = model.setup.zone and model.servers and model.sites
    if params.host in model.rows and model.rows[params.host].generation and asked and not left:
        raise Refused(
            f"{params.host} is the last edge that DNS can name.", field="host",
            hint="deploy another one first; to end it all remove the sites, then the edges",
        )  # fmt: skip
    async with run.db.write() as session:
        row = (await session.exec(select(EdgeRow).where(EdgeRow.host == params.host))).first()
        if row is None:
            raise NotFound(f"{params.host!r} is no edge.", field="host", hint="see the edges")
        await session.exec(delete(DebtRow).where(col(DebtRow.edge) == params.host))
        await session.exec(delete(FaultRow).where(col(FaultRow.place) == params.host))
        await session.delete(row)
    run.log(
        f"{params.host} is no edge here any more; what serves on the host goes on until it is stopped there", "good"
    )
    return {"edge": params.host, "failed": await naming.announce(run)}


def _touches_model(_params: BaseModel, _hosts: object) -> list[str]:
    return ["cdn:model"]


def _touches_dns(_params: BaseModel, _hosts: object) -> list[str]:
    return ["cdn:model", "cdn:dns"]


site = Action(
    "site", "Add or change a site", "Names, origins and rules of a site; edges have it after the next deploy.",
    params=SiteParams, targets=Targets.CONSOLE, run=_site, plan=_plan_site, touches=_touches_model, timeout=60.0,
)  # fmt: skip
remove_site = Action(
    "remove_site", "Remove a site", "Forget a site; edges stop serving it at the next deploy.",
    params=SiteName, risk=Risk.DESTROY, targets=Targets.CONSOLE, run=_remove_site, touches=_touches_model, timeout=60.0,
)  # fmt: skip
edge = Action(
    "edge", "Add or change an edge", "Make a host an edge; it serves after the next deploy.",
    params=EdgeParams, targets=Targets.CONSOLE, run=_edge, touches=_touches_model, timeout=60.0,
)  # fmt: skip
remove_edge = Action(
    "remove_edge", "Remove an edge", "Take a host out of the edges and of DNS.",
    params=EdgeName, risk=Risk.DESTROY, targets=Targets.CONSOLE, run=_remove_edge, touches=_touches_dns, timeout=900.0,
)  # fmt: skip
