"""What is said of a chain as a whole: its head, the heads kept outside, the verdict on all its entries."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from opsdeck.audit.entry import GENESIS, Entry, fault
from opsdeck.errors import Invalid


@dataclass(frozen=True)
class Head:
    """The newest entry's number and hash. Kept outside the database, it shows when the tail was cut."""

    seq: int
    hash: str

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash}"

    @classmethod
    def parse(cls, text: str) -> Head:
        """Read `<seq>:<hash>`. Raises `Invalid`."""
        seq, _, digest = text.strip().partition(":")
        if not seq.isdigit() or len(digest) != 64:
            raise Invalid(f"{text[:80]!r} is no head of an audit chain.", field="head", hint="give SEQ:HASH")
        return cls(int(seq), digest)


@dataclass(frozen=True)
class Verdict:
    """What looking at the whole chain gave: `bad` is the first bad entry's number, None when all is well."""

    entries: int
    head: Head
    bad: int | None = None
    reason: str = ""


async def check(key: bytes, entries: AsyncIterator[Entry], heads: Sequence[Head] = ()) -> Verdict:
    """Verify a chain from its first entry; see `AuditLog.verify`."""
    wanted = {head.seq: head.hash for head in heads if head.seq}
    seq, previous = 0, GENESIS
    async for entry in entries:
        reason = fault(key, entry, seq + 1, previous)
        if not reason and wanted.get(entry.seq, entry.hash) != entry.hash:
            reason = "it is not the entry that the kept head names: the chain was written anew"
        if reason:
            bad = seq + 1 if entry.seq != seq + 1 else entry.seq
            return Verdict(seq, Head(seq, previous), bad, reason)
        seq, previous = entry.seq, entry.hash
    highest = max(wanted, default=0)
    if highest > seq:
        reason = f"the chain ends at {seq}, and a kept head names entry {highest}: its tail was cut"
        return Verdict(seq, Head(seq, previous), seq + 1, reason)
    return Verdict(seq, Head(seq, previous))


def kept_heads(file: Path) -> tuple[Head, ...]:
    """Read the heads that `keep_head` wrote; none when the file is not there. Raises `Invalid`, naming the line."""
    if not file.exists():
        return ()
    heads = []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        try:
            heads.append(Head.parse(json.loads(line)["head"]))
        except (ValueError, KeyError, TypeError, Invalid) as problem:
            raise Invalid(
                f"line {number} of {file} is no kept head.",
                file=str(file),
                hint="find out who changed it; mend or remove that line",
            ) from problem
    return tuple(heads)


def append_line(file: Path, line: str) -> None:
    """Append a line to a file that only its owner may read, and make sure it is on the disk."""
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(handle, "a") as out:
        out.write(line + "\n")
        out.flush()
        os.fsync(out.fileno())
