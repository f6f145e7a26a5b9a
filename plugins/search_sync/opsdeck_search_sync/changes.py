"""What readers give: rows as JSON-ready values, in transactions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import NamedTuple, Protocol

from opsdeck.api import OpsDeckError, Unavailable

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
Row = Mapping[str, "Json | Unchanged"]


class Unchanged(Enum):
    """A value that the source left out because it did not change."""

    UNCHANGED = "unchanged"


UNCHANGED = Unchanged.UNCHANGED


class Put(NamedTuple):
    """A row as it is now. `before` is the old row, or its key alone, where the key may have changed; with `partial`
    some values of `row` are `UNCHANGED`."""

    row: Row
    before: Row | None = None
    partial: bool = False


class Removed(NamedTuple):
    """A row that is gone; at least its key."""

    row: Row


@dataclass(frozen=True, slots=True)
class Emptied:
    """All rows are gone."""


Change = Put | Removed | Emptied


@dataclass(frozen=True, slots=True)
class Part:
    """A transaction, or a part of a large one.

    `position` is set when the source's log is whole up to it, so only on a transaction's last part, and on what a
    source says while nothing happens. `bytes` is about what the changes take; `committed` the source's clock.
    With `altered` the table's definition may have changed before these changes.
    """

    changes: Sequence[Change] = ()
    position: str | None = None
    bytes: int = 0
    committed: datetime | None = None
    altered: bool = False


@dataclass(frozen=True)
class Chunk:
    """Rows of the first copy, in the order of the key."""

    rows: tuple[Row, ...]
    last: tuple[str, ...]
    """Key of the last row as the source writes it, to go on after."""
    bytes: int = 0


@dataclass(frozen=True)
class Column:
    """A column of a table at the source."""

    name: str
    type: str
    key: bool = False
    shape: str = ""
    """What else its values are read by (signed or not, a width); two of one type and shape give alike values."""


ANY = Column("*", "any")
"""Stands for the fields that rows may have besides those named, at a source without a schema."""


@dataclass(frozen=True)
class Finding:
    """Something about the source that is not as it must (`stop`) or should be, with the SQL that mends it."""

    text: str
    stop: bool
    sql: str = ""


@dataclass(frozen=True)
class Head:
    """Where the source's log ends now."""

    position: str
    retained_bytes: int | None = None
    behind_bytes: int | None = None
    window_seconds: int | None = None
    """For how long the source keeps its log; None where it keeps it for us, or for ever."""


class LogLost(OpsDeckError):
    """The source no longer has the log from our position on: only a new copy can mend it."""

    status = 409


class LoginRefused(Unavailable):
    """The source does not take user and password. A sync starts again, and opens its secret anew each time."""

    exit_code = 4
    status = 403


class Reader(Protocol):
    """One generation's way to one table at the source. Close it with `close`."""

    async def identity(self) -> str:
        """Give what stays the same while this is the same server with the same history."""
        ...

    async def columns(self) -> tuple[Column, ...]:
        """Give the table's columns. Raises `NotFound`."""
        ...

    async def preflight(self) -> tuple[Finding, ...]:
        """Look at everything that would lose rows in silence, or stop us."""
        ...

    async def estimate(self) -> int:
        """Give about how many rows there are."""
        ...

    async def count(self) -> int:
        """Count the rows."""
        ...

    async def begin(self) -> str:
        """Make what reading needs at the source; give a position that no row seen from now on comes before."""
        ...

    def copy(self, after: Sequence[str] | None) -> AsyncGenerator[Chunk, None]:
        """Read all rows in the order of the key."""
        ...

    async def sample(self, rows: int) -> list[Row]:
        """Read about that many rows from all over the table."""
        ...

    def read(self, position: str) -> AsyncGenerator[Part, None]:
        """Read changes from `position` on, for ever. Raises `LogLost`, `Unavailable`, `Refused`."""
        ...

    async def confirm(self, position: str) -> None:
        """Say that nothing before `position` is needed any more."""
        ...

    async def head(self, position: str) -> Head:
        """Give where the log ends now, and how far behind `position` is."""
        ...

    def reached(self, position: str, goal: str) -> bool:
        """Tell whether `position` is at `goal` or beyond."""
        ...

    async def end(self) -> None:
        """Remove what `begin` made for this generation at the source."""
        ...

    async def close(self) -> None:
        """Let go of every connection."""
        ...


@dataclass
class Counts:
    """Documents that succeeded in Meilisearch since the last look."""

    written: int = 0
    removed: int = 0
    dead: int = 0
    lag: float | None = field(default=None)
