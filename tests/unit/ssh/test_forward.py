"""Local ports that lead to what a host can reach."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from opsdeck.errors import Invalid
from opsdeck.ssh.errors import Unreachable


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()
    writer.close()


async def ask(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def send() -> None:
        writer.write(data)
        await writer.drain()
        writer.write_eof()

    async with asyncio.timeout(20):
        _, answer = await asyncio.gather(send(), reader.read(-1))
    writer.close()
    return answer


@pytest.fixture
async def service():
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def test_bytes_go_there_and_back_for_many_at_once(pool, hosts, service):
    data = os.urandom(500_000)
    async with pool.forward(hosts["web1"].endpoint(), "127.0.0.1", service) as port:
        assert await asyncio.gather(*(ask(port, data) for _ in range(5))) == [data] * 5
    with pytest.raises(OSError):
        await ask(port, b"x")


async def test_it_leads_on_after_a_lost_link(pool, hosts, service):
    async with pool.forward(hosts["web1"].endpoint(), "127.0.0.1", service) as port:
        assert await ask(port, b"one") == b"one"
        await hosts["web1"].drop()
        assert await ask(port, b"two") == b"two"


async def test_nothing_behind_it_ends_the_connection_and_not_the_forward(pool, hosts, service, caplog):
    async with pool.forward(hosts["web1"].endpoint(), "127.0.0.1", 1) as port:
        assert await ask(port, b"x") == b""
    assert "web1" in caplog.text


async def test_a_host_that_is_off_is_told_at_once(pool, hosts):
    endpoint = hosts["web1"].endpoint()
    await hosts["web1"].stop()
    with pytest.raises(Unreachable):
        async with pool.forward(endpoint, "127.0.0.1", 80):
            pass


async def test_a_port_that_is_none_is_told(pool, hosts):
    with pytest.raises(Invalid):
        async with pool.forward(hosts["web1"].endpoint(), "127.0.0.1", 70_000):
            pass


@pytest.mark.sshd
async def test_a_unix_socket_of_a_real_host(pool, sshd, account):
    place = Path(f"/tmp/od-{os.getpid()}.sock")
    server = await asyncio.start_unix_server(echo, place)
    place.chmod(0o777)
    try:
        async with pool.forward(sshd.endpoint(user=account().name), str(place)) as port:
            assert await ask(port, b"through the socket") == b"through the socket"
    finally:
        server.close()
        place.unlink(missing_ok=True)  # from Python 3.13 on the server does it
