"""The relay that stands for distance."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from opsdeck.lab.delay import DelayProxy


@pytest.fixture
async def echo() -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def test_a_round_trip_takes_at_least_its_time_and_bytes_stay_in_order(echo: int) -> None:
    sent = b"".join(number.to_bytes(4, "big") for number in range(1_500_000))
    async with DelayProxy("127.0.0.1", echo, rtt=0.1) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        loop = asyncio.get_running_loop()
        before = loop.time()
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        assert loop.time() - before >= 0.1
        writer.write(sent)
        writer.write_eof()
        assert await reader.read(-1) == sent
        writer.close()


async def test_a_frozen_line_carries_nothing_and_a_thawed_one_all_of_it(echo: int) -> None:
    async with DelayProxy("127.0.0.1", echo, rtt=0) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        proxy.freeze()
        writer.write(b"late")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.2)
        proxy.thaw()
        assert await reader.readexactly(4) == b"late"
        writer.close()


async def test_a_dropped_line_is_reset_and_a_dead_target_too(echo: int) -> None:
    async with DelayProxy("127.0.0.1", echo, rtt=0) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"x")
        await reader.readexactly(1)
        assert proxy.drop() == 1
        with pytest.raises(ConnectionError):
            await reader.readexactly(1)
    async with DelayProxy("127.0.0.1", 1, rtt=0) as proxy:
        reader, _ = await asyncio.open_connection("127.0.0.1", proxy.port)
        with pytest.raises(ConnectionError):
            await reader.readexactly(1)
