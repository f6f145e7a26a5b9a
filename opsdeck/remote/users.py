"""Users of a host: there with a shell, groups and keys to log in with, or gone."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opsdeck.errors import Invalid, Refused
from opsdeck.plan import Change, Verb
from opsdeck.remote import paths
from opsdeck.remote.errors import NotDone, Unreadable
from opsdeck.remote.sources import shell
from opsdeck.ssh.command import Script

if TYPE_CHECKING:
    from opsdeck.jobs.context import HostAccess

# useradd(8): names that Debian takes without being forced.
_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")


@dataclass(frozen=True)
class User:
    """A user as it should be; `there` False: gone (its home folder stays).

    `groups` are added to those it has. `keys` are all lines of its authorized_keys; None leaves that file alone.
    A `system` user has no home of its own made.
    """

    name: str
    there: bool = True
    system: bool = False
    home: str = ""
    shell: str = ""
    groups: tuple[str, ...] = ()
    keys: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in (self.name, *self.groups):
            if not _NAME.fullmatch(name):
                raise Invalid(f"{name!r} is no name of a user or group.", field="name", hint="a-z, 0-9, _ and -")
        if self.home:
            paths.check_path(self.home, "home")
        if self.shell:
            paths.check_path(self.shell, "shell")
        if any("\n" in key or "\0" in key for key in self.keys or ()):
            raise Invalid("a key is one line.", field="keys")
        if self.name == "root" and not self.there:
            raise Refused("root is not removed.", field="name")

    @property
    def login_shell(self) -> str:
        """Give its shell, or the usual one."""
        return self.shell or ("/usr/sbin/nologin" if self.system else "/bin/bash")

    @property
    def home_folder(self) -> str:
        """Give its home, or the usual one."""
        return self.home or (f"/var/lib/{self.name}" if self.system else f"/home/{self.name}")

    @property
    def key_file(self) -> str | None:
        """Give the text of its authorized_keys."""
        return None if self.keys is None else "".join(f"{key}\n" for key in self.keys)


@dataclass(frozen=True)
class UserState:
    """What the host knows of a user."""

    there: bool
    shell: str = ""
    home: str = ""
    groups: frozenset[str] = frozenset()
    key_file: str | None = None


def look_script(names: Sequence[str]) -> Script:
    """Build the look at some users."""
    return Script(shell("look_users"), tuple(User(name).name for name in names), sudo=True)


def parse_look(output: bytes, count: int) -> tuple[UserState, ...]:
    """Read what the look printed. Raises `Unreadable`."""
    lines = output.split(b"\n")
    if len(lines) < count + 2 or lines[count] != b"end":
        raise Unreadable("the look at its users broke off.")
    return tuple(_state(line) for line in lines[:count])


def _state(line: bytes) -> UserState:
    if line == b"absent":
        return UserState(False)
    try:
        parts = line.split(b" ")[1:]
        entry, groups, keys = (base64.b64decode(part[1:], validate=True).decode("utf-8", "replace") for part in parts)
        fields = entry.split(":")
        return UserState(True, fields[6].strip(), fields[5], frozenset(groups.split()), keys or None)
    except (ValueError, IndexError, binascii.Error):
        raise Unreadable("the look at its users gave something else.") from None


def plan_user(host: str, user: User, state: UserState) -> tuple[Change, ...]:
    """Say what would change."""
    target = f"user {user.name}"
    if not user.there:
        return (Change(host, Verb.DELETE, target),) if state.there else ()
    details: list[str] = []
    if not state.there or state.shell != user.login_shell:
        details.append(f"shell {user.login_shell}")
    if missing := [group for group in user.groups if group not in state.groups]:
        details.append(f"groups +{',+'.join(missing)}")
    keys = user.key_file is not None and user.key_file != (state.key_file or "")
    if keys:
        details.append(f"{len(user.keys or ())} keys")
    if state.there and not details:
        return ()
    verb = Verb.UPDATE if state.there else Verb.CREATE
    texts = (state.key_file or "", user.key_file) if keys else (None, None)
    return (Change(host, verb, target, ", ".join(details), *texts),)


def apply_script(user: User) -> tuple[Script, bytes]:
    """Build what makes, mends or removes a user, and what goes to its standard input."""
    words = (
        user.name,
        "yes" if user.there else "no",
        "yes" if user.system else "no",
        user.home_folder,
        user.login_shell,
        ",".join(user.groups),
        "no" if user.key_file is None else "yes",
    )
    return Script(shell("make_user"), words, sudo=True), (user.key_file or "").encode()


async def look(host: HostAccess, names: Sequence[str]) -> tuple[UserState, ...]:
    """Look at some users, in one round trip."""
    done = await host.run(look_script(names), log=False)
    return parse_look(done.stdout, len(names))


async def plan(host: HostAccess, user: User) -> tuple[Change, ...]:
    """Say what would change."""
    (state,) = await look(host, [user.name])
    return plan_user(host.host.name, user, state)


async def apply(host: HostAccess, user: User) -> tuple[Change, ...]:
    """Bring a user to its state and look again; give what changed. Raises `NotDone`."""
    changes = await plan(host, user)
    if not changes:
        return ()
    script, body = apply_script(user)
    done = await host.run(script, stdin=body, check=False, log=False)
    left = await plan(host, user) if done.ok else changes
    if not done.ok or left:
        said = done.last_words() or ", ".join(change.detail for change in left)
        raise NotDone(f"user {user.name} was not changed: {said}", host=host.host.name)
    return changes
