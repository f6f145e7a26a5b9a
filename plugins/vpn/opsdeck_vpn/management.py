"""OpenVPN's management protocol (management-notes.txt of OpenVPN 2.6): lines to events, answers to lines. Pure."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass

from opsdeck.api import Invalid


@dataclass(frozen=True)
class Hold:
    """It waits to be let go."""


@dataclass(frozen=True)
class Need:
    """It asks for what is called `kind` (`Auth`, …). `challenge` is the question for a code, "" for none."""

    kind: str
    user: bool
    challenge: str = ""
    concat: bool = False


@dataclass(frozen=True)
class Refused:
    """The server refused. `state` and `challenge` are set when it asks back (CRV1)."""

    kind: str
    reason: str = ""
    state: str = ""
    challenge: str = ""


@dataclass(frozen=True)
class Entered:
    """It entered a state of its own: `CONNECTING`, `CONNECTED`, `RECONNECTING`, …"""

    name: str
    detail: str
    local: str
    remote: str


@dataclass(frozen=True)
class Counted:
    """Bytes since the connection began."""

    received: int
    sent: int


@dataclass(frozen=True)
class Said:
    """A line of its log; `fatal` when it ends of it."""

    text: str
    fatal: bool = False


Event = Hold | Need | Refused | Entered | Counted | Said

_NEED = re.compile(r"Need '([^']*)' (username/password|password)(?: SC:(\d+),(.*))?")
_FAILED = re.compile(r"Verification Failed: '([^']*)'(?: \['(.*)'\])?")
_CRV1 = re.compile(r"CRV1:([^:]*):([^:]*):([^:]*):(.*)")


def parse(line: str) -> Event | None:
    """Give the event of a line; None for what says nothing here. Never raises, whatever comes."""
    if not line.startswith(">"):
        return None
    word, _, rest = line[1:].partition(":")
    match word:
        case "HOLD":
            return Hold()
        case "PASSWORD":
            return _password(rest)
        case "STATE":
            parts = [*rest.split(","), "", "", "", ""]
            return Entered(_plain(parts[1]), _plain(parts[2]), _plain(parts[3]), _plain(parts[4]))
        case "BYTECOUNT":
            first, _, second = rest.partition(",")
            return Counted(int(first), int(second)) if first.isdigit() and second.isdigit() else None
        case "LOG":
            return Said(_plain(rest.split(",", 2)[-1]))
        case "FATAL":
            return Said(_plain(rest), fatal=True)
        case _:
            return None


def _password(rest: str) -> Event | None:
    if need := _NEED.match(rest):
        # In SC:<flags>, bit 0 is echo and bit 1 (2.7) that password and code go in one word.
        flags = int(need[3][:6]) if need[3] else 0
        return Need(need[1], need[2] != "password", _plain(need[4] or ""), bool(flags & 2))
    if failed := _FAILED.match(rest):
        reason = failed[2] or ""
        if asked := _CRV1.match(reason):
            return Refused(failed[1], "", asked[2], _plain(asked[4]))
        return Refused(failed[1], _plain(reason))
    return None


def _plain(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)[:300].strip()


def quoted(text: str) -> str:
    """Quote a value for the management interface. Raises `Invalid` for what no line can hold."""
    if any(ord(char) < 32 for char in text):
        raise Invalid("a password may not hold line breaks or control characters.", field="password")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def static_answer(password: str, code: str) -> str:
    """Give the password that answers a static challenge."""
    return f"SCRV1:{base64.b64encode(password.encode()).decode()}:{base64.b64encode(code.encode()).decode()}"


def dynamic_answer(state: str, code: str) -> str:
    """Give the password that answers a dynamic challenge."""
    return f"CRV1::{state}::{code}"
