"""Change streams of one collection, as MongoDB's manual and the specification for drivers describe them."""

from __future__ import annotations

import re
from typing import Any

import bson
from bson import Timestamp
from bson.datetime_ms import DatetimeMS
from mongo_store import CODEC, Fault, Store

LARGEST = 16 << 20
_EVENT = re.compile(r"82([0-9A-F]{16})2B042C0100296E5A10([0-9A-F]{16})(00|FF)04\Z")
_TIME = re.compile(r"82([0-9A-F]{16})2B0429296E1404\Z")
OPTIONS = {
    "fullDocument", "fullDocumentBeforeChange", "resumeAfter", "startAfter", "startAtOperationTime",
    "allChangesForCluster", "showExpandedEvents",
}  # fmt: skip


def time_token(ts: int) -> dict[str, str]:
    """Make the token of a moment at which nothing needs to have happened."""
    return {"_data": f"82{ts:016X}2B0429296E1404"}


def event_token(ts: int, seq: int, closing: bool = False) -> dict[str, str]:
    return {"_data": f"82{ts:016X}2B042C0100296E5A10{seq:016X}{'FF' if closing else '00'}04"}


def stamp(ts: int) -> Timestamp:
    return Timestamp(ts >> 32, ts & 0xFFFFFFFF)


class Stream:
    """One open change stream: `next` gives events, `token` is where it is now."""

    def __init__(self, store: Store, ns: str, options: dict[str, Any], split: bool, wall: bool) -> None:
        self.store, self.ns, self.split, self.wall = store, ns, split, wall
        self.closed = False
        if unknown := set(options) - OPTIONS:
            raise Fault(40415, "Location40415", f"BSON field '$changeStream.{sorted(unknown)[0]}' is an unknown field.")
        self.lookup = options.get("fullDocument", "default")
        if self.lookup not in ("default", "updateLookup"):
            raise Fault(9, "FailedToParse", f"unrecognized or unkept value for fullDocument: {self.lookup}")
        starts = [name for name in ("resumeAfter", "startAfter", "startAtOperationTime") if name in options]
        if len(starts) > 1:
            raise Fault(40674, "Location40674", "Only one type of resume option is allowed, but multiple were found.")
        self.after, self.token = store.newest(), time_token(store.newest() + 1)
        """The newest entry that was looked at."""
        if starts == ["startAtOperationTime"]:
            at = options["startAtOperationTime"]
            self.start((at.time << 32) + at.inc)
        elif starts:
            self.resume(options[starts[0]], starts[0])

    def start(self, ts: int) -> None:
        if ts < self.store.oldest():
            raise Fault(
                286, "ChangeStreamHistoryLost",
                "Resume of change stream was not possible, as the resume point may no longer be in the oplog.",
                ("NonResumableChangeStreamError",),
            )  # fmt: skip
        self.after, self.token = ts - 1, time_token(ts)

    def resume(self, token: Any, how: str) -> None:
        data = token.get("_data") if isinstance(token, dict) else None
        if not isinstance(data, str):
            raise Fault(40647, "Location40647", f"Bad resume token: _data of missing or of wrong type: {token}")
        if found := _TIME.match(data):
            self.start(int(found[1], 16))
            return
        found = _EVENT.match(data)
        if not found:
            raise Fault(50811, "Location50811", f"Invalid resume token: {data[:80]}")
        ts, seq = int(found[1], 16), int(found[2], 16)
        self.start(ts)
        row = self.store.db.execute("SELECT 1 FROM oplog WHERE ts=? AND seq=?", (ts, seq)).fetchone()
        if row is None:
            raise Fault(
                280, "ChangeStreamFatalError", "cannot resume stream; the resume token was not found.",
                ("NonResumableChangeStreamError",),
            )  # fmt: skip
        if found[3] == "FF" and how == "resumeAfter":
            raise Fault(260, "InvalidResumeToken", "Attempting to resume a change stream using 'resumeAfter' is not"
                        " allowed from an invalidate notification.")  # fmt: skip
        self.after, self.token = ts, dict(token)

    def next(self, most: int) -> list[dict[str, Any]]:
        """Give what there is, at most 16 MiB of it, and move the token."""
        events: list[dict[str, Any]] = []
        size = 0
        rows = self.store.db.execute(
            "SELECT seq, ts, op, ns, entry, wall FROM oplog WHERE ts > ? AND ns IN (?, '*' || ?) ORDER BY ts LIMIT ?",
            (self.after, self.ns, self.ns, most),
        ).fetchall()
        for seq, ts, op, _ns, entry, wall in rows:
            event = self.event(seq, ts, op, bson.decode(entry, CODEC), wall)
            width = len(bson.encode(event))
            if events and size + width > LARGEST:
                return events
            made = self.pieces(event) if width > LARGEST else [event]
            events += made
            size += width
            self.after, self.token = ts, event["_id"]
            if op in ("drop", "rename"):
                closing = event_token(ts, seq, closing=True)
                events.append({"_id": closing, "operationType": "invalidate", "clusterTime": stamp(ts)})
                self.closed, self.token = True, closing
                return events
        if len(rows) < most and self.store.newest() > self.after:
            self.after = self.store.newest()
            self.token = time_token(self.after)
        return events

    def event(self, seq: int, ts: int, op: str, entry: dict[str, Any], wall: int) -> dict[str, Any]:
        database, _, name = self.ns.partition(".")
        made: dict[str, Any] = {"_id": event_token(ts, seq), "operationType": op, "clusterTime": stamp(ts)}
        if self.wall:
            made["wallTime"] = DatetimeMS(wall)
        made |= {"ns": {"db": database, "coll": name}} | entry
        if op == "update" and self.lookup == "updateLookup":
            made["fullDocument"] = self.store.get(self.ns, entry["documentKey"]["_id"])
        return made

    def pieces(self, event: dict[str, Any]) -> list[dict[str, Any]]:
        """Cut an event that is too large at its fields, if that was asked for."""
        if not self.split:
            raise Fault(10334, "BSONObjectTooLarge", "BSONObj size is invalid. Size must be between 0 and 16793600")
        made: list[dict[str, Any]] = [{}]
        for name, value in event.items():
            if name == "_id":
                continue
            if made[-1] and len(bson.encode(made[-1] | {name: value})) > LARGEST:
                made.append({})
            made[-1][name] = value
        return [
            {"_id": event["_id"] | {"_fragment": number}} | part | {"splitEvent": {"fragment": number, "of": len(made)}}
            for number, part in enumerate(made, 1)
        ]
