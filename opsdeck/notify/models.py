"""The table of incidents."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Field

from opsdeck.clock import utcnow
from opsdeck.db import Table


class Incident(Table, table=True):
    """Something wrong, from first sight to recovery: told once, and once when over."""

    __tablename__ = "core_incident"

    id: int | None = Field(default=None, primary_key=True)
    key: str = Field(index=True)
    """What is wrong, so that the same fault is one incident: `host-key:web1`, `schedule-missed:nightly`."""
    severity: str = "broken"
    """`broken` or `attention`."""
    title: str
    detail: str = ""
    link: str = ""
    plugin: str = "core"
    host: str = ""
    opened: datetime = Field(default_factory=utcnow, index=True)
    seen: datetime = Field(default_factory=utcnow)
    count: int = 1
    closed: datetime | None = Field(default=None, index=True)
