"""How many bytes moved between two polls, and in which quota month. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time

from opsdeck.inventory.terms import month_begins, month_ends

WRAP = 2**32
"""Counters of 32-bit kernels and of some drivers start again here."""
_MOST_IN_A_WRAP = 2**30


@dataclass(frozen=True)
class Seen:
    """The counters of one poll, as the next one needs them."""

    at: datetime
    boot_id: str
    interfaces: str
    received: int
    sent: int
    cpu_busy: int
    cpu_total: int


def moved(before: int, after: int) -> int:
    """Give the bytes between two readings of one counter within one boot.

    A counter that fell has wrapped at 2³², when that means less than 1 GiB, or else was reset by its driver; then
    what it shows now is what is known to have moved.
    """
    if after >= before:
        return after - before
    if before < WRAP and after + WRAP - before < _MOST_IN_A_WRAP:
        return after + WRAP - before
    return after


def between(before: Seen | None, after: Seen) -> tuple[int, int]:
    """Give the bytes (received, sent) since the poll before.

    Nothing is known before the first poll, nor when other interfaces became the way out: 0. After a reboot it is
    all that the new boot counted; what moved between the last poll and the shutdown is not known to anyone.
    """
    if before is None or after.at <= before.at:
        return (0, 0)
    if before.boot_id != after.boot_id:
        return (after.received, after.sent)
    if before.interfaces != after.interfaces:
        return (0, 0)
    return (moved(before.received, after.received), moved(before.sent, after.sent))


def cpu_share(before: Seen | None, after: Seen) -> float | None:
    """Give the busy share since the poll before, 0 to 1; None when there is nothing to compare with."""
    if before is None or before.boot_id != after.boot_id:
        return None
    total = after.cpu_total - before.cpu_total
    if total <= 0:
        return None
    return min(1.0, max(0.0, (after.cpu_busy - before.cpu_busy) / total))


def by_month(
    amounts: tuple[int, int], since: datetime, until: datetime, reset_day: int
) -> Iterator[tuple[date, int, int]]:
    """Share bytes out over the quota months between two times, evenly by time; give (first day, received, sent).

    The parts add up to the whole, however long the gap.
    """
    begins = month_begins(reset_day, since)
    left = amounts
    start = since
    while True:
        border = datetime.combine(month_ends(reset_day, begins), time(), UTC)
        if border >= until:
            yield (begins, *left)
            return
        share = (border - start) / (until - start)
        part = (int(left[0] * share), int(left[1] * share))
        yield (begins, *part)
        left = (left[0] - part[0], left[1] - part[1])
        begins, start = border.date(), border
