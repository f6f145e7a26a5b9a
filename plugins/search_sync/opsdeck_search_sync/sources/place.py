"""Where a database is."""

from __future__ import annotations

from dataclasses import dataclass

from opsdeck.api import Sensitive


@dataclass(frozen=True)
class Place:
    """Where the database is, and who we are there."""

    address: str
    port: int
    database: str
    user: str
    password: Sensitive | None = None
