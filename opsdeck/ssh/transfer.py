"""Files, each in one round trip or one stream: beside their place, checked, then renamed into it.

The content travels on the stdin of one script (as quick as SFTP or quicker here, needs no SFTP server, and works the
same under sudo without a second copy on the disk).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import BinaryIO, Protocol

from opsdeck.errors import Invalid, NotFound
from opsdeck.ssh.command import Completed, Feed, Output, Script, Stream, Task
from opsdeck.ssh.endpoint import Endpoint
from opsdeck.ssh.errors import CommandFailed, DiskFull, TransferFailed

_CHUNK = 64 * 1024
_C = {"LC_ALL": "C"}
_NO_ROOM = (b"No space left on device", b"Disk quota exceeded")

Fed = Callable[[Endpoint, Task, Feed, Callable[[int], None] | None], Awaitable[Completed]]


class Run(Protocol):
    """What runs a command: `Pool.run`."""

    async def __call__(
        self,
        endpoint: Endpoint,
        command: Task,
        *,
        on_output: Output | None = None,
        on_started: Callable[..., Awaitable[None]] | None = None,
        capture_limit: int = 1 << 20,
    ) -> Completed:
        """Run it to its end."""
        ...


# $1 place, $2 mode, $3 owner or nothing, $4 sha256.
_PUT = """umask 077
case $1 in */*) d=${1%/*} ;; *) d=. ;; esac
[ ! -d "$1" ] || { echo "it is a directory" >&2; exit 21; }
t=$(mktemp "${d:-/}/.opsdeck.XXXXXXXXXX") || exit 22
trap 'rm -f "$t"' EXIT
trap 'exit 143' HUP INT TERM
cat >"$t" || exit 23
s=$(sha256sum <"$t") && [ "${s%% *}" = "$4" ] || { echo "the content changed on the way" >&2; exit 24; }
[ -z "$3" ] || chown "$3" "$t" || exit 25
chmod "$2" "$t" && mv -f -T "$t" "$1" || exit 26
trap - EXIT"""

# $1 place, $2 most bytes.
_GET = """[ -e "$1" ] || { echo "there is no such file" >&2; exit 44; }
[ ! -d "$1" ] || { echo "it is a directory" >&2; exit 21; }
exec head -c "$2" "$1\""""

_FETCH = """[ -e "$1" ] || { echo "there is no such file" >&2; exit 44; }
[ -f "$1" ] || { echo "it is not a plain file" >&2; exit 21; }
s=$(stat -L -c %s "$1") || exit 22
echo "$s"
exec head -c "$s" "$1\""""


async def put(
    run: Fed,
    endpoint: Endpoint,
    source: bytes | Path,
    remote: str,
    *,
    mode: int,
    owner: str | None,
    sudo: bool,
    progress: Callable[[int, int], None] | None,
) -> str:
    """Write a file; see `Pool.put`."""
    if not 0 <= mode <= 0o7777:
        raise Invalid(f"{mode:o} is no file mode.", field="mode", hint="give one such as 0644.")
    if owner is not None and (not owner or owner.startswith("-")):
        raise Invalid(f"{owner!r} is no owner.", field="owner", hint="give user or user:group.")
    size, digest = await asyncio.to_thread(_measure, source)
    script = Script(text=_PUT, args=(_place(remote), f"{mode:04o}", owner or "", digest), sudo=sudo, env=_C)
    told = (lambda sent: progress(sent, size)) if progress is not None else None
    done = await run(endpoint, script, _read(source), told)
    if done.ok:
        return digest
    words = done.last_words() or f"exit status {done.exit_status}, signal {done.signal}"
    if any(sign in done.stderr for sign in _NO_ROOM):
        raise DiskFull(
            f"no room for {remote} ({size} bytes): {words}.",
            host=endpoint.name,
            file=remote,
            hint="make room on the host; the file that was there is untouched.",
        )
    raise TransferFailed(
        f"{remote} could not be written: {words}.",
        host=endpoint.name,
        file=remote,
        hint="the file that was there is untouched; see that its folder exists and may be written to.",
    )


async def get(run: Run, endpoint: Endpoint, remote: str, *, sudo: bool, limit: int) -> bytes:
    """Read a small file; see `Pool.get`."""
    script = Script(text=_GET, args=(_place(remote), str(limit + 1)), sudo=sudo, env=_C)
    done = await run(endpoint, script, capture_limit=limit + 1)
    if not done.ok:
        raise _unread(endpoint, remote, done)
    if len(done.stdout) > limit:
        raise TransferFailed(
            f"{remote} is larger than {limit} bytes.",
            host=endpoint.name,
            file=remote,
            hint="copy it as a file instead of reading it into memory.",
        )
    return done.stdout


async def fetch(
    run: Run,
    endpoint: Endpoint,
    remote: str,
    local: Path,
    *,
    sudo: bool,
    progress: Callable[[int, int], None] | None,
) -> int:
    """Copy a file here; see `Pool.fetch`."""
    script = Script(text=_FETCH, args=(_place(remote),), sudo=sudo, env=_C)
    try:
        beside = tempfile.NamedTemporaryFile(dir=local.parent, prefix=".opsdeck.", delete=False)  # noqa: SIM115
    except OSError as error:
        raise TransferFailed(
            f"{local} cannot be written here: {error.strerror}.", file=str(local), hint="choose another folder."
        ) from None
    try:
        with beside:
            inflow = _Inflow(beside, progress)
            done = await run(endpoint, script, on_output=inflow.take, capture_limit=64)
            if not done.ok:
                raise _unread(endpoint, remote, done)
            if inflow.size is None or inflow.got != inflow.size:
                raise TransferFailed(
                    f"{remote} arrived with {inflow.got} of {inflow.size} bytes.",
                    host=endpoint.name,
                    file=remote,
                    hint="it was changed meanwhile, or cannot be read to its end; try again.",
                )
        Path(beside.name).replace(local)  # noqa: ASYNC240 - a rename
        return inflow.got
    except OSError as error:
        raise TransferFailed(
            f"{local} cannot be written here: {error.strerror}.", file=str(local), hint="make room, or choose a folder."
        ) from None
    finally:
        Path(beside.name).unlink(missing_ok=True)  # noqa: ASYNC240 - the same


class _Inflow:
    """Takes a size line and then the content."""

    def __init__(
        self, target: BinaryIO | tempfile._TemporaryFileWrapper[bytes], progress: Callable[[int, int], None] | None
    ) -> None:
        self._target = target
        self._progress = progress
        self._head = b""
        self.size: int | None = None
        self.got = 0

    def take(self, stream: Stream, data: bytes) -> None:
        """Write what comes on stdout."""
        if stream is not Stream.STDOUT:
            return
        if self.size is None:
            self._head += data
            line, newline, data = self._head.partition(b"\n")
            if not newline:
                return
            self.size = int(line) if line.isdigit() and len(line) < 20 else -1
        self._target.write(data)
        self.got += len(data)
        if self._progress is not None:
            self._progress(self.got, self.size)


def _place(remote: str) -> str:
    if not remote or remote.endswith("/"):
        raise Invalid(f"{remote!r} names no file.", field="remote", hint="give the file's whole path on the host.")
    return "./" + remote if remote.startswith("-") else remote


def _unread(endpoint: Endpoint, remote: str, done: Completed) -> Exception:
    if done.exit_status == 44:
        return NotFound(f"there is no file {remote}.", host=endpoint.name, file=remote, hint="check the path.")
    if done.signal is not None and not done.stderr:
        return CommandFailed(endpoint.name, done)
    return TransferFailed(
        f"{remote} could not be read: {done.last_words() or 'no reason was given'}.",
        host=endpoint.name,
        file=remote,
        hint="check the path and who may read it.",
    )


def _measure(source: bytes | Path) -> tuple[int, str]:
    if isinstance(source, bytes):
        return len(source), hashlib.sha256(source).hexdigest()
    try:
        with source.open("rb") as file:
            return os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise TransferFailed(
            f"{source} cannot be read here: {error.strerror}.", file=str(source), hint="check the path."
        ) from None


async def _read(source: bytes | Path) -> AsyncIterator[bytes]:
    if isinstance(source, bytes):
        for start in range(0, len(source), _CHUNK):
            yield source[start : start + _CHUNK]
        return
    with source.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, 16 * _CHUNK):
            for start in range(0, len(chunk), _CHUNK):
                yield chunk[start : start + _CHUNK]
