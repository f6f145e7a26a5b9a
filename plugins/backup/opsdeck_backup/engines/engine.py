"""The protocol of an engine, and what a look at a server gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

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
    """One backup to take. `throttle` in the engine's own unit, 0 for none."""

    incremental: bool
    parallel: int
    throttle: int = 0


class Engine(Protocol):
    """A database engine with the tool that copies it while it runs."""

    name: str
    tool: str
    client: str
    extractor: str
    user: str
    server_packages: tuple[str, ...]
    tool_packages: tuple[str, ...]
    grants: tuple[str, ...]

    def backup(self, order: Order) -> tuple[str, ...]:
        """Give the words that stream a backup."""
        ...

    def accounts(self) -> tuple[str, ...]:
        """Give the words that print the accounts as SQL."""
        ...

    def prepare(self, folders: Sequence[str], memory: int) -> Sequence[tuple[str, ...]]:
        """Give the commands, in order, that make one consistent copy of a full (first) and its increments."""
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
