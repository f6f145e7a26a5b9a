"""What is run on a host, as values: no network, no shell strings.

A `Command` is one program with its arguments: what arrives as argv is exactly what is given here. A `Script` is
POSIX shell text for `sh`, with its data in `args`. Neither may carry a secret outside `stdin`: argv and environment
can be read by every user of a host.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from opsdeck.errors import Invalid
from opsdeck.ssh.errors import CommandFailed

# MAX_ARG_STRLEN of Linux: execve(2), "Limits on size of arguments and environment".
ARGUMENT_LIMIT = 128 * 1024 - 1
_USER = re.compile(r"[a-z_][a-z0-9_.-]{0,31}\$?", re.IGNORECASE)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Stream(StrEnum):
    """Where output came from."""

    STDOUT = "stdout"
    STDERR = "stderr"


@dataclass(frozen=True, kw_only=True)
class _Task:
    stdin: bytes | None = field(default=None, repr=False)
    sudo: bool = False
    run_as: str | None = None
    cwd: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    timeout: float | None = None
    kill_after: float = 5.0

    def __post_init__(self) -> None:
        for value in self.words():
            _check_text(value)
        if self.cwd is not None:
            _check_text(self.cwd)
            if not self.cwd:
                raise Invalid("the working directory is empty.", field="cwd", hint="leave it out, or name one.")
        for name, value in self.env.items():
            _check_text(value)
            if not _VARIABLE.fullmatch(name):
                raise Invalid(f"{name!r} is no name for a variable.", field="env", hint="use letters, digits and _.")
        if self.run_as is not None and not _USER.fullmatch(self.run_as):
            raise Invalid(f"{self.run_as!r} is no user name.", field="run_as", hint="name a user of the host.")
        if self.timeout is not None and not 0 < self.timeout < 1e7:
            raise Invalid("a timeout must be above 0 s.", field="timeout", hint="leave it out for none.")
        if not 0 < self.kill_after < 1e7:
            raise Invalid("kill_after must be above 0 s.", field="kill_after")

    def words(self) -> tuple[str, ...]:
        """Give the words that the host will see as argv."""
        raise NotImplementedError


@dataclass(frozen=True)
class Command(_Task):
    """One program with its arguments, looked up in PATH; nothing of it is ever parsed by a remote shell.

    `sudo` runs it as root in the endpoint's way, `run_as` as another user. `cwd` is entered first. `env` is added
    to the login's environment. `timeout` (s) is enforced on the host: TERM to the whole process group, then KILL
    after `kill_after` s. `stdin` None means /dev/null. Raises `Invalid` for what no host could run.
    """

    argv: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.argv or not self.argv[0]:
            raise Invalid("a command needs a program.", field="argv", hint="give its name as the first word.")
        if self.argv[0].startswith("-"):
            raise Invalid("a program's name may not begin with a dash.", field="argv", hint="write it with its path.")
        super().__post_init__()

    def words(self) -> tuple[str, ...]:
        """Give argv."""
        return self.argv


@dataclass(frozen=True)
class Script(_Task):
    """POSIX shell text, run by `sh` on the host; `args` arrive as `"$@"`. The other fields are those of `Command`.

    A job's log shows `title`, where it is given, in place of text and args; the audit trail has these all the same.
    """

    text: str
    args: tuple[str, ...] = ()
    title: str = ""

    def words(self) -> tuple[str, ...]:
        """Give argv as the host shows it."""
        return ("sh", "-c", self.text, "sh", *self.args)


Task = Command | Script


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of one command on its host: enough to end them later, from another node, after a restart.

    `started` is the leader's start in clock ticks since boot and `boot` the kernel's boot id: together they keep a
    number that was given to somebody else meanwhile from being killed.
    """

    pgid: int
    started: int
    boot: str
    sudo: bool = False
    run_as: str | None = None


Output = Callable[[Stream, bytes], Awaitable[None] | None]
"""Takes output as it comes."""
Started = Callable[[ProcessGroup], Awaitable[None]]
"""Takes the process group before the command begins."""
Feed = AsyncIterator[bytes]
"""A stdin that comes in pieces."""


@dataclass(frozen=True)
class Completed:
    """How a command ended. `stdout` keeps the first and `stderr` the last bytes up to the limit; `duration` in s."""

    exit_status: int | None
    signal: str | None
    stdout: bytes
    stderr: bytes
    duration: float
    truncated: bool = False

    @property
    def ok(self) -> bool:
        """Tell whether it ended with exit status 0."""
        return self.exit_status == 0

    def check(self, host: str) -> Completed:
        """Give itself if it ended with 0, else raise `CommandFailed`."""
        if not self.ok:
            raise CommandFailed(host, self)
        return self

    def last_words(self, limit: int = 300) -> str:
        """Give the last line said on stderr (else stdout) as harmless text."""
        for output in (self.stderr, self.stdout):
            for line in reversed(output[-4096:].splitlines()):
                if words := printable(line, limit):
                    return words
        return ""


def printable(data: bytes, limit: int = 300) -> str:
    """Turn what a host sent into one line of harmless text: no control characters, at most `limit` characters."""
    text = data.decode("utf-8", "replace")
    return "".join(char if char.isprintable() else " " for char in text).strip()[:limit]


def _check_text(value: str) -> None:
    if "\0" in value:
        raise Invalid("a NUL byte cannot be part of a command.", field="argv", hint="send such data on stdin.")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise Invalid("a word of the command is not valid text.", field="argv", hint="send it on stdin.") from None
    if size > ARGUMENT_LIMIT:
        raise Invalid(
            f"a word of the command is {size} bytes long; {ARGUMENT_LIMIT} is the most that Linux takes.",
            field="argv",
            hint="send it on stdin, or copy it as a file.",
        )
