"""The actions that change the model: sites, edges, settings. They touch no host; `deploy` does."""

from __future__ import annotations

import ipaddress
import re
import ssl
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
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
    Multiline,
    NotFound,
    OpsDeckError,
    Plan,
    PlanRun,
    Receipt,
    Risk,
    Targets,
    Verb,
    utcnow,
)
from opsdeck_cdn import book, naming
from opsdeck_cdn.caddy import check_version
from opsdeck_cdn.models import DebtRow, EdgeRow, NameRow, SetupRow, SiteRow
from opsdeck_cdn.sites import DEFAULT_RULES, Origin, Rule, domain, slug


class _Given(BaseModel):
    """Parameters that are checked when they are made; a fault of the house becomes one of the field."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _checked(make: Any, value: Any) -> Any:
    try:
        return make(value)
    except OpsDeckError as fault:
        raise ValueError(f"{fault.message} {fault.hint or ''}".strip()) from None


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
    probe_static: str | None = Field(
        None,
        title="A static object",
        description="Asked for after a deploy: it must come from the cache the second time.",
    )
    probe_dynamic: str | None = Field(None, title="A dynamic page", description="It must reach the origin.")

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        found = str(_checked(slug, value))
        if re.fullmatch(r"ns\d+", found):
            raise ValueError(f"{found} is the name of a name server in the zone; choose another")
        return found

    @field_validator("names")
    @classmethod
    def _names(cls, value: list[str] | None) -> list[str] | None:
        return value and list(dict.fromkeys(_checked(domain, name) for name in value))

    @field_validator("origins")
    @classmethod
    def _origins(cls, value: list[str] | None) -> list[str] | None:
        return value and [str(_checked(Origin.parse, text)) for text in value]

    @field_validator("rules")
    @classmethod
    def _rules(cls, value: list[str] | None) -> list[str] | None:
        for text in value or ():
            _checked(Rule.parse, text)
        return value

    @field_validator("host_header", "tls_name")
    @classmethod
    def _domains(cls, value: str | None) -> str | None:
        return value and str(_checked(lambda text: domain(text, "host_header"), value))

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
    for key in ("names", "origins", "rules", "host_header", "tls_name", "quota_mb", "probe_static", "probe_dynamic"):
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
    latitude: float | None = Field(None, ge=-90, le=90, title="Latitude", description="Empty takes the host's.")
    longitude: float | None = Field(None, ge=-180, le=180, title="Longitude", description="Empty takes the host's.")
    v4: str | None = Field(None, title="IPv4 for visitors", description="Empty takes the host's address.")
    v6: str | None = Field(None, title="IPv6 for visitors")
    quota_percent: int | None = Field(
        None, ge=1, le=100, title="Share of the caches", description="Less for an edge with a small disk.",
        json_schema_extra={"unit": "%"},
    )  # fmt: skip

    @model_validator(mode="after")
    def _addresses(self) -> EdgeParams:
        for text, version in ((self.v4, 4), (self.v6, 6)):
            if text:
                try:
                    found = ipaddress.ip_address(text)
                except ValueError:
                    raise ValueError(f"{text!r} is no IP address") from None
                if found.version != version:
                    raise ValueError(f"{text} is no IPv{version} address")
        return self


async def _edge(run: JobRun, params: EdgeParams) -> Receipt:
    async with run.db.write() as session:
        host = (await session.exec(select(Host).where(Host.name == params.host))).first()
        if host is None:
            raise NotFound(f"there is no host {params.host!r}.", field="host", hint="`opsdeck host add` it first")
        row = (await session.exec(select(EdgeRow).where(EdgeRow.host == params.host))).first()
        fresh = row is None
        if row is None:
            row = EdgeRow(host=params.host, v4=_address(host.address))
            row.latitude, row.longitude = host.latitude or 0.0, host.longitude or 0.0
            session.add(row)
        for key, value in params.model_dump(exclude={"host"}).items():
            if value is not None:
                setattr(row, key, value)
        if not row.v4:
            raise Invalid(
                f"{params.host} is reached by the name {host.address}; say which IPv4 address visitors use.",
                host=params.host, field="v4", hint="--v4 ADDRESS",
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
    async with run.db.write() as session:
        row = (await session.exec(select(EdgeRow).where(EdgeRow.host == params.host))).first()
        if row is None:
            raise NotFound(f"{params.host!r} is no edge.", field="host", hint="see the edges")
        await session.exec(delete(DebtRow).where(col(DebtRow.edge) == params.host))
        await session.delete(row)
    run.log(
        f"{params.host} is no edge here any more; what serves on the host goes on until it is stopped there", "good"
    )
    return {"edge": params.host, "failed": await naming.announce(run)}


class SetupParams(_Given):
    """What is the same for all edges; what is left out stays."""

    acme_directory: str | None = Field(
        None, title="ACME directory", description="Address of the CA's directory.", pattern=r"^https://[^\s]+$",
        max_length=500,
    )  # fmt: skip
    acme_email: str | None = Field(None, title="E-mail for the CA", pattern=r"^$|^[^@\s/]+@[^@\s/]+$", max_length=200)
    acme_roots: Multiline | None = Field(
        None, title="Roots of the directory", description="PEM; only for a CA of your own."
    )
    visitor_roots: Multiline | None = Field(
        None, title="Roots of the certificates", description="PEM that probes trust; only for a CA of your own."
    )
    zone: str | None = Field(None, title="DNS zone", description="Delegated to your name servers: cdn.example.net.")
    ttl: int | None = Field(None, ge=5, le=3600, title="TTL of answers", json_schema_extra={"unit": "s"})
    caddy_version: str | None = Field(None, title="Caddy version", description="At least 2.11.")
    caddy_source: str | None = Field(
        None, title="Caddy source", max_length=2000, pattern=r"^$|^https?://[^\s]+$",
        description="Address of a release; empty takes the one installed with this plugin.",
    )  # fmt: skip
    caddy_sha256: str | None = Field(None, title="Caddy SHA-256", pattern=r"^$|^[0-9a-f]{64}$")
    caddy_member: str | None = Field(None, title="File in the release", description="Such as caddy.")

    @field_validator("zone")
    @classmethod
    def _zone(cls, value: str | None) -> str | None:
        return value and str(_checked(lambda text: domain(text, "zone"), value))

    @field_validator("acme_roots", "visitor_roots")
    @classmethod
    def _pem(cls, value: str | None) -> str | None:
        if value:
            try:
                ssl.create_default_context(cadata=value)
            except (ssl.SSLError, ValueError):
                raise ValueError("this is no PEM of certificates") from None
        return value

    @model_validator(mode="after")
    def _caddy(self) -> SetupParams:
        if self.caddy_source:
            if not self.caddy_sha256 or not self.caddy_version:
                raise ValueError("a Caddy source needs its version and sha256")
            _checked(check_version, self.caddy_version)
        return self


async def _setup(run: JobRun, params: SetupParams) -> Receipt:
    await book.load(run.db)
    given = {key: value for key, value in params.model_dump().items() if value is not None}
    async with run.db.write() as session:
        row = (await session.exec(select(SetupRow))).one()
        for key, value in given.items():
            setattr(row, key, value)
    run.log("settings changed; edges have them after the next deploy", "good")
    return {"changed": sorted(given)}


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
setup = Action(
    "setup", "Set up the CDN", "Certificates, DNS zone and Caddy: what is the same for all edges.",
    params=SetupParams, targets=Targets.CONSOLE, run=_setup, touches=_touches_model, timeout=60.0,
)  # fmt: skip
