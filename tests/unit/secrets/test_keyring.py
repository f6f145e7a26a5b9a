"""The master key and the keys under it: missing, wrong, open to others; moved blobs; rotation cut short anywhere."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from sqlmodel import delete, select, update

from opsdeck.db import Database
from opsdeck.errors import Conflict, OpsDeckError, Unavailable
from opsdeck.secrets import masterkey
from opsdeck.secrets.keyring import ROOT, Keyring
from opsdeck.secrets.models import DataKey


class Crash(BaseException):
    """The process is killed here."""


async def test_seal_and_unseal(keyring: Keyring) -> None:
    blob = keyring.seal(b"hunter22", "core_secret:a:1")
    assert b"hunter22" not in blob
    assert keyring.unseal(blob, "core_secret:a:1") == b"hunter22"
    assert keyring.key_of(blob) == keyring.current
    assert keyring.seal(b"hunter22", "core_secret:a:1") != blob


@pytest.mark.parametrize("place", ["core_secret:b:1", "core_secret:a:2", ""])
async def test_a_blob_opens_at_its_place_only(keyring: Keyring, place: str) -> None:
    blob = keyring.seal(b"hunter22", "core_secret:a:1")
    with pytest.raises(Unavailable, match="does not open"):
        keyring.unseal(blob, place)


async def test_every_changed_byte_shows(keyring: Keyring) -> None:
    blob = keyring.seal(b"x", "p")
    for at in range(len(blob)):
        broken = blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :]
        with pytest.raises(Unavailable):
            keyring.unseal(broken, "p")
    for cut in range(len(blob)):
        with pytest.raises(Unavailable):
            keyring.unseal(blob[:cut], "p")


async def test_derived_keys_differ_by_purpose_and_last(keyring: Keyring, db: Database) -> None:
    before = keyring.derive("audit")
    assert len(before) == 32
    assert before != keyring.derive("token")
    await keyring.rotate_master()
    await keyring.add_key()
    again = Keyring(db, keyring.key_file)
    await again.open()
    assert again.derive("audit") == before == keyring.derive("audit")


def test_not_opened_is_said(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        Keyring(Database(f"sqlite+aiosqlite:///{tmp_path / 'x'}"), tmp_path / "k").derive("audit")


def test_create_is_for_its_owner_only_and_never_writes_over(tmp_path: Path) -> None:
    file = tmp_path / "master.key"
    old = os.umask(0)
    try:
        Keyring.create(file)
    finally:
        os.umask(old)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.read_bytes()
    with pytest.raises(Conflict, match="not written over"):
        Keyring.create(file)
    assert file.read_bytes() == before


def test_create_where_it_cannot(tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as caught:
        Keyring.create(tmp_path / "no" / "master.key")
    assert caught.value.file == str(tmp_path / "no" / "master.key")


async def test_missing(keyring: Keyring, db: Database) -> None:
    keyring.key_file.unlink()
    with pytest.raises(Unavailable, match=r"master\.key is missing") as caught:
        await Keyring(db, keyring.key_file).open()
    assert caught.value.file == str(keyring.key_file)
    assert "opsdeck init" in str(caught.value.hint)


async def test_wrong(keyring: Keyring, db: Database) -> None:
    keyring.key_file.unlink()
    Keyring.create(keyring.key_file)
    with pytest.raises(Unavailable, match="not the one this database was sealed under") as caught:
        await Keyring(db, keyring.key_file).open()
    assert "right key" in str(caught.value.hint)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o601])
async def test_open_to_others(keyring: Keyring, db: Database, mode: int) -> None:
    keyring.key_file.chmod(mode)
    with pytest.raises(Unavailable, match=rf"open to others \(mode {mode:04o}\)") as caught:
        await Keyring(db, keyring.key_file).open()
    assert "chmod 600" in str(caught.value.hint)


def test_a_systemd_credential_shows_its_access_list_as_group_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "opsdeck.master"
    masterkey.create(file)
    file.chmod(0o440)
    with pytest.raises(Unavailable):
        masterkey.load(file)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    masterkey.load(file)
    file.chmod(0o444)
    with pytest.raises(Unavailable):
        masterkey.load(file)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_persons_file(tmp_path: Path) -> None:
    file = tmp_path / "k"
    masterkey.create(file)
    os.chown(file, 12345, 12345)
    with pytest.raises(Unavailable, match="belongs to another user"):
        masterkey.load(file)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\x00", b"opsdeck-master-1", b"opsdeck-master-1 AAAA", b"other AAAA", b"x" * 9000]
)
def test_not_a_key(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "k"
    file.touch(0o600)
    file.write_bytes(content)
    with pytest.raises(Unavailable, match="is not a master key"):
        masterkey.load(file)


def test_the_key_does_not_show_itself(tmp_path: Path) -> None:
    masterkey.create(tmp_path / "k")
    key = masterkey.load(tmp_path / "k")
    text = (tmp_path / "k").read_text().split()[1]
    assert text not in repr(key)
    assert repr(key.material) not in repr(key)


async def test_rotation_rewraps_and_keeps_the_old_file(keyring: Keyring, db: Database) -> None:
    blob = keyring.seal(b"hunter22", "p")
    old_text = keyring.key_file.read_text()
    old, new = await keyring.rotate_master()
    assert old != new
    assert keyring.key_file.with_name("master.key.old").read_text() == old_text
    assert not keyring.key_file.with_name("master.key.new").exists()
    async with db.read() as session:
        assert set((await session.exec(select(DataKey.master_id))).all()) == {new}
    again = Keyring(db, keyring.key_file)
    await again.open()
    assert again.unseal(blob, "p") == b"hunter22"
    assert stat.S_IMODE(keyring.key_file.stat().st_mode) == 0o600


@pytest.mark.parametrize("where", ["before the rows", "in the rows", "before the rename", "between the renames"])
async def test_a_crash_mid_rotation_leaves_all_open(
    keyring: Keyring, db: Database, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    blob = keyring.seal(b"hunter22", "p")

    def crash(*_given: object, **_named: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        if where == "before the rows":
            patch.setattr(db, "write", crash)
        elif where == "in the rows":
            patch.setattr("opsdeck.secrets.keyring._wrap", crash)
        elif where == "before the rename":
            patch.setattr(masterkey, "finish_change", crash)
        else:
            patch.setattr(Path, "replace", crash)
        with pytest.raises(Crash):
            await keyring.rotate_master()
    again = Keyring(db, keyring.key_file)
    await again.open()
    assert again.unseal(blob, "p") == b"hunter22"
    await again.rotate_master()
    last = Keyring(db, keyring.key_file)
    await last.open()
    assert last.unseal(blob, "p") == b"hunter22"
    assert not keyring.key_file.with_name("master.key.new").exists()


async def test_a_new_key_that_the_rows_refer_to_is_put_in_place(
    keyring: Keyring, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(masterkey, "finish_change", lambda _file: None)
        await keyring.rotate_master()
    assert keyring.key_file.with_name("master.key.new").exists()
    await Keyring(db, keyring.key_file).open()
    assert not keyring.key_file.with_name("master.key.new").exists()
    assert keyring.key_file.with_name("master.key.old").exists()


async def test_two_processes_begin_together(db: Database, tmp_path: Path) -> None:
    import asyncio

    Keyring.create(tmp_path / "m.key")
    rings = [Keyring(db, tmp_path / "m.key") for _ in range(4)]
    await asyncio.gather(*(ring.open() for ring in rings))
    assert len({ring.derive("audit") for ring in rings}) == 1
    async with db.read() as session:
        assert len((await session.exec(select(DataKey))).all()) == 2


async def test_another_processs_data_key_is_found(keyring: Keyring, db: Database) -> None:
    other = Keyring(db, keyring.key_file)
    await other.open()
    await other.add_key()
    blob = other.seal(b"x", "p")
    with pytest.raises(Unavailable, match="data key that is not here"):
        keyring.unseal(blob, "p")
    assert await keyring.knows(keyring.key_of(blob))
    assert keyring.unseal(blob, "p") == b"x"


async def test_a_changed_data_key_row_is_named(keyring: Keyring, db: Database) -> None:
    async with db.write() as session:
        rows = {row.id: row.wrapped for row in (await session.exec(select(DataKey))).all()}
        await session.exec(update(DataKey).where(DataKey.id == ROOT).values(wrapped=rows[keyring.current]))  # type: ignore[arg-type]
    with pytest.raises(Unavailable, match="data key root does not open"):
        await Keyring(db, keyring.key_file).open()


async def test_a_lost_data_key_is_named(keyring: Keyring, db: Database) -> None:
    async with db.write() as session:
        await session.exec(delete(DataKey).where(DataKey.id == ROOT))  # type: ignore[arg-type]
    with pytest.raises(OpsDeckError, match="lost data keys"):
        await Keyring(db, keyring.key_file).open()
