"""Planned times, by example and by property, with the changes of the clocks in several zones."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from opsdeck.errors import Invalid
from opsdeck.jobs.timing import Cron, Every, Planned, newest, seconds, timing, zone_named

BERLIN = ZoneInfo("Europe/Berlin")
ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Havana",  # changes at midnight
    "Australia/Lord_Howe",  # changes by half an hour
    "Asia/Shanghai",
    "Asia/Kathmandu",
    "America/St_Johns",
    "Pacific/Apia",  # left out 30 December 2011
    "Africa/Casablanca",
]


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type]


def first(text: str, after: datetime, n: int = 3, zone: str = "Europe/Berlin") -> list[Planned]:
    return list(itertools.islice(Cron(text, ZoneInfo(zone)).after(after), n))


def test_an_hour_that_comes_twice_runs_once() -> None:
    times = first("30 2 * * *", utc(2026, 10, 24, 12), 2)
    assert [time.at for time in times] == [utc(2026, 10, 25, 0, 30), utc(2026, 10, 26, 1, 30)]
    assert "02:30 comes twice" in times[0].note
    assert times[0].key == "20261025T023000 Europe/Berlin"


def test_an_hour_that_is_left_out_runs_later() -> None:
    times = first("30 2 * * *", utc(2026, 3, 28, 12), 2)
    assert [time.at for time in times] == [utc(2026, 3, 29, 1, 30), utc(2026, 3, 30, 0, 30)]
    assert "runs at 03:30" in times[0].note


def test_a_rule_for_every_hour_follows_real_time() -> None:
    autumn = [time.at for time in first("15 * * * *", utc(2026, 10, 24, 23), 5)]
    spring = [time.at for time in first("15 * * * *", utc(2026, 3, 28, 23), 5)]
    assert autumn == [utc(2026, 10, 24, 23, 15) + timedelta(hours=n) for n in range(5)]
    assert spring == [utc(2026, 3, 28, 23, 15) + timedelta(hours=n) for n in range(5)]


def test_two_rules_that_meet_after_a_gap_run_once() -> None:
    times = first("30 2,3 * * *", utc(2026, 3, 29, 0), 2)
    assert [time.at for time in times] == [utc(2026, 3, 29, 1, 30), utc(2026, 3, 30, 0, 30)]


@pytest.mark.parametrize(
    ("weekday", "days"),
    [
        ("0", {6}),
        ("7", {6}),
        ("sun", {6}),
        ("SUN", {6}),
        ("1", {0}),
        ("1-5", {0, 1, 2, 3, 4}),
        ("mon-fri", {0, 1, 2, 3, 4}),
        ("5-7", {4, 5, 6}),
        ("fri-mon", {4, 5, 6, 0}),
        ("6-0", {5, 6}),
        ("*/2", {6, 1, 3, 5}),
        ("1-5/2", {0, 2, 4}),
        ("mon,wed", {0, 2}),
        ("0-7", set(range(7))),
    ],
)
def test_weekdays_are_those_of_crontab(weekday: str, days: set[int]) -> None:
    assert {time.at.weekday() for time in first(f"0 0 * * {weekday}", utc(2026, 11, 1), 14, "UTC")} == days


def test_two_day_fields_are_either_or_as_in_crontab() -> None:
    days = [time.at.day for time in first("0 0 13 * fri", utc(2026, 12, 1), 5, "UTC")]
    assert days == [4, 11, 13, 18, 25]


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ("", "cron"),
        ("* * * *", "cron"),
        ("* * * * * *", "cron"),
        ("60 * * * *", "cron"),
        ("* 24 * * *", "cron"),
        ("* * 0 * *", "cron"),
        ("* * * 13 *", "cron"),
        ("* * * * 8", "cron"),
        ("* * * * mon-", "cron"),
        ("*/0 * * * *", "cron"),
        ("a b c d e", "cron"),
        ("0 0 31 2 *", "cron"),
        ("$(id) * * * *", "cron"),
    ],
)
def test_a_bad_rule_names_its_field(rule: str, field: str) -> None:
    with pytest.raises(Invalid) as fault:
        timing(rule, None, "UTC", utc(2026, 1, 1))
    assert fault.value.field == field
    assert fault.value.hint


@pytest.mark.parametrize("zone", ["", "Mars/Base", "../../etc/passwd", "/etc/localtime", "Europe/", "\0"])
def test_a_bad_zone_is_refused(zone: str) -> None:
    with pytest.raises(Invalid) as fault:
        zone_named(zone)
    assert fault.value.field == "time_zone"


@pytest.mark.parametrize(
    ("text", "value"), [("90s", 90), ("15m", 900), ("1h30m", 5400), (" 2 D ", 172800), ("1w", 604800)]
)
def test_intervals(text: str, value: int) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "15", "m", "-5m", "1.5h", "15m;", "15 minutes"])
def test_bad_intervals(text: str) -> None:
    with pytest.raises(Invalid):
        seconds(text)


@pytest.mark.parametrize("value", [1, 9, 367 * 86400])
def test_intervals_out_of_bounds(value: int) -> None:
    with pytest.raises(Invalid):
        timing("", value, "UTC", utc(2026, 1, 1))


def test_both_or_no_rule() -> None:
    with pytest.raises(Invalid):
        timing("* * * * *", 60, "UTC", utc(2026, 1, 1))
    with pytest.raises(Invalid):
        timing("", None, "UTC", utc(2026, 1, 1))


minutes = st.sampled_from(["0", "30", "*", "*/15", "7,37", "59"])
hours = st.sampled_from(["*", "0", "1", "2", "3", "23", "*/2", "1-3", "2,3", "0,12"])
days = st.sampled_from(["*", "1", "25-31", "*/5"])
weekdays = st.sampled_from(["*", "0", "mon-fri", "sun", "6-7"])
rules = st.builds(lambda *parts: " ".join((*parts[:3], "*", parts[3])), minutes, hours, days, weekdays)
zones = st.sampled_from(ZONES)
moments = st.datetimes(datetime(2011, 1, 1), datetime(2030, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001


@st.composite
def near_change(draw: st.DrawFn) -> datetime:
    """A moment near one of the changes of the clocks of the zones above."""
    day = draw(
        st.sampled_from(
            [
                utc(2026, 3, 8), utc(2026, 11, 1), utc(2026, 3, 29), utc(2026, 10, 25), utc(2026, 4, 4),
                utc(2026, 10, 3), utc(2011, 12, 30), utc(2026, 2, 15), utc(2026, 3, 22),
            ]
        )
    )  # fmt: skip
    return day + timedelta(minutes=draw(st.integers(-2000, 2000)), seconds=draw(st.integers(0, 59)))


@settings(max_examples=300)
@example("0,30 1,2,3 * * *", "Europe/Berlin", utc(2026, 3, 28, 20), 20)
@example("0,30 1,2,3 * * *", "Europe/Berlin", utc(2026, 3, 29, 0, 30), 1)
@example("*/15 1-3 * * *", "Europe/Berlin", utc(2026, 10, 24, 20), 5)
@example("*/15 * * * *", "Pacific/Apia", utc(2011, 12, 29, 20), 30)
@given(rules, zones, st.one_of(moments, near_change()), st.integers(0, 60))
def test_times_grow_and_do_not_depend_on_where_one_starts(rule: str, zone: str, start: datetime, skip: int) -> None:
    cron = Cron(rule, ZoneInfo(zone))
    times = list(itertools.islice(cron.after(start), 60))
    assert all(a.at < b.at for a, b in itertools.pairwise(times))
    assert all(time.at > start for time in times)
    assert len({time.key for time in times}) == len(times)
    # A restart in the middle gives the same times with the same keys.
    middle = start + (times[-1].at - start) * skip / 60
    again = list(itertools.takewhile(lambda time: time.at <= times[-1].at, cron.after(middle)))
    assert [(time.at, time.key) for time in again] == [(time.at, time.key) for time in times if time.at > middle]


@settings(max_examples=150)
@example("*/15", "1-3", "Europe/Berlin", utc(2026, 3, 28, 12))
@example("*/15", "1-3", "Europe/Berlin", utc(2026, 10, 24, 12))
@example("*/15", "*", "Europe/Berlin", utc(2026, 10, 24, 12))
@example("*/15", "*", "Australia/Lord_Howe", utc(2026, 4, 4, 0))
@given(minutes, hours, zones, near_change())
def test_each_wall_time_runs_as_often_as_promised(minute: str, hour: str, zone: str, start: datetime) -> None:
    """Against a plain walk over every minute: wall times that exist are there; none is there that the rule lacks."""
    place = ZoneInfo(zone)
    cron = Cron(f"{minute} {hour} * * *", place)
    end = start + timedelta(days=2)
    got = {time.at for time in itertools.takewhile(lambda time: time.at <= end, cron.after(start))}
    wanted_walls = {
        (at.hour, at.minute) for at in itertools.islice(_walls(f"{minute} {hour} * * *"), 1440) if at.day == 1
    }
    begin = start.replace(second=0, microsecond=0)
    for count in range(1, 2 * 1440):
        at = begin + timedelta(minutes=count)
        if not start < at <= end:
            continue
        local = at.astimezone(place)
        if (local.hour, local.minute) in wanted_walls:
            again = local.fold == 1 and local.replace(fold=0).utcoffset() != local.utcoffset()
            assert (at in got) == (cron.any_hour or not again), local
        elif at in got:
            before = (at - timedelta(hours=25)).astimezone(place).utcoffset()
            assert before != local.utcoffset(), f"{local} is not of the rule"


def _walls(rule: str) -> itertools.takewhile[datetime]:
    times = (time.at for time in Cron(rule, ZoneInfo("UTC")).after(utc(2025, 12, 31, 23, 59, 59)))
    return itertools.takewhile(lambda at: at < utc(2026, 1, 2), times)


@settings(max_examples=100)
@given(st.integers(10, 10**6), moments, moments)
def test_an_interval_keeps_its_step(step: int, anchor: datetime, start: datetime) -> None:
    times = list(itertools.islice(Every(step, anchor, BERLIN).after(start), 5))
    assert start < times[0].at <= start + timedelta(seconds=step)
    assert all(b.at - a.at == timedelta(seconds=step) for a, b in itertools.pairwise(times))
    assert (times[0].at - anchor.replace(microsecond=0)) % timedelta(seconds=step) == timedelta()


@settings(max_examples=100)
@given(rules, zones, near_change(), st.integers(0, 2000), st.integers(1, 50))
def test_the_newest_of_a_window(rule: str, zone: str, start: datetime, span: int, limit: int) -> None:
    cron = Cron(rule, ZoneInfo(zone))
    end = start + timedelta(minutes=span)
    every = list(itertools.takewhile(lambda time: time.at <= end, cron.after(start)))
    found, more = newest(cron, start, end, limit)
    assert list(found) == every[-limit:]
    assert more or len(every) <= limit


def test_the_newest_of_years_of_minutes_costs_little() -> None:
    calls = 0

    class Counted(Cron):
        def after(self, moment: datetime):  # type: ignore[no-untyped-def]
            nonlocal calls
            for time in super().after(moment):
                calls += 1
                yield time

    for rule in ("* * * * *", "* * * 1 *", "* * 1 1 *"):
        found, more = newest(Counted(rule, BERLIN), utc(2000, 1, 1), utc(2026, 11, 23), 500)
        assert (len(found), more) == (500, True)
    assert calls < 100_000
