"""Limits on every way of proving who one is: per account and per address, in the database, so for all nodes together.

An attempt is counted before it is looked at, so a hundred at once get no more than one after another; a success takes
the count back. After some free failures each further one blocks twice as long, up to a quarter of an hour; a day
after the first failure counting begins anew.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.exc import IntegrityError
from sqlmodel import col, delete, select

from opsdeck.accounts.models import Attempt
from opsdeck.audit.entry import column
from opsdeck.clock import utcnow
from opsdeck.db import Database
from opsdeck.errors import Refused

FIRST_BLOCK = timedelta(seconds=15)
LONGEST_BLOCK = timedelta(minutes=15)
WINDOW = timedelta(days=1)


class TooManyAttempts(Refused):
    """Too many failures; `seconds` to wait."""

    status = 429

    def __init__(self, seconds: int) -> None:
        super().__init__(
            f"too many failed attempts: wait {seconds} s.",
            hint="wait, then try again; the machine's owner can make a login link with `opsdeck user login-link`",
        )
        self.seconds = seconds


@dataclass(frozen=True)
class Key:
    """What is counted, and how many failures are free."""

    name: str
    free: int


def account(name: str) -> Key:
    """Give the key of an account."""
    return Key(f"user:{name[:63]}", 5)


def source(kind: str, address: str) -> Key:
    """Give the key of an address for one kind of proof; an IPv6 address counts with its whole /64."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return Key(f"{kind}:{column(address)[:100]}", 20)
    if parsed.version == 6:
        parsed = ipaddress.ip_network((parsed, 64), strict=False).network_address
    return Key(f"{kind}:{parsed}", 20)


class Limits:
    """Counts failures."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def begin(self, keys: Sequence[Key]) -> None:
        """Count an attempt under every key. Raises `TooManyAttempts`, counting nothing, while one is blocked."""
        try:
            await self._count(keys)
        except IntegrityError:  # another node made the same row at the same moment; now it is there
            await self._count(keys)

    async def _count(self, keys: Sequence[Key]) -> None:
        now = utcnow()
        async with self._db.write() as session:
            found = await session.exec(
                select(Attempt)
                .where(col(Attempt.key).in_([key.name for key in keys]))
                .order_by(Attempt.key)
                .with_for_update()
            )
            rows = {row.key: row for row in found.all()}
            _refuse_blocked(rows.values(), now)
            for key in keys:
                row = rows.get(key.name)
                if row is None or now - row.first > WINDOW:
                    row = row or Attempt(key=key.name)
                    row.failures, row.first, row.blocked_until = 0, now, None
                row.failures += 1
                over = row.failures - key.free
                if over >= 0:
                    row.blocked_until = now + min(FIRST_BLOCK * 2 ** min(over, 20), LONGEST_BLOCK)
                session.add(row)

    async def refuse_blocked(self, keys: Sequence[Key]) -> None:
        """Raise `TooManyAttempts` while one of the keys is blocked; a read only, for proofs that are asked often."""
        async with self._db.read() as session:
            rows = (await session.exec(select(Attempt).where(col(Attempt.key).in_([key.name for key in keys])))).all()
        _refuse_blocked(rows, utcnow())

    async def succeeded(self, keys: Sequence[Key]) -> None:
        """Take the count back after a full proof: an account's wholly, an address's by this one attempt."""
        await self._lower(keys, forgive=True)

    async def take_back(self, keys: Sequence[Key]) -> None:
        """Take this one attempt back: it was neither a failure nor a full proof."""
        await self._lower(keys, forgive=False)

    async def _lower(self, keys: Sequence[Key], *, forgive: bool) -> None:
        async with self._db.write() as session:
            for key in sorted(keys, key=lambda key: key.name):
                row = await session.get(Attempt, key.name, with_for_update=True)
                if row is None:
                    continue
                row.failures -= 1
                row.blocked_until = None
                if row.failures <= 0 or (forgive and key.name.startswith("user:")):
                    await session.delete(row)
                else:
                    session.add(row)

    async def prune(self) -> None:
        """Forget what is older than a day."""
        async with self._db.write() as session:
            await session.exec(delete(Attempt).where(col(Attempt.first) < utcnow() - WINDOW))


def _refuse_blocked(rows: Iterable[Attempt], now: datetime) -> None:
    until = max((row.blocked_until for row in rows if row.blocked_until), default=None)
    if until is not None and until > now:
        raise TooManyAttempts(math.ceil((until - now).total_seconds()))
