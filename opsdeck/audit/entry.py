"""One entry of the chain as text: how it is written, hashed and read back. No database here.

hash = HMAC-SHA256(key, "<seq>\\n<previous hash>\\n<body>"), with a key derived from the installation's root key: who
can only write to the database cannot make a chain that verifies.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from opsdeck.actor import Actor
from opsdeck.secrets.sensitive import MASK, Sensitive

GENESIS = "0" * 64
"""What stands as the hash before the first entry."""

LONGEST = 16_384
"""Longest text kept whole in a body, characters; a longer one is kept as its beginning, its length and its SHA-256."""

JSON = None | bool | int | float | str | Sequence["JSON"] | Mapping[str, "JSON"]


@dataclass(frozen=True)
class Record:
    """What is to be written. `verb` is `noun.verb_past`; `target` is `kind:name`; the rest is detail."""

    actor: Actor
    verb: str
    target: str
    detail: Mapping[str, object] | None = None
    before: object = None
    after: object = None


@dataclass(frozen=True)
class Entry:
    """An entry of the chain."""

    seq: int
    at: datetime
    actor: str
    door: str
    verb: str
    target: str
    body: str
    previous: str
    hash: str

    def as_dict(self) -> dict[str, object]:
        """Give what people read: the body with its number and hash."""
        return {"seq": self.seq, **self.told(), "hash": self.hash}

    def told(self) -> dict[str, Any]:
        """Give what the body says; of one that somebody changed into something else, its columns and the text."""
        try:
            told = json.loads(self.body)
        except ValueError:
            told = None
        if isinstance(told, dict):
            return told
        shown = {"actor": self.actor, "door": self.door, "verb": self.verb, "target": self.target}
        return {"at": self.at.isoformat(), **shown, "source": "", "detail": {"unreadable": self.body[:LONGEST]}}


def body_of(event: Record, at: datetime) -> str:
    """Give the entry's body: canonical JSON in ASCII, without anything that hides."""
    parts: dict[str, object] = {
        "at": at.astimezone(UTC).isoformat(timespec="microseconds"),
        "actor": event.actor.name,
        "role": event.actor.role.value,
        "door": event.actor.door.value,
        "source": event.actor.source,
        "verb": event.verb,
        "target": event.target,
    }
    for name, value in (("detail", event.detail), ("before", event.before), ("after", event.after)):
        if value is not None and value != {}:
            parts[name] = value
    return json.dumps(_plain(parts), sort_keys=True, separators=(",", ":"), allow_nan=False)


def mac(key: bytes, seq: int, previous: str, body: str) -> str:
    """Give the entry's hash."""
    return hmac.new(key, f"{seq}\n{previous}\n{body}".encode("utf-8", "backslashreplace"), hashlib.sha256).hexdigest()


def column(text: str) -> str:
    """Give `text` as a database takes it: no NUL, no lone surrogate, at most 500 characters."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")[:500]


def fault(key: bytes, entry: Entry, expected_seq: int, previous: str) -> str:
    """Tell what is wrong with `entry` as the next of the chain; empty when nothing is."""
    if entry.seq != expected_seq:
        return f"entry {expected_seq} is missing: {entry.seq} follows {expected_seq - 1}"
    if entry.previous != previous:
        return "it does not follow the entry before it"
    if not hmac.compare_digest(_bytes(entry.hash), _bytes(mac(key, entry.seq, entry.previous, entry.body))):
        return "its content was changed"
    told = json.loads(entry.body)
    shown = {
        "actor": entry.actor,
        "door": entry.door,
        "verb": entry.verb,
        "target": entry.target,
        "at": entry.at.astimezone(UTC).isoformat(timespec="microseconds"),
    }
    for name, value in shown.items():
        if (told[name] if name == "at" else column(told[name])) != value:
            return f"its column {name!r} was changed and is not what its body says"
    return ""


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _plain(value: object) -> JSON:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Sensitive):
        return MASK
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, str):
        if len(value) <= LONGEST:
            return value
        digest = hashlib.sha256(value.encode("utf-8", "backslashreplace")).hexdigest()
        return f"{value[:LONGEST]}… ({len(value)} characters, sha256 {digest})"
    if isinstance(value, bytes):
        return _plain(value.decode("utf-8", "backslashreplace"))
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [_plain(each) for each in value]
    return str(value)
