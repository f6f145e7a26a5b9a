"""From the messages of PostgreSQL's log to changes of one table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opsdeck.api import Refused
from opsdeck_search_sync.changes import UNCHANGED, Change, Emptied, Put, Removed
from opsdeck_search_sync.sources import pgoutput, pgvalues


class Tables:
    """Turns messages into changes of our table, by the newest description of it in the stream."""

    def __init__(self, types: dict[int, str], table: tuple[str, str], needed: frozenset[str] | None) -> None:
        self._types = types
        self._table = table
        self._needed = needed
        self._oid = 0
        self.altered = False
        self._columns: tuple[tuple[int, str, pgvalues.Decoder, bool], ...] = ()

    def changes(self, message: pgoutput.Message) -> Sequence[Change]:
        if isinstance(message, pgoutput.Relation):
            if (message.schema, message.name) == self._table:
                self._learn(message)
            elif message.oid == self._oid:
                raise Refused(
                    f"the table {'.'.join(self._table)} was renamed to {message.schema}.{message.name}.",
                    hint="rename it back and rebuild, or drop the sync",
                )
        elif isinstance(message, pgoutput.Truncate):
            return (Emptied(),) if self._oid in message.oids else ()
        elif isinstance(message, pgoutput.Insert) and message.oid == self._oid:
            return (Put(self._row(message.new)),)
        elif isinstance(message, pgoutput.Update) and message.oid == self._oid:
            return (self._update(message),)
        elif isinstance(message, pgoutput.Delete) and message.oid == self._oid:
            return (Removed(self._row(message.old)),)
        return ()

    def _learn(self, relation: pgoutput.Relation) -> None:
        self.altered = True
        there = {name for name, _type, _key in relation.columns}
        missing = sorted((self._needed or frozenset()) - there)
        if missing:
            raise Refused(
                f"the column {missing[0]!r} is no longer in the log of {relation.schema}.{relation.name}.",
                hint="change the mapping and rebuild; the index stays as it is until then",
            )
        self._oid = relation.oid
        self._columns = tuple(
            (place, name, pgvalues.decoder(self._types.get(type_, "text")), key)
            for place, (name, type_, key) in enumerate(relation.columns)
            if self._needed is None or name in self._needed
        )

    def _row(self, cells: pgoutput.Cells) -> dict[str, Any]:
        row: dict[str, Any] = {}
        for place, name, decode, _key in self._columns:
            cell = cells[place]
            if cell is False:
                row[name] = UNCHANGED
            else:
                row[name] = decode(cell.decode()) if isinstance(cell, bytes) else None
        return row

    def _update(self, message: pgoutput.Update) -> Put:
        new = self._row(message.new)
        if message.old is None:
            return Put(new)
        old = self._row(message.old)
        if message.whole:
            for name, value in new.items():
                if value is UNCHANGED:
                    new[name] = old[name]
        return Put(new, old)
