"""The tables of the secret store. No row holds anything in clear."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Field

from opsdeck.clock import utcnow
from opsdeck.db import Table


class DataKey(Table, table=True):
    """A random key, wrapped under the master key named by `master_id`."""

    __tablename__ = "core_data_key"

    id: str = Field(primary_key=True)
    master_id: str = Field(index=True)
    wrapped: bytes
    created: datetime = Field(default_factory=utcnow)
    retired: datetime | None = None


class Secret(Table, table=True):
    """A named value, sealed. `blob` names its format in its first byte; `data_key` the key that opens it."""

    __tablename__ = "core_secret"

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(unique=True, max_length=100)
    kind: str = "text"
    """`text`, `password`, `ssh-key`, `ssh-certificate`, `token`, or a kind that a plugin declares."""
    data_key: str = Field(foreign_key="core_data_key.id", index=True)
    blob: bytes
    version: int = 1
    note: str = ""
    created: datetime = Field(default_factory=utcnow)
    updated: datetime = Field(default_factory=utcnow)
    updated_by: str = ""
    last_used: datetime | None = None
