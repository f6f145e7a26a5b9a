"""What an action would change, as data."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Verb(StrEnum):
    """What would happen to a target."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    RUN = "run"
    RESTART = "restart"
    INSTALL = "install"
    UPGRADE = "upgrade"
    REMOVE = "remove"


@dataclass(frozen=True)
class Change:
    """One thing that would change. `host` is "" for the console itself.

    `before` and `after` are the whole texts where there are any; `detail` says the rest in one phrase
    (`1.22.1 → 1.22.1-9`).
    """

    host: str
    verb: Verb
    target: str
    detail: str = ""
    before: str | None = None
    after: str | None = None

    def diff(self) -> tuple[str, ...]:
        """Give the unified diff of the texts, line by line, without headers; empty when there are no texts."""
        old = (self.before or "").splitlines()
        new = (self.after or "").splitlines()
        lines = tuple(difflib.unified_diff(old, new, lineterm="", n=3))
        return lines[2:]


@dataclass(frozen=True)
class Plan:
    """Every change an action would make; empty means nothing to do."""

    changes: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """Tell whether there is nothing to do."""
        return not self.changes

    @property
    def hosts(self) -> tuple[str, ...]:
        """Give the names of the hosts that would change, each once, in order."""
        return tuple(dict.fromkeys(change.host for change in self.changes if change.host))

    def as_dict(self) -> dict[str, Any]:
        """Give the plan as JSON-ready data."""
        return {"changes": [asdict(change) for change in self.changes], "notes": list(self.notes)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Plan:
        """Make a plan of what `as_dict` gave."""
        return cls(
            tuple(Change(**{**item, "verb": Verb(item["verb"])}) for item in data["changes"]), tuple(data["notes"])
        )
