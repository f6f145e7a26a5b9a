"""What every format gives: rows with the line they stand on, and what could not be used."""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from opsdeck.inventory.names import RESERVED

MAX_ROWS = 10_000
MAX_BYTES = 8 << 20


def read_bounded(path: Path) -> bytes:
    """Read a file of at most `MAX_BYTES`; a device or a pipe tells no size, so no more than that is taken.

    Raises `OSError`, also for one that is larger.
    """
    with path.open("rb") as stream:
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise OSError(errno.EFBIG, f"it is larger than {MAX_BYTES >> 20} MiB")
    return data


@dataclass(frozen=True)
class Row:
    """One host as a file describes it: raw fields of `HostIn`, and the private key file it logs in with."""

    name: str
    line: int
    given: Mapping[str, object]
    key_file: str | None = None
    file: str = ""


@dataclass(frozen=True)
class Problem:
    """Something that could not be used. One that is `serious` keeps the whole import from being applied."""

    line: int
    text: str
    serious: bool = True
    file: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.file else f"line {self.line}"
        return f"{where}: {self.text}"


@dataclass
class Parsed:
    """What came of a file, in the order of its lines."""

    file: str = ""
    rows: list[Row] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def wrong(self, line: int, text: str, *, file: str | None = None) -> None:
        """Note what keeps the import from being applied."""
        self.problems.append(Problem(line, text, True, self.file if file is None else file))

    def note(self, line: int, text: str, *, file: str | None = None) -> None:
        """Note what was left out and does no harm."""
        self.problems.append(Problem(line, text, False, self.file if file is None else file))

    def names(self, called: Mapping[str, tuple[int, str]]) -> dict[str, str]:
        """Give the host names for what another tool calls hosts; `called` says in which line and file each stands.

        One that cannot name a host here is wrong; of two with the same name here the second is left out.
        """
        names: dict[str, str] = {}
        for text, (line, file) in called.items():
            name = name_from(text)
            if not name or name in RESERVED:
                self.wrong(line, f"{text!r} cannot name a host here", file=file)
            elif name in names.values():
                self.note(line, f"{text!r} has the same name here as another; left out", file=file)
            else:
                names[text] = name
        return names


def name_from(text: str) -> str:
    """Make a host name of what another tool calls a host: lower case, other characters as `-`."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.strip().lower()).strip("-._")[:63].rstrip("-._")


def jump_name(hop: str, rows: Mapping[str, object]) -> tuple[str, dict[str, object]]:
    """Read one hop of a ProxyJump, `[user@]host[:port]`; give its host name here and what the hop says of it."""
    text = hop.strip().removeprefix("ssh://")
    user, at, place = text.rpartition("@")
    match = re.match(r"\[([^\]]+)\](?::(\d+))?\Z|([^:]+)(?::(\d+))?\Z", place)
    address = (match[1] or match[3]) if match else place
    port = (match[2] or match[4]) if match else None
    given: dict[str, object] = {"address": address}
    if at:
        given["user"] = user
    if port:
        given["port"] = port
    return (address.lower() if address.lower() in rows else name_from(address)), given
