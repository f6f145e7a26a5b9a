"""Numbers and times as people read them, in their language and zone."""

from __future__ import annotations

from contextvars import ContextVar
from datetime import UTC, date, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from babel.dates import format_date, format_datetime, format_time

from opsdeck.clock import utcnow
from opsdeck_web.language import _, current

zone: ContextVar[str] = ContextVar("zone", default="UTC")
"""The reader's time zone, an IANA name."""


def valid_zone(name: str | None) -> str:
    """Give `name` when it is a time zone, else UTC."""
    if not name:
        return "UTC"
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return "UTC"
    return name


def reader_zone() -> tzinfo:
    """Give the reader's zone."""
    return ZoneInfo(zone.get())


def bytes_(count: float | None) -> str:
    """Give a size with a decimal unit and two or three figures: `412 GB`, `1.3 TB`."""
    if count is None:
        return "–"
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if abs(value) < 999.5 or unit == "PB":
            break
        value /= 1000
    digits = 0 if unit == "B" or abs(value) >= 9.95 or value == int(value) else 1
    return f"{value:.{digits}f} {unit}"


def binary(count: float | None) -> str:
    """Give a size of memory: `3.8 GiB`."""
    if count is None:
        return "–"
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1023.5 or unit == "TiB":
            break
        value /= 1024
    digits = 0 if unit == "B" or abs(value) >= 9.95 or value == int(value) else 1
    return f"{value:.{digits}f} {unit}"


def duration(length: float | timedelta | None) -> str:
    """Give a length of time with at most two units: `0.4 s`, `12 s`, `1 h 40 min`, `6 d`."""
    if length is None:
        return "–"
    seconds = length.total_seconds() if isinstance(length, timedelta) else float(length)
    if seconds < 0:
        seconds = -seconds
    if seconds < 0.9995:
        return _("%d ms") % round(seconds * 1000)
    if seconds < 9.95:
        return _("%.1f s") % seconds
    if seconds < 59.5:
        return _("%d s") % round(seconds)
    minutes = round(seconds / 60)
    if minutes < 60:
        return _("%d min") % minutes
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return (_("%d h") % hours) + (" " + _("%d min") % minutes if minutes else "")
    days = round(seconds / 86400)
    return _("%d d") % days


def number(value: float | None) -> str:
    """Give a number with thousands apart: `18,204`."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def percent(share: float | None) -> str:
    """Give a share of 1 as `31 %`."""
    return "–" if share is None else f"{share * 100:.0f} %"


def ago(at: datetime, now: datetime | None = None) -> str:
    """Give a time as its distance from now: `4 min ago`, `in 18 min`."""
    gap = ((now or utcnow()) - at).total_seconds()
    if abs(gap) < 10:
        return _("now")
    if gap > 0:
        return _("%s ago") % duration(gap)
    return _("in %s") % duration(-gap)


def exact(at: datetime) -> str:
    """Give a time in the reader's zone and in UTC."""
    local = at.astimezone(reader_zone())
    utc = at.astimezone(UTC)
    text = f"{local:%Y-%m-%d %H:%M:%S} {zone.get()}"
    return text if zone.get() == "UTC" else f"{text} · {utc:%Y-%m-%d %H:%M:%S} UTC"


def clock(at: datetime) -> str:
    """Give the hour and minute when it is today for the reader, else the day as well."""
    local = at.astimezone(reader_zone())
    today = utcnow().astimezone(reader_zone()).date()
    if local.date() == today:
        return format_time(local, "HH:mm", locale=current.get())
    if abs((local.date() - today).days) < 180:
        return format_datetime(local, _("d MMM HH:mm"), locale=current.get())
    return day(local.date())


def day(on: date | None) -> str:
    """Give a day: `3 Dec`, with the year when the month alone could be mistaken."""
    if on is None:
        return "–"
    near = abs((on - utcnow().astimezone(reader_zone()).date()).days) < 300
    return format_date(on, _("d MMM") if near else _("d MMM yyyy"), locale=current.get())


def log_time(at: datetime) -> str:
    """Give the time of a line of log."""
    return f"{at.astimezone(reader_zone()):%H:%M:%S}"


def local(at: datetime) -> str:
    """Give a time to the minute in the reader's zone."""
    return f"{at.astimezone(reader_zone()):%Y-%m-%d %H:%M}"
