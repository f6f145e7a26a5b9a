"""The protocol of an engine, and what a look at a server gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from opsdeck.api import Refused

RUN = "@run@"
"""Stands in an engine's words for the folder of the run, which only the host knows."""


@dataclass(frozen=True)
class Server:
    """What a look at a database server found. Sizes in MiB; `birth` changes when its data is another's."""

    machine: str
    cores: int
    tool: str
    lacks: tuple[str, ...]
    rclone: str
    version: str = ""
    program: str = ""
    data: str = ""
    id: str = ""
    lsn: int = 0
    birth: str = ""
    used: int = 0
    grants: tuple[str, ...] = field(default=())
    fault: str = ""

    @property
    def identity(self) -> str:
        """Tell this server's data from any other's: a restore or a new installation gives another."""
        return f"{self.id}/{self.birth}"


@dataclass(frozen=True)
class Order:
    """One backup to take. `throttle` in the engine's own unit, 0 for none; `tool` is what the tool says of itself."""

    incremental: bool
    parallel: int
    throttle: int = 0
    tool: str = ""


@dataclass(frozen=True)
class Tool:
    """The Debian packages of a tool, and the name of the vendor's repository that has them ("" for Debian's own)."""

    packages: tuple[str, ...]
    repository: str = ""


def check_grants(server: Server, grants: Sequence[str], host: str) -> None:
    """Raise `Refused` unless the database login has every one of the global rights."""
    granted = " ".join(server.grants).upper()
    missing = [] if "ALL PRIVILEGES ON *.*" in granted else [grant for grant in grants if grant not in granted]
    if missing:
        raise Refused(
            f"the database login lacks {', '.join(missing)}.",
            host=host,
            field="login_secret",
            hint=f"GRANT {', '.join(grants)} ON *.* to it",
        )


class Engine(Protocol):
    """A database engine with the tool that copies it while it runs."""

    name: str
    tool: str
    client: str
    server: str
    extractor: str
    user: str
    unit: str
    facts: str
    """SQL that gives version, data folder and the server's own name in one row."""
    server_packages: tuple[str, ...]
    """Debian's packages of the server; none where Debian has none, and a person installs it."""
    grants: tuple[str, ...]

    def tool_for(self, version: str) -> Tool:
        """Give the tool that fits a server of `version`. Raises `Refused` when there is none."""
        ...

    def backup(self, order: Order) -> tuple[str, ...]:
        """Give the words that stream a backup."""
        ...

    def accounts(self) -> tuple[str, ...]:
        """Give the words that print the accounts as SQL."""
        ...

    def prepare(self, folders: Sequence[str], memory: int, tool: str) -> Sequence[tuple[str, ...]]:
        """Give the commands, in order, that make one consistent copy of a full (first) and its increments.

        `memory` in MiB; `tool` is what the tool there says of itself.
        """
        ...

    def place(self, folder: str, data: str) -> tuple[str, ...]:
        """Give the words that move a prepared copy into an empty data folder."""
        ...

    def marker(self, version: str) -> bytes:
        """Give the last bytes of a complete stream."""
        ...

    def gate(self, server: Server, host: str) -> None:
        """Raise `Refused` unless tool and server fit."""
        ...

    def fits(self, made: str, here: str) -> bool:
        """Tell whether a backup made by a server `made` can be prepared and started by a server `here`."""
        ...
