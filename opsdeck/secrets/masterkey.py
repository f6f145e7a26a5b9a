"""The master key's file: one line of text, readable by its owner only, and the steps of replacing it.

The file holds `opsdeck-master-1 <base64 of 32 random bytes>`. A key's name is the first 16 hex digits of its SHA-256
under a fixed label, so that rows can say which key wrapped them without giving anything away.

Replacing it writes `<file>.new` first, lets the caller move every row over in one transaction, then renames the old
file to `<file>.old` and the new one into place. Whichever of the three the rows refer to is found again after a crash
between any two of these steps, because all three are read.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from opsdeck.errors import Conflict, Unavailable

MAGIC = "opsdeck-master-1"
SIZE = 32


@dataclass(frozen=True)
class MasterKey:
    """One master key and the file it came from."""

    material: bytes = field(repr=False)
    file: Path

    @property
    def id(self) -> str:
        """Give the key's name."""
        return hashlib.sha256(b"opsdeck master key name\0" + self.material).hexdigest()[:16]


def create(file: Path) -> MasterKey:
    """Write a new random key to `file`, mode 0600, never over an existing one.

    Raises `Conflict` when the file is there, `Unavailable` when it cannot be written.
    """
    material = os.urandom(SIZE)
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "w") as out:
            out.write(f"{MAGIC} {base64.b64encode(material).decode()}\n")
            out.flush()
            os.fsync(out.fileno())
        with _folder(file.parent) as folder:
            os.fsync(folder)
    except FileExistsError as fault:
        raise Conflict(f"{file} is there already and is not written over.", file=str(file)) from fault
    except OSError as fault:
        raise Unavailable(
            f"the master key cannot be written: {fault.strerror}.",
            file=str(file),
            hint=f"let this user write in {file.parent}",
        ) from fault
    return MasterKey(material, file)


def load(file: Path) -> MasterKey:
    """Read the key in `file`.

    Raises `Unavailable`, naming the file and the next step, when it is missing, not a key, or open to others: any
    right of group or world, or an owner who is neither this user nor root. A systemd credential is exempt from the
    group's bits, since there they show an access list and not the group (systemd.exec(5), credentials).
    """
    try:
        with file.open("rb") as source:
            facts = os.fstat(source.fileno())
            text = source.read(4096)
    except FileNotFoundError as fault:
        raise Unavailable(
            f"the master key {file} is missing.",
            file=str(file),
            hint="`opsdeck init` makes one in a new data folder; else put it back from your safe copy, or name its "
            "place in OPSDECK_MASTER_KEY_FILE",
        ) from fault
    except OSError as fault:
        raise Unavailable(
            f"the master key {file} cannot be read: {fault.strerror}.",
            file=str(file),
            hint="let the user that runs OpsDeck read it",
        ) from fault
    others = stat.S_IRWXO if _is_credential(file) else stat.S_IRWXG | stat.S_IRWXO
    if facts.st_mode & others:
        raise Unavailable(
            f"the master key {file} is open to others (mode {stat.S_IMODE(facts.st_mode):04o}).",
            file=str(file),
            hint=f"chmod 600 {file}; if somebody may have read it, then `opsdeck secret rotate --master`",
        )
    if facts.st_uid not in (os.geteuid(), 0):
        raise Unavailable(
            f"the master key {file} belongs to another user (uid {facts.st_uid}).",
            file=str(file),
            hint=f"chown it to the user that runs OpsDeck (uid {os.geteuid()})",
        )
    parts = text.split()
    try:
        material = base64.b64decode(parts[1], validate=True)
        if len(parts) != 2 or parts[0] != MAGIC.encode() or len(material) != SIZE:
            raise ValueError
    except (IndexError, ValueError, binascii.Error) as fault:
        raise Unavailable(
            f"{file} is not a master key of OpsDeck.",
            file=str(file),
            hint="put it back from your safe copy; nothing else opens the secrets",
        ) from fault
    return MasterKey(material, file)


def beside(file: Path) -> tuple[Path, Path]:
    """Give the names of the next key's and the last key's file."""
    return file.with_name(file.name + ".new"), file.with_name(file.name + ".old")


def begin_change(file: Path) -> MasterKey:
    """Write the next key beside `file`; one that an interrupted change left there is taken again."""
    new, _ = beside(file)
    return load(new) if new.exists() else create(new)


def finish_change(file: Path) -> None:
    """Put the next key in the place of `file`, keeping the old one as `<file>.old`. Safe to repeat after a crash.

    Call it only when every row refers to the next key.
    """
    new, old = beside(file)
    try:
        with _folder(file.parent) as folder:
            fcntl.flock(folder, fcntl.LOCK_EX)  # two processes here at once would keep the new key as the old one
            if not new.exists():
                return
            if file.exists():
                old.unlink(missing_ok=True)
                os.link(file, old)
            new.replace(file)
            os.fsync(folder)
    except OSError as fault:
        raise Unavailable(
            f"the new master key lies in {new} and could not be renamed: {fault.strerror}.",
            file=str(new),
            hint=f"rename it to {file.name} by hand; until then OpsDeck reads it where it lies",
        ) from fault


def _is_credential(file: Path) -> bool:
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return bool(folder) and file.parent == Path(str(folder))


@contextlib.contextmanager
def _folder(folder: Path) -> Iterator[int]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield handle
    finally:
        os.close(handle)
