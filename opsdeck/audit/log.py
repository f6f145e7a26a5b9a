"""The audit chain: entries are added in the transaction of the change they tell of, and only ever added.

Appends are serialised (SQLite's write lock; an advisory lock on PostgreSQL, held to the end of the transaction), so
append last in a transaction, and never hold it while waiting on a host.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import sqlalchemy
from sqlalchemy import LargeBinary, cast, insert, text
from sqlmodel import col, func, select
from sqlmodel.ext.asyncio.session import AsyncSession

from opsdeck.actor import Actor
from opsdeck.audit import export
from opsdeck.audit.chain import Head, Verdict, append_line, check
from opsdeck.audit.entry import GENESIS, Entry, Record, body_of, column, mac
from opsdeck.audit.models import AuditEntry
from opsdeck.clock import utcnow
from opsdeck.db import Database
from opsdeck.secrets.keyring import Keyring

PG_LOCK = 7001
PAGE = 1000
COLUMNS = ("seq", "at", "actor", "door", "verb", "target", "body", "previous", "hash")
LAST = 2**63 - 1
"""The largest number that a database takes."""


@dataclass(frozen=True)
class Filters:
    """Which entries: each part that is set must match; `host:*` matches by the beginning."""

    actor: str = ""
    verb: str = ""
    target: str = ""
    since: datetime | None = None
    until: datetime | None = None


class AuditLog:
    """The audit chain of this installation."""

    def __init__(self, db: Database, keyring: Keyring) -> None:
        self._db = db
        self._keyring = keyring

    @property
    def _key(self) -> bytes:
        return self._keyring.derive("audit")

    async def append(
        self,
        session: AsyncSession,
        actor: Actor,
        verb: str,
        target: str,
        *,
        detail: Mapping[str, object] | None = None,
        before: object = None,
        after: object = None,
    ) -> int:
        """Add one entry inside the caller's write session, so that it is kept or lost with the change; give its number.

        Never put a secret into it: `Sensitive` values become `••••`, plain text does not.
        """
        return await self.append_many(session, [Record(actor, verb, target, detail, before, after)])

    async def append_many(self, session: AsyncSession, events: Sequence[Record]) -> int:
        """Add several entries with one read and one insert; give the last one's number."""
        if not self._db.sqlite:
            await (await session.connection()).execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": PG_LOCK})
        head = await self._head(session)
        key, seq, previous = self._key, head.seq, head.hash
        rows = []
        for event in events:
            seq += 1
            at = utcnow()
            body = body_of(event, at)
            digest = mac(key, seq, previous, body)
            rows.append(
                {
                    "seq": seq,
                    "at": at,
                    "actor": column(event.actor.name),
                    "door": event.actor.door.value,
                    "verb": column(event.verb),
                    "target": column(event.target),
                    "body": body,
                    "previous": previous,
                    "hash": digest,
                }
            )
            previous = digest
        if rows:
            await session.exec(insert(AuditEntry), params=rows)
        return seq

    async def record(
        self,
        actor: Actor,
        verb: str,
        target: str,
        *,
        detail: Mapping[str, object] | None = None,
        before: object = None,
        after: object = None,
    ) -> int:
        """Add one entry in a transaction of its own; give its number."""
        async with self._db.write() as session:
            return await self.append(session, actor, verb, target, detail=detail, before=before, after=after)

    async def record_many(self, events: Sequence[Record]) -> int:
        """Add several entries in one transaction of their own; give the last one's number."""
        async with self._db.write() as session:
            return await self.append_many(session, events)

    async def list(
        self, filters: Filters | None = None, *, limit: int = 100, before_seq: int | None = None
    ) -> tuple[Entry, ...]:
        """Give the newest entries that match, newest first; `before_seq` continues after a page."""
        wanted = filters or Filters()
        query = self._rows().order_by(col(AuditEntry.seq).desc()).limit(limit)
        for name in ("actor", "verb", "target"):
            value = getattr(wanted, name)
            field = col(getattr(AuditEntry, name))
            if value.endswith("*"):
                query = query.where(field.startswith(value[:-1], autoescape=True))
            elif value:
                query = query.where(field == value)
        if wanted.since:
            query = query.where(col(AuditEntry.at) >= wanted.since)
        if wanted.until:
            query = query.where(col(AuditEntry.at) < wanted.until)
        if before_seq is not None:
            query = query.where(col(AuditEntry.seq) < max(0, min(before_seq, LAST)))
        async with self._db.read() as session:
            found = await (await session.connection()).execute(query)
        return tuple(map(_entry, found.all()))

    async def head(self) -> Head:
        """Give the newest entry's number and hash; (0, zeros) for an empty chain."""
        async with self._db.read() as session:
            return await self._head(session)

    async def entries(self) -> AsyncIterator[Entry]:
        """Give every entry, oldest first, a page at a time."""
        last: int | None = None
        while True:
            query = self._rows().order_by(col(AuditEntry.seq)).limit(PAGE)
            if last is not None:
                query = query.where(col(AuditEntry.seq) > last)
            async with self._db.read() as session:
                page = list(map(_entry, (await (await session.connection()).execute(query)).all()))
            for entry in page:
                yield entry
            if len(page) < PAGE:
                return
            last = page[-1].seq

    async def verify(self, heads: Sequence[Head] = ()) -> Verdict:
        """Look at every entry in order; name the first that is bad, and why.

        `heads` were kept outside: an entry they name that is gone or differs shows a cut or rewritten tail.
        """
        return await check(self._key, self.entries(), heads)

    async def count(self) -> int:
        """Give how many entries there are."""
        async with self._db.read() as session:
            return (await session.exec(select(func.count()).select_from(AuditEntry))).one()

    async def export(self, out: IO[str]) -> Head:
        """Write the chain up to the present head as JSON Lines that `verify_lines` checks; give that head."""
        head = await self.head()
        await export.write(self.entries(), head, self._key, out)
        return head

    async def verify_lines(self, lines: Iterable[str], file: str, heads: Sequence[Head] = ()) -> Verdict:
        """Verify what `export` wrote, without looking at the rows. Raises `Invalid` for something else."""
        return await export.verify(lines, self._key, file, heads)

    async def keep_head(self, file: Path) -> Head:
        """Append the head to `file`, a line per call, mode 0600: the anchor that `verify` is held against."""
        head = await self.head()
        line = json.dumps({"at": utcnow().isoformat(timespec="seconds"), "head": str(head)})
        append_line(file, line)
        return head

    def _rows(self) -> Any:
        """Select whole entries. SQLite keeps anything in any column, so there they are read as bytes."""
        columns: list[Any] = [col(getattr(AuditEntry, name)) for name in COLUMNS]
        if self._db.sqlite:
            columns = [columns[0], *(cast(column, LargeBinary) for column in columns[1:])]
        return sqlalchemy.select(*columns)

    @staticmethod
    async def _head(session: AsyncSession) -> Head:
        query = select(AuditEntry.seq, AuditEntry.hash).order_by(col(AuditEntry.seq).desc()).limit(1)
        row = (await session.exec(query)).first()
        return Head(*row) if row else Head(0, GENESIS)


def _entry(row: Any) -> Entry:
    """Make an entry of a row, whatever somebody wrote into it: what is wrong with it is for `fault` to say."""
    seq, at, *texts = row
    return Entry(seq, at if isinstance(at, datetime) else _moment(_text(at)), *map(_text, texts))


def _text(value: object) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
