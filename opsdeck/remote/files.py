"""Small files on a host: looked at, compared, checked and put in place, many in one round trip.

Putting in place goes: write beside, let the program's own checker judge (`check` for one staged file, `validate` for
all once they lie in place), rename; when anything refuses, everything lies as before. What was there is kept beside
and can be put back later. Large files are staged by `HostAccess.put` first and then go the same way.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from opsdeck.errors import Invalid, NotFound, Refused
from opsdeck.plan import Change, Verb
from opsdeck.remote import paths
from opsdeck.remote.errors import CheckRefused, NotDone, Unreadable
from opsdeck.remote.sources import shell
from opsdeck.secrets.sensitive import Sensitive
from opsdeck.ssh.command import Completed, Script, printable
from opsdeck.ssh.errors import DiskFull

if TYPE_CHECKING:
    from opsdeck.jobs.context import HostAccess

INLINE_LIMIT = 512 * 1024
"""Bytes of content that travel inside the one round trip; more is staged by `HostAccess.put` before."""
LOOK_LIMIT = 96 * 1024
"""Bytes of one file that a look brings back for its diff."""
STAGED = "{}"
"""Stands for the staged file among the words of a check."""


@dataclass(frozen=True)
class File:
    """A file as it should be. `content` None: there should be none; a `Path` is a file of this machine.

    `mode` and `owner` (`user` or `user:group`) None leave what is there (0644 and who writes it, for a new one).
    `check` is an argv whose word `{}` becomes the staged file; an end other than 0 refuses it. Content that is
    `Sensitive` shows in no plan and travels on standard input only. Raises `Invalid` for what cannot be written.
    """

    path: str
    content: bytes | Sensitive | Path | None
    mode: int | None = 0o644
    owner: str | None = None
    check: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        paths.check_path(self.path)
        if self.owner is not None:
            paths.check_owner(self.owner)
        if self.mode is not None:
            paths.check_mode(self.mode)
        if isinstance(self.content, Path) and not self.content.is_file():
            raise NotFound(f"there is no file {self.content} here.", file=str(self.content), field="content")
        if isinstance(self.content, Sensitive) and self.size > INLINE_LIMIT:
            raise Invalid(f"the secret content of {self.path} is over {INLINE_LIMIT} bytes.", field="content")

    @property
    def data(self) -> bytes | None:
        """Give the content when it is held in memory."""
        if isinstance(self.content, Sensitive):
            return self.content.reveal().encode()
        return self.content if isinstance(self.content, bytes) else None

    @cached_property
    def size(self) -> int:
        """Give the content's length in bytes."""
        return self.content.stat().st_size if isinstance(self.content, Path) else len(self.data or b"")

    @cached_property
    def digest(self) -> str:
        """Give the content's sha256."""
        if isinstance(self.content, Path):
            with self.content.open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()
        return hashlib.sha256(self.data or b"").hexdigest()


class Kind(StrEnum):
    """What lies at a path."""

    FILE = "file"
    ABSENT = "absent"
    ORPHAN = "orphan"
    """Nothing, and its folder is missing too."""
    FOLDER = "folder"
    LINK = "link"
    OTHER = "other"
    DENIED = "denied"


@dataclass(frozen=True)
class FileState:
    """What lies at a path now. `content` is there for files up to the limit of the look."""

    kind: Kind
    mode: int = 0
    owner: str = ""
    group: str = ""
    size: int = 0
    digest: str = ""
    content: bytes | None = None


def look_script(names: Sequence[str], *, limit: int = LOOK_LIMIT, sudo: bool = True) -> Script:
    """Build the look at some paths."""
    return Script(shell("look_files"), (str(limit), *(paths.check_path(name) for name in names)), sudo=sudo)


def parse_look(output: bytes, count: int) -> tuple[FileState, ...]:
    """Read what a look at `count` paths printed. Raises `Unreadable`."""
    lines = output.split(b"\n")
    if len(lines) < count + 2 or lines[count] != b"end":
        raise Unreadable("the look at its files broke off.")
    return tuple(_parse_state(line) for line in lines[:count])


def _parse_state(line: bytes) -> FileState:
    words = line.decode("ascii", "replace").split(" ")
    try:
        kind = Kind(words[0])
        if kind is Kind.FOLDER:
            return FileState(kind, int(words[1], 8), words[2], words[3])
        if kind is Kind.FILE:
            mode, owner, group, size, digest, body = words[1:]
            kept = base64.b64decode(body[1:], validate=True)
            whole = hashlib.sha256(kept).hexdigest() == digest
            return FileState(kind, int(mode, 8), owner, group, int(size), digest, kept if whole else None)
        return FileState(kind)
    except (ValueError, IndexError, binascii.Error):
        raise Unreadable(f"the look at its files gave {printable(line, 80)!r}.") from None


def differs(file: File, state: FileState) -> bool:
    """Tell whether something has to change."""
    if file.content is None:
        return state.kind not in (Kind.ABSENT, Kind.ORPHAN)
    if state.kind is not Kind.FILE or state.digest != file.digest:
        return True
    if file.mode is not None and state.mode != file.mode:
        return True
    user, _, group = (file.owner or "").partition(":")
    return bool(user and user != state.owner) or bool(group and group != state.group)


def plan_files(host: str, files: Sequence[File], states: Sequence[FileState]) -> tuple[Change, ...]:
    """Say what would change, with the texts where there are any. Raises `Refused` where a file cannot be put."""
    return tuple(
        _change(host, file, state) for file, state in zip(files, states, strict=True) if _fits(host, file, state)
    )


def _fits(host: str, file: File, state: FileState) -> bool:
    reasons = {
        Kind.LINK: ("is a symbolic link", "name the file it points at"),
        Kind.FOLDER: ("is a folder", "name a file in it"),
        Kind.OTHER: ("is no plain file", "choose another path"),
        Kind.DENIED: ("may not be read by this login", "use sudo"),
    }
    if state.kind in reasons:
        text, hint = reasons[state.kind]
        raise Refused(f"{file.path} {text}.", host=host, file=file.path, hint=hint)
    return differs(file, state)


def _change(host: str, file: File, state: FileState) -> Change:
    details: list[str] = []
    before, after = _text(state.content), _text(_shown(file))
    old = state.kind is Kind.FILE
    if isinstance(file.content, Sensitive):
        before = after = None
        details.append("secret content")
    elif (old and before is None) or (file.content is not None and after is None):
        before = after = None
        details.append(f"{state.size if old else 0} → {file.size} bytes")
    if file.content is None:
        return Change(host, Verb.DELETE, file.path, ", ".join(details), before, None)
    if old and state.digest == file.digest:
        before = after = None
    if file.mode is not None and (not old or state.mode != file.mode):
        details.append(f"mode {state.mode:04o} → {file.mode:04o}" if old else f"mode {file.mode:04o}")
    if file.owner is not None:
        there = f"{state.owner}:{state.group}" if ":" in file.owner else state.owner
        if not old or there != file.owner:
            details.append(f"owner {there} → {file.owner}" if old else f"owner {file.owner}")
    return Change(host, Verb.UPDATE if old else Verb.CREATE, file.path, ", ".join(details), before, after)


def _shown(file: File) -> bytes | None:
    if isinstance(file.content, Path) and file.size <= LOOK_LIMIT:
        return file.content.read_bytes()
    return file.data if file.size <= LOOK_LIMIT else None


def _text(data: bytes | None) -> str | None:
    if data is None or b"\0" in data:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


@dataclass(frozen=True)
class Staged:
    """How a set of files travels: the names beside their places, and which of them are put there before."""

    names: tuple[str, ...]
    ahead: tuple[bool, ...]


def stage(files: Sequence[File]) -> Staged:
    """Choose names beside the files' places, and what fits into the one round trip."""
    room = INLINE_LIMIT
    ahead: list[bool] = []
    for file in files:
        large = isinstance(file.content, Path) or file.size > room
        ahead.append(large)
        room -= 0 if large else file.size
    return Staged(tuple(paths.staged(file.path) for file in files), tuple(ahead))


def apply_script(
    files: Sequence[File],
    places: Staged,
    *,
    validate: Sequence[str] = (),
    keep_previous: bool = True,
    sudo: bool = True,
) -> tuple[Script, bytes | Sensitive]:
    """Build what puts the files in place, and what goes to its standard input."""
    names = [file.path for file in files]
    if len(set(names)) != len(names):
        raise Invalid("a path is there twice.", field="path")
    words = ["yes" if keep_previous else "no", str(len(validate)), *validate]
    bodies: list[str] = []
    for file, place, ahead in zip(files, places.names, places.ahead, strict=True):
        body = "" if ahead else base64.b64encode(file.data or b"").decode()
        bodies.append(body)
        words += [file.path, place, paths.beside(file.path, "previous"), paths.beside(file.path, "none")]
        words += ["-" if file.mode is None else f"{file.mode:04o}", file.owner or "-"]
        words += ["-" if file.content is None else "+" if ahead else str(len(body)), file.digest, str(len(file.check))]
        words += [place if word == STAGED else word for word in file.check]
    text = "".join(bodies)
    secret = any(isinstance(file.content, Sensitive) for file in files)
    return Script(shell("put_files"), tuple(words), sudo=sudo), Sensitive(text) if secret else text.encode()


def parse_apply(host: str, files: Sequence[File], done: Completed) -> tuple[str, ...]:
    """Read how it went: the paths that were changed. Raises what kept them from it."""
    lines = done.stdout.decode("ascii", "replace").splitlines()
    last = lines[-1].split() if lines else []
    if done.ok and last and last[0] == "changed":
        return tuple(files[int(index)].path for index in last[1:])
    said = printable(done.stderr[-2000:], 1000)
    if last and last[0] == "broken":
        names = ", ".join(files[int(index)].path for index in last[1:])
        raise NotDone(f"{names} could not be put back: {said}.", host=host, hint="what was there lies beside, hidden")
    if len(last) == 3 and last[0] == "fail":
        _raise(host, files[int(last[2])].path if last[2] != "-1" else "", last[1], said)
    raise NotDone(f"its files were not put in place: {said or 'it ended early'}.", host=host)


def _raise(host: str, path: str, why: str, said: str) -> None:
    given = {"host": host, "file": path or None}
    match why:
        case "check":
            raise CheckRefused(f"{path} was refused by its checker: {said}", **given, hint="nothing was changed")
        case "validate":
            raise CheckRefused(f"the new files were refused: {said}", **given, hint="all lies as before")
        case "link":
            raise Refused(f"{path} is a symbolic link.", **given, hint="name the file it points at")
        case "folder":
            raise Refused(f"{path} is a folder.", **given, hint="name a file in it")
        case "parent":
            raise NotFound(f"the folder of {path} is missing.", **given, hint="make it first")
        case "stopped":
            raise NotDone("it was told to stop; all lies as before.", host=host)
        case "owner":
            raise NotDone(f"the owner or mode of {path} cannot be set: {said}.", **given, hint="use sudo")
        case _ if "No space left" in said or "quota exceeded" in said.lower():
            raise DiskFull(f"no room for {path}: {said}.", **given, hint="make room; nothing was changed")
        case _:
            raise NotDone(f"{path} was not written: {said or 'it arrived damaged'}.", **given)


def put_back_script(names: Sequence[str], *, sudo: bool = True) -> Script:
    """Build what restores the kept previous files."""
    words: list[str] = []
    for name in names:
        words += [paths.check_path(name), paths.beside(name, "previous"), paths.beside(name, "none")]
    return Script(shell("put_back_files"), tuple(words), sudo=sudo)


async def look(
    host: HostAccess, names: Sequence[str], *, limit: int = LOOK_LIMIT, sudo: bool = True
) -> tuple[FileState, ...]:
    """Look at what lies at some paths, in one round trip. Raises `Unreadable` and the errors of `run`."""
    done = await host.run(look_script(names, limit=limit, sudo=sudo), log=False)
    return parse_look(done.stdout, len(names))


async def plan(host: HostAccess, files: Sequence[File], *, sudo: bool = True) -> tuple[Change, ...]:
    """Say what putting the files would change on a host."""
    return plan_files(host.host.name, files, await look(host, [file.path for file in files], sudo=sudo))


async def apply(
    host: HostAccess,
    files: Sequence[File],
    *,
    validate: Sequence[str] = (),
    keep_previous: bool = True,
    sudo: bool = True,
) -> tuple[str, ...]:
    """Put the files in place, all or none, in one round trip for all small ones; give the paths that were changed.

    `validate` is an argv run once the files lie in place (`nginx -t`); an end other than 0 puts everything back.
    Raises `CheckRefused`, `DiskFull`, `NotFound` for a missing folder, `Refused` for links and folders, `NotDone`.
    """
    places = stage(files)
    script, body = apply_script(files, places, validate=validate, keep_previous=keep_previous, sudo=sudo)
    for file, place, ahead in zip(files, places.names, places.ahead, strict=True):
        if ahead and not isinstance(file.content, Sensitive | None):
            try:
                await host.put(file.content, place, mode=0o600, sudo=sudo)
            except DiskFull as fault:
                raise DiskFull(
                    f"no room for {file.path} ({file.size} bytes).",
                    host=host.host.name,
                    file=file.path,
                    hint=fault.hint,
                ) from fault
    done = await host.run(script, stdin=body, check=False, log=False)
    return parse_apply(host.host.name, files, done)


async def put_back(host: HostAccess, names: Sequence[str], *, sudo: bool = True) -> tuple[str, ...]:
    """Restore what the last `apply` kept; give the paths that changed. A path with nothing kept stays as it is."""
    done = await host.run(put_back_script(names, sudo=sudo), log=False)
    lines = done.stdout.decode("ascii", "replace").splitlines()
    if not lines or lines[-1] != "end":
        raise Unreadable("putting files back broke off.", host=host.host.name)
    return tuple(names[int(line.split()[0])] for line in lines[:-1] if not line.endswith(" nothing"))
