"""The SOCKS port of one tunnel (RFC 1928, RFC 1929): it runs on the gateway, with Python's own library alone.

systemd opens the port in the host's network and hands it over; this process has no network but the tunnel's. So there
is one hop between device and office, and no way out beside the tunnel. It carries TCP; one thread moves the bytes, a
few others ask for names.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import select
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Generator
from pathlib import Path

SESSIONS = 4096
"""Connections at once; more wait in the port's backlog."""
HANDSHAKE, CONNECT, NEXT_ADDRESS = 10.0, 20.0, 4.0
"""Seconds for the client's words, for the office to answer, and before a name's next address is tried."""
ASKERS = 16
"""Names that are asked for at once."""
CHUNK = 1 << 18
RUSH, PAUSE = 16, 0.001
"""So many rounds in a row that each moved much are a download: then the loop waits for so many seconds between rounds,
and moves larger pieces, since a round for each packet would cost more than the tunnel itself."""
GOOD, FAILED, NO_HOST, NO_COMMAND, NO_KIND = 0, 1, 4, 7, 8
_CODES = {errno.ENETUNREACH: 3, errno.EHOSTUNREACH: NO_HOST, errno.ECONNREFUSED: 5, errno.ETIMEDOUT: 6}
_IN, _OUT, _ENDED = select.EPOLLIN, select.EPOLLOUT, select.EPOLLHUP | select.EPOLLERR

Address = tuple[int, str, int]
"""A family, an address and a port."""


class Half:
    """One direction of a connection. `rest` could not be sent yet: until it is, nothing more is read."""

    def __init__(self, source: socket.socket, sink: socket.socket, rest: bytes = b"") -> None:
        self.source, self.sink, self.rest, self.ended = source, sink, rest, False


class Session:
    """A client, what it said that was not taken yet, and what it is connected to."""

    def __init__(self, client: socket.socket) -> None:
        self.client = client
        self.office: socket.socket | None = None
        self.halves: tuple[Half, Half] | None = None
        self.inbox, self.need = b"", 0
        self.talk: Generator[int, bytes, None] | None = None
        self.deadline = time.monotonic() + HANDSHAKE
        self.addresses: list[Address] = []
        self.understood = False
        self.masks: dict[int, int] = {}
        self.closed = False


class Door:
    """The server over a listening socket."""

    def __init__(self, listener: socket.socket, user: bytes, password: bytes) -> None:
        self._listener, self._login = listener, _login(user, password)
        self._epoll = select.epoll()
        self._buffer = memoryview(bytearray(CHUNK))
        self._by_fd: dict[int, Session] = {}
        self._fresh: set[Session] = set()
        self._count, self._moved, self._open = 0, 0, False
        self._asked: deque[tuple[Session, str, int]] = deque()
        self._answered: deque[tuple[Session, list[Address]]] = deque()
        self._waiting = threading.Semaphore(0)
        self._bell, self._rope = socket.socketpair()
        self._dead: list[socket.socket] = []
        """Closed only after all events at hand, so that none of them is taken for a new connection's."""

    def serve(self) -> None:
        """Serve for ever."""
        self._listener.setblocking(False)
        self._bell.setblocking(False)
        listening, bell = self._listener.fileno(), self._bell.fileno()
        self._epoll.register(bell, _IN)
        self._epoll.register(listening, 0)
        for _ in range(ASKERS):
            threading.Thread(target=self._ask, daemon=True).start()
        swept, rush = 0.0, 0
        while True:
            before = self._moved
            for fd, mask in self._epoll.poll(1.0):
                if (session := self._by_fd.get(fd)) is not None:
                    self._handle(session, fd, mask)
                elif fd == listening:
                    self._accept()
                elif fd == bell:
                    self._hear()
            rush = rush + 1 if self._moved - before > 2000 else 0
            if rush > RUSH:
                time.sleep(PAUSE)
            while self._dead:
                self._dead.pop().close()
            if (now := time.monotonic()) - swept >= 1:
                swept = now
                self._sweep(now)

    def _accepting(self, wanted: bool) -> None:
        if wanted != self._open:
            self._open = wanted
            self._epoll.modify(self._listener.fileno(), _IN if wanted else 0)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
            _tune(client)
        except OSError as fault:
            if fault.errno in (errno.EMFILE, errno.ENFILE):
                self._accepting(False)  # until the next sweep
            return
        session = Session(client)
        session.talk = self._talk(session)
        session.need = next(session.talk)
        self._count += 1
        self._fresh.add(session)
        self._watch(session, client, _IN)
        if self._count >= SESSIONS:
            self._accepting(False)

    def _sweep(self, now: float) -> None:
        for session in [one for one in self._fresh if one.deadline < now]:
            if session.understood:
                self._next(session, _CODES[errno.ETIMEDOUT])
            else:
                self._close(session)
        self._accepting(self._count < SESSIONS)

    def _watch(self, session: Session, sock: socket.socket, mask: int) -> None:
        fd = sock.fileno()
        old = session.masks.get(fd)
        if old == mask:
            return
        session.masks[fd] = mask
        if old is None:
            self._by_fd[fd] = session
            self._epoll.register(fd, mask)
        else:
            self._epoll.modify(fd, mask)

    def _unwatch(self, session: Session, sock: socket.socket) -> None:
        if session.masks.pop(sock.fileno(), None) is not None:
            del self._by_fd[sock.fileno()]
            self._epoll.unregister(sock.fileno())

    def _give_up(self, session: Session) -> None:
        if session.office is not None:
            self._unwatch(session, session.office)
            self._dead.append(session.office)
            session.office = None

    def _close(self, session: Session) -> None:
        if not session.closed:
            session.closed = True
            self._give_up(session)
            self._unwatch(session, session.client)
            self._dead.append(session.client)
            self._fresh.discard(session)
            self._count -= 1

    def _handle(self, session: Session, fd: int, mask: int) -> None:
        try:
            if session.halves is not None:
                self._relay(session, session.halves, fd, mask)
            elif session.office is not None and fd == session.office.fileno():
                self._connected(session, session.office)
            else:
                self._listen(session)
        except BlockingIOError:
            return
        except OSError:  # one side is gone, and so is the connection
            self._close(session)

    def _listen(self, session: Session) -> None:
        data = session.client.recv(4096)
        session.inbox += data
        if not data or session.talk is None:  # it left, or went on talking before it was answered
            self._close(session)
            return
        try:
            while len(session.inbox) >= session.need:
                taken, session.inbox = session.inbox[: session.need], session.inbox[session.need :]
                session.need = session.talk.send(taken)
        except StopIteration:
            session.talk = None
            if not session.understood:
                self._close(session)

    def _talk(self, session: Session) -> Generator[int, bytes, None]:
        """Hear the client out: how it logs in, who it is, where it wants to. Each `yield` asks for so many bytes."""
        version, count = yield 2
        methods = yield count
        if version != 5 or 2 not in methods:
            session.client.send(b"\x05\xff")
            return
        session.client.send(b"\x05\x02")
        version, size = yield 2
        user = yield size
        (size,) = yield 1
        password = yield size
        if version != 1 or _login(user, password) != self._login:
            session.client.send(b"\x01\x01")
            return
        session.client.send(b"\x01\x00")
        version, command, _, kind = yield 4
        if kind == 3:
            (size,) = yield 1
            host = (yield size).decode("ascii", "replace")
        elif kind in (1, 4):
            host = socket.inet_ntop(*((socket.AF_INET, (yield 4)) if kind == 1 else (socket.AF_INET6, (yield 16))))
        else:
            _answer(session, NO_KIND)
            return
        (port,) = struct.unpack(">H", (yield 2))
        if version != 5 or command != 1:
            _answer(session, NO_COMMAND)
            return
        self._watch(session, session.client, 0)
        session.understood = True
        session.addresses = _plain(host, port)
        if session.addresses:
            self._next(session, NO_HOST)
        else:
            session.deadline = time.monotonic() + CONNECT
            self._asked.append((session, host, port))
            self._waiting.release()

    def _ask(self) -> None:
        while True:
            self._waiting.acquire()
            session, host, port = self._asked.popleft()
            found: list[Address] = []
            if not session.closed:
                try:
                    rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                    found = [(row[0], str(row[4][0]), port) for row in rows]
                except (OSError, ValueError):  # no such name, or none that can be asked for
                    pass
            self._answered.append((session, found))
            self._rope.send(b"!")

    def _hear(self) -> None:
        self._bell.recv(4096)
        while self._answered:
            session, found = self._answered.popleft()
            if not session.closed:
                session.addresses = found
                self._next(session, NO_HOST)

    def _next(self, session: Session, code: int) -> None:
        """Try the next address; when there is none, say why the last one was not reached."""
        self._give_up(session)
        while session.addresses:
            family, host, port = session.addresses.pop(0)
            try:
                session.office = socket.socket(family, socket.SOCK_STREAM)
                _tune(session.office)
                fault = session.office.connect_ex((host, port))
                if fault in (0, errno.EINPROGRESS):
                    session.deadline = time.monotonic() + (NEXT_ADDRESS if session.addresses else CONNECT)
                    self._watch(session, session.office, _OUT)
                    return
            except OSError as error:  # no descriptor left, or no such family here
                fault = error.errno or 0
            self._give_up(session)
            code = _CODES.get(fault, FAILED)
        with contextlib.suppress(OSError):  # it may have left
            _answer(session, code)
        self._close(session)

    def _connected(self, session: Session, office: socket.socket) -> None:
        if fault := office.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._next(session, _CODES.get(fault, FAILED))
            return
        _answer(session, GOOD)
        self._fresh.discard(session)
        session.halves = Half(session.client, office, session.inbox), Half(office, session.client)
        session.inbox = b""
        self._settle(session, *session.halves)

    def _relay(self, session: Session, halves: tuple[Half, Half], fd: int, mask: int) -> None:
        out, back = halves if fd == session.client.fileno() else halves[::-1]
        if mask & _OUT and back.rest:
            self._settle(session, back, out)
        if mask & (_IN | _ENDED) and not out.rest and not out.ended and not session.closed:
            size = out.source.recv_into(self._buffer)
            self._moved += size
            if size == 0:
                out.ended = True
                out.sink.shutdown(socket.SHUT_WR)
                self._settle(session, out, back)
            elif (sent := _send(out.sink, self._buffer[:size])) < size:
                out.rest = bytes(self._buffer[sent:size])
                self._settle(session, out, back)
        elif mask & _ENDED and out.rest:
            self._unwatch(session, out.source)  # what it sent before is still on its way to the other side
        elif mask & _ENDED:
            self._close(session)

    def _settle(self, session: Session, half: Half, other: Half) -> None:
        """Send what waits, and watch for what either direction waits for."""
        if half.rest:
            half.rest = half.rest[_send(half.sink, half.rest) :]
        if half.ended and other.ended and not half.rest and not other.rest:
            self._close(session)
            return
        for one, two in ((half, other), (other, half)):
            mask = (_IN if not one.ended and not one.rest else 0) | (_OUT if two.rest else 0)
            self._watch(session, one.source, mask)


def _login(user: bytes, password: bytes) -> bytes:
    """Give a digest, so that comparing tells nothing by its time."""
    return hashlib.sha256(bytes([len(user)]) + user + password).digest()


def _plain(host: str, port: int) -> list[Address]:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):
            continue
        return [(family, host, port)]
    return []


def _tune(sock: socket.socket) -> None:
    """Send at once; notice a dead peer, and bear a tunnel that comes back within minutes."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, seconds in ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 30), (socket.TCP_KEEPCNT, 8)):
        sock.setsockopt(socket.IPPROTO_TCP, option, seconds)


def _send(sock: socket.socket, data: bytes | memoryview) -> int:
    try:
        return sock.send(data)
    except BlockingIOError:
        return 0


def _answer(session: Session, code: int) -> None:
    session.client.send(bytes([5, code, 0, 1, 0, 0, 0, 0, 0, 0]))


def main() -> None:
    """Take over the port from systemd (sd_listen_fds(3)), or open ADDRESS PORT and serve it as USER."""
    handed = os.environ.get("LISTEN_FDS") == "1" and os.environ.get("LISTEN_PID") == str(os.getpid())
    if not handed and len(sys.argv) != 4:
        raise SystemExit("systemd hands no port over, and no ADDRESS PORT USER is given")
    folder = Path(os.environ["CREDENTIALS_DIRECTORY"])
    user, password = ((folder / name).read_bytes().strip() for name in ("user", "password"))
    if handed:
        listener = socket.socket(fileno=3)
    else:
        listener = socket.create_server((sys.argv[1], int(sys.argv[2])), backlog=1024)
        os.setgroups([])
        os.setgid(int(sys.argv[3]))
        os.setuid(int(sys.argv[3]))
    Door(listener, user, password).serve()


if __name__ == "__main__":
    main()
