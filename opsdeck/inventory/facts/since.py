"""A moment as people say it: a date, a time, `3d`, `yesterday`, `tuesday`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from opsdeck.errors import Invalid

_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_SPAN = re.compile(r"(\d{1,6})\s*(m|min|h|hours?|d|days?|w|weeks?)(\s+ago)?\Z")
_SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 604800}


def since(text: str, now: datetime) -> datetime:
    """Read a moment before `now`; days begin at midnight UTC, and a weekday is the last one of that name.

    Raises `Invalid`.
    """
    said = text.strip().lower()
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if said in ("today", "yesterday"):
        return midnight - timedelta(days=said == "yesterday")
    for number, day in enumerate(_DAYS):
        if len(said) >= 3 and day.startswith(said):
            return midnight - timedelta(days=(midnight.weekday() - number) % 7 or 7)
    if match := _SPAN.match(said):
        return now - timedelta(seconds=int(match[1]) * _SECONDS[match[2][0]])
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError as fault:
        raise Invalid(
            f"{text!r} is no moment.",
            field="since",
            hint="write 2026-11-20, 2026-11-20T14:00, 3d, yesterday or tuesday",
        ) from fault
    return at if at.tzinfo else at.replace(tzinfo=UTC)
