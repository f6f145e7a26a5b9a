"""Folders on a host: there with a mode and an owner, or gone when they are empty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opsdeck.errors import Refused
from opsdeck.plan import Change, Verb
from opsdeck.remote import paths
from opsdeck.remote.errors import NotDone, Unreadable
from opsdeck.remote.sources import shell
from opsdeck.ssh.command import Completed, Script, printable

if TYPE_CHECKING:
    from opsdeck.jobs.context import HostAccess


@dataclass(frozen=True)
class Directory:
    """A folder as it should be; `there` False: gone, which is done only while it is empty.

    `mode` and `owner` (`user` or `user:group`) None leave what is there. Missing parents are made, as root's, 0755.
    """

    path: str
    mode: int | None = 0o755
    owner: str | None = None
    there: bool = True

    def __post_init__(self) -> None:
        paths.check_path(self.path)
        if self.owner is not None:
            paths.check_owner(self.owner)
        if self.mode is not None:
            paths.check_mode(self.mode)


@dataclass(frozen=True)
class DirectoryState:
    """What lies there: `folder`, `link`, `other` or `absent`."""

    kind: str
    mode: int = 0
    owner: str = ""
    group: str = ""
    empty: bool = True


def look_script(names: Sequence[str]) -> Script:
    """Build the look at some folders."""
    return Script(shell("look_folders"), tuple(paths.check_path(name) for name in names), sudo=True)


def parse_look(output: bytes, count: int) -> tuple[DirectoryState, ...]:
    """Read what the look printed. Raises `Unreadable`."""
    lines = output.decode("ascii", "replace").splitlines()
    if len(lines) != count + 1 or lines[-1] != "end":
        raise Unreadable("the look at its folders broke off.")
    states: list[DirectoryState] = []
    for line in lines[:-1]:
        match line.split(" "):
            case ["folder", mode, owner, group, filled] if mode and not mode.strip("01234567"):
                states.append(DirectoryState("folder", int(mode, 8), owner, group, filled == "empty"))
            case [("link" | "other" | "absent") as kind]:
                states.append(DirectoryState(kind))
            case _:
                raise Unreadable(f"the look at its folders gave {printable(line.encode(), 80)!r}.")
    return tuple(states)


def plan_directories(host: str, wanted: Sequence[Directory], states: Sequence[DirectoryState]) -> tuple[Change, ...]:
    """Say what would change. Raises `Refused` where something else lies there, or a folder to remove is not empty."""
    changes: list[Change] = []
    for folder, state in zip(wanted, states, strict=True):
        if state.kind in ("link", "other"):
            raise Refused(f"{folder.path} is no folder.", host=host, file=folder.path, hint="choose another path")
        if not folder.there:
            if state.kind == "folder" and not state.empty:
                raise Refused(f"{folder.path} is not empty.", host=host, file=folder.path, hint="empty it first")
            if state.kind == "folder":
                changes.append(Change(host, Verb.DELETE, folder.path))
            continue
        details = []
        new = state.kind == "absent"
        if folder.mode is not None and (new or state.mode != folder.mode):
            details.append(f"mode {folder.mode:04o}" if new else f"mode {state.mode:04o} → {folder.mode:04o}")
        there = f"{state.owner}:{state.group}" if ":" in (folder.owner or "") else state.owner
        if folder.owner is not None and (new or there != folder.owner):
            details.append(f"owner {folder.owner}" if new else f"owner {there} → {folder.owner}")
        if new or details:
            changes.append(Change(host, Verb.CREATE if new else Verb.UPDATE, folder.path, ", ".join(details)))
    return tuple(changes)


def apply_script(wanted: Sequence[Directory]) -> Script:
    """Build what makes, mends and removes folders, in the order given."""
    words: list[str] = []
    for folder in wanted:
        mode = "-" if folder.mode is None else f"{folder.mode:04o}"
        words += [folder.path, "yes" if folder.there else "no", mode, folder.owner or "-"]
    return Script(shell("make_folders"), tuple(words), sudo=True)


def check_apply(host: str, done: Completed) -> None:
    """Raise `NotDone` when it went wrong."""
    if not done.ok:
        raise NotDone(f"its folders were not made: {done.last_words()}", host=host)


async def look(host: HostAccess, names: Sequence[str]) -> tuple[DirectoryState, ...]:
    """Look at some folders, in one round trip."""
    done = await host.run(look_script(names), log=False)
    return parse_look(done.stdout, len(names))


async def plan(host: HostAccess, wanted: Sequence[Directory]) -> tuple[Change, ...]:
    """Say what would change."""
    return plan_directories(host.host.name, wanted, await look(host, [folder.path for folder in wanted]))


async def apply(host: HostAccess, wanted: Sequence[Directory]) -> tuple[Change, ...]:
    """Bring folders to their state; give what changed. Raises `Refused`, `NotDone`."""
    changes = await plan(host, wanted)
    if changes:
        touched = {change.target for change in changes}
        todo = [folder for folder in wanted if folder.path in touched]
        check_apply(host.host.name, await host.run(apply_script(todo), check=False, log=False))
    return changes
