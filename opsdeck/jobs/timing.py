"""When a schedule is planned to run: pure functions of the rule, the zone and a moment.

Two kinds of rule. `Cron` has crontab's five fields; a rule with chosen hours follows the wall clock, so an hour that
comes twice (end of summer time) counts once and one that is left out (its start) moves forward by the length of the
gap. A rule for every hour follows real time. `Every` counts seconds from an anchor and knows no zones.

The fields are matched by APScheduler's `CronTrigger`, always on wall-clock times in UTC: its own handling of zones
fires twice in the repeated hour, and its weekday 0 is Monday where crontab's is Sunday. Zones are applied here.
"""

from __future__ import annotations

import heapq
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from apscheduler.triggers.cron import CronTrigger

from opsdeck.clock import stamp
from opsdeck.errors import Invalid

SHORTEST_SECONDS = 10
LONGEST_SECONDS = 366 * 86400
_DAY = timedelta(hours=25)
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_NEVER_AFTER = datetime(2200, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, order=True)
class Planned:
    """One planned time.

    `key` names it within its schedule, the same on every node and after every restart. `note` says in one sentence
    what a change of the clocks does to it, else it is empty.
    """

    at: datetime
    key: str = field(compare=False)
    local: datetime = field(compare=False)
    note: str = field(compare=False, default="")


class Timing(Protocol):
    """A rule that gives planned times."""

    def after(self, moment: datetime) -> Iterator[Planned]:
        """Give the planned times later than `moment`, in order, each once."""
        ...


@dataclass(frozen=True)
class Every:
    """Every so many seconds, counted from `anchor`."""

    seconds: int
    anchor: datetime
    zone: ZoneInfo

    def after(self, moment: datetime) -> Iterator[Planned]:
        """Give the planned times later than `moment`."""
        anchor = self.anchor.astimezone(UTC).replace(microsecond=0)
        passed = (moment - anchor) // timedelta(seconds=self.seconds)
        for count in itertools.count(passed + 1):
            at = anchor + timedelta(seconds=self.seconds * count)
            yield Planned(at, stamp(at), at.astimezone(self.zone))


@dataclass(frozen=True)
class Cron:
    """Crontab's five fields in a zone."""

    text: str
    zone: ZoneInfo

    @cached_property
    def _triggers(self) -> tuple[CronTrigger, ...]:
        """When both day fields are restricted, crontab takes a day that fits either: one trigger each, merged."""
        minute, hour, day, month, weekday = _fields(self.text)
        either = not day.startswith("*") and not weekday.startswith("*")
        pairs = [(day, "*"), ("*", _weekdays(weekday))] if either else [(day, _weekdays(weekday))]
        made: list[CronTrigger] = []
        try:
            for days, weekdays in pairs:
                made.append(
                    CronTrigger(
                        minute=minute,
                        hour=hour,
                        day=days,
                        month=month,
                        day_of_week=weekdays,
                        timezone=UTC,
                        end_date=_NEVER_AFTER,
                    )
                )
        except ValueError as fault:
            raise Invalid(
                f"{self.text!r} is no cron rule: {fault}.",
                field="cron",
                hint="give minute, hour, day, month and weekday, such as '30 2 * * *' or '0 9 * * mon-fri'",
            ) from fault
        return tuple(made)

    @cached_property
    def any_hour(self) -> bool:
        """Tell whether the rule runs in every hour of its days, and so follows real time."""
        hour = next(part for part in self._triggers[0].fields if part.name == "hour")
        midnight = datetime(2026, 1, 1, tzinfo=UTC)
        return all(hour.get_next_value(midnight.replace(hour=number)) == number for number in range(24))

    def after(self, moment: datetime) -> Iterator[Planned]:
        """Give the planned times later than `moment`."""
        here = moment.astimezone(self.zone)
        start = here.replace(tzinfo=None) - _shift(here.replace(tzinfo=None), self.zone)
        waiting: list[tuple[datetime, bool, Planned]] = []
        last = moment
        for wall in self._walls(start):
            moving = _shift(wall, self.zone)
            for planned, moved in self._moments(wall):
                heapq.heappush(waiting, (planned.at, moved, planned))
            # Near a change of the clocks a later wall time can be an earlier moment: hold back what it could pass.
            sure = wall.replace(tzinfo=UTC) - (_offset(wall, self.zone) + moving)
            while waiting and (not moving or waiting[0][0] < sure):
                at, _, planned = heapq.heappop(waiting)
                if at > last:
                    last = at
                    yield planned
        for at, _, planned in sorted(waiting):
            if at > last:
                last = at
                yield planned

    def _walls(self, start: datetime) -> Iterator[datetime]:
        """Give the wall-clock times of the rule from `start` on, in order, without a zone."""
        streams = [_stream(trigger, start.replace(tzinfo=UTC)) for trigger in self._triggers]
        last: datetime | None = None
        for at in heapq.merge(*streams):
            if at != last:
                last = at
                yield at.replace(tzinfo=None)

    def _moments(self, wall: datetime) -> Iterator[tuple[Planned, bool]]:
        """Give the moments that a wall-clock time stands for, and whether it had to be moved out of a gap."""
        first = wall.replace(tzinfo=self.zone)
        second = first.replace(fold=1)
        at, again = first.astimezone(UTC), second.astimezone(UTC)
        local = at.astimezone(self.zone)
        moved = local.replace(tzinfo=None) != wall
        twice = not moved and again != at
        note = ""
        if moved:
            note = f"The clocks go forward: {wall:%H:%M} is left out that day, so it runs at {local:%H:%M}."
        elif twice:
            other = "the second time is a slot of its own" if self.any_hour else "it runs the first time only"
            note = f"The clocks go back: {wall:%H:%M} comes twice that day, {other}."
        key = stamp(at) if self.any_hour else f"{wall:%Y%m%dT%H%M%S} {self.zone.key}"
        yield Planned(at, key, local, note), moved
        if twice and self.any_hour:
            yield Planned(again, stamp(again), second, note), False


def timing(cron: str, every_seconds: int | None, time_zone: str, anchor: datetime) -> Timing:
    """Make the rule. Raises `Invalid`, naming the field, for a rule or zone that cannot be, or that never comes."""
    zone = zone_named(time_zone)
    if bool(cron) == bool(every_seconds):
        raise Invalid(
            "give either a cron rule or an interval.", field="cron", hint="--cron '30 2 * * *' or --every 15m"
        )
    if every_seconds:
        if not SHORTEST_SECONDS <= every_seconds <= LONGEST_SECONDS:
            raise Invalid(
                f"an interval of {every_seconds} s is out of bounds.",
                field="every",
                hint=f"give {SHORTEST_SECONDS} s to 366 days",
            )
        return Every(every_seconds, anchor, zone)
    rule = Cron(cron, zone)
    if next(rule.after(anchor), None) is None:
        raise Invalid(f"no day fits the cron rule {cron!r}.", field="cron", hint="check its day and month")
    return rule


def zone_named(name: str) -> ZoneInfo:
    """Find a time zone. Raises `Invalid` when there is none of that name."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as fault:
        raise Invalid(
            f"no time zone is called {name!r}.", field="time_zone", hint="give a name such as Europe/Berlin or UTC"
        ) from fault


def seconds(text: str) -> int:
    """Read `90s`, `15m`, `1h30m`, `2d`, `1w` as seconds. Raises `Invalid`."""
    plain = text.strip().lower().replace(" ", "")
    if not re.fullmatch(r"(\d{1,9}[smhdw])+", plain):
        raise Invalid(f"{text!r} is no interval.", field="every", hint="give a number and a unit: 90s, 15m, 6h, 1d, 1w")
    return sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+)([smhdw])", plain))


def newest(rule: Timing, start: datetime, end: datetime, limit: int) -> tuple[tuple[Planned, ...], bool]:
    """Give the newest planned times in `start < at <= end`, at most `limit`, and whether there were more before.

    The cost is bounded by `limit`, however far apart the ends are.
    """
    if end <= start:
        return (), False
    most, few, many = 8 * limit, timedelta(), None
    span = timedelta(hours=1)
    while True:
        begin = max(start, end - span)
        found = tuple(itertools.islice(_until(rule.after(begin), end), most + 1))
        if len(found) > most:
            many = span
        elif len(found) > limit or begin == start:
            break
        else:
            few = span
        span = span * 4 if many is None else few + (many - few) / 2
    return found[-limit:], len(found) > limit or begin > start


def _until(times: Iterator[Planned], end: datetime) -> Iterator[Planned]:
    return itertools.takewhile(lambda planned: planned.at <= end, times)


def _stream(trigger: CronTrigger, start: datetime) -> Iterator[datetime]:
    at = trigger.get_next_fire_time(None, start)
    while at is not None:
        yield at
        at = trigger.get_next_fire_time(None, at + timedelta(seconds=1))


def _offset(wall: datetime, zone: ZoneInfo) -> timedelta:
    return wall.replace(tzinfo=zone).utcoffset() or timedelta()


def _shift(wall: datetime, zone: ZoneInfo) -> timedelta:
    """Give by how much the clocks change within a day of `wall`; nothing on nearly all days."""
    offsets = [_offset(wall + aside, zone) for aside in (-_DAY, timedelta(), _DAY)]
    return max(offsets) - min(offsets)


def _fields(text: str) -> tuple[str, str, str, str, str]:
    parts = text.lower().split()
    if len(parts) != 5:
        raise Invalid(
            f"{text!r} has {len(parts)} fields, a cron rule has 5.",
            field="cron",
            hint="give minute, hour, day, month and weekday, such as '30 2 * * *'",
        )
    minute, hour, day, month, weekday = parts
    return minute, hour, day, month, weekday


def _weekdays(text: str) -> str:
    """Write crontab's weekdays (0 and 7 are Sunday, names, ranges, steps) as names."""
    if text == "*":
        return text
    chosen: set[str] = set()
    for part in text.split(","):
        match = re.fullmatch(r"(?:(\*)|(\w+)(?:-(\w+))?)(?:/(\d+))?", part)
        if match is None:
            raise Invalid(f"{part!r} is no weekday.", field="cron", hint="give 0-7, sun-sat, a range or a list")
        star, first, last, step = match.groups()
        begin = 0 if star else _weekday(first)
        end = 6 if star else _weekday(last) if last else 6 if step else begin
        if end < begin or (last == "7" and begin == 7):
            end += 7
        every = int(step or 1)
        if not 1 <= every <= 7:
            raise Invalid(f"{part!r} is no weekday.", field="cron", hint="a step is 1 to 7")
        chosen |= {_WEEKDAYS[number % 7] for number in range(begin, end + 1, every)}
    return ",".join(sorted(chosen, key=_WEEKDAYS.index))


def _weekday(text: str) -> int:
    if text in _WEEKDAYS:
        return _WEEKDAYS.index(text)
    if text.isdigit() and int(text) <= 7:
        return int(text)
    raise Invalid(f"{text!r} is no weekday.", field="cron", hint="give 0-7, sun-sat, a range or a list")
