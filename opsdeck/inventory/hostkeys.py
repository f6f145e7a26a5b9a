"""Which keys a host may show: offered on first contact, pinned by a person, retired when it was rebuilt.

Nothing is trusted by itself. A host that shows another key than the pinned ones is refused by the pool; here that
becomes an incident, and both fingerprints are shown until a person decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from sqlmodel import col, select

from opsdeck.accounts.permissions import require
from opsdeck.actor import Actor, Role
from opsdeck.clock import utcnow
from opsdeck.errors import NotFound, Refused
from opsdeck.inventory.hosts import Inventory
from opsdeck.inventory.models import Host, HostKey, Reach
from opsdeck.inventory.reach import ReachSeen
from opsdeck.ssh import known_hosts
from opsdeck.ssh.errors import HostKeyChanged
from opsdeck.ssh.hostkeys import OfferedKey

if TYPE_CHECKING:
    from sqlmodel.ext.asyncio.session import AsyncSession

    from opsdeck.audit.log import AuditLog
    from opsdeck.db import Database
    from opsdeck.inventory.endpoints import Endpoints
    from opsdeck.notify.incidents import Incidents
    from opsdeck.ssh.pool import Pool

ALL = "all"


class KeyState(StrEnum):
    """What is known of a key: waiting for a person, trusted, or no longer."""

    OFFERED = "offered"
    PINNED = "pinned"
    RETIRED = "retired"


class Trust(StrEnum):
    """How a host stands: nothing pinned yet, all well, or it shows another key than the pinned ones."""

    NEW = "new"
    TRUSTED = "trusted"
    CHANGED = "changed"


@dataclass(frozen=True)
class Contact:
    """What a host showed, beside what is pinned."""

    host: str
    trust: Trust
    offered: tuple[OfferedKey, ...]
    """Keys it shows that are not pinned."""
    pinned: tuple[OfferedKey, ...]

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """Give the fingerprints that wait for approval."""
        return tuple(key.fingerprint for key in self.offered)


@dataclass(frozen=True)
class Seeded:
    """What an import of a known_hosts file did."""

    pinned: tuple[str, ...]
    """Hosts that got a key."""
    without: tuple[str, ...]
    """Hosts that the file does not know."""
    differ: tuple[str, ...]
    """Hosts whose pinned keys are others than the file's; these were left as they are."""
    skipped: tuple[known_hosts.Skipped, ...]


class HostKeys:
    """The host keys of the deck."""

    def __init__(
        self,
        db: Database,
        audit: AuditLog,
        *,
        inventory: Inventory,
        endpoints: Endpoints,
        pool: Pool,
        incidents: Incidents,
    ) -> None:
        self._db = db
        self._audit = audit
        self._inventory = inventory
        self._endpoints = endpoints
        self._pool = pool
        self._incidents = incidents

    async def contact(self, name: str, actor: Actor) -> Contact:
        """Ask a host for its keys, without logging in, and keep what it shows.

        Raises `NotFound`, `Unreachable`, and what the way through its jump host raises.
        """
        endpoint = (await self._endpoints.resolve([name], actor=actor, purpose=f"host key of {name}"))[name]
        shown = await self._pool.offered_keys(endpoint)
        contact = await self._note(name, shown)
        if contact.trust is Trust.CHANGED:
            await self._alarm(contact)
        elif contact.trust is Trust.NEW:
            await self._inventory.set_reach([ReachSeen(name, Reach.UNTRUSTED, "its key waits for approval")])
        else:
            await self._incidents.close(alarm_key(name))
        return contact

    async def report(self, fault: HostKeyChanged) -> None:
        """Take up that the pool met another key than the pinned ones: kept, incident opened, reach noted.

        Unless a person has approved that key since it was met.
        """
        if fault.host is None:
            return
        contact = await self._note(fault.host, [fault.offered])
        if contact.trust is Trust.CHANGED:
            await self._alarm(contact)

    async def list(self, name: str) -> Sequence[HostKey]:
        """Give the keys of a host: pinned first, then offered, then retired. Raises `NotFound`."""
        host = await self._inventory.get(name)
        async with self._db.read() as session:
            rows = await _keys(session, host)
        order = (KeyState.PINNED, KeyState.OFFERED, KeyState.RETIRED)
        return sorted(rows, key=lambda row: (order.index(KeyState(row.state)), row.algorithm))

    async def approve(self, name: str, fingerprint: str, actor: Actor) -> tuple[HostKey, ...]:
        """Pin the offered key with this fingerprint, or `all` that are offered; give what is pinned now.

        Pinned keys that the host no longer shows are retired. Raises `NotFound` when no such key was offered.
        """
        require(actor, Role.OPERATOR, "trust host keys")
        host = await self._inventory.get(name)
        async with self._db.write() as session:
            rows = await _keys(session, host)
            wanted = [
                row
                for row in rows
                if row.state != KeyState.PINNED
                and ((fingerprint == ALL and row.state == KeyState.OFFERED) or row.fingerprint == fingerprint)
            ]
            if not wanted:
                _complain(host, fingerprint, rows)
            seen = max(row.seen for row in wanted)
            before = [row.fingerprint for row in rows if row.state == KeyState.PINNED]
            for row in rows:
                if row.state == KeyState.PINNED and row.seen < seen:
                    row.state = KeyState.RETIRED
                    session.add(row)
            for row in wanted:
                _pin(row, actor, utcnow())
                session.add(row)
            pinned = tuple(row for row in rows if row.state == KeyState.PINNED)
            await self._audit.append(
                session,
                actor,
                "host_key.approved",
                f"host:{host.name}",
                before={"pinned": before},
                after={"pinned": [row.fingerprint for row in pinned]},
            )
        await self._settled(host.name)
        return pinned

    async def pin(self, name: str, public: str, actor: Actor, *, source: str = "given") -> HostKey:
        """Pin a key that is known from elsewhere (`--host-key`). Raises `Invalid` when it is none, `NotFound`."""
        require(actor, Role.OPERATOR, "trust host keys")
        key = OfferedKey.of(public)
        host = await self._inventory.get(name)
        async with self._db.write() as session:
            row = await self._pin_one(session, host, key, actor, source)
        await self._settled(host.name)
        return row

    async def seed(self, text: str, actor: Actor, selector: str = "all", *, replace: bool = False) -> Seeded:
        """Pin the keys that a known_hosts file holds for our hosts, hashed names too, in one transaction.

        A host whose pinned keys share none with the file's is left alone unless `replace`.
        """
        require(actor, Role.OPERATOR, "trust host keys")
        known, skipped = known_hosts.parse(text)
        hosts = await self._inventory.list(selector)
        pinned, without, differ = [], [], []
        async with self._db.write() as session:
            for host in hosts:
                keys = known_hosts.keys_for(known, host.address, host.port)
                if not keys:
                    keys = known_hosts.keys_for(known, host.name, host.port)
                if not keys:
                    without.append(host.name)
                    continue
                rows = [row for row in await _keys(session, host) if row.state == KeyState.PINNED]
                have = {row.fingerprint for row in rows}
                if have and not replace and not have & {key.fingerprint for key in keys}:
                    differ.append(host.name)
                    continue
                new = [key for key in keys if key.fingerprint not in have]
                for key in new:
                    await self._pin_one(session, host, key, actor, "known_hosts")
                if replace:
                    for row in rows:
                        if row.fingerprint not in {key.fingerprint for key in keys}:
                            row.state = KeyState.RETIRED
                            session.add(row)
                if new:
                    pinned.append(host.name)
        for name in pinned:
            await self._settled(name)
        return Seeded(tuple(pinned), tuple(without), tuple(differ), skipped)

    async def export(self, selector: str = "all") -> str:
        """Give the pinned keys as known_hosts lines for other tools."""
        hosts = {host.id: host for host in await self._inventory.list(selector)}
        async with self._db.read() as session:
            query = (
                select(HostKey).where(HostKey.state == KeyState.PINNED).order_by(col(HostKey.host_id), col(HostKey.id))
            )
            rows = (await session.exec(query)).all()
        return "".join(
            known_hosts.line(hosts[row.host_id].address, hosts[row.host_id].port, row.public)
            for row in rows
            if row.host_id in hosts
        )

    async def _note(self, name: str, shown: Sequence[OfferedKey]) -> Contact:
        host = await self._inventory.get(name)
        now = utcnow()
        async with self._db.write() as session:
            rows = {row.fingerprint: row for row in await _keys(session, host)}
            for key in shown:
                row = rows.get(key.fingerprint)
                if row is None:
                    row = _row(host, key, now)
                    rows[key.fingerprint] = row
                elif row.state == KeyState.RETIRED:
                    row.state = KeyState.OFFERED
                row.seen = now
                session.add(row)
            for row in [*rows.values()]:
                if row.state == KeyState.OFFERED and row.seen < now:
                    await session.delete(row)
        pinned = tuple(_offered(row) for row in rows.values() if row.state == KeyState.PINNED)
        new = tuple(key for key in shown if key not in pinned)
        if not pinned:
            return Contact(name, Trust.NEW, new, ())
        clash = {key.algorithm for key in new} & {key.algorithm for key in pinned}
        met = any(key in pinned for key in shown)
        return Contact(name, Trust.CHANGED if clash or not met else Trust.TRUSTED, new, pinned)

    async def _alarm(self, contact: Contact) -> None:
        had = ", ".join(f"{key.algorithm} {key.fingerprint}" for key in contact.pinned)
        shows = ", ".join(f"{key.algorithm} {key.fingerprint}" for key in contact.offered)
        detail = f"pinned: {had}; it shows: {shows}"
        await self._inventory.set_reach([ReachSeen(contact.host, Reach.KEY_CHANGED, detail)])
        await self._incidents.open(
            alarm_key(contact.host),
            f"{contact.host} shows another host key than the pinned one",
            detail=f"{detail}. Nothing is sent to it. Only if the machine was rebuilt, approve the new key.",
            host=contact.host,
            severity="broken",
        )

    async def _settled(self, name: str) -> None:
        """What follows when a person has decided: old connections go, the incident is over."""
        self._pool.drop(name)
        await self._inventory.set_reach([ReachSeen(name, Reach.UNKNOWN, "not contacted since its key was approved")])
        await self._incidents.close(alarm_key(name))

    async def _pin_one(self, session: AsyncSession, host: Host, key: OfferedKey, actor: Actor, source: str) -> HostKey:
        rows = await _keys(session, host)
        row = next((row for row in rows if row.fingerprint == key.fingerprint), None) or _row(host, key, utcnow())
        _pin(row, actor, utcnow())
        session.add(row)
        await self._audit.append(
            session,
            actor,
            "host_key.pinned",
            f"host:{host.name}",
            detail={"algorithm": key.algorithm, "fingerprint": key.fingerprint, "source": source},
        )
        return row


def alarm_key(host: str) -> str:
    """Give the key of the incident that says that a host shows another key than the pinned ones."""
    return f"host-key:{host}"


async def _keys(session: AsyncSession, host: Host) -> Sequence[HostKey]:
    query = select(HostKey).where(HostKey.host_id == host.id).order_by(col(HostKey.id))
    return (await session.exec(query)).all()


def _row(host: Host, key: OfferedKey, now: datetime) -> HostKey:
    return HostKey(
        host_id=host.id or 0, algorithm=key.algorithm, public=key.openssh, fingerprint=key.fingerprint, seen=now
    )


def _pin(row: HostKey, actor: Actor, now: datetime) -> None:
    row.state, row.approved_by, row.approved_at = KeyState.PINNED, actor.name, now


def _offered(row: HostKey) -> OfferedKey:
    return OfferedKey(row.algorithm, row.public, row.fingerprint)


def _complain(host: Host, fingerprint: str, rows: Iterable[HostKey]) -> None:
    rows = [*rows]
    offered = [row.fingerprint for row in rows if row.state == KeyState.OFFERED]
    pinned = {row.fingerprint for row in rows if row.state == KeyState.PINNED}
    if fingerprint in pinned:
        raise Refused(f"{fingerprint} is pinned already.", host=host.name, hint="nothing needs to be done")
    if fingerprint == ALL and pinned:
        raise NotFound("It offers no other key than the pinned ones.", host=host.name, hint="nothing needs to be done")
    hint = f"it offers {', '.join(offered)}" if offered else f"look first: `opsdeck host approve-key {host.name}`"
    raise NotFound(f"No key {fingerprint} was offered.", host=host.name, field="fingerprint", hint=hint)
