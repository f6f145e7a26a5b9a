"""What is looked at from outside of a laptop: its wire, and what becomes of UDP through its proxy."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Self

import pytest

from opsdeck.lab.fleet import LabHost


class Wire:
    """All that goes over the wire of a lab host while it is open, as seen from outside of it."""

    def __init__(self, host: LabHost) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self._socket.bind((host.device, 0))
        self._socket.settimeout(0.2)
        self._frames: list[bytes] = []
        self._open = True
        self._thread = threading.Thread(target=self._read)

    def _read(self) -> None:
        while self._open:
            with contextlib.suppress(TimeoutError):
                self._frames.append(self._socket.recv(65535))

    def __enter__(self) -> Self:
        """Begin to listen."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._open = False
        self._thread.join()
        self._socket.close()

    def asked(self, name: str, *, but: int) -> int:
        """Count the packets that ask for a name as DNS writes it; those of TCP port `but` (the SOCKS port) are fine."""
        wanted = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
        return sum(wanted in frame and but not in _ports(frame) for frame in self._frames)


def _ports(frame: bytes) -> tuple[int, ...]:
    head = 14 + (frame[14] & 15) * 4
    return struct.unpack(">HH", frame[head : head + 4]) if frame[12:14] == b"\x08\x00" and frame[23] == 6 else ()


@pytest.fixture
def wire() -> type[Wire]:
    """Listen on the wire of a lab host: `with wire(host) as seen`."""
    return Wire


UDP = """
import socket, struct
tcp = socket.create_connection(("127.0.0.1", 7890), 5)
tcp.sendall(bytes([5, 1, 0])); tcp.recv(2)
tcp.sendall(bytes([5, 3, 0, 1, 0, 0, 0, 0, 0, 0])); answer = tcp.recv(10)
port = struct.unpack(">H", answer[8:10])[0]
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.settimeout(2)
for name in (b"\\x01" + socket.inet_aton("10.78.0.1"), b"\\x03\\x0fintra.corp.test"):
    for _ in range(3):
        udp.sendto(bytes([0, 0, 0]) + name + struct.pack(">H", 5353) + b"hello", ("127.0.0.1", port))
try:
    print("answered", udp.recv(100))
except OSError:
    print("silence")
"""


@pytest.fixture
def udp() -> Callable[[LabHost], Awaitable[str]]:
    """Send UDP to the office through the proxy of a laptop, by address and by name; "silence" is what must come."""

    async def send(laptop: LabHost) -> str:
        argv = ["ip", "netns", "exec", laptop.namespace, sys.executable, "-c", UDP]
        return (await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, timeout=20)).stdout

    return send
