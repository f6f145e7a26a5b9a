"""The rule list, the devices, and the profiles they are served. Rows are the truth; the last good text is sealed."""

from __future__ import annotations

import hashlib
import re
import secrets as random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from weakref import WeakKeyDictionary

from sqlalchemy import insert
from sqlmodel import col, delete, select

from opsdeck.api import Actor, Conflict, Deck, Door, Invalid, NotFound, OpsDeckError, Role, Sensitive, utcnow
from opsdeck_vpn import tunnels
from opsdeck_vpn.cores import Core, check, render
from opsdeck_vpn.models import Device, Fetch, Proxy, Rule, State, Tunnel
from opsdeck_vpn.render.gateway import SOCKS_USER
from opsdeck_vpn.render.setting import Office, Other, Setting
from opsdeck_vpn.rules import Match, RuleLine, merged, parse, pushed, text_of

_KEEPER = Actor("vpn", Role.OPERATOR, Door.SYSTEM)
"""Who seals the last good profile: a device that fetches may only read."""
KEPT_FETCHES = 500
"""Fetches that are remembered for each device."""


async def rules(deck: Deck) -> tuple[RuleLine, ...]:
    """Give the list in its order."""
    async with deck.db.read() as session:
        rows = (await session.exec(select(Rule).order_by(col(Rule.position)))).all()
    return tuple(RuleLine(Match(row.kind), row.value, row.target, row.note) for row in rows)


async def proxies(deck: Deck) -> list[Proxy]:
    """Give the other proxies by name."""
    async with deck.db.read() as session:
        return list((await session.exec(select(Proxy).order_by(col(Proxy.name)))).all())


async def add_proxy(deck: Deck, row: Proxy, actor: Actor) -> None:
    """Add a proxy that rules may name. Raises `Invalid`, `Conflict`, `NotFound` for its secret."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}", row.name):
        raise Invalid(f"{row.name[:40]!r} cannot name a proxy.", field="name", hint="letters, digits, . _ and -")
    if row.kind not in ("socks5", "http") or not 0 < row.port < 65536:
        raise Invalid("a proxy is socks5 or http, with a port.", field="kind")
    if not re.fullmatch(r"[A-Za-z0-9.:_-]{1,253}", row.server):
        raise Invalid(f"{row.server[:60]!r} is no address.", field="server", hint="a name or an address, without port")
    if row.password_secret:
        await deck.secrets.show(row.password_secret)
    after = {"kind": row.kind, "server": f"{row.server}:{row.port}"}
    name = row.name
    async with deck.db.write() as session:
        if await session.get(Proxy, name) is not None:
            raise Conflict(f"there is a proxy {name!r} already.", field="name", hint="remove it first")
        session.add(row)
    await deck.audit.record(actor, "vpn.proxy.added", f"proxy:{name}", after=after)


async def remove_proxy(deck: Deck, name: str, actor: Actor) -> None:
    """Remove a proxy. Raises `NotFound`, `Conflict` while a rule names it."""
    async with deck.db.write() as session:
        row = await session.get(Proxy, name)
        if row is None:
            raise NotFound(f"there is no proxy {name!r}.", field="name", hint="`opsdeck vpn proxy list` names them")
        if (await session.exec(select(Rule).where(Rule.target == f"proxy:{name}").limit(1))).first():
            raise Conflict(f"rules send to the proxy {name!r}.", field="name", hint="change them first")
        await session.delete(row)
    await deck.audit.record(actor, "vpn.proxy.removed", f"proxy:{name}")


async def set_rules(deck: Deck, text: str, actor: Actor) -> tuple[RuleLine, ...]:
    """Replace the list, once both cores accepted what becomes of it. Raises `Invalid` with the line or their words."""
    rows = await tunnels.every(deck.db)
    wanted = parse(text, {row.name for row in rows}, {row.name for row in await proxies(deck)})
    return await _put(deck, rows, wanted, actor)


async def take_over(deck: Deck, name: str, actor: Actor) -> tuple[RuleLine, ...]:
    """Put what an office pushed before the list. Raises `Invalid` when it has pushed nothing that makes a rule."""
    row = await tunnels.find(deck.db, name)
    if not row.pushed:
        raise Invalid(f"tunnel {name!r} has pushed nothing yet.", field="tunnel", hint="bring it up first")
    new = pushed(name, row.pushed)
    if not new:
        raise Invalid(
            f"{name!r} pushes the whole internet, and no network or name of its own.",
            field="tunnel",
            hint="write the networks and names that you mean into the list",
        )
    whole = merged(await rules(deck), new)
    return await _put(deck, await tunnels.every(deck.db), whole, actor)


async def _put(deck: Deck, rows: Sequence[Tunnel], wanted: tuple[RuleLine, ...], actor: Actor) -> tuple[RuleLine, ...]:
    blind = tuple(_office(row, Sensitive("checked")) for row in rows)
    others = tuple(_other(row, Sensitive("checked")) for row in await proxies(deck))
    for core in Core:
        await check(core, render(core, Setting(blind, wanted, others)))
    before = text_of(await rules(deck))
    async with deck.db.write() as session:
        await session.exec(delete(Rule))
        if wanted:
            values = [
                {
                    "position": at,
                    "kind": rule.kind.value,
                    "value": rule.value,
                    "target": rule.target,
                    "note": rule.note,
                }
                for at, rule in enumerate(wanted)
            ]
            await session.exec(insert(Rule), params=values)
    await deck.audit.record(
        actor,
        "vpn.rules.changed",
        "rules",
        before=before[:4000],
        after=text_of(wanted)[:4000],
        detail={"rules": len(wanted)},
    )
    return wanted


def _office(row: Tunnel, password: Sensitive) -> Office:
    gates = tuple(dict.fromkeys(remote.rpartition(":")[0] for remote in row.remotes))
    return Office(
        row.name,
        row.listen,
        row.port,
        SOCKS_USER,
        password,
        open=row.wanted and row.state != State.FAILED,
        dns=tuple(row.pushed.get("dns", ())),
        domains=tuple(row.pushed.get("domain", ())),
        gates=gates,
    )


def _other(row: Proxy, password: Sensitive) -> Other:
    return Other(row.name, row.kind, row.server, row.port, row.username, password)


async def setting(deck: Deck, actor: Actor, purpose: str) -> Setting:
    """Give what profiles are made of, passwords opened."""
    rows, others, list_ = await tunnels.every(deck.db), await proxies(deck), await rules(deck)
    named = {rule.target for rule in list_}
    used = [row for row in rows if f"tunnel:{row.name}" in named]
    wanted = [row.socks_secret for row in used] + [row.password_secret for row in others if row.password_secret]
    opened = await deck.secrets.reveal_many(wanted, actor=actor, purpose=purpose)
    return Setting(
        tuple(_office(row, opened[row.socks_secret]) for row in used),
        list_,
        tuple(_other(row, opened.get(row.password_secret, Sensitive(""))) for row in others),
    )


@dataclass(frozen=True)
class Served:
    """A profile as it is served. `stale` says why an older one is served instead of the newest."""

    text: str
    etag: str
    stale: str = ""


async def profile(deck: Deck, core: Core, actor: Actor, purpose: str) -> Served:
    """Give the profile that the real core accepted; when it refuses the newest one, the last good one.

    Raises what the core said when there is no good one yet.
    """
    kept = f"vpn-last-good-{core.value}"
    try:
        text = render(core, await setting(deck, actor, purpose))
        await check(core, text)
    except OpsDeckError as fault:
        try:
            last = await deck.secrets.reveal(kept, actor=actor, purpose=purpose)
        except NotFound:
            raise fault from None
        good = last.reveal().rstrip("\n") + "\n"  # the store keeps texts without their last line break
        return Served(good, etag(good), fault.message)
    digest = etag(text)
    known = _kept.setdefault(deck, {})
    if known.get(core) != digest:
        await deck.secrets.set(kept, Sensitive(text), kind="text", note="the last profile that passed", actor=_KEEPER)
        known[core] = digest
    return Served(text, digest)


_kept: WeakKeyDictionary[Deck, dict[Core, str]] = WeakKeyDictionary()
"""What this process has sealed already, so that a fetch of the same text seals nothing."""


def etag(text: str) -> str:
    """Give a text's mark."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


async def devices(deck: Deck) -> list[tuple[Device, Fetch | None]]:
    """Give the devices, each with its last fetch."""
    async with deck.db.read() as session:
        rows = (await session.exec(select(Device).order_by(col(Device.name)))).all()
        found = []
        for row in rows:
            query = select(Fetch).where(Fetch.device == row.name).order_by(col(Fetch.id).desc()).limit(1)
            found.append((row, (await session.exec(query)).first()))
    return found


async def fetches(deck: Deck, device: str = "", limit: int = 50) -> list[Fetch]:
    """Give what was fetched, the newest first."""
    query = select(Fetch).order_by(col(Fetch.id).desc()).limit(limit)
    if device:
        query = query.where(Fetch.device == device)
    async with deck.db.read() as session:
        return list((await session.exec(query)).all())


async def add_device(deck: Deck, name: str, actor: Actor) -> Sensitive:
    """Make a device and give its token, which is not shown again. Raises `Invalid`, `Conflict`."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}", name):
        raise Invalid(f"{name[:40]!r} cannot name a device.", field="name", hint="letters, digits, . _ and -")
    token = random.token_urlsafe(32)
    async with deck.db.write() as session:
        if await session.get(Device, name) is not None:
            raise Conflict(f"there is a device {name!r} already.", field="name", hint="revoke and remove it first")
        session.add(Device(name=name, token_hash=_hash(token), created_by=actor.name))
    await deck.audit.record(actor, "vpn.device.added", f"device:{name}")
    return Sensitive(token)


async def revoke(deck: Deck, name: str, actor: Actor) -> None:
    """End a device's token at once; what it has fetched stays with it. Raises `NotFound`."""
    async with deck.db.write() as session:
        row = await session.get(Device, name)
        if row is None:
            raise NotFound(f"there is no device {name!r}.", field="device", hint="`opsdeck vpn devices` names them")
        row.revoked = row.revoked or utcnow()
        session.add(row)
    await deck.audit.record(actor, "vpn.device.revoked", f"device:{name}")


async def forget(deck: Deck, name: str, actor: Actor) -> None:
    """Remove a revoked device and what it fetched. Raises `NotFound`, `Conflict` while its token counts."""
    async with deck.db.write() as session:
        row = await session.get(Device, name)
        if row is None:
            raise NotFound(f"there is no device {name!r}.", field="device")
        if row.revoked is None:
            raise Conflict(f"the token of {name!r} still counts.", field="device", hint="revoke it first")
        await session.delete(row)
        await session.exec(delete(Fetch).where(col(Fetch.device) == name))
    await deck.audit.record(actor, "vpn.device.removed", f"device:{name}")


async def device_of(deck: Deck, token: str) -> Device:
    """Find whose token this is. Raises `NotFound` for none and for a revoked one alike."""
    async with deck.db.read() as session:
        row = (await session.exec(select(Device).where(Device.token_hash == _hash(token)))).first()
    if row is None or row.revoked is not None:
        raise NotFound("there is no such profile.")
    return row


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


async def note_fetch(deck: Deck, fetch: Fetch) -> datetime:
    """Remember a fetch; the oldest beyond `KEPT_FETCHES` go."""
    async with deck.db.write() as session:
        session.add(fetch)
        await session.flush()
        edge = select(Fetch.id).where(Fetch.device == fetch.device).order_by(col(Fetch.id).desc())
        last = (await session.exec(edge.offset(KEPT_FETCHES).limit(1))).first()
        if last is not None:
            await session.exec(delete(Fetch).where(col(Fetch.device) == fetch.device, col(Fetch.id) <= last))
        return fetch.at
