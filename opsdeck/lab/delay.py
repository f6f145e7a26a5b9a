"""Distance on loopback: a TCP relay that delays each direction by half a round trip, and can fall silent.

async with DelayProxy(host.address, host.port, rtt=0.05) as proxy:
    connect("127.0.0.1", proxy.port)
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from types import TracebackType

from opsdeck.errors import Unavailable

_LIMIT = 4 << 20  # bytes under way in one direction before its sender has to wait


class DelayProxy:
    """Relays TCP connections to `address`:`port` with a round-trip time of `rtt` seconds.

    What was sent stays in order, and many bytes may be under way at once, as on a long line. `frozen` lines carry
    nothing and tell nobody. Raises Unavailable when no port is free.
    """

    def __init__(self, address: str, port: int, *, rtt: float) -> None:
        self.target = (address, port)
        self.rtt = rtt
        self.address = "127.0.0.1"
        self.port = 0
        self.frozen = False
        self._server: asyncio.Server | None = None
        self._ends: set[_End] = set()
        self._dialling: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen on a free port of loopback."""
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(lambda: _End(self, accepted=True), self.address, 0)
        except OSError as error:
            raise Unavailable(f"The relay cannot listen: {error.strerror}.") from error
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and drop every line."""
        if self._server:
            self._server.close()
            self.drop()
            await self._server.wait_closed()
        for task in list(self._dialling):
            task.cancel()
        await asyncio.gather(*self._dialling, return_exceptions=True)

    def freeze(self) -> None:
        """Carry nothing more, and tell nobody; what comes meanwhile waits."""
        self.frozen = True

    def thaw(self) -> None:
        """Go on, with all that has waited."""
        self.frozen = False
        for end in list(self._ends):
            end.deliver()

    def drop(self) -> int:
        """Reset all lines; gives how many connections there were."""
        ends = list(self._ends)
        for end in ends:
            end.abort()
        return sum(end.accepted for end in ends)

    async def __aenter__(self) -> DelayProxy:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def enter(self, end: _End) -> None:
        """Count an end in; the accepted one has its far end dialled."""
        self._ends.add(end)
        if end.accepted:
            task = asyncio.create_task(self._dial(end))
            self._dialling.add(task)
            task.add_done_callback(self._dialling.discard)

    def leave(self, end: _End) -> None:
        """Count an end out."""
        self._ends.discard(end)

    async def _dial(self, near: _End) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self.rtt)  # the handshake would have crossed the line once each way
        try:
            _, far = await loop.create_connection(lambda: _End(self, accepted=False), *self.target)
        except OSError:
            near.abort()
            return
        near.join(far)
        far.join(near)


class _End(asyncio.Protocol):
    """One end of a line: what is read here is written at the other end half a round trip later."""

    def __init__(self, proxy: DelayProxy, *, accepted: bool) -> None:
        self.accepted = accepted
        self._proxy = proxy
        self._other: _End | None = None
        self._transport: asyncio.Transport | None = None
        self._under_way: deque[tuple[float, bytes | None]] = deque()
        self._bytes = 0
        self._blocked = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - TCP
        self._transport = transport
        self._proxy.enter(self)

    def join(self, other: _End) -> None:
        """Name the other end; what has come already goes there."""
        self._other = other
        self.deliver()

    def data_received(self, data: bytes) -> None:
        self._bytes += len(data)
        self._put(data)
        self._hold()

    def eof_received(self) -> bool:
        self._put(b"")
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._proxy.leave(self)
        self._put(None)

    def pause_writing(self) -> None:
        self._blocked = True

    def resume_writing(self) -> None:
        self._blocked = False
        if self._other:
            self._other.deliver()

    def abort(self) -> None:
        """Reset this end without a word of goodbye."""
        if self._transport and not self._transport.is_closing():
            now = struct.pack("ii", 1, 0)
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
            self._transport.abort()

    def deliver(self) -> None:
        """Write at the other end what has been under way for long enough."""
        other, now = self._other, asyncio.get_running_loop().time()
        if other is None or other._transport is None:
            return
        while self._under_way and self._under_way[0][0] <= now and not (self._proxy.frozen or other._blocked):
            data = self._under_way.popleft()[1]
            if data is None:
                other._transport.close()
            elif other._transport.is_closing():
                continue
            elif data:
                self._bytes -= len(data)
                other._transport.write(data)
            elif other._transport.can_write_eof():
                other._transport.write_eof()
        self._hold()

    def _put(self, data: bytes | None) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + self._proxy.rtt / 2
        self._under_way.append((due, data))
        loop.call_at(due, self.deliver)

    def _hold(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if self._bytes > _LIMIT:
            self._transport.pause_reading()
        elif not self._transport.is_reading():
            self._transport.resume_reading()
