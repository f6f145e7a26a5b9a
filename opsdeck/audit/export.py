"""The chain as JSON Lines: one head line, then one entry a line; verified without the database.

The head line says how many entries follow and which is the last, and carries a hash of its own, so that a shortened
file shows. Checking needs the installation's keys, since who can check could also forge: there is one key for both.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from datetime import datetime
from typing import IO, Any

from opsdeck.audit.chain import Head, Verdict, check
from opsdeck.audit.entry import GENESIS, Entry, column, mac
from opsdeck.errors import Invalid

FORMAT = "opsdeck-audit-1"


async def write(entries: AsyncIterator[Entry], head: Head, key: bytes, out: IO[str]) -> None:
    """Write every entry up to `head`."""
    told: dict[str, object] = {"format": FORMAT, "entries": head.seq, "head": head.hash}
    out.write(json.dumps(told | {"mac": _mac(key, told)}) + "\n")
    async for entry in entries:
        if entry.seq > head.seq:
            break
        row = {"seq": entry.seq, "previous": entry.previous, "hash": entry.hash, "body": entry.body}
        out.write(json.dumps(row) + "\n")


async def verify(lines: Iterable[str], key: bytes, file: str, heads: Sequence[Head] = ()) -> Verdict:
    """Verify a file that `write` made. Raises `Invalid`, naming the line, for one that is no such file."""
    rows = enumerate(lines, 1)
    told = _object(next(rows, (1, ""))[1], file, 1)
    signature = told.pop("mac", None)
    if told.get("format") != FORMAT:
        raise Invalid(f"{file} is no export of an audit chain.", file=file, hint="`opsdeck audit export` makes one")
    expected = _mac(key, told).encode()
    if not isinstance(signature, str) or not hmac.compare_digest(signature.encode("utf-8", "replace"), expected):
        return Verdict(0, Head(0, GENESIS), 1, "the head line was changed, or another installation wrote the file")
    return await check(key, _entries(rows, file), [Head(int(told["entries"]), str(told["head"])), *heads])


async def _entries(rows: Iterator[tuple[int, str]], file: str) -> AsyncIterator[Entry]:
    for number, line in rows:
        row = _object(line, file, number)
        try:
            body = json.loads(row["body"])
            yield Entry(
                seq=int(row["seq"]),
                at=datetime.fromisoformat(body["at"]),
                actor=column(body["actor"]),
                door=str(body["door"]),
                verb=column(body["verb"]),
                target=column(body["target"]),
                body=str(row["body"]),
                previous=str(row["previous"]),
                hash=str(row["hash"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as fault:
            raise Invalid(f"line {number} of {file} is no audit entry.", file=file) from fault


def _object(line: str, file: str, number: int) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as fault:
        raise Invalid(f"line {number} of {file} is not JSON.", file=file, hint="the file was changed or cut") from fault
    if not isinstance(found, dict):
        raise Invalid(f"line {number} of {file} is no JSON object.", file=file)
    return found


def _mac(key: bytes, told: dict[str, object]) -> str:
    return mac(key, 0, FORMAT, json.dumps(told, sort_keys=True))
