"""The SOCKS port as it runs on a gateway: the real program, handed a port the way systemd does it."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from opsdeck_vpn import socks
from opsdeck_vpn.onhost import door as program

from opsdeck.errors import Refused, Unavailable
from opsdeck.secrets.sensitive import Sensitive

PROGRAM = str(files("opsdeck_vpn") / "onhost" / "door.py")
LOGIN = b"\x05\x01\x02" + b"\x01\x06office\x06geheim"
HOME = socket.inet_aton("127.0.0.1")


def ask(port: int, kind: bytes = b"\x01", address: bytes = HOME, command: int = 1) -> bytes:
    return bytes([5, command, 0]) + kind + address + struct.pack(">H", port)


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder: Path = tmp_path_factory.mktemp("credentials")
    (folder / "user").write_text("office\n")
    (folder / "password").write_text("geheim\n")
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    run = f"LISTEN_PID=$$ LISTEN_FDS=1 exec {sys.executable} -I -S {PROGRAM} 3<&0 0</dev/null"
    environment = {"CREDENTIALS_DIRECTORY": str(folder)}
    process = subprocess.Popen(["/bin/sh", "-c", run], stdin=listener, env=environment)
    yield listener.getsockname()[1]
    assert process.poll() is None, "it has ended"
    process.terminate()
    process.wait(5)
    listener.close()


@pytest.fixture
def office() -> Iterator[Callable[[Callable[[socket.socket], None]], int]]:
    """Serve one connection after another with the given behaviour; give the port."""
    servers = []

    def serve(behave: Callable[[socket.socket], None]) -> int:
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)

        def work() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    behave(connection)

        threading.Thread(target=work, daemon=True).start()
        return int(server.getsockname()[1])

    yield serve
    for server in servers:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def echo(connection: socket.socket) -> None:
    while data := connection.recv(1 << 16):
        connection.sendall(data)


def dial(door: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", door), 5)


def exactly(client: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size and (data := client.recv(size - len(got))):
        got += data
    return got


def until_end(client: socket.socket) -> bytes:
    return exactly(client, 1 << 30)


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_words_in_any_pieces_and_what_follows_them_arrive(door: int, office: object, piece: int) -> None:
    said = LOGIN + ask(office(echo)) + b"hello"  # type: ignore[operator]
    with dial(door) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(said), piece):
            client.send(said[at : at + piece])
        assert exactly(client, 2 + 2 + 10) == b"\x05\x02\x01\x00\x05\x00\x00\x01" + bytes(6)
        assert exactly(client, 5) == b"hello"
        client.shutdown(socket.SHUT_WR)
        assert until_end(client) == b""


def test_the_end_of_one_direction_leaves_the_other(door: int, office: object) -> None:
    def answer_at_the_end(connection: socket.socket) -> None:
        got = until_end(connection)
        connection.sendall(str(len(got)).encode())

    port = office(answer_at_the_end)  # type: ignore[operator]
    with dial(door) as client:
        client.sendall(LOGIN + ask(port) + b"x" * 300_000)
        assert exactly(client, 14)[5] == 0
        client.shutdown(socket.SHUT_WR)
        assert until_end(client) == b"300000"


def test_a_reader_that_is_slow_loses_nothing_and_stops_nobody(door: int, office: object) -> None:
    size = 12_000_000

    def pour(connection: socket.socket) -> None:
        connection.sendall(bytes(range(250)) * (size // 250))

    with dial(door) as slow:
        slow.sendall(LOGIN + ask(office(pour)))  # type: ignore[operator]
        exactly(slow, 14)
        with dial(door) as other:
            other.sendall(LOGIN + ask(office(echo)) + b"meanwhile")  # type: ignore[operator]
            assert exactly(other, 14 + 9)[14:] == b"meanwhile"
        got = until_end(slow)
    assert len(got) == size
    assert got == bytes(range(250)) * (size // 250)


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (b"\x05\x01\x00", b"\x05\xff"),
        (b"\x04\x01\x00\x50", b"\x05\xff"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + bytes(60), b"\x05\xff"),
        (b"\x05\x01\x02\x01\x06office\x05wrong", b"\x05\x02\x01\x01"),
        (b"\x05\x01\x02\x01\x00\x00", b"\x05\x02\x01\x01"),
        (b"\x05\x01\x02\x01\x07officeg\x05eheim", b"\x05\x02\x01\x01"),
        (LOGIN + ask(53, command=3), b"\x05\x02\x01\x00\x05\x07\x00\x01" + bytes(6)),
        (LOGIN + ask(53, kind=b"\x09"), b"\x05\x02\x01\x00\x05\x08\x00\x01" + bytes(6)),
        (LOGIN + ask(80, b"\x03", b"\x06a\0b\xff.c"), b"\x05\x02\x01\x00\x05\x04\x00\x01" + bytes(6)),
        (LOGIN + ask(80, b"\x03", b"\x00"), b"\x05\x02\x01\x00\x05\x04\x00\x01" + bytes(6)),
        (LOGIN + ask(80, b"\x03", b"\x0cnone.invalid"), b"\x05\x02\x01\x00\x05\x04\x00\x01" + bytes(6)),
    ],
)
def test_what_is_refused_is_answered_and_closed(door: int, said: bytes, answer: bytes) -> None:
    with dial(door) as client:
        client.sendall(said)
        got = b""
        try:
            while data := client.recv(100):
                got += data
        except ConnectionResetError:  # it had more to say than was read
            pass
        assert got == answer


async def test_the_probe_s_client_is_served_by_name_and_told_why_not(door: int, office: object) -> None:
    port = office(echo)  # type: ignore[operator]
    good = Sensitive("geheim")
    for host in ("127.0.0.1", "localhost"):
        assert await socks.latency(door, "office", good, host, port) < 5000
    with pytest.raises(Refused, match="refused the password"):
        await socks.latency(door, "office", Sensitive("wrong"), "127.0.0.1", port)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        number = closed.getsockname()[1]
    with pytest.raises(Unavailable, match="refused"):
        await socks.latency(door, "office", good, "127.0.0.1", number)


def test_clients_that_leave_at_any_moment_leave_nothing_behind(door: int, office: object) -> None:
    said = LOGIN + ask(office(echo)) + b"x"  # type: ignore[operator]
    gone = ask(80, b"\x03", b"\x0cnone.invalid")
    for at in [*range(len(said) + 1), -1]:
        client = dial(door)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", at % 2, 0))
        client.sendall(LOGIN + gone if at < 0 else said[:at])
        client.close()
    with dial(door) as client:
        client.sendall(said)
        assert exactly(client, 15)[14:] == b"x"


def test_many_at_once(door: int, office: object) -> None:
    port = office(lambda connection: connection.sendall(b"."))  # type: ignore[operator]
    clients = [dial(door) for _ in range(300)]
    for client in clients:
        client.sendall(LOGIN + ask(port))
    assert all(exactly(client, 15)[14:] == b"." for client in clients)
    for client in clients:
        client.close()


def test_who_says_nothing_and_who_is_not_answered_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "HANDSHAKE", 0.5)
    monkeypatch.setattr(program, "CONNECT", 0.5)
    monkeypatch.setattr(program, "SESSIONS", 2)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        threading.Thread(target=program.Door(listener, b"office", b"geheim").serve, daemon=True).start()
        door, port = listener.getsockname()[1], full.getsockname()[1]
        with dial(port), dial(door) as silent, dial(door) as stuck, dial(door) as third:
            stuck.sendall(LOGIN + ask(port))
            third.sendall(b"\x05\x01\x00")  # waits until one of the two before it has left
            assert until_end(stuck) == b"\x05\x02\x01\x00\x05\x06\x00\x01" + bytes(6)
            assert until_end(silent) == b""
            assert until_end(third) == b"\x05\xff"
