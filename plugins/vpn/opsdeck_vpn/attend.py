"""Being with a tunnel: talking to OpenVPN, asking WireGuard, probing an office address through the SOCKS port.

The same attendance serves the job that brings a tunnel up, until the tunnel is settled, and the watcher afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import time
from collections.abc import Callable

from opsdeck.api import HostAccess, NotFound, OpsDeckError, Refused, Unavailable, utcnow
from opsdeck_vpn import gateway, socks, tunnels
from opsdeck_vpn import management as wire
from opsdeck_vpn.models import Kind, Otp, State, Tunnel
from opsdeck_vpn.render.gateway import SOCKS_USER

TICK = 1.0
PROBE_SECONDS = 10.0
HANDSHAKE_SECONDS = 180
"""A WireGuard session without a handshake for so long is over (REJECT_AFTER_TIME of its paper)."""
SILENT_SECONDS = 20.0
NO_DIALLER = (
    "OpenVPN does not stay up on the gateway: its log there says why, and bringing the tunnel up starts it again"
)
REDIAL_SECONDS, REDIAL_LONGEST = 60.0, 600.0
"""After so long without a session WireGuard is started anew; the pause is doubled up to the longest."""
Tell = Callable[[str], None]
Mine = Callable[[Tunnel], bool]


class Attendance:
    """One attendance of one tunnel over an open host. `tell` hears each change of state; only of a row that is `mine`
    the state is written."""

    def __init__(
        self, run: tunnels.Attends, host: HostAccess, tunnel: Tunnel, keys: tunnels.Keys, tell: Tell, mine: Mine
    ) -> None:
        self._run, self._host, self._tunnel, self._keys, self._tell = run, host, tunnel, keys, tell
        self._mine = mine
        self._talk = tunnels.talk_of(tunnel, keys.login)
        self._shown: tuple[str, str, str] = ("", "", "")
        self._probed = 0.0
        self._probe_fault = ""
        self._latency: float | None = None
        self._written = 0.0
        self._pushed_for = ""
        self._pushed = tunnel.pushed
        self._heard = time.monotonic()
        self._lost_since, self._patience = time.monotonic(), REDIAL_SECONDS

    async def until(self, done: Callable[[Tunnel], bool]) -> Tunnel:
        """Attend until `done` says so of the tunnel's row. Raises `Unavailable` when the gateway cannot be asked."""
        async with self._host.forward(self._tunnel.port, self._tunnel.listen) as door:
            if self._tunnel.kind == Kind.WIREGUARD:
                return await self._watch_wireguard(door, done)
            return await self._watch_openvpn(door, done)

    async def _watch_openvpn(self, door: int, done: Callable[[Tunnel], bool]) -> Tunnel:
        async with self._host.forward(self._tunnel.management_port) as port:
            while True:
                try:
                    return await self._converse(port, door, done)
                except (OSError, EOFError, TimeoutError):
                    long = time.monotonic() - self._heard > SILENT_SECONDS
                    if self._talk.state is not State.FAILED:
                        self._talk.state = State.RECONNECTING if self._talk.been_up else State.STARTING
                        self._talk.reason = NO_DIALLER if long else "OpenVPN is being started"
                    if done(await self._write(door)):
                        return self._tunnel
                    await asyncio.sleep(5 * TICK if long else TICK)

    async def _converse(self, port: int, door: int, done: Callable[[Tunnel], bool]) -> Tunnel:
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 16)
        try:
            async with asyncio.timeout(15):  # another attendance may just be leaving
                await reader.readuntil(b"ENTER PASSWORD:")
                _send(writer, self._keys.gateway.management_password.reveal())
                while (line := await reader.readline()) and not line.startswith((b"SUCCESS", b">INFO")):
                    if line.startswith(b"ERROR"):
                        raise Refused(
                            "OpenVPN's management socket refused its password.", hint="bring the tunnel up again"
                        )
                if not line:
                    raise EOFError
            _send(writer, "log on", "state on", "bytecount 5", "state", *(("hold release",) if self._free else ()))
            looked = time.monotonic()
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(TICK):
                        line = await _line(reader)
                    self._heard = time.monotonic()
                    self._hear(line.decode("utf-8", "replace").strip(), writer)
                    if reader.at_eof():
                        raise EOFError
                if time.monotonic() - looked >= TICK * 0.9:  # also while it talks without end
                    await self._code(writer)
                    if done(await self._write(door)):
                        return self._tunnel
                    looked = time.monotonic()
        finally:
            writer.close()

    @property
    def _free(self) -> bool:
        return self._keys.gateway.asked and self._talk.state is not State.FAILED

    def _hear(self, line: str, writer: asyncio.StreamWriter) -> None:
        # The answer to `state` is as its notices, without their head.
        event = wire.parse(f">STATE:{line}" if line[:1].isdigit() else line)
        if event is not None:
            _send(writer, *self._talk.hear(event))

    async def _code(self, writer: asyncio.StreamWriter) -> None:
        if not self._talk.wants_code:
            return
        if self._keys.seed is None:
            if code := await tunnels.take_code(self._run, self._tunnel.name):
                _send(writer, *self._talk.give(code))
            return
        import pyotp

        now = time.time()
        step = int(now // 30)
        if step > self._tunnel.code_step and now % 30 < 27:
            await tunnels.change(self._run.db, self._tunnel.name, code_step=step)
            self._tunnel.code_step = step
            _send(writer, *self._talk.give(pyotp.TOTP(self._keys.seed.reveal().replace(" ", "")).at(int(now))))

    async def _watch_wireguard(self, door: int, done: Callable[[Tunnel], bool]) -> Tunnel:
        seen = (f"{self._keys.gateway.folder}/tunnel.sh", "wg-seen", self._tunnel.name)
        asked = 0.0
        while True:
            if time.monotonic() - asked >= 5 or not self._talk.state.settled:
                asked = time.monotonic()
                answer = await self._host.run(seen, sudo=True, check=False, log=False, timeout=10)
                self._judge_wireguard(answer.stdout.decode("ascii", "replace") if answer.ok else "")
                await self._redial_wireguard()
            if done(await self._write(door)):
                return self._tunnel
            await asyncio.sleep(TICK)

    def _judge_wireguard(self, seen: str) -> None:
        """Judge lines of a peer's key and when it shook hands, and of its key, what came and what went."""
        rows = [[int(word) for word in line.split("\t")[1:] if word.isdigit()] for line in seen.splitlines()]
        peers = [row[0] for row in rows if len(row) == 1]
        newest = max(peers, default=0)
        self._talk.received, self._talk.sent = (sum(row[at] for row in rows if len(row) == 2) for at in (0, 1))
        if newest and time.time() - newest < HANDSHAKE_SECONDS:
            self._talk.state, self._talk.reason, self._talk.local = State.UP, "", "wireguard"
        else:
            been = self._talk.state in (State.UP, State.DEGRADED, State.RECONNECTING)
            self._talk.state = State.RECONNECTING if been else State.STARTING
            self._talk.reason = "no handshake with the peer" if peers else "WireGuard is being started"

    async def _redial_wireguard(self) -> None:
        """Start anew what was lost for long, more and more seldom: WireGuard asks for its peer's name only then."""
        lost = time.monotonic() - self._lost_since
        if self._talk.state is State.UP:
            self._lost_since, self._patience = time.monotonic(), REDIAL_SECONDS
        elif lost > self._patience and not all(_is_address(remote) for remote in self._tunnel.remotes):
            self._lost_since, self._patience = time.monotonic(), min(2 * self._patience, REDIAL_LONGEST)
            self._tell(f"{self._tunnel.name} is dialled anew: its peer may have moved")
            await gateway.redial(self._host, self._tunnel.name)

    async def _write(self, door: int) -> Tunnel:
        """Bring the row up to date: the talk's state, and the probe's word on it. Nothing for a row of another's."""
        self._tunnel = await tunnels.find(self._run.db, self._tunnel.name)
        if not self._mine(self._tunnel):
            return self._tunnel
        talk = self._talk
        state, reason = talk.state, talk.reason
        if state is State.UP:
            await self._learn()
            await self._probe(door)
            if self._probe_fault:
                state, reason = State.DEGRADED, self._probe_fault
        elif self._tunnel.kind == Kind.WIREGUARD:
            await self._learn()
            await self._probe(door)  # WireGuard shakes hands only when there is something to send
        else:
            self._pushed_for = ""
        shown = (state.value, reason, talk.challenge)
        now = time.monotonic()
        if shown != self._shown or now - self._written > 15:
            values = {
                "challenge": talk.challenge,
                "ticket": talk.ticket,
                "otp": Otp.ASK if talk.ticket and self._tunnel.otp == Otp.NONE else self._tunnel.otp,
                "refusals": talk.refusals,
                "local": talk.local,
                "received": talk.received,
                "sent": talk.sent,
                "latency_ms": self._latency if state is State.UP else None,
                "pushed": self._pushed,
                "probed": utcnow() if state in (State.UP, State.DEGRADED) else self._tunnel.probed,
            }
            await tunnels.set_state(self._run.db, self._tunnel.name, state, reason, self._mine, **values)
            self._tunnel = await tunnels.find(self._run.db, self._tunnel.name)
            if shown != self._shown:
                self._tell(f"{self._tunnel.name} is {state.value}{f': {reason}' if reason else ''}")
            self._shown, self._written = shown, now
        return self._tunnel

    async def _learn(self) -> None:
        """Read what the server pushed, once for each connection."""
        mark = f"{self._talk.local}-{self._talk.state}"
        if self._pushed_for == mark:
            return
        with contextlib.suppress(NotFound):
            data = await self._host.get(f"/run/opsdeck-vpn/{self._tunnel.name}/pushed", sudo=True)
            self._pushed, self._pushed_for = tunnels.parse_pushed(data), mark

    async def _probe(self, door: int) -> None:
        target = tunnels.probe_of(self._tunnel, self._pushed)
        pause = PROBE_SECONDS if not self._probe_fault else PROBE_SECONDS / 3
        if target is None or time.monotonic() - self._probed < pause:
            return
        password = self._keys.gateway.socks_password
        try:
            self._latency = round(await socks.latency(door, SOCKS_USER, password, *target, timeout=6), 1)
            self._probe_fault = ""
        except (Unavailable, Refused) as fault:
            self._probe_fault, self._latency = fault.message, None
        self._probed = time.monotonic()


def _is_address(remote: str) -> bool:
    """Tell whether a server, `host:port/protocol`, is named by its address."""
    try:
        ipaddress.ip_address(remote.rpartition(":")[0])
    except ValueError:
        return False
    return True


async def _line(reader: asyncio.StreamReader) -> bytes:
    """Read a line. Raises `EOFError` at the end, and for one that is longer than any of OpenVPN's."""
    try:
        line = await reader.readline()
    except ValueError:
        line = b""
    if not line:
        raise EOFError
    return line


def _send(writer: asyncio.StreamWriter, *lines: str) -> None:
    for line in lines:
        writer.write(f"{line}\n".encode())


async def attend(
    run: tunnels.Attends,
    host: HostAccess,
    name: str,
    tell: Tell,
    done: Callable[[Tunnel], bool],
    mine: Mine = tunnels.anyones,
) -> Tunnel:
    """Attend a tunnel by its name until `done`; write its state while it is `mine`.

    Raises `NotFound`, and the host's errors.
    """
    tunnel = await tunnels.find(run.db, name)
    keys = await tunnels.open_keys(run, tunnel)
    try:
        return await Attendance(run, host, tunnel, keys, tell, mine).until(done)
    except OpsDeckError as fault:
        fault.host = fault.host or tunnel.host
        raise
