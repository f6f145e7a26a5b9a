"""The rows of tunnels: found, changed, told; and what a tunnel needs of the secrets."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ipaddress
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from sqlalchemy import update
from sqlmodel import col, delete, select

from opsdeck.api import Invalid, NotFound, Sensitive, utcnow
from opsdeck_vpn import rules
from opsdeck_vpn.models import Kind, Otp, Proof, Rule, State, Tunnel
from opsdeck_vpn.render.gateway import Gateway
from opsdeck_vpn.talk import Login, Talk

CLAIM_SECONDS = 40.0
"""How long a job that is not heard of any more keeps a tunnel."""
CODE_SECONDS = 45
"""How long a code that a person gave may still be used."""


class Opens(Protocol):
    """Whatever opens secrets and reads rows: a job, a service, a plan."""

    db: Any

    async def secret(self, name: str) -> Sensitive:
        """Open a secret."""
        ...


async def find(db: Any, name: str) -> Tunnel:
    """Find a tunnel. Raises `NotFound`."""
    async with db.read() as session:
        tunnel: Tunnel | None = await session.get(Tunnel, name)
    if tunnel is None:
        raise NotFound(f"there is no tunnel {name!r}.", field="tunnel", hint="`opsdeck vpn list` names them")
    return tunnel


async def forget(db: Any, name: str) -> None:
    """Delete a tunnel's row with its rules and proofs."""
    async with db.write() as session:
        await session.exec(delete(Rule).where(col(Rule.target) == f"tunnel:{name}"))
        await session.exec(delete(Proof).where(col(Proof.tunnel) == name))
        await session.exec(delete(Tunnel).where(col(Tunnel.name) == name))


async def every(db: Any) -> list[Tunnel]:
    """Give all tunnels by name."""
    async with db.read() as session:
        return list((await session.exec(select(Tunnel).order_by(Tunnel.name))).all())


async def proofs(db: Any, name: str) -> list[Proof]:
    """Give what was proven of a tunnel, by kind."""
    async with db.read() as session:
        query = select(Proof).where(Proof.tunnel == name).order_by(col(Proof.kind))
        return list((await session.exec(query)).all())


async def change(db: Any, name: str, **values: Any) -> None:
    """Change columns of a tunnel."""
    async with db.write() as session:
        await session.exec(update(Tunnel).where(col(Tunnel.name) == name).values(**values))


def anyones(_tunnel: Tunnel) -> bool:
    """Let a state be written whoever attends the tunnel."""
    return True


def watched(tunnel: Tunnel) -> bool:
    """Tell whether the watcher attends it: it should be up, and no job has it."""
    return tunnel.wanted and not claimed(tunnel)


async def set_state(
    db: Any, name: str, state: State, reason: str = "", mine: Callable[[Tunnel], bool] = anyones, **values: Any
) -> None:
    """Write a state, if the row is still there and `mine`; `since` moves only when the state does."""
    async with db.write() as session:
        row = await session.get(Tunnel, name)
        if row is None or not mine(row):
            return
        if row.state != state:
            row.since = utcnow()
        row.state, row.reason = state, reason[:300]
        for key, value in values.items():
            setattr(row, key, value)
        session.add(row)


@contextlib.asynccontextmanager
async def held(db: Any, name: str) -> AsyncIterator[None]:
    """Keep the watcher away while a job attends the tunnel; one whose console died is the watcher's again soon."""

    async def claim() -> None:
        await change(db, name, claimed_until=utcnow() + timedelta(seconds=CLAIM_SECONDS))

    async def renew() -> None:
        while True:
            await asyncio.sleep(CLAIM_SECONDS / 4)
            await claim()

    await claim()
    renewing = asyncio.create_task(renew())
    try:
        yield
    finally:
        renewing.cancel()
        await asyncio.wait([renewing])  # a claim that could not be renewed has run out, and that is all
        await change(db, name, claimed_until=None)


def claimed(tunnel: Tunnel) -> bool:
    """Tell whether a job attends it now."""
    return tunnel.claimed_until is not None and tunnel.claimed_until > utcnow()


class Attends(Opens, Protocol):
    """Whatever attends a tunnel: a job or a service."""

    async def secret(self, name: str, *, fresh: bool = False) -> Sensitive:
        """Open a secret; `fresh` opens it anew."""
        ...


async def take_code(run: Attends, name: str) -> str:
    """Take the code that a person gave, once; "" when there is none, or it is too old."""
    fresh = utcnow() - timedelta(seconds=CODE_SECONDS)
    async with run.db.write() as session:
        taken = await session.exec(
            update(Tunnel).where(col(Tunnel.name) == name, col(Tunnel.code_given) > fresh).values(code_given=None)
        )
    if not taken.rowcount:
        return ""
    return (await run.secret(code_secret(name), fresh=True)).reveal().strip()


def incident_of(name: str) -> str:
    """Give the key of the incident that says a tunnel is lost."""
    return f"vpn:{name}"


def code_secret(name: str) -> str:
    """Give the name of the secret that carries a code from a door to whoever attends the tunnel."""
    return f"vpn-{name}-code"


def secrets_of(tunnel: Tunnel) -> tuple[str, ...]:
    """Give the names of all secrets that a tunnel may have."""
    named = (tunnel.config_secret, tunnel.password_secret, tunnel.seed_secret, tunnel.key_secret, tunnel.socks_secret)
    return (*filter(None, named), code_secret(tunnel.name))


@dataclass(frozen=True)
class Keys:
    """What a tunnel needs opened."""

    gateway: Gateway
    login: Login
    seed: Sensitive | None


async def open_keys(run: Opens, tunnel: Tunnel) -> Keys:
    """Open what a tunnel needs. Raises `NotFound` for a secret that is gone."""
    socks = await run.secret(tunnel.socks_secret)
    gateway = Gateway(
        name=tunnel.name,
        kind=tunnel.kind,
        profile=await run.secret(tunnel.config_secret),
        login=tunnel.asks_password,
        listen=tunnel.listen,
        port=tunnel.port,
        management_port=tunnel.management_port,
        management_password=management_password(socks),
        socks_password=socks,
        locked=bool(tunnel.key_secret),
        coded=tunnel.otp != Otp.NONE,
        mtu=tunnel.mtu,
    )
    password = await run.secret(tunnel.password_secret) if tunnel.password_secret else Sensitive("")
    key = await run.secret(tunnel.key_secret) if tunnel.key_secret else Sensitive("")
    login = Login(tunnel.username, password, tunnel.otp != Otp.NONE, tunnel.concat, key)
    seed = await run.secret(tunnel.seed_secret) if tunnel.otp == Otp.SEED and tunnel.seed_secret else None
    return Keys(gateway, login, seed)


def management_password(socks: Sensitive) -> Sensitive:
    """Make the password of the management socket from the SOCKS port's: neither tells the other."""
    return Sensitive(hashlib.sha256(b"opsdeck vpn management\0" + socks.reveal().encode()).hexdigest()[:40])


def talk_of(tunnel: Tunnel, login: Login) -> Talk:
    """Begin or take up the conversation of a tunnel."""
    been_up = tunnel.state in (State.UP, State.DEGRADED, State.RECONNECTING)
    ticket = tunnel.ticket if tunnel.state == State.WAIT_OTP else ""
    talk = Talk(login, been_up=been_up, ticket=ticket, challenge=tunnel.challenge, refusals=tunnel.refusals)
    if tunnel.state == State.FAILED and tunnel.kind == Kind.OPENVPN:
        talk.state, talk.reason = State.FAILED, tunnel.reason
    return talk


def probe_of(tunnel: Tunnel, pushed: dict[str, list[str]] | None = None) -> tuple[str, int] | None:
    """Give the office address to probe: the tunnel's own, else the first name server of what was (just) `pushed`."""
    if tunnel.probe:
        host, _, port = tunnel.probe.rpartition(":")
        return host.strip("[]"), int(port)
    servers = (tunnel.pushed if pushed is None else pushed).get("dns", [])
    return (servers[0], 53) if servers else None


def parse_pushed(data: bytes) -> dict[str, list[str]]:
    """Read what the script on the gateway wrote down of the server's push; what does not fit is left out."""
    found: dict[str, list[str]] = {"route": [], "dns": [], "domain": [], "refused": []}
    for line in data.decode("ascii", "replace").splitlines()[:2000]:
        word, _, value = line.partition(" ")
        if word in found and value not in found[word] and _fits(word, value):
            found[word].append(value)
    return {word: values for word, values in found.items() if values}


def _fits(word: str, value: str) -> bool:
    try:
        match word:
            case "dns":
                ipaddress.ip_address(value)
            case "route":
                rules.network(value)
            case "domain":
                rules.domain(value)
    except (ValueError, Invalid):
        return False
    return 0 < len(value) < 100
