"""The console's own store of artefacts: fetched once, verified by sha256, unpacked, kept in the data folder."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from opsdeck.errors import Invalid, NotFound, Refused, Unavailable
from opsdeck.remote.artefacts import Artefact, Program

_BLOCK = 1 << 20
_FETCH_SECONDS = 60.0
_LIMIT = 1 << 30
"""Bytes of a source, and of a program unpacked from it."""


class Depot:
    """Artefacts in `<data folder>/artefacts/<name>/<version>/<arch>/<sha256 of the source>/<file>`."""

    def __init__(self, home: Path) -> None:
        self._root = home / "artefacts"

    def place(self, artefact: Artefact) -> Path:
        """Say where the program of an artefact lies, or would."""
        member = hashlib.sha256(artefact.member.encode()).hexdigest()[:8]
        folder = self._root / artefact.name / artefact.version / artefact.arch / f"{artefact.sha256}-{member}"
        return folder / artefact.program

    async def obtain(self, artefact: Artefact) -> Program:
        """Give the verified program, fetched and unpacked if it is not there yet.

        Raises `Unavailable` when the source does not answer, `NotFound` when there is none or it lacks the member,
        `Refused` when its sha256 is another (nothing is kept then), `Invalid` for a source that cannot be read.
        """
        return await asyncio.to_thread(self._obtain, artefact)

    def has(self, artefact: Artefact) -> Program | None:
        """Give the program if it is there and whole."""
        path = self.place(artefact)
        note = path.with_name(path.name + ".sha256")
        if not path.is_file() or not note.is_file():
            return None
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return Program(artefact, path, digest) if digest == note.read_text().strip() else None

    def _obtain(self, artefact: Artefact) -> Program:
        if found := self.has(artefact):
            return found
        path = self.place(artefact)
        path.parent.mkdir(parents=True, exist_ok=True)
        fetched = path.parent / f".fetched-{secrets.token_hex(6)}"
        unpacked = path.parent / f".unpacked-{secrets.token_hex(6)}"
        try:
            digest = self._fetch(artefact.source, fetched)
            if digest != artefact.sha256:
                raise Refused(
                    f"{artefact.source} has sha256 {digest}, not {artefact.sha256}.",
                    field="sha256",
                    hint="find out which of the two is right before you change it",
                )
            with member_of(fetched, artefact.member) as stream, unpacked.open("xb") as target:
                program = _copy(stream, target)
            path.with_name(path.name + ".sha256").write_text(f"{program}\n")
            unpacked.replace(path)
        except OSError as fault:
            raise Unavailable(f"{artefact.name} cannot be kept: {fault}.", file=str(path)) from fault
        finally:
            fetched.unlink(missing_ok=True)
            unpacked.unlink(missing_ok=True)
        return Program(artefact, path, program)

    def _fetch(self, source: str, target: Path) -> str:
        from urllib.error import HTTPError, URLError
        from urllib.request import Request, urlopen

        parts = urlsplit(source)
        if parts.scheme in ("http", "https"):
            try:
                # The scheme is checked above, and what comes is believed only by its sha256.
                with urlopen(Request(source), timeout=_FETCH_SECONDS) as stream, target.open("xb") as file:  # noqa: S310
                    return _copy(stream, file)
            except HTTPError as fault:
                raise NotFound(f"{source} answers {fault.code} {fault.reason}.", field="source") from fault
            except (URLError, TimeoutError, ConnectionError) as fault:
                raise Unavailable(
                    f"{source} does not answer: {fault}.", hint="see that the console may go out"
                ) from fault
        if parts.scheme:
            raise Invalid(f"{source} is neither a web address nor a path.", field="source")
        path = Path(source)
        if not path.is_file():
            raise NotFound(f"there is no file {source} here.", field="source", file=source)
        with path.open("rb") as stream, target.open("xb") as file:
            return _copy(stream, file)


def _copy(stream: IO[bytes], target: IO[bytes]) -> str:
    digest, size = hashlib.sha256(), 0
    while block := stream.read(_BLOCK):
        size += len(block)
        if size > _LIMIT:
            raise Invalid(f"it is over {_LIMIT >> 20} MB.", field="source")
        digest.update(block)
        target.write(block)
    target.flush()
    os.fsync(target.fileno())
    return digest.hexdigest()


@contextmanager
def member_of(path: Path, member: str) -> Iterator[IO[bytes]]:
    """Open a file inside a wheel, zip, tar or Debian package, by what the file is and not by its name.

    Only that one member is read, so no path in an archive is ever followed. Raises `NotFound`, `Invalid`.
    """
    import gzip
    import lzma
    import tarfile
    import zipfile

    with path.open("rb") as raw:
        head = raw.read(8)
        raw.seek(0)
        try:
            if head.startswith(b"PK") and member:
                with zipfile.ZipFile(raw) as archive, archive.open(member) as found:
                    yield found
            elif head == b"!<arch>\n" and member:
                with _tar_member(_data_of_deb(raw), member) as found:
                    yield found
            elif member:
                with _tar_member(raw, member) as found:
                    yield found
            elif head.startswith(b"\x1f\x8b"):
                with gzip.open(raw) as plain:
                    yield plain  # type: ignore[misc]
            elif head.startswith(b"\xfd7zXZ"):
                with lzma.open(raw) as plain:
                    yield plain
            else:
                yield raw
        except KeyError:
            raise NotFound(f"it holds no {member}.", field="member", hint="look which files it has") from None
        except (zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, EOFError, gzip.BadGzipFile) as fault:
            raise Invalid(f"it cannot be unpacked: {fault}.", field="source") from fault


@contextmanager
def _tar_member(stream: IO[bytes], member: str) -> Iterator[IO[bytes]]:
    import tarfile

    with tarfile.open(fileobj=stream) as archive:
        names = {name.removeprefix("./"): name for name in archive.getnames()}
        found = archive.extractfile(names[member.removeprefix("./").removeprefix("/")])
        if found is None:
            raise KeyError(member)
        with found:
            yield found


def _data_of_deb(stream: IO[bytes]) -> IO[bytes]:
    import io

    # deb(5): an ar archive; each member has a header of 60 bytes and begins at an even place.
    stream.seek(8)
    while len(header := stream.read(60)) == 60:
        name, size = header[:16].decode("ascii", "replace").strip().rstrip("/"), int(header[48:58])
        if name.startswith("data.tar"):
            if name.endswith(".zst"):
                raise Invalid("this Debian package is packed with zstd.", field="source", hint="take the release's tar")
            return io.BytesIO(stream.read(size))
        stream.seek(size + size % 2, os.SEEK_CUR)
    raise KeyError("data.tar")
