"""Renewing keys and the drill that every value opens."""

from __future__ import annotations

import pytest
from sqlmodel import select, update

from opsdeck.accounts import totp
from opsdeck.accounts.models import User
from opsdeck.actor import SYSTEM, Actor, Door, Role
from opsdeck.audit.log import AuditLog
from opsdeck.db import Database
from opsdeck.errors import Refused, Unavailable
from opsdeck.secrets.keyring import Keyring
from opsdeck.secrets.models import Secret
from opsdeck.secrets.rotation import Rotation
from opsdeck.secrets.sensitive import Sensitive
from opsdeck.secrets.store import SecretStore


@pytest.fixture
def rotation(db: Database, keyring: Keyring, audit: AuditLog) -> Rotation:
    return Rotation(db, keyring, audit)


@pytest.fixture
async def full(store: SecretStore, db: Database, keyring: Keyring) -> SecretStore:
    """Three secrets and one second factor."""
    for name in ("a", "b", "c"):
        await store.set(name, Sensitive(f"value-of-{name}"), actor=SYSTEM)
    async with db.write() as session:
        user = User(name="ada")
        session.add(user)
        await session.flush()
        user.totp_blob = keyring.seal(b"SEED", totp.place(user.id))
        session.add(user)
    return store


async def blobs(db: Database) -> list[bytes]:
    async with db.read() as session:
        return [
            *(await session.exec(select(Secret.blob))).all(),
            (await session.exec(select(User.totp_blob))).one() or b"",
        ]


async def test_data_key(full: SecretStore, rotation: Rotation, keyring: Keyring, db: Database) -> None:
    before, old = await blobs(db), keyring.current
    assert await rotation.data_key(SYSTEM) == 4
    after = await blobs(db)
    assert not set(before) & set(after)
    assert {Keyring.key_of(blob) for blob in after} == {keyring.current}
    assert keyring.current != old
    report = await rotation.check()
    assert (report.opened, report.broken, report.removable_keys) == (4, (), (old,))
    assert await rotation.prune(SYSTEM) == (old,)
    again = Keyring(db, keyring.key_file)
    await again.open()
    assert (await Rotation(db, again, AuditLog(db, again)).check()).opened == 4
    assert (await full.reveal("b", actor=SYSTEM, purpose="x")).reveal() == "value-of-b"


async def test_a_key_in_use_is_not_pruned(
    full: SecretStore, rotation: Rotation, keyring: Keyring, db: Database
) -> None:
    old = (await blobs(db))[0]
    await rotation.data_key(SYSTEM)
    async with db.write() as session:  # as a process that began before the rotation would leave it
        await session.exec(update(User).values(totp_blob=keyring.seal(b"x", "y")))
        row = (await session.exec(select(Secret).where(Secret.name == "a"))).one()
        row.blob, row.data_key = old, Keyring.key_of(old)
        session.add(row)
    assert await rotation.prune(SYSTEM) == ()


async def test_cut_short_anywhere_all_opens(
    full: SecretStore, rotation: Rotation, monkeypatch: pytest.MonkeyPatch, keyring: Keyring
) -> None:
    real = rotation._move
    for stop in range(4):
        moves = 0

        async def move(sealed: object, stop: int = stop) -> int:
            nonlocal moves
            moves += 1
            if moves > stop:
                raise KeyboardInterrupt
            return await real(sealed)  # type: ignore[arg-type]

        with monkeypatch.context() as patch:
            patch.setattr(rotation, "_move", move)
            with pytest.raises(KeyboardInterrupt):
                await rotation.data_key(SYSTEM)
        report = await rotation.check()
        assert (report.opened, report.broken) == (4, ())
    await rotation.data_key(SYSTEM)
    assert len(await rotation.prune(SYSTEM)) == 5


async def test_a_broken_value_is_named_and_stops_no_other(
    full: SecretStore, rotation: Rotation, db: Database, keyring: Keyring
) -> None:
    async with db.write() as session:
        row = (await session.exec(select(Secret).where(Secret.name == "b"))).one()
        row.blob = row.blob[:-1] + bytes([row.blob[-1] ^ 1])
        session.add(row)
    report = await rotation.check()
    assert report.opened == 3
    assert len(report.broken) == 1
    assert report.broken[0].startswith("secret b: ")
    with pytest.raises(Unavailable, match="secret b; the old data keys stay"):
        await rotation.data_key(SYSTEM)
    assert await rotation.prune(SYSTEM) == ()
    assert (await rotation.check()).opened == 3


async def test_master(full: SecretStore, rotation: Rotation, keyring: Keyring, audit: AuditLog) -> None:
    before = keyring.master_id
    after = await rotation.master(SYSTEM)
    assert after == keyring.master_id != before
    report = await rotation.check()
    assert report.opened == 4
    assert report.old_master == keyring.key_file.with_name("master.key.old")
    assert [entry.verb for entry in await audit.list(limit=2)] == ["master_key.rotated", "master_key.rotation_begun"]
    assert (await audit.verify()).bad is None


async def test_admins_only(rotation: Rotation) -> None:
    olga = Actor("olga", Role.OPERATOR, Door.WEB)
    for call in (rotation.master, rotation.data_key, rotation.prune):
        with pytest.raises(Refused):
            await call(olga)
