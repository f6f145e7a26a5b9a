"""Time: aware, in UTC, from one place that a test can move."""

from __future__ import annotations

from datetime import UTC, datetime


def utcnow() -> datetime:
    """Give the present moment, aware, in UTC."""
    return datetime.now(UTC)


def stamp(at: datetime) -> str:
    """Give `at` as a name that sorts by time on disks and stores: `20261123T014500Z`."""
    return at.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
