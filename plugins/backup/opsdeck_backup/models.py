"""The tables: targets, the catalogue of their backups, and the proofs that these restore."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger
from sqlmodel import JSON, Field

from opsdeck.api import Table, utcnow


class Target(Table, table=True):
    """A database server that is backed up, where to, and by which rules."""

    __tablename__ = "backup_target"

    name: str = Field(primary_key=True, max_length=40)
    kind: str = "host"
    """`host`: the database runs there; `kubernetes`: kubectl there reaches the cluster where it runs."""
    host: str
    chart: str = ""
    namespace: str = ""
    workload: str = ""
    """Name of the StatefulSet."""
    pod: str = ""
    """"" is the workload's first."""
    claim: str = ""
    """"" is the one that the chart makes for the workload's first pod."""
    kubeconfig: str = ""
    """A file on the host; "" is kubectl's own."""
    engine: str = "mariadb"
    remote: str
    """Where in rclone's words: `store:bucket/folder`."""
    store_secret: str
    """Name of the secret that holds rclone's configuration."""
    recipients: list[str] = Field(default_factory=list, sa_type=JSON)
    """Public age keys; each of their private halves opens every backup."""
    key_secret: str = ""
    """Name of the secret that holds an age identity, for restores and drills."""
    login_secret: str = ""
    """Name of the secret that holds an options file for the database; "" logs in as root through the socket."""
    rpo_minutes: int = 120
    full_hours: int = 168
    """A chain older than this is followed by a new full backup."""
    chain_length: int = 24
    level: int = 1
    throttle: int = 0
    limit: str = "off"
    read_back: bool = True
    keep_hourly: int = 0
    keep_daily: int = 0
    keep_weekly: int = 0
    keep_monthly: int = 0
    keep_chains: int = 2
    drill_host: str = ""
    questions: list[str] = Field(default_factory=list, sa_type=JSON)
    """SQL that a restored copy must answer with something else than nothing, 0 or NULL."""
    created: datetime = Field(default_factory=utcnow)


class ItemState(StrEnum):
    """How a backup stands. Only `good` ones have a manifest in the store."""

    RUNNING = "running"
    GOOD = "good"
    FAILED = "failed"
    MISSING = "missing"
    """It was good, and the store no longer has it whole."""


class Item(Table, table=True):
    """One backup as the catalogue knows it; the manifest in the store is the truth."""

    __tablename__ = "backup_item"

    id: str = Field(primary_key=True, max_length=40)
    target: str = Field(index=True)
    chain: str
    parent: str = ""
    kind: str
    reason: str = ""
    state: str = ItemState.RUNNING
    job_id: int | None = None
    started: datetime
    finished: datetime | None = None
    raw: int = Field(default=0, sa_type=BigInteger)
    stored: int = Field(default=0, sa_type=BigInteger)
    from_lsn: int = Field(default=0, sa_type=BigInteger)
    to_lsn: int = Field(default=0, sa_type=BigInteger)
    version: str = ""
    position: str = ""
    manifest: str = ""
    """The manifest as it lies in the store, JSON; "" while there is none."""
    error: str = ""


class Proof(Table, table=True):
    """One look at whether a backup restores: how deep, how it ended, how long each part took."""

    __tablename__ = "backup_proof"

    id: int | None = Field(default=None, primary_key=True)
    target: str = Field(index=True)
    item: str
    depth: str
    host: str = ""
    ok: bool
    at: datetime = Field(default_factory=utcnow)
    seconds: float = 0.0
    detail: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    job_id: int | None = None
