"""A SOCKS5 client as small as the probe needs it (RFC 1928, RFC 1929)."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import struct
import time
from collections.abc import AsyncIterator

from opsdeck.api import Refused, Sensitive, Unavailable

_REPLIES = {
    1: "the server inside failed",
    2: "not allowed",
    3: "the network is not reachable inside the tunnel",
    4: "the host is not reachable inside the tunnel",
    5: "the connection was refused",
    6: "it took too long",
}


def request(host: str, port: int) -> bytes:
    """Build the request to connect; a name goes as a name, so that it is resolved inside."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.encode("idna")
        return b"\x05\x01\x00\x03" + bytes([len(name)]) + name + struct.pack(">H", port)
    kind = b"\x01" if address.version == 4 else b"\x04"
    return b"\x05\x01\x00" + kind + address.packed + struct.pack(">H", port)


@contextlib.asynccontextmanager
async def connect(
    door: int, user: str, password: Sensitive, host: str, port: int, *, timeout: float = 8
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Reach `host:port` through the SOCKS server on 127.0.0.1:`door`.

    Raises `Refused` for a wrong password, `Unavailable` when it is not reached within `timeout` s.
    """
    writer: asyncio.StreamWriter | None = None
    try:
        try:
            async with asyncio.timeout(timeout):
                reader, writer = await asyncio.open_connection("127.0.0.1", door)
                await _greet(reader, writer, user, password)
                writer.write(request(host, port))
                head = await reader.readexactly(4)
                await reader.readexactly({1: 4, 4: 16}.get(head[3], 0) + 2)
        except (TimeoutError, OSError, EOFError) as fault:
            why = "it took too long" if isinstance(fault, TimeoutError) else "the SOCKS port closed the connection"
            raise Unavailable(f"{host}:{port} is not reached: {why}.") from fault
        if head[1]:
            raise Unavailable(f"{host}:{port} is not reached: {_REPLIES.get(head[1], 'the reply makes no sense')}.")
        yield reader, writer
    finally:
        if writer is not None:
            writer.close()


async def _greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, user: str, password: Sensitive) -> None:
    writer.write(b"\x05\x01\x02")
    if await reader.readexactly(2) != b"\x05\x02":
        raise Refused("the SOCKS server does not ask for the password.", hint="bring the tunnel up again")
    name, word = user.encode(), password.reveal().encode()
    writer.write(b"\x01" + bytes([len(name)]) + name + bytes([len(word)]) + word)
    if (await reader.readexactly(2))[1]:
        raise Refused("the SOCKS server refused the password.", hint="bring the tunnel up again")


async def latency(door: int, user: str, password: Sensitive, host: str, port: int, *, timeout: float = 8) -> float:
    """Give the milliseconds until `host:port` was connected through the SOCKS server. Raises what `connect` does."""
    begun = time.perf_counter()
    async with connect(door, user, password, host, port, timeout=timeout):
        return (time.perf_counter() - begun) * 1000
