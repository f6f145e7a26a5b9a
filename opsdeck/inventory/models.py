"""The tables of the inventory: hosts, their keys, what was read from them."""

from __future__ import annotations

from datetime import date, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, Index, UniqueConstraint
from sqlmodel import JSON, Field

from opsdeck.clock import utcnow
from opsdeck.db import Table


class Reach(StrEnum):
    """What the last contact with a host showed."""

    UNKNOWN = "unknown"
    OK = "ok"
    UNREACHABLE = "unreachable"
    REFUSED = "refused"
    KEY_CHANGED = "key_changed"
    UNTRUSTED = "untrusted"


class Host(Table, table=True):
    """A machine reached over SSH."""

    __tablename__ = "core_host"

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(unique=True, max_length=63)
    address: str
    port: int = 22
    user: str = "root"
    credential: str = "agent"
    """Name of the secret that logs in; `agent` means the SSH agent of the console's user."""
    jump: str | None = None
    """Name of the host to go through."""
    sudo: str = "none"
    sudo_secret: str | None = None
    tags: dict[str, str] = Field(default_factory=dict, sa_type=JSON)
    """`role=edge` is {"role": "edge"}; a bare `prod` is {"prod": ""}."""
    region: str = ""
    latitude: float | None = None
    longitude: float | None = None
    provider: str = ""
    price: float | None = None
    currency: str = ""
    price_period: str = "month"
    renewal: date | None = None
    quota_bytes: int | None = Field(default=None, sa_type=BigInteger)
    """Monthly traffic that is paid for, bytes."""
    quota_reset_day: int = 1
    quota_counts: str = "both"
    """Which direction counts: `in`, `out`, `both` (sum), `max` (the larger)."""
    notes: str = ""
    reach: str = Reach.UNKNOWN
    reach_detail: str = ""
    reach_since: datetime | None = None
    last_seen: datetime | None = None
    created: datetime = Field(default_factory=utcnow)
    updated: datetime = Field(default_factory=utcnow)


class HostKey(Table, table=True):
    """A public key of a host: pinned (trusted), offered (waiting for approval) or retired."""

    __tablename__ = "core_host_key"
    __table_args__ = (UniqueConstraint("host_id", "fingerprint"),)

    id: int | None = Field(default=None, primary_key=True)
    host_id: int = Field(foreign_key="core_host.id", ondelete="CASCADE", index=True)
    algorithm: str
    public: str
    fingerprint: str
    state: str = "offered"
    seen: datetime = Field(default_factory=utcnow)
    approved_by: str = ""
    approved_at: datetime | None = None


class FactSet(Table, table=True):
    """Everything read from a host at one time; a new row only when something differs from the one before."""

    __tablename__ = "core_fact_set"
    __table_args__ = (Index("ix_core_fact_set_host_taken", "host_id", "taken"),)

    id: int | None = Field(default=None, primary_key=True)
    host_id: int = Field(foreign_key="core_host.id", ondelete="CASCADE")
    taken: datetime = Field(default_factory=utcnow)
    confirmed: datetime = Field(default_factory=utcnow)
    """When the same facts were last read again."""
    digest: str
    facts: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)


class Sample(Table, table=True):
    """A host's counters at one time."""

    __tablename__ = "core_sample"

    host_id: int = Field(foreign_key="core_host.id", ondelete="CASCADE", primary_key=True)
    at: datetime = Field(primary_key=True, index=True)
    cpu: float | None = None
    """Busy share since the sample before, 0 to 1."""
    load1: float
    memory_used: int = Field(sa_type=BigInteger)
    memory_total: int = Field(sa_type=BigInteger)
    disk_used: int = Field(sa_type=BigInteger)
    disk_total: int = Field(sa_type=BigInteger)
    received: int = Field(sa_type=BigInteger)
    """Counter of the kernel, bytes; starts again at each boot."""
    sent: int = Field(sa_type=BigInteger)
    cpu_busy: int = Field(default=0, sa_type=BigInteger)
    cpu_total: int = Field(default=0, sa_type=BigInteger)
    boot_id: str = ""
    interfaces: str = ""
    """Names of the interfaces whose bytes are counted; with others, the counters mean something else."""


class Traffic(Table, table=True):
    """Bytes that a host moved in one quota month, summed over counter resets."""

    __tablename__ = "core_traffic"

    host_id: int = Field(foreign_key="core_host.id", ondelete="CASCADE", primary_key=True)
    begins: date = Field(primary_key=True)
    received: int = Field(default=0, sa_type=BigInteger)
    sent: int = Field(default=0, sa_type=BigInteger)
