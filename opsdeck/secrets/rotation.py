"""Renewing keys, and proving that every sealed value opens.

Two kinds: the master key (rewraps the data keys; nothing is re-encrypted) and the data key (re-encrypts every value).
Each can be cut short at any point: what was not moved yet opens under its old key, which stays until nothing uses it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from sqlmodel import col, delete, select, update

from opsdeck.accounts import totp
from opsdeck.accounts.models import User
from opsdeck.accounts.permissions import require
from opsdeck.actor import Actor, Role
from opsdeck.audit.log import AuditLog
from opsdeck.clock import utcnow
from opsdeck.db import Database
from opsdeck.errors import Unavailable
from opsdeck.secrets import masterkey
from opsdeck.secrets.keyring import ROOT, Keyring
from opsdeck.secrets.models import DataKey, Secret
from opsdeck.secrets.store import place


@dataclass(frozen=True)
class Sealed:
    """One sealed value in a row: where it is, what it is bound to."""

    name: str
    """As a person would say it: `secret db/root`, `second factor of ada`."""
    row_id: int
    aad: str
    blob: bytes
    secret: bool


@dataclass(frozen=True)
class Report:
    """What `check` found."""

    opened: int
    broken: tuple[str, ...]
    """One sentence for each value that does not open."""
    removable_keys: tuple[str, ...]
    """Retired data keys that seal nothing any more."""
    old_master: Path | None
    """The last master key's file, if it is still there; no row refers to it."""


class Rotation:
    """Renews keys and checks what they seal."""

    def __init__(self, db: Database, keyring: Keyring, audit: AuditLog) -> None:
        self._db = db
        self._keyring = keyring
        self._audit = audit

    async def master(self, actor: Actor) -> str:
        """Replace the master key; give the new one's name. The intent is written down before, the outcome after."""
        require(actor, Role.ADMIN, "replace the master key")
        before = self._keyring.master_id
        await self._audit.record(actor, "master_key.rotation_begun", f"key:{before}")
        _, after = await self._keyring.rotate_master()
        await self._audit.record(
            actor, "master_key.rotated", f"key:{after}", before={"key": before}, after={"key": after}
        )
        return after

    async def data_key(self, actor: Actor) -> int:
        """Add a data key, seal every value anew under it, retire the others; give how many values were moved.

        Raises `Unavailable` when a value does not open: all others are moved, and no key is retired.
        """
        require(actor, Role.ADMIN, "replace the data key")
        key = await self._keyring.add_key()
        await self._audit.record(actor, "data_key.added", f"key:{key}")
        moved, broken = 0, []
        for sealed in await self._all():
            try:
                moved += await self._move(sealed)
            except Unavailable:
                broken.append(sealed.name)
        if broken:
            raise Unavailable(
                f"{len(broken)} sealed value(s) do not open: {', '.join(broken[:5])}; the old data keys stay.",
                file=self._db.name,
                hint="set them again or remove them, then rotate again; `opsdeck secret check` lists them",
            )
        async with self._db.write() as session:
            await session.exec(
                update(DataKey)
                .where(col(DataKey.retired).is_(None), col(DataKey.id).not_in([key, ROOT]))
                .values(retired=utcnow())
            )
            await self._audit.append(session, actor, "data_key.rotated", f"key:{key}", detail={"values": moved})
        for sealed in await self._all():  # what another process sealed meanwhile, under the key that is now retired
            moved += await self._move(sealed)
        return moved

    async def prune(self, actor: Actor) -> tuple[str, ...]:
        """Remove retired data keys that seal nothing; give their names."""
        require(actor, Role.ADMIN, "remove data keys")
        async with self._db.write() as session:
            used = Counter(Keyring.key_of(blob) for blob in await session.exec(select(Secret.blob)))
            used.update(Keyring.key_of(blob) for blob in await session.exec(select(User.totp_blob)) if blob)
            rows = (await session.exec(select(DataKey).where(col(DataKey.retired).is_not(None)))).all()
            gone = tuple(row.id for row in rows if not used[row.id] and row.id != ROOT)
            if gone:
                await session.exec(delete(DataKey).where(col(DataKey.id).in_(gone)))
                await self._audit.append(session, actor, "data_key.removed", "key:retired", detail={"keys": gone})
        return gone

    async def check(self) -> Report:
        """Open every sealed value (none is shown or counted as used), and say which keys are no longer needed."""
        opened, broken, used = 0, [], Counter[str]()
        for sealed in await self._all():
            used[Keyring.key_of(sealed.blob)] += 1
            try:
                await self._keyring.knows(Keyring.key_of(sealed.blob))
                self._keyring.unseal(sealed.blob, sealed.aad)
                opened += 1
            except Unavailable as fault:
                broken.append(f"{sealed.name}: {fault.message}")
        async with self._db.read() as session:
            retired = (await session.exec(select(DataKey.id).where(col(DataKey.retired).is_not(None)))).all()
        old = masterkey.beside(self._keyring.key_file)[1]
        return Report(
            opened,
            tuple(broken),
            tuple(key for key in retired if not used[key]),
            old if old.exists() else None,
        )

    async def _all(self) -> tuple[Sealed, ...]:
        async with self._db.read() as session:
            secrets = (await session.exec(select(Secret).order_by(Secret.name))).all()
            users = (await session.exec(select(User).where(col(User.totp_blob).is_not(None)))).all()
        found = [
            Sealed(f"secret {row.name}", row.id or 0, place(row.name, row.version), row.blob, True) for row in secrets
        ]
        found += [
            Sealed(f"second factor of {user.name}", user.id or 0, totp.place(user.id), user.totp_blob or b"", False)
            for user in users
        ]
        return tuple(found)

    async def _move(self, sealed: Sealed) -> int:
        """Seal one value anew, unless its row changed meanwhile (then it was sealed anew already)."""
        if Keyring.key_of(sealed.blob) == self._keyring.current:
            return 0
        blob = self._keyring.seal(self._keyring.unseal(sealed.blob, sealed.aad), sealed.aad)
        if sealed.secret:
            query = update(Secret).where(col(Secret.id) == sealed.row_id, col(Secret.blob) == sealed.blob)
            query = query.values(blob=blob, data_key=self._keyring.current)
        else:
            query = update(User).where(col(User.id) == sealed.row_id, col(User.totp_blob) == sealed.blob)
            query = query.values(totp_blob=blob)
        async with self._db.write() as session:
            return int((await session.exec(query)).rowcount)
