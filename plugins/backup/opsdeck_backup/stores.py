"""The store as the console sees it, through rclone; its configuration never touches a disk or a command line."""

from __future__ import annotations

import asyncio
import configparser
import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from opsdeck.api import Invalid, NotFound, OpsDeckError, Sensitive, Unavailable

_REMOTE = re.compile(r"(?P<section>[A-Za-z0-9_][A-Za-z0-9_. -]{0,60}):(?P<path>[^\x00-\x1f]{0,500})")
_SECONDS = 120.0
_LISTING = 64 << 20
MANIFESTS, DATA = "manifests", "data"
NO_FOLDER = 3
"""Exit status of rclone for a folder that is not there (rclone's documentation, "Exit code")."""


def check_config(text: str) -> None:
    """Raise `Invalid` unless `text` is a configuration of rclone."""
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",), comment_prefixes=("#", ";"))
    try:
        parser.read_string(text)
    except configparser.Error as fault:
        raise Invalid(
            f"it is no configuration of rclone: {type(fault).__name__}.",
            field="value",
            hint="give the text of rclone.conf, with a [name] and its `type =`",
        ) from None
    if not parser.sections() or any(not parser.has_option(name, "type") for name in parser.sections()):
        raise Invalid("every [name] of it must have a type.", field="value", hint="as `rclone config` writes it")


def section_of(remote: str) -> str:
    """Give the part before the colon. Raises `Invalid` for what rclone would take as an option or a local path."""
    found = _REMOTE.fullmatch(remote)
    if found is None or ".." in found["path"].split("/"):
        raise Invalid(
            f"{remote!r} is no place in a store.",
            field="remote",
            hint="write it like store:bucket/folder, as rclone does",
        )
    return found["section"]


def program() -> str:
    """Give the console's rclone: that installed with OpsDeck, else that of the system. Raises `NotFound`."""
    found = shutil.which("rclone", path=str(Path(sys.executable).parent)) or shutil.which("rclone")
    if found is None:
        raise NotFound("the console has no rclone.", hint="install OpsDeck with its dependencies again")
    return found


class Changed(OpsDeckError):
    """What the store has is not what was sent there."""


@dataclass(frozen=True)
class Store:
    """One target's folder in a store."""

    config: Sensitive
    root: str
    """`store:bucket/folder/target`."""

    async def files(self) -> Mapping[str, int]:
        """List every file below the folder, by path, with its size in bytes. Raises `Unavailable`.

        A folder that is not there gives none.
        """
        words = ("lsjson", "--recursive", "--files-only", "--no-modtime", "--no-mimetype", self.root)
        status, output, said = await self._run(*words)
        if status == NO_FOLDER:
            return {}
        if status:
            raise self._fault("cannot be listed", said)
        return {str(item["Path"]): int(item["Size"]) for item in json.loads(output or b"[]")}

    async def read(self, path: str) -> bytes:
        """Read a small file. Raises `NotFound`, `Unavailable`."""
        status, output, said = await self._run("cat", f"{self.root}/{path}")
        if status in (3, 4) or (not status and not output):
            raise NotFound(f"the store has no {path}.", file=path)
        if status:
            raise self._fault(f"does not give {path}", said)
        return output

    async def read_folder(self, folder: str) -> dict[str, bytes]:
        """Read every small file of a folder at once, by name."""
        with tempfile.TemporaryDirectory() as place:
            status, _, said = await self._run(
                "copy", "--max-size", "1Mi", f"{self.root}/{folder}", place, "--include", "*.json"
            )
            if status not in (0, NO_FOLDER):
                raise self._fault(f"does not give {folder}", said)
            return await asyncio.to_thread(_small_files, Path(place))

    async def write(self, path: str, content: bytes) -> None:
        """Write a small file, and read it back. Raises `Unavailable`."""
        status, _, said = await self._run("rcat", f"{self.root}/{path}", given=content.decode())
        if status or await self.read(path) != content:
            raise self._fault(f"does not take {path}", said)

    async def remove(self, paths: Sequence[str]) -> None:
        """Remove files; those that are gone already are fine. Raises `Unavailable`."""
        if not paths:
            return
        words = ("delete", "--files-from-raw", "-", "--retries", "2", self.root)
        status, _, said = await self._run(*words, given="".join(f"{path}\n" for path in paths))
        if status not in (0, NO_FOLDER):
            raise self._fault(f"does not remove {paths[0]}", said)

    async def clean_uploads(self) -> None:
        """Remove uploads that were begun more than a day ago and never ended, where the store has such a thing."""
        await self._run("cleanup", self.root)

    def _fault(self, what: str, said: str) -> Unavailable:
        return Unavailable(
            f"the store {self.root} {what}: {said or 'no reason given'}.",
            file=self.root,
            hint="check the store's address, credentials and room",
        )

    async def _run(self, *words: str, given: str = "") -> tuple[int, bytes, str]:
        """Run rclone; give exit status, output, and the last line it said."""
        with _memory(self.config) as handle:
            process = await asyncio.create_subprocess_exec(
                program(), "--config", f"/proc/self/fd/{handle}", "--retries", "1", "--low-level-retries", "2",
                "--contimeout", "15s", "--timeout", "60s", "--log-level", "ERROR", *words,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
                pass_fds=(handle,), env={"PATH": os.environ.get("PATH", ""), "HOME": "/nonexistent"},
            )  # fmt: skip
        async with _ended(process):
            try:
                async with asyncio.timeout(_SECONDS):
                    output, said = await process.communicate(given.encode())
            except TimeoutError:
                raise Unavailable(
                    f"the store {self.root} did not answer within {_SECONDS:.0f} s.", file=self.root, hint="try again"
                ) from None
        if len(output) > _LISTING:
            raise Unavailable(f"the store {self.root} gave more than can be read.", file=self.root)
        last = next((line for line in reversed(said.decode("utf-8", "replace").splitlines()) if line.strip()), "")
        plain = "".join(char if char.isprintable() else " " for char in last)
        return process.returncode or 0, output, plain[:300]


def _small_files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


@contextlib.contextmanager
def _memory(text: Sensitive) -> Iterator[int]:
    handle = os.memfd_create("rclone.conf")
    try:
        os.write(handle, text.reveal().encode())
        yield handle
    finally:
        os.close(handle)


@contextlib.asynccontextmanager
async def _ended(process: asyncio.subprocess.Process) -> AsyncIterator[None]:
    """See that the process is gone, however the block is left."""
    try:
        yield
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
