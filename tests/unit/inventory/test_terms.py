from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsdeck.inventory.terms import Price, counted, month_begins, month_ends, parse_bytes, parse_price


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1TB", 10**12),
        ("1TiB", 2**40),
        ("1.5 TiB", 3 * 2**39),
        ("500gb", 5 * 10**11),
        ("20T", 2 * 10**13),
        ("123", 123),
        ("12 MiB", 12 * 2**20),
        ("9007199254740993", 9007199254740993),
    ],
)
def test_amounts(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "TB", "-1TB", "1,5TB", "1XB", "1 T B", "1e3", "99999999999 PB"])
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4.99 EUR/month", Price(4.99, "EUR", "month")),
        ("48 eur/year", Price(48, "EUR", "year")),
        ("€48/yr", Price(48, "EUR", "year")),
        ("5", Price(5, "", "month")),
        ("USD 3.50 per month", Price(3.5, "USD", "month")),
    ],
)
def test_prices(text: str, expected: Price) -> None:
    assert parse_price(text) == expected


@pytest.mark.parametrize("text", ["", "EUR", "-5", "5 EUR/week", "EUR 5 EUR", "five"])
def test_what_is_no_price(text: str) -> None:
    with pytest.raises(ValueError, match="price"):
        parse_price(text)


def test_a_year_is_twelve_months() -> None:
    assert parse_price("48 EUR/year").monthly == 4


@pytest.mark.parametrize(
    ("day", "at", "begins", "ends"),
    [
        (1, "2026-11-23", "2026-11-01", "2026-12-01"),
        (23, "2026-11-23", "2026-11-23", "2026-12-23"),
        (24, "2026-11-23", "2026-10-24", "2026-11-24"),
        (31, "2026-02-27", "2026-01-31", "2026-02-28"),
        (31, "2026-02-28", "2026-02-28", "2026-03-31"),
        (30, "2026-03-01", "2026-02-28", "2026-03-30"),
        (29, "2024-02-29", "2024-02-29", "2024-03-29"),
        (31, "2024-02-28", "2024-01-31", "2024-02-29"),
        (30, "2024-02-29", "2024-02-29", "2024-03-30"),
        (15, "2026-01-03", "2025-12-15", "2026-01-15"),
        (31, "2026-12-31", "2026-12-31", "2027-01-31"),
    ],
)
def test_quota_months(day: int, at: str, begins: str, ends: str) -> None:
    moment = datetime.fromisoformat(f"{at}T00:00:00+00:00")
    assert month_begins(day, moment) == date.fromisoformat(begins)
    assert month_ends(day, date.fromisoformat(begins)) == date.fromisoformat(ends)


def test_the_month_turns_at_midnight_utc_whatever_the_zone() -> None:
    late = datetime.fromisoformat("2026-11-01T01:30:00+02:00")
    assert month_begins(1, late) == date(2026, 10, 1)


@given(st.integers(1, 31), st.integers(0, 4_000_000_000).map(lambda second: datetime.fromtimestamp(second, UTC)))
def test_every_moment_lies_in_its_month(day: int, moment: datetime) -> None:
    begins = month_begins(day, moment)
    ends = month_ends(day, begins)
    assert begins <= moment.date() < ends
    assert timedelta(27) < ends - begins <= timedelta(31)
    assert month_begins(day, datetime(ends.year, ends.month, ends.day, tzinfo=UTC)) == ends


def test_what_counts() -> None:
    assert [counted(3, 5, how) for how in ("in", "out", "both", "max")] == [3, 5, 8, 5]
