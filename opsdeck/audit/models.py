"""The table of the audit chain. Rows are only ever added; triggers refuse anything else."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Field

from opsdeck.db import Table


class AuditEntry(Table, table=True):
    """Who did what to which target, from where; bound to the entry before it."""

    __tablename__ = "core_audit"

    seq: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    at: datetime = Field(index=True)
    actor: str = Field(index=True)
    door: str
    verb: str = Field(index=True)
    """`noun.verb_past`: `host.added`, `job.submitted`, `command.ran`, `secret.revealed`, `login.failed`."""
    target: str = Field(index=True)
    """The thing's name, with its kind: `host:web1`, `job:17`."""
    body: str
    """The whole entry as canonical JSON, verbatim what was hashed."""
    previous: str
    hash: str
