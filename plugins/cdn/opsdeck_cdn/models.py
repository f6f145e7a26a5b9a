"""The tables of the plugin."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, UniqueConstraint
from sqlmodel import JSON, Field

from opsdeck.api import Table, utcnow


class SiteRow(Table, table=True):
    """A site as it was given; `origins` and `rules` as their lines."""

    __tablename__ = "cdn_site"

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(unique=True, max_length=40)
    names: list[str] = Field(default_factory=list, sa_type=JSON)
    origins: list[str] = Field(default_factory=list, sa_type=JSON)
    rules: list[str] = Field(default_factory=list, sa_type=JSON)
    host_header: str = ""
    tls_name: str = ""
    quota_mb: int = 1024
    origin_timeout: int = 30
    epoch: int = 1
    probe_static: str = ""
    probe_dynamic: str = "/"
    changed: datetime = Field(default_factory=utcnow)


class NameRow(Table, table=True):
    """A name that visitors use: it belongs to one site."""

    __tablename__ = "cdn_name"

    name: str = Field(primary_key=True, max_length=253)
    site: str = Field(index=True, max_length=40)


class EdgeRow(Table, table=True):
    """A host as an edge, and what was last put on it."""

    __tablename__ = "cdn_edge"

    id: int | None = Field(default=None, primary_key=True)
    host: str = Field(unique=True, max_length=63)
    latitude: float = 0.0
    longitude: float = 0.0
    v4: str = ""
    v6: str = ""
    quota_percent: int = 100
    bind: bool = False
    drained: bool = False
    admitted: bool = False
    """Whether its last deploy ended well; only then may it be named."""
    owing: bool = False
    """Whether it is out of DNS until it has done the purges it owes."""
    generation: str = ""
    """Name of what was deployed last and proved to work; "" when nothing was."""
    files: dict[str, str] = Field(default_factory=dict, sa_type=JSON)
    """sha256 of each file of it, to see what was changed by hand."""
    deployed: datetime | None = None
    health: str = "unknown"
    """`up`, `down` or `unknown`, after hysteresis."""
    health_text: str = ""
    health_at: datetime | None = None
    certificates: dict[str, str] = Field(default_factory=dict, sa_type=JSON)
    """Name → life of the certificate it shows, an interval of ISO 8601."""
    log_inode: str = ""
    log_offset: int = Field(default=0, sa_type=BigInteger)
    """Up to where the front's log was counted."""


class SetupRow(Table, table=True):
    """What is the same for all edges; one row, of id 1."""

    __tablename__ = "cdn_setup"

    id: int | None = Field(default=None, primary_key=True)
    mark: str
    acme_directory: str
    acme_email: str = ""
    acme_roots: str = ""
    visitor_roots: str = ""
    zone: str = ""
    ttl: int = 30
    parent: str = ""
    caddy_version: str = ""
    caddy_source: str = ""
    caddy_sha256: str = ""
    caddy_member: str = ""
    caddy_arch: str = "amd64"
    geoip_name: str = ""
    geoip_source: str = ""
    geoip_sha256: str = ""
    geoip_member: str = ""


class NameServerRow(Table, table=True):
    """A host that answers for the zone."""

    __tablename__ = "cdn_nameserver"

    id: int | None = Field(default=None, primary_key=True)
    host: str = Field(unique=True, max_length=63)
    address: str
    number: int = Field(default=0)
    """Of its name in the zone, `ns1`: kept for good, since the zone above has it as glue."""


class DebtRow(Table, table=True):
    """A purge that an edge still owes."""

    __tablename__ = "cdn_debt"
    __table_args__ = (UniqueConstraint("edge", "site", "what", "argument"),)

    id: int | None = Field(default=None, primary_key=True)
    edge: str = Field(index=True, max_length=63)
    site: str = Field(max_length=40)
    what: str = Field(max_length=10)
    """`url`, `prefix`, or `site` for the epoch of a whole one."""
    argument: str = Field(max_length=2000)
    made: datetime = Field(default_factory=utcnow)


class FaultRow(Table, table=True):
    """What the last look at an edge, or at the zone, found wrong."""

    __tablename__ = "cdn_fault"

    id: int | None = Field(default=None, primary_key=True)
    place: str = Field(index=True, max_length=63)
    """The edge's host; "" for the zone."""
    subject: str = Field(max_length=300)
    state: str = Field(max_length=10)
    text: str = Field(max_length=600)
    hint: str = Field(default="", max_length=600)
    seen: datetime = Field(default_factory=utcnow)


class TrafficRow(Table, table=True):
    """What visitors of a site got from an edge in one hour; `status` is the first figure of the answers'."""

    __tablename__ = "cdn_traffic"
    __table_args__ = (UniqueConstraint("site", "edge", "hour", "cache", "status"),)

    id: int | None = Field(default=None, primary_key=True)
    site: str = Field(max_length=40)
    edge: str = Field(max_length=63)
    hour: datetime = Field(index=True)
    cache: str = Field(max_length=12)
    status: int
    requests: int = Field(default=0, sa_type=BigInteger)
    bytes: int = Field(default=0, sa_type=BigInteger)
