"""The secret store: named values, sealed; other rows refer to them by name and never hold them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from sqlmodel import col, select, update
from sqlmodel.ext.asyncio.session import AsyncSession

from opsdeck.accounts.permissions import require
from opsdeck.actor import Actor, Role
from opsdeck.audit.entry import Record
from opsdeck.audit.log import AuditLog
from opsdeck.clock import utcnow
from opsdeck.db import Database
from opsdeck.errors import Conflict, Invalid, NotFound
from opsdeck.manifest import SecretKind
from opsdeck.secrets import references
from opsdeck.secrets.keyring import Keyring, StaleKey
from opsdeck.secrets.kinds import BUILT_IN, checked, new_ssh_key
from opsdeck.secrets.models import Secret
from opsdeck.secrets.sensitive import Sensitive

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@/-]{0,99}\Z")
RESERVED = frozenset({"agent"})


@dataclass(frozen=True)
class SecretInfo:
    """Everything about a secret but its value."""

    name: str
    kind: str
    version: int
    note: str
    created: datetime
    updated: datetime
    updated_by: str
    last_used: datetime | None


class SecretStore:
    """The named values of this installation."""

    def __init__(
        self,
        db: Database,
        keyring: Keyring,
        audit: AuditLog,
        more: Callable[[], Iterable[SecretKind]] = tuple,
    ) -> None:
        """`more` gives the kinds that plugins declare, asked when a secret is set or the kinds are listed."""
        self._db = db
        self._keyring = keyring
        self._audit = audit
        self._more = more

    @cached_property
    def _checks(self) -> dict[str, Callable[[str], None]]:
        checks = dict(BUILT_IN)
        for kind in self._more():
            if kind.check is not None or kind.name not in checks:
                checks[kind.name] = kind.check or (lambda _text: None)
        return checks

    @property
    def kinds(self) -> tuple[str, ...]:
        """Give the kinds of secret that may be set."""
        return tuple(sorted(self._checks))

    async def set(
        self, name: str, value: Sensitive, *, kind: str = "text", note: str | None = None, actor: Actor
    ) -> int:
        """Set a secret, new or again; give its version. A `note` of None keeps the one it has.

        Raises `Invalid` for a name or value that cannot be one, `Refused` below operator.
        """
        require(actor, Role.OPERATOR, "set secrets")
        check_name(name)
        kept = checked(kind, value.reveal(), self._checks)
        for _ in range(2):
            try:
                return await self._set(name, kept, kind, note, actor)
            except StaleKey:
                await self._keyring.open()
        raise Conflict("the sealing key keeps changing.", hint="wait until the rotation is over, then try again")

    async def _set(self, name: str, kept: str, kind: str, note: str | None, actor: Actor) -> int:
        async with self._db.write() as session:
            await self._keyring.ensure_current(session)
            row = (await session.exec(select(Secret).where(Secret.name == name).with_for_update())).first()
            verb = "secret.changed" if row else "secret.added"
            if row is None:
                row = Secret(name=name, data_key="", blob=b"", version=0)
            row.version += 1
            row.kind = kind
            row.note = row.note if note is None else note
            row.updated, row.updated_by = utcnow(), actor.name
            row.data_key = self._keyring.current
            row.blob = self._keyring.seal(kept.encode(), place(name, row.version))
            version = row.version
            session.add(row)
            await session.flush()
            await self._audit.append(
                session, actor, verb, f"secret:{name}", detail={"kind": kind, "version": version, "note": row.note}
            )
            return version

    async def generate_ssh_key(self, name: str, *, note: str | None = None, actor: Actor) -> str:
        """Make an ed25519 key, set it, give the public line. Raises `Conflict` when the name is taken."""
        if name in await self.names():
            raise Conflict(f"secret {name!r} exists.", field="name", hint="choose another name, or remove it first")
        private, public = new_ssh_key(name)
        await self.set(name, Sensitive(private), kind="ssh-key", note=note, actor=actor)
        return public

    async def reveal(self, name: str, *, actor: Actor, purpose: str) -> Sensitive:
        """Open one secret for `purpose` (`job:17`), with an audit entry. Raises `NotFound`, `Unavailable`."""
        return (await self.reveal_many([name], actor=actor, purpose=purpose))[name]

    async def reveal_many(self, names: Iterable[str], *, actor: Actor, purpose: str) -> Mapping[str, Sensitive]:
        """Open several in one transaction, with one audit entry each, however often a name is given."""
        wanted = sorted(set(names))
        if not wanted:
            return {}
        async with self._db.write() as session:
            rows = (await session.exec(select(Secret).where(col(Secret.name).in_(wanted)))).all()
            _all_there(wanted, {row.name for row in rows})
            await session.exec(update(Secret).where(col(Secret.name).in_(wanted)).values(last_used=utcnow()))
            await self._audit.append_many(
                session,
                [
                    Record(actor, "secret.revealed", f"secret:{row.name}", {"purpose": purpose, "version": row.version})
                    for row in sorted(rows, key=lambda row: row.name)
                ],
            )
        return {row.name: await self._open(row) for row in rows}

    async def disclose(self, name: str, *, actor: Actor) -> Sensitive:
        """Open a secret to show it to a person: admins only, with an audit entry."""
        require(actor, Role.ADMIN, "show the value of a secret")
        return await self.reveal(name, actor=actor, purpose="shown to a person")

    async def _open(self, row: Secret) -> Sensitive:
        await self._keyring.knows(self._keyring.key_of(row.blob))
        plain = self._keyring.unseal(row.blob, place(row.name, row.version))
        return Sensitive(plain.decode())

    async def names(self, kind: str | None = None) -> tuple[str, ...]:
        """Give the names, of one kind or all."""
        return tuple(info.name for info in await self.list() if kind in (None, info.kind))

    async def list(self) -> tuple[SecretInfo, ...]:
        """Give everything but the values, by name."""
        async with self._db.read() as session:
            return tuple(_info(row) for row in (await session.exec(select(Secret).order_by(Secret.name))).all())

    async def show(self, name: str) -> SecretInfo:
        """Give everything but the value. Raises `NotFound`."""
        async with self._db.read() as session:
            return _info(await _get(session, name))

    async def version(self, name: str) -> int:
        """Give the version, which grows with each `set`. Raises `NotFound`."""
        return (await self.show(name)).version

    async def used_by(self, name: str) -> tuple[str, ...]:
        """Give what names this secret: `host web1 (credential)`, `schedule nightly (password_secret)`."""
        async with self._db.read() as session:
            return await references.find(session, name)

    async def remove(self, name: str, actor: Actor) -> None:
        """Remove a secret. Raises `Conflict`, naming what still refers to it."""
        require(actor, Role.OPERATOR, "remove secrets")
        async with self._db.write() as session:
            row = await _get(session, name)
            users = await references.find(session, name)
            if users:
                more = f" and {len(users) - 5} more" if len(users) > 5 else ""
                raise Conflict(
                    f"secret {name!r} is in use by {', '.join(users[:5])}{more}.",
                    field="name",
                    hint="point them at another secret first",
                )
            detail = {"kind": row.kind, "version": row.version}
            await session.delete(row)
            await session.flush()
            await self._audit.append(session, actor, "secret.removed", f"secret:{name}", detail=detail)


def check_name(name: str) -> None:
    """Raise `Invalid` unless `name` may name a secret."""
    if not _NAME.match(name) or name in RESERVED:
        raise Invalid(
            f"{name[:120]!r} cannot name a secret.",
            field="name",
            hint="letters, digits and . _ @ / -, beginning with a letter or digit, at most 100; not `agent`",
        )


def place(name: str, version: int) -> str:
    """Give what a secret's blob is bound to."""
    return f"core_secret:{name}:{version}"


async def _get(session: AsyncSession, name: str) -> Secret:
    row = (await session.exec(select(Secret).where(Secret.name == name))).first()
    if row is None:
        _all_there([name], set())
    assert row is not None  # noqa: S101 - the line above raised
    return row


def _all_there(wanted: Iterable[str], found: set[str]) -> None:
    missing = sorted(set(wanted) - found)
    if missing:
        raise NotFound(
            f"no secret is called {', '.join(repr(name) for name in missing[:5])}.",
            field="name",
            hint=f"`opsdeck secret set {missing[0]}` makes it; `opsdeck secret list` names those there are",
        )


def _info(row: Secret) -> SecretInfo:
    return SecretInfo(
        row.name, row.kind, row.version, row.note, row.created, row.updated, row.updated_by, row.last_used
    )
