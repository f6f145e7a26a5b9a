"""A local port that leads to something a host can reach."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

import asyncssh

from opsdeck.errors import Invalid, OpsDeckError
from opsdeck.ssh.endpoint import Endpoint
from opsdeck.ssh.link import Link

_log = logging.getLogger("opsdeck.ssh")
_CHUNK = 64 * 1024
# s to open a channel to the other end; connections at once through one forward.
_OPEN, _MOST = 20.0, 64


class _Reader(Protocol):
    async def read(self, n: int = -1, /) -> bytes: ...


class _Writer(Protocol):
    def write(self, data: bytes, /) -> None: ...
    async def drain(self) -> None: ...
    def write_eof(self) -> None: ...


@contextlib.asynccontextmanager
async def opened(
    link: Callable[[Endpoint], Awaitable[Link]], endpoint: Endpoint, host: str, port: int
) -> AsyncIterator[int]:
    """Listen on 127.0.0.1 for as long as the context lasts; see `Pool.forward`."""
    if not host.startswith("/") and not 0 < port < 65536:
        raise Invalid(f"{port} is no port.", field="port", hint="give one from 1 to 65535.")
    await link(endpoint)  # a host that cannot be reached is told now, and not by a connection that ends at once
    tasks: set[asyncio.Task[None]] = set()
    room = asyncio.Semaphore(_MOST)

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with room:
                through = await link(endpoint)
                async with through.held():
                    await _join(through.connection, host, port, reader, writer)
        except (OpsDeckError, asyncssh.Error, OSError, TimeoutError) as error:
            _log.warning("%s: the way to %s:%d broke: %s", endpoint.name, host, port, error)
        finally:
            writer.close()

    server = await asyncio.start_server(accepted, "127.0.0.1", 0, limit=_CHUNK)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _join(
    connection: asyncssh.SSHClientConnection,
    host: str,
    port: int,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    async with asyncio.timeout(_OPEN):
        if host.startswith("/"):
            far_reader, far_writer = await connection.open_unix_connection(host, encoding=None)
        else:
            far_reader, far_writer = await connection.open_connection(host, port, encoding=None)
    try:
        async with asyncio.TaskGroup() as both:
            both.create_task(_pump(reader, far_writer))
            both.create_task(_pump(far_reader, writer))
    except* (asyncssh.Error, OSError) as errors:
        raise ConnectionError(str(errors.exceptions[0]) or "closed") from None
    finally:
        far_writer.close()


async def _pump(source: _Reader, sink: _Writer) -> None:
    while data := await source.read(_CHUNK):
        sink.write(data)
        await sink.drain()
    with contextlib.suppress(OSError):
        sink.write_eof()
