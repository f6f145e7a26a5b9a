"""From the messages of PostgreSQL's log to changes of one table, in one go over their bytes."""

from __future__ import annotations

from typing import Any

from opsdeck.api import Refused
from opsdeck_search_sync import changes
from opsdeck_search_sync.changes import Change, Emptied, Put, Removed
from opsdeck_search_sync.sources import pgoutput, pgvalues
from opsdeck_search_sync.sources.pgoutput import NEW, NULL, TEXT, U16, U32, UNCHANGED


class Tables:
    """Turns messages into changes of our table, by the newest description of it in the stream."""

    def __init__(self, types: dict[int, str], table: tuple[str, str], needed: frozenset[str] | None) -> None:
        self._types = types
        self._table = table
        self._needed = needed
        self._oid = 0
        self.altered = False
        """Set when the table was described anew; whoever acts on it sets it back."""
        self._partial = False
        self._columns: tuple[tuple[str, pgvalues.RawDecoder | None], ...] = ()

    def change(self, kind: int, data: bytes, at: int) -> Change | None:
        """Read the message of that kind at `at`; None for one that changes no row of ours.

        Raises `UnknownMessage` for what is not known: skipping it would lose rows in silence.
        """
        if kind in (pgoutput.INSERT, pgoutput.UPDATE):
            return self._put(data, at + 5) if U32(data, at + 1)[0] == self._oid else None
        if kind == pgoutput.DELETE:
            return Removed(self._row(data, at + 6)[0]) if U32(data, at + 1)[0] == self._oid else None
        if kind == pgoutput.RELATION:
            self._described(pgoutput.relation(data, at))
        elif kind == pgoutput.TRUNCATE:
            return Emptied() if self._oid in pgoutput.truncated(data, at) else None
        elif kind not in pgoutput.SILENT:
            raise pgoutput.unknown(f"a message of the kind {chr(kind)!r}")
        return None

    def _described(self, relation: pgoutput.Relation) -> None:
        if (relation.schema, relation.name) != self._table:
            if relation.oid == self._oid:
                raise Refused(
                    f"the table {'.'.join(self._table)} was renamed to {relation.schema}.{relation.name}.",
                    hint="rename it back and rebuild, or drop the sync",
                )
            return
        self.altered = True
        there = {name for name, _type in relation.columns}
        missing = sorted((self._needed or frozenset()) - there)
        if missing:
            raise Refused(
                f"the column {missing[0]!r} is no longer in the log of {relation.schema}.{relation.name}.",
                hint="change the mapping and rebuild; the index stays as it is until then",
            )
        self._oid = relation.oid
        self._columns = tuple(
            (name, pgvalues.raw_decoder(self._types.get(type_, "text")))
            if self._needed is None or name in self._needed
            else (name, None)
            for name, type_ in relation.columns
        )

    def _row(self, data: bytes, at: int) -> tuple[dict[str, Any], int]:
        """Read the row at `at`; give where it ends."""
        if U16(data, at)[0] != len(self._columns):
            raise pgoutput.unknown("a row that does not fit its table's description")
        at += 2
        row: dict[str, Any] = {}
        for name, decode in self._columns:
            kind = data[at]
            if kind == TEXT:
                start = at + 5
                at = start + U32(data, at + 1)[0]
                if decode is not None:
                    row[name] = decode(data[start:at])
                continue
            at += 1
            if kind == NULL:
                value = None
            elif kind == UNCHANGED:
                value = changes.UNCHANGED
                self._partial = True
            else:
                raise pgoutput.unknown(f"a value of the kind {chr(kind)!r}")
            if decode is not None:
                row[name] = value
        return row, at

    def _put(self, data: bytes, at: int) -> Put:
        mark, old = data[at], None
        if mark in (pgoutput.KEY, pgoutput.OLD):
            old, at = self._row(data, at + 1)
        if data[at] != NEW:
            raise pgoutput.unknown(f"a row with the part {chr(data[at])!r}")
        self._partial = False
        new, _end = self._row(data, at + 1)
        if self._partial and mark == pgoutput.OLD and old is not None:
            new |= {name: old[name] for name, value in new.items() if value is changes.UNCHANGED}
            self._partial = changes.UNCHANGED in new.values()
        return Put(new, old, self._partial)
