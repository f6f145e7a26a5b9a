"""What the MongoDB stand-in keeps: documents in the order of `_id`, and a log of every change, in one SQLite file.

What was acknowledged survives `kill -9`. Orders values as MongoDB's manual says (comparison and sort order).
"""

from __future__ import annotations

import sqlite3
import struct
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import bson
from bson import Binary, Decimal128, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS

CODEC: CodecOptions[dict[str, Any]] = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_MS)


class Fault(Exception):
    """An answer that is an error."""

    def __init__(self, code: int, name: str, message: str, labels: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.code, self.name, self.message, self.labels = code, name, message, labels

    def body(self) -> dict[str, Any]:
        made = {"ok": 0.0, "errmsg": self.message, "code": self.code, "codeName": self.name}
        return made | ({"errorLabels": list(self.labels)} if self.labels else {})


def bracket(value: Any) -> int:
    """Give the place of a value's type among the types."""
    if isinstance(value, bool):
        return 8
    for rank, kinds in enumerate(_BRACKETS):
        if isinstance(value, kinds):
            return rank
    raise Fault(2, "BadValue", f"the stand-in does not order {type(value).__name__}")


_BRACKETS: tuple[Any, ...] = (
    MinKey, type(None), (int, float, Decimal128), str, dict, list, (Binary, bytes), ObjectId, bool, DatetimeMS,
    Timestamp, Regex, MaxKey,
)  # fmt: skip


def order(value: Any) -> bytes:
    """Give bytes that compare as the values do."""
    rank = bracket(value)
    head = bytes([rank])
    if rank == 2:
        number = value.to_decimal() if isinstance(value, Decimal128) else Decimal(value)
        near = float(number)
        rest = int((number - Decimal(near)) * 1000) if number.is_finite() else 0
        bits = struct.unpack(">q", struct.pack(">d", near + 0.0))[0]
        return head + struct.pack(">Qq", (bits ^ (1 << 63)) if bits >= 0 else ~bits & (2**64 - 1), rest)
    if rank == 3:
        return head + value.encode().replace(b"\0", b"\0\xff") + b"\0\0"
    if rank == 4:
        return head + b"".join(
            bytes([bracket(inner)]) + name.encode() + b"\0" + order(inner) for name, inner in value.items()
        ) + b"\0"  # fmt: skip
    if rank == 5:
        return head + b"".join(order(inner) for inner in value) + b"\0"
    if rank == 6:
        return head + struct.pack(">I", len(value)) + bytes([getattr(value, "subtype", 0)]) + bytes(value)
    if rank == 7:
        return head + value.binary
    if rank == 8:
        return head + bytes([value])
    if rank == 9:
        return head + struct.pack(">Q", int(value) + (1 << 63))
    if rank == 10:
        return head + struct.pack(">II", value.time, value.inc)
    return head + (str(value.pattern).encode() if rank == 11 else b"")


class Store:
    """Collections and their log. Every change is one transaction of the file."""

    def __init__(self, file: str) -> None:
        self.db = sqlite3.connect(file, isolation_level=None)
        self.db.executescript(
            """PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;
            CREATE TABLE IF NOT EXISTS coll(ns TEXT PRIMARY KEY, type TEXT);
            CREATE TABLE IF NOT EXISTS doc(ns TEXT, k BLOB, body BLOB, PRIMARY KEY(ns, k)) WITHOUT ROWID;
            CREATE TABLE IF NOT EXISTS oplog(seq INTEGER PRIMARY KEY AUTOINCREMENT, ts INTEGER UNIQUE, op TEXT,
              ns TEXT, entry BLOB, wall INTEGER);
            CREATE INDEX IF NOT EXISTS of_ns ON oplog(ns, ts);"""
        )
        if self.newest() == 0:
            self.log("n", "", {"msg": "initiating set"})

    def newest(self) -> int:
        """Give the time of the newest entry, as seconds << 32 | number."""
        return int(self.db.execute("SELECT coalesce(max(ts), 0) FROM oplog").fetchone()[0])

    def oldest(self) -> int:
        return int(self.db.execute("SELECT coalesce(min(ts), 0) FROM oplog").fetchone()[0])

    def log(self, op: str, ns: str, entry: dict[str, Any]) -> None:
        ts = max(self.newest() + 1, (int(time.time()) << 32) + 1)
        self.db.execute(
            "INSERT INTO oplog(ts, op, ns, entry, wall) VALUES(?,?,?,?,?)",
            (ts, op, ns, bson.encode(entry), int(time.time() * 1000)),
        )

    def trim(self, keep: int) -> None:
        """Forget all but the newest entries, as a full oplog does."""
        self.db.execute("DELETE FROM oplog WHERE seq <= (SELECT max(seq) FROM oplog) - ?", (keep,))

    def collection(self, ns: str) -> str | None:
        row = self.db.execute("SELECT type FROM coll WHERE ns=?", (ns,)).fetchone()
        return str(row[0]) if row else None

    def get(self, ns: str, id_: Any) -> dict[str, Any] | None:
        row = self.db.execute("SELECT body FROM doc WHERE ns=? AND k=?", (ns, order(id_))).fetchone()
        return bson.decode(row[0], CODEC) if row else None

    def scan(self, ns: str, least: bytes = b"", match: dict[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        """Give documents in the order of `_id`, from a key on."""
        given = match or {}
        if set(given) == {"_id"} and not isinstance(given["_id"], dict):
            found = self.get(ns, given["_id"])
            yield from [found] if found is not None else []
            return
        if isinstance(given.get("_id"), dict) and "$gte" in given["_id"]:
            least = max(least, order(given["_id"]["$gte"]))
        # The rows first: a change of one while the cursor stands on it would be seen again.
        rows = self.db.execute("SELECT body FROM doc WHERE ns=? AND k>=? ORDER BY k", (ns, least))
        for (body,) in rows.fetchall():
            document = bson.decode(body, CODEC)
            if matches(document, given):
                yield document

    # --- changes -------------------------------------------------------------------------------------------------

    def insert(self, ns: str, document: dict[str, Any]) -> None:
        if not self.collection(ns):
            self.db.execute("INSERT INTO coll VALUES(?, 'collection')", (ns,))
        try:
            self.db.execute("INSERT INTO doc VALUES(?,?,?)", (ns, order(document["_id"]), bson.encode(document)))
        except sqlite3.IntegrityError as fault:
            raise Fault(11000, "DuplicateKey", f"E11000 duplicate key error collection: {ns} index: _id_") from fault
        self.log("insert", ns, {"documentKey": {"_id": document["_id"]}, "fullDocument": document})

    def change(self, ns: str, old: dict[str, Any], update: dict[str, Any]) -> bool:
        """Change a document by operators, or replace it; tell whether it differs."""
        if any(name.startswith("$") for name in update):
            new, said = applied(old, update)
        else:
            new, said = {"_id": old["_id"]} | update, None
        if new["_id"] != old["_id"]:
            raise Fault(66, "ImmutableField", "Performing an update on the path '_id' would modify the immutable field")
        if bson.encode(new) == bson.encode(old):
            return False
        self.db.execute("UPDATE doc SET body=? WHERE ns=? AND k=?", (bson.encode(new), ns, order(old["_id"])))
        key = {"documentKey": {"_id": old["_id"]}}
        if said is None:
            self.log("replace", ns, key | {"fullDocument": new})
        else:
            self.log("update", ns, key | {"updateDescription": said})
        return True

    def remove(self, ns: str, id_: Any) -> None:
        self.db.execute("DELETE FROM doc WHERE ns=? AND k=?", (ns, order(id_)))
        self.log("delete", ns, {"documentKey": {"_id": id_}})

    def drop(self, ns: str) -> None:
        if not self.collection(ns):
            raise Fault(26, "NamespaceNotFound", "ns not found")
        self.db.execute("DELETE FROM doc WHERE ns=?", (ns,))
        self.db.execute("DELETE FROM coll WHERE ns=?", (ns,))
        self.log("drop", ns, {})

    def rename(self, ns: str, to: str, over: bool) -> None:
        if not self.collection(ns):
            raise Fault(26, "NamespaceNotFound", f"Source collection {ns} does not exist")
        if self.collection(to):
            if not over:
                raise Fault(48, "NamespaceExists", "target namespace exists")
            self.drop(to)
        self.db.execute("UPDATE doc SET ns=? WHERE ns=?", (to, ns))
        self.db.execute("UPDATE coll SET ns=? WHERE ns=?", (to, ns))
        self.log("rename", ns, {"to": {"db": to.split(".", 1)[0], "coll": to.split(".", 1)[1]}})


def applied(old: dict[str, Any], update: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Give a document after `$set`, `$inc` and `$unset`, and what a change stream says of it."""
    new: dict[str, Any] = bson.decode(bson.encode(old), CODEC)
    updated: dict[str, Any] = {}
    removed: list[str] = []
    for operator, fields in update.items():
        if operator not in ("$set", "$inc", "$unset"):
            raise Fault(9, "FailedToParse", f"Unknown modifier: {operator}.")
        for path, value in fields.items():
            *above, last = path.split(".")
            place = new
            for name in above:
                place = place.setdefault(name, {})
            if operator == "$unset":
                if last in place:
                    del place[last]
                    removed.append(path)
                continue
            made = place.get(last, 0) + value if operator == "$inc" else value
            if last not in place or place[last] != made or type(place[last]) is not type(made):
                place[last] = updated[path] = made
    return new, {"updatedFields": updated, "removedFields": removed, "truncatedArrays": []}


def matches(document: dict[str, Any], given: dict[str, Any]) -> bool:
    """Tell whether a document is one of those asked for. Values of other types never compare."""
    for name, wanted in given.items():
        if name.startswith("$"):
            raise Fault(2, "BadValue", f"unknown top level operator: {name}")
        there = document.get(name)
        conditions = wanted if isinstance(wanted, dict) and any(key[:1] == "$" for key in wanted) else {"$eq": wanted}
        for operator, value in conditions.items():
            if not holds(there, operator, value):
                return False
    return True


def holds(there: Any, operator: str, value: Any) -> bool:
    if operator == "$in":
        return any(holds(there, "$eq", one) for one in value)
    if operator == "$mod":
        return isinstance(there, int) and there % value[0] == value[1]
    same = bracket(there) == bracket(value)
    one, other = (order(there), order(value)) if same else (b"", b"")
    match operator:
        case "$eq":
            return same and one == other
        case "$ne":
            return not same or one != other
        case "$gt":
            return same and one > other
        case "$gte":
            return same and one >= other
        case "$lt":
            return same and one < other
        case "$lte":
            return same and one <= other
    raise Fault(2, "BadValue", f"unknown operator: {operator}")
