"""Units of systemd: what state they are in, and changes that are proven afterwards.

A restart is done when the unit is active and still is a moment later, without systemd having had to start it again.
When it is not, the error carries the last lines of its journal.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from opsdeck.errors import Invalid, NotFound
from opsdeck.plan import Change, Verb
from opsdeck.remote import files
from opsdeck.remote.errors import NoSystemd, ProbeFailed, Unreadable
from opsdeck.remote.files import File
from opsdeck.remote.sources import shell
from opsdeck.ssh.command import Command, Completed, Script, printable

if TYPE_CHECKING:
    from opsdeck.jobs.context import HostAccess

FOLDER = "/etc/systemd/system"
# systemd.unit(5): the kinds of units, and the characters of their names.
_KINDS = ["service", "socket", "target", "timer", "path", "mount", "automount", "swap", "slice", "scope", "device"]
_NAME = re.compile(r"[A-Za-z0-9:_\\][A-Za-z0-9:_.\\@-]{0,254}")


class Act(StrEnum):
    """What systemctl is told."""

    START = "start"
    STOP = "stop"
    RESTART = "restart"
    RELOAD = "reload-or-restart"
    ENABLE = "enable"
    DISABLE = "disable"


@dataclass(frozen=True)
class UnitState:
    """What systemd says of a unit; the words are its own (`systemctl show`)."""

    name: str
    load: str
    active: str
    sub: str
    file: str
    result: str
    restarts: int
    pid: int
    type: str

    @property
    def known(self) -> bool:
        """Tell whether the host has such a unit."""
        return self.load not in ("not-found", "bad-setting")

    @property
    def well(self) -> bool:
        """Tell whether it does what it is for: active, or a one-shot that ended well."""
        return self.active == "active" or (
            self.type == "oneshot" and self.active == "inactive" and self.result == "success"
        )

    @property
    def enabled(self) -> bool:
        """Tell whether it starts at boot."""
        return self.file in ("enabled", "enabled-runtime", "static", "generated", "alias")


@dataclass(frozen=True)
class Acted:
    """How an act ended: systemctl's exit status, the state afterwards, and the journal when it is not well."""

    code: int
    state: UnitState
    journal: tuple[str, ...]


def unit_name(name: str, field: str = "unit") -> str:
    """Give the unit's full name: `nginx` is `nginx.service`. Raises `Invalid`."""
    full = name if name.rpartition(".")[2] in _KINDS and "." in name else f"{name}.service"
    if not _NAME.fullmatch(full):
        raise Invalid(f"{name!r} is no name of a unit.", field=field, hint="write it as systemctl lists it")
    return full


def look_script(names: Sequence[str]) -> Script:
    """Build the look at some units."""
    return Script(shell("look_units"), tuple(unit_name(name) for name in names))


def act_script(act: Act, name: str, *, limit: int = 90, settle: float = 1.5, sudo: bool = True) -> Script:
    """Build an act on a unit: at most `limit` s, judged again after `settle` s."""
    return Script(shell("act_unit"), (act.value, unit_name(name), str(limit), f"{settle:g}"), sudo=sudo)


def parse_units(host: str, done: Completed) -> tuple[UnitState, ...]:
    """Read what `systemctl show` printed. Raises `NoSystemd`, `Unreadable`."""
    lines = _lines(host, done)
    if not lines or lines[-1] != "end":
        raise Unreadable(f"systemctl gave no answer: {done.last_words()}", host=host)
    return tuple(_state(host, block.split("\n")) for block in "\n".join(lines[:-1]).split("\n\n") if block.strip())


def parse_act(host: str, done: Completed) -> Acted:
    """Read how an act went. Raises `NoSystemd`, `Unreadable`."""
    lines = _lines(host, done)
    if len(lines) < 3 or not lines[0].startswith("code ") or lines[-1] != "end" or "journal" not in lines:
        raise Unreadable(f"systemctl gave no answer: {done.last_words()}", host=host)
    cut = lines.index("journal")
    tail = tuple(words for line in lines[cut + 1 : -1] if (words := printable(line.encode(), 500)))
    return Acted(int(lines[0].split()[1]), _state(host, lines[1:cut]), tail)


def _lines(host: str, done: Completed) -> list[str]:
    lines = done.stdout.decode("utf-8", "replace").rstrip("\n").split("\n")
    if lines[0] == "nosystemd":
        raise NoSystemd(
            "systemd does not run here, so there are no units.", host=host, hint="use a command or a script"
        )
    return lines


def _state(host: str, lines: Sequence[str]) -> UnitState:
    found = dict(line.split("=", 1) for line in lines if "=" in line)
    try:
        return UnitState(
            found["Id"],
            found["LoadState"],
            found["ActiveState"],
            found["SubState"],
            found.get("UnitFileState", ""),
            found.get("Result", "success"),
            int(found.get("NRestarts", "0")),
            int(found.get("MainPID", "0")),
            found.get("Type", ""),
        )
    except (KeyError, ValueError):
        raise Unreadable("systemctl's answer lacks the state of a unit.", host=host) from None


async def look(host: HostAccess, names: Sequence[str]) -> tuple[UnitState, ...]:
    """Look at some units, in one round trip. Raises `NoSystemd`."""
    done = await host.run(look_script(names), check=False, log=False)
    return parse_units(host.host.name, done)


async def act(
    host: HostAccess, act: Act, name: str, *, limit: int = 90, settle: float = 1.5, sudo: bool = True
) -> UnitState:
    """Do something with a unit and prove it, in one round trip.

    After `start`, `restart` and `reload` it must be well and stay so for `settle` s; after `stop` it must be inactive.
    Raises `NotFound` for a unit that the host has not, `ProbeFailed` with the journal's last lines, `NoSystemd`.
    """
    done = await host.run(act_script(act, name, limit=limit, settle=settle, sudo=sudo), check=False, log=False)
    return judge(host.host.name, act, parse_act(host.host.name, done), printable(done.stderr[-600:], 500))


def judge(host: str, act: Act, acted: Acted, said: str = "") -> UnitState:
    """Give the state when the act did what it should. Raises `NotFound`, `ProbeFailed`."""
    state = acted.state
    if not state.known:
        raise NotFound(
            f"there is no unit {state.name}.", host=host, field="unit", hint="`systemctl list-units` names them"
        )
    tail = " | ".join(acted.journal[-6:]) or said
    if act in (Act.START, Act.RESTART, Act.RELOAD) and (not state.well or (act is not Act.RELOAD and state.restarts)):
        again = f", started again {state.restarts} times" if state.restarts else ""
        raise ProbeFailed(
            f"{state.name} is {state.active} ({state.sub}, {state.result}{again}): {tail or 'its journal is empty'}",
            host=host,
            hint=f"journalctl -u {state.name}",
        )
    if act is Act.STOP and state.active not in ("inactive", "failed"):
        raise ProbeFailed(f"{state.name} is still {state.active}: {tail}", host=host)
    if acted.code:
        raise ProbeFailed(f"systemctl {act} {state.name} ended with {acted.code}: {said or tail}", host=host)
    return state


@dataclass(frozen=True)
class Unit:
    """A unit as it should be.

    `content` is the text of its file in /etc/systemd/system (None: whatever brings it). `enabled` and `active` None
    leave what is there. It is restarted when its file changed, or when `reload` says that what it reads did.
    """

    name: str
    content: bytes | None = None
    enabled: bool | None = True
    active: bool | None = True

    def __post_init__(self) -> None:
        unit_name(self.name)

    @property
    def file(self) -> File | None:
        """Give its file."""
        return (
            None if self.content is None else File(f"{FOLDER}/{unit_name(self.name)}", self.content, owner="root:root")
        )


async def plan(host: HostAccess, unit: Unit) -> tuple[Change, ...]:
    """Say what would change."""
    name, where = unit_name(unit.name), host.host.name
    (state,) = await look(host, [name])
    changes = list(await files.plan(host, [unit.file])) if unit.file else []
    if unit.enabled is not None and unit.enabled != (state.known and state.enabled):
        changes.append(Change(where, Verb.UPDATE, name, "starts at boot" if unit.enabled else "does not start at boot"))
    if unit.active is not None and unit.active != (state.known and state.active == "active"):
        changes.append(Change(where, Verb.RUN, name, "started" if unit.active else "stopped"))
    elif unit.active and changes and unit.file:
        changes.append(Change(where, Verb.RESTART, name))
    return tuple(changes)


async def ensure(host: HostAccess, unit: Unit, *, reload: bool = False, settle: float = 1.5) -> UnitState:
    """Bring a unit to its state and prove it; give the state.

    A new file under which it does not come up is put back, and the unit started again as it was; then the
    `ProbeFailed` of the new one goes on outward.
    """
    name = unit_name(unit.name)
    changed = bool(unit.file and await files.apply(host, [unit.file]))
    if changed:
        await _reload_manager(host)
    try:
        if unit.enabled is not None:
            await act(host, Act.ENABLE if unit.enabled else Act.DISABLE, name)
        if unit.active is False:
            return await act(host, Act.STOP, name)
        if unit.active:
            verb = Act.RESTART if changed else Act.RELOAD if reload else Act.START
            return await act(host, verb, name, settle=settle)
    except ProbeFailed:
        if changed and unit.file:
            await files.put_back(host, [unit.file.path])
            await _reload_manager(host)
            (state,) = await look(host, [name])
            if state.known and unit.active:
                await host.run(Command(("systemctl", "restart", "--", name), sudo=True), check=False)
        raise
    (state,) = await look(host, [name])
    return state


async def _reload_manager(host: HostAccess) -> None:
    await host.run(Command(("systemctl", "daemon-reload"), sudo=True), log=False)
