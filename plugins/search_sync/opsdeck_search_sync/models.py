"""The tables: where data comes from and goes to, each sync, and how far each of its generations got."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlmodel import JSON, Field

from opsdeck.api import Table, utcnow


class Wanted(StrEnum):
    """What a person wants of a sync."""

    RUNNING = "running"
    PAUSED = "paused"
    GONE = "gone"
    """The service drops slots, publication and spare indexes, then the rows."""


class Shown(StrEnum):
    """Which content people search."""

    NEWEST = "newest"
    PREVIOUS = "previous"
    """What there was before the last rebuild, as long as it is kept; changes do not reach it."""


class Phase(StrEnum):
    """How far a generation of a sync is. It only moves forward."""

    NEW = "new"
    """Nothing exists yet but the row."""
    COPYING = "copying"
    """Index, settings and position are there; rows are copied in the order of the key."""
    REPLAYING = "replaying"
    """All rows were copied; changes since the position are replayed into the shadow."""
    SWAPPING = "swapping"
    """The shadow holds all up to `position`; the swap was asked for, or is about to be."""
    LIVE = "live"
    """It feeds the index that people search."""
    RETIRED = "retired"
    """Its content is kept under the shadow's name, to go back to, until `keep_until`."""


class Source(Table, table=True):
    """A database that rows come from. With `host` set, it is reached through that host."""

    __tablename__ = "search_sync_source"

    name: str = Field(primary_key=True)
    kind: str
    host: str = ""
    address: str = "127.0.0.1"
    port: int
    database: str
    user: str
    secret: str = ""
    tls: str = Field("prefer", sa_column_kwargs={"server_default": "prefer"})
    tls_ca: str = Field("", sa_column_kwargs={"server_default": ""})
    """Name of the secret with the password; "" for none."""
    identity: str = ""
    """What the server said it is when it was first looked at; another answer later stops the syncs."""


class Instance(Table, table=True):
    """A Meilisearch. With `host` set, it is reached through that host."""

    __tablename__ = "search_sync_instance"

    name: str = Field(primary_key=True)
    url: str
    host: str = ""
    secret: str = ""
    """Name of the secret with the API key; "" for none."""
    batch: int = 2000
    """Most documents sent at once."""
    wait: float = 0.2
    """Seconds that a change waits for company."""


class Sync(Table, table=True):
    """One table kept in one index."""

    __tablename__ = "search_sync_sync"

    name: str = Field(primary_key=True)
    source: str = Field(foreign_key="search_sync_source.name")
    instance: str = Field(foreign_key="search_sync_instance.name")
    table: str
    index: str
    mapping: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    """As `Mapping` of `mapping.py` writes it."""
    settings: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    """The index's settings, as Meilisearch takes them."""
    undo_hours: int = 24
    limit_mb: int = 4096
    """Above this much log kept at the source for this sync, the source's disk comes first: see `problem`."""
    alarm_seconds: int = 300
    """Seconds behind, or without a word of a source whose log goes on, that open an incident."""
    wanted: str = Wanted.PAUSED
    shown: str = Shown.NEWEST
    """What a person wants to be searched."""
    problem: str = ""
    """Why it cannot go on until a person does something; "" when it can."""
    hint: str = ""
    generation: int = 0
    """Number of the newest generation there ever was."""
    retry: int = 0
    """Raised by a person to have the dead letters tried again; the service notes what it saw."""
    created: datetime = Field(default_factory=utcnow)


class Generation(Table, table=True):
    """One copy of a sync's table: its mapping, its shadow index, its position in the source's log."""

    __tablename__ = "search_sync_generation"

    id: int | None = Field(default=None, primary_key=True)
    sync: str = Field(foreign_key="search_sync_sync.name", index=True)
    number: int
    phase: str = Phase.NEW
    mapping: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    settings: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    shadow: str = ""
    """Name of the shadow index."""
    position: str = ""
    """Everything before this in the source's log has succeeded in Meilisearch."""
    shape: dict[str, str] = Field(default_factory=dict, sa_type=JSON, sa_column_kwargs={"server_default": "{}"})
    """Type of each column that the mapping needs, as the copy found it; "" has the names of the primary key."""
    cursor: list[Any] | None = Field(default=None, sa_type=JSON)
    """Key of the last row whose copy succeeded."""
    copied: int = 0
    estimate: int = 0
    swap_after: int | None = None
    """Newest task before the swap was asked for: a swap of ours after it was this one."""
    fence: int = 0
    begun: datetime = Field(default_factory=utcnow)
    moved: datetime = Field(default_factory=utcnow)
    keep_until: datetime | None = None
    turned: bool = False
    """Set while `shadow` holds this generation's content, and the index that people search what it was before."""


class Reading(Table, table=True):
    """How a sync does, as its service saw it last."""

    __tablename__ = "search_sync_reading"

    sync: str = Field(primary_key=True)
    at: datetime = Field(default_factory=utcnow)
    node: str = ""
    behind_seconds: float | None = None
    behind_bytes: int | None = None
    retained_bytes: int | None = None
    in_flight: int = 0
    oldest_seconds: float = 0.0
    state: str = ""
    detail: str = ""


class Minute(Table, table=True):
    """Documents written and removed in one minute, as succeeded in Meilisearch."""

    __tablename__ = "search_sync_minute"

    sync: str = Field(primary_key=True)
    minute: datetime = Field(primary_key=True)
    written: int = 0
    removed: int = 0


class DeadLetter(Table, table=True):
    """A document that Meilisearch refused, with its reason; the newest of its id."""

    __tablename__ = "search_sync_dead_letter"

    sync: str = Field(primary_key=True)
    generation: int = Field(primary_key=True)
    document: str = Field(primary_key=True)
    """The document's id, as JSON."""
    verb: str
    body: str = ""
    code: str
    reason: str
    at: datetime = Field(default_factory=utcnow)
