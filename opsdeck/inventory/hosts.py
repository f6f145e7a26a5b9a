"""The hosts: added, read, edited, removed, selected. Every change is one transaction with its audit entry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select

from opsdeck.accounts.permissions import require
from opsdeck.actor import Actor, Role
from opsdeck.audit.entry import Record
from opsdeck.clock import utcnow
from opsdeck.errors import Conflict, Invalid, NotFound
from opsdeck.events import Bus, HostChanged
from opsdeck.inventory.forms import AGENT, HostIn, HostPatch
from opsdeck.inventory.models import Host, Reach
from opsdeck.inventory.reach import ReachSeen, note_reach
from opsdeck.inventory.selector import Selector, unknown_host
from opsdeck.secrets.models import Secret
from opsdeck.ssh.endpoint import Sudo

if TYPE_CHECKING:
    from sqlmodel.ext.asyncio.session import AsyncSession

    from opsdeck.audit.log import AuditLog
    from opsdeck.db import Database

LOGIN_KINDS = ("ssh-key", "password")
"""Kinds of secret that can log in."""

MAX_HOPS = 8

_NOT_TOLD = frozenset({"id", "created", "updated", "reach", "reach_detail", "reach_since", "last_seen"})


class Inventory:
    """The hosts of the deck."""

    def __init__(self, db: Database, audit: AuditLog, events: Bus) -> None:
        self.db = db
        self._audit = audit
        self._events = events

    async def add(self, form: HostIn, actor: Actor) -> Host:
        """Add a host.

        Raises `Refused` below operator, `Conflict` for a taken name and `Invalid` for a reference that leads nowhere.
        """
        require(actor, Role.OPERATOR, "add hosts")
        async with self._changing(), self.db.write() as session:
            (host,) = await self._add(session, [form], actor)
        self._tell(host.name, "added")
        return host

    async def apply(self, added: Sequence[HostIn], edited: Mapping[str, HostPatch], actor: Actor) -> tuple[Host, ...]:
        """Add and edit many hosts, all or none, in one transaction. Raises as `add` and `edit` do."""
        require(actor, Role.OPERATOR, "add hosts")
        async with self._changing(), self.db.write() as session:
            new = await self._add(session, added, actor)
            old = [await self._edit(session, name, patch, actor) for name, patch in edited.items()]
        for host in new:
            self._tell(host.name, "added")
        for host in old:
            self._tell(host.name, "edited")
        return (*new, *old)

    async def get(self, name: str) -> Host:
        """Give a host. Raises `NotFound` with names like it."""
        async with self.db.read() as session:
            return await self._one(session, name)

    async def list(self, selector: str = "all") -> tuple[Host, ...]:
        """Give the hosts that a selector means, by name; perhaps none. Raises as `Selector` does."""
        wanted = Selector.parse(selector)
        return wanted.match(await self._all())

    async def select(self, selector: str) -> tuple[Host, ...]:
        """Give the hosts that a selector means, by name, for something to be done with them.

        Raises as `Selector` does, and `NotFound` when no host is meant.
        """
        hosts = await self._all()
        found = Selector.parse(selector).match(hosts)
        if not found:
            hint = "see `opsdeck host list` with the same selector" if hosts else "add one with `opsdeck host add`"
            raise NotFound(f"No host matches {selector!r}.", field="selector", hint=hint)
        return found

    async def edit(self, name: str, patch: HostPatch, actor: Actor) -> Host:
        """Change the given fields of a host. Raises `NotFound`, and otherwise as `add` does."""
        require(actor, Role.OPERATOR, "edit hosts")
        async with self._changing(), self.db.write() as session:
            host = await self._edit(session, name, patch, actor)
        self._tell(host.name, "edited")
        return host

    async def remove(self, name: str, actor: Actor, *, force: bool = False) -> None:
        """Forget a host with its keys, facts and samples.

        Raises `NotFound`, and `Conflict` while other hosts are reached through it; with `force` these are reached
        directly from then on. Raises `Refused` below operator.
        """
        require(actor, Role.OPERATOR, "remove hosts")
        async with self._changing(), self.db.write() as session:
            host = await self._one(session, name)
            behind = list((await session.exec(select(Host).where(Host.jump == host.name).order_by(Host.name))).all())
            if behind and not force:
                names = ", ".join(other.name for other in behind)
                raise Conflict(
                    f"{host.name} is the jump host of {names}.",
                    host=host.name,
                    hint="give these another jump host first, or remove with --force to reach them directly",
                )
            for other in behind:
                other.jump = None
                other.updated = utcnow()
                session.add(other)
            await session.delete(host)
            await self._audit.append(
                session,
                actor,
                "host.removed",
                f"host:{host.name}",
                before=_told(host),
                detail={"no_longer_behind_it": [other.name for other in behind]} if behind else {},
            )
        self._tell(host.name, "removed")

    async def set_reach(self, seen: Iterable[ReachSeen]) -> tuple[str, ...]:
        """Note what contacts showed, in one transaction; give the names of hosts whose reach is another now."""
        told = {item.host: item for item in seen}
        changed = await note_reach(self.db, told.values())
        for name in changed:
            self._tell(name, f"reach {told[name].reach}")
        return changed

    async def _all(self) -> Sequence[Host]:
        async with self.db.read() as session:
            return (await session.exec(select(Host).order_by(Host.name))).all()

    async def _one(self, session: AsyncSession, name: str) -> Host:
        host = (await session.exec(select(Host).where(Host.name == name.strip().lower()))).first()
        if host is None:
            raise unknown_host(name, (await session.exec(select(Host.name))).all())
        return host

    async def _add(self, session: AsyncSession, forms: Sequence[HostIn], actor: Actor) -> Sequence[Host]:
        taken = set((await session.exec(select(Host.name))).all())
        hosts = []
        for form in forms:
            if form.name in taken:
                raise Conflict(
                    f"A host named {form.name} is there already.",
                    host=form.name,
                    field="name",
                    hint=f"choose another name, or change it with `opsdeck host edit {form.name}`",
                )
            taken.add(form.name)
            host = Host(**form.model_dump())
            session.add(host)
            hosts.append(host)
        await session.flush()
        for host in hosts:
            await self._check_references(session, host)
        if hosts:
            told = [Record(actor, "host.added", f"host:{host.name}", after=_told(host)) for host in hosts]
            await self._audit.append_many(session, told)
        return hosts

    async def _edit(self, session: AsyncSession, name: str, patch: HostPatch, actor: Actor) -> Host:
        host = await self._one(session, name)
        before = _told(host)
        given = patch.changes()
        renamed = given.get("name", host.name)
        if renamed != host.name:
            await self._rename(session, host, renamed)
        for field, value in given.items():
            setattr(host, field, value)
        after = _told(host)
        if after == before:
            return host
        if (host.address, host.port, host.jump) != (before["address"], before["port"], before["jump"]):
            host.reach, host.reach_detail, host.reach_since = Reach.UNKNOWN, "", utcnow()
        host.updated = utcnow()
        session.add(host)
        await session.flush()
        await self._check_references(session, host)
        differ = [field for field in after if after[field] != before[field]]
        await self._audit.append(
            session,
            actor,
            "host.edited",
            f"host:{host.name}",
            before={field: before[field] for field in differ},
            after={field: after[field] for field in differ},
        )
        return host

    async def _rename(self, session: AsyncSession, host: Host, name: str) -> None:
        if (await session.exec(select(Host.id).where(Host.name == name))).first() is not None:
            raise Conflict(
                f"A host named {name} is there already.", host=host.name, field="name", hint="choose another"
            )
        for other in (await session.exec(select(Host).where(Host.jump == host.name))).all():
            other.jump = name
            session.add(other)

    async def _check_references(self, session: AsyncSession, host: Host) -> None:
        await self._check_chain(session, host)
        wanted = {name for name in (host.credential, host.sudo_secret) if name and name != AGENT}
        rows = await session.exec(select(Secret.name, Secret.kind).where(col(Secret.name).in_(wanted)))
        kinds: dict[str, str] = dict(rows.all())
        login = "" if host.credential == AGENT else _need(kinds, host, "credential", host.credential, "ssh-key")
        if host.credential != AGENT and login not in LOGIN_KINDS:
            raise Invalid(
                f"credential: the secret {host.credential!r} is of the kind {login}, which does not log in.",
                host=host.name,
                field="credential",
                hint=f"name a secret of the kind {' or '.join(LOGIN_KINDS)}, or agent",
            )
        if host.sudo_secret:
            _need(kinds, host, "sudo_secret", host.sudo_secret, "password")
        elif host.sudo == Sudo.PASSWORD and login != "password":
            raise Invalid(
                "sudo_secret: sudo asks for a password here, and no secret holds it.",
                host=host.name,
                field="sudo_secret",
                hint="name the secret with the password of sudo",
            )

    async def _check_chain(self, session: AsyncSession, host: Host) -> None:
        if host.jump is None:
            return
        rows = await session.exec(select(Host.name, Host.jump))
        jumps: dict[str, str | None] = dict(rows.all())
        chain = [host.name]
        hop: str | None = host.jump
        while hop is not None:
            if hop not in jumps:
                near = unknown_host(hop, jumps)
                raise Invalid(
                    f"jump: there is no host named {hop!r} to go through.",
                    host=host.name,
                    field="jump",
                    hint=near.hint,
                )
            chain.append(hop)
            if hop in chain[:-1]:
                raise Invalid(
                    f"jump: this would go in a circle: {' → '.join(chain)}.",
                    host=host.name,
                    field="jump",
                    hint="name a jump host that is reached another way",
                )
            if len(chain) > MAX_HOPS + 1:
                raise Invalid(
                    f"jump: the way there has more than {MAX_HOPS} hops.",
                    host=host.name,
                    field="jump",
                    hint="name a jump host that is nearer",
                )
            hop = jumps[hop]

    def _changing(self) -> _OneName:
        return _OneName()

    def _tell(self, name: str, what: str) -> None:
        self._events.publish(HostChanged(host=name, what=what))


class _OneName:
    """Says in words what the database says when two writers take the same name at the same instant."""

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, kind: object, fault: BaseException | None, trace: object) -> None:
        if isinstance(fault, IntegrityError):
            raise Conflict(
                "Somebody else made this change at the same time.", hint="look at the host, then try again"
            ) from fault


def _need(kinds: Mapping[str, str], host: Host, field: str, name: str, kind: str) -> str:
    if name not in kinds:
        raise Invalid(
            f"{field}: there is no secret named {name!r}.",
            host=host.name,
            field=field,
            hint=f"set it with `opsdeck secret set {name} --kind {kind}`",
        )
    return kinds[name]


def _told(host: Host) -> dict[str, Any]:
    """Give what the audit trail keeps of a host, JSON-ready."""
    return host.model_dump(mode="json", exclude=set(_NOT_TOLD))
