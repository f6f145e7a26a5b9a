"""What a host costs and what is paid for: prices, renewals, traffic quotas and their months."""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime

UNITS = {"": 1, "B": 1} | {
    f"{letter}{ending}": base**power
    for power, letter in enumerate("KMGTP", start=1)
    for ending, base in (("", 1000), ("B", 1000), ("IB", 1024))
}
"""Decimal units as providers sell traffic (1 TB = 10¹² bytes), binary ones with an `i` (1 TiB = 2⁴⁰)."""

PERIODS = {"month": "month", "mo": "month", "m": "month", "monthly": "month"} | {
    "year": "year",
    "yr": "year",
    "y": "year",
    "yearly": "year",
}
SYMBOLS = {"€": "EUR", "$": "USD", "£": "GBP", "¥": "JPY"}
MAX_BYTES = 2**62
RENEWAL_DAYS = 14
"""Days before its renewal that a host asks for attention."""

_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)\Z")
_PRICE = re.compile(
    r"(?P<before>[A-Za-z]{3}|[€$£¥])?\s*(?P<amount>\d+(?:[.]\d+)?)\s*(?P<after>[A-Za-z]{3}|[€$£¥])?"
    r"\s*(?:(?:/|per)\s*(?P<period>[A-Za-z]+))?\Z"
)


@dataclass(frozen=True)
class Price:
    """What a host costs each `period` (`month` or `year`). `currency` is its three letters, or "" when not said."""

    amount: float
    currency: str
    period: str

    @property
    def monthly(self) -> float:
        """Give the price of one month."""
        return self.amount / 12 if self.period == "year" else self.amount


def parse_bytes(text: str) -> int:
    """Read an amount such as `1TB`, `1.5 TiB` or `500000`; give bytes. Raises ValueError with what is wrong."""
    match = _AMOUNT.match(text.strip())
    factor = UNITS.get(match[2].upper()) if match else None
    if match is None or factor is None:
        raise ValueError(f"{text!r} is no amount of data; write it like 1TB, 1.5TiB or 500GB")
    amount = int(float(match[1]) * factor) if "." in match[1] else int(match[1]) * factor
    if amount > MAX_BYTES:
        raise ValueError(f"{text!r} is more than this can count")
    return amount


def parse_price(text: str) -> Price:
    """Read a price such as `4.99 EUR/month`, `€48/year` or `5`. Raises ValueError with what is wrong."""
    match = _PRICE.match(text.strip())
    period = PERIODS.get((match["period"] or "month").lower()) if match else None
    if match is None or period is None or (match["before"] and match["after"]):
        raise ValueError(f"{text!r} is no price; write it like 4.99 EUR/month or 48 EUR/year")
    currency = match["before"] or match["after"] or ""
    return Price(float(match["amount"]), SYMBOLS.get(currency, currency.upper()), period)


def month_begins(reset_day: int, at: datetime) -> date:
    """Give the first day (UTC) of the quota month that holds `at`.

    A reset day that a month does not have falls on that month's last day, as providers count it.
    """
    today = at.astimezone(UTC).date()
    here = _clamped(today.year, today.month, reset_day)
    if today >= here:
        return here
    year, month = (today.year, today.month - 1) if today.month > 1 else (today.year - 1, 12)
    return _clamped(year, month, reset_day)


def month_ends(reset_day: int, begins: date) -> date:
    """Give the first day of the quota month after the one that begins on `begins`."""
    year, month = (begins.year, begins.month + 1) if begins.month < 12 else (begins.year + 1, 1)
    return _clamped(year, month, reset_day)


def counted(received: int, sent: int, counts: str) -> int:
    """Give the bytes that the provider counts: `in`, `out`, `both` (their sum) or `max` (the larger)."""
    return {"in": received, "out": sent, "max": max(received, sent)}.get(counts, received + sent)


def _clamped(year: int, month: int, day: int) -> date:
    return date(year, month, min(day, calendar.monthrange(year, month)[1]))
