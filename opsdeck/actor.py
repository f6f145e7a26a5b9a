"""Who does something, and what they may do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What a person or token may do: look, act, or rule."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    @property
    def rank(self) -> int:
        """Give the place in the order viewer < operator < admin."""
        return list(Role).index(self)


class Door(StrEnum):
    """Through which door it came."""

    CLI = "cli"
    WEB = "web"
    API = "api"
    SCHEDULE = "schedule"
    SYSTEM = "system"


@dataclass(frozen=True)
class Actor:
    """Who, through which door, from where. Frozen into jobs and audit entries by name.

    `stepped_up` is true when the person proved themselves again within the last minutes, which `destroy` asks for;
    the CLI of the data folder's owner counts as stepped up, since it holds the master key.
    `scopes` limits a token to actions such as `core.*`; empty means all that the role allows.
    """

    name: str
    role: Role
    door: Door
    source: str = ""
    stepped_up: bool = False
    scopes: tuple[str, ...] = ()


SYSTEM = Actor("system", Role.ADMIN, Door.SYSTEM, stepped_up=True)
