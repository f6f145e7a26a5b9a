"""The keys of this installation: the master key wraps data keys, data keys seal values.

Sealing is AES-256-GCM. A blob is `01 | name of the data key, 8 bytes | nonce, 12 bytes | ciphertext and tag`; its
head and the caller's `aad` are authenticated with it, so a blob moved to another row, name or version does not open.

One data key, `root`, seals nothing: other keys (audit chain, tokens, CSRF) are derived from it, and it is never
replaced, so that neither kind of rotation breaks them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from opsdeck.clock import utcnow
from opsdeck.db import Database
from opsdeck.errors import Unavailable
from opsdeck.secrets import masterkey
from opsdeck.secrets.masterkey import MasterKey
from opsdeck.secrets.models import DataKey

FORMAT = 1
ROOT = "root"
_ID, _NONCE = 8, 12
_HEAD = 1 + _ID + _NONCE


class Keyring:
    """The opened keys of this process. Call `open()` before anything else."""

    def __init__(self, db: Database, key_file: Path) -> None:
        self._db = db
        self.key_file = key_file
        self._keys: dict[str, bytes] = {}
        self._root = b""
        self.current = ""
        """Name of the data key that seals new values."""
        self.master_id = ""
        """Name of the master key that the data keys are wrapped under."""

    @staticmethod
    def create(key_file: Path) -> None:
        """Make a new master key file, mode 0600. Raises `Conflict` when it is there already."""
        masterkey.create(key_file)

    async def open(self) -> None:
        """Read the master key and open every data key with it; the first time, make the data keys.

        Raises `Unavailable`, naming the file and the next step, when the file is missing, open to others, or holds
        another key than the rows were wrapped under.
        """
        masters = {key.id: key for key in self._masters()}
        rows = await self._rows()
        if not rows:
            await self._found(masterkey.load(self.key_file))
            rows = await self._rows()
        keys: dict[str, bytes] = {}
        for row in rows:
            master = masters.get(row.master_id)
            if master is None:
                raise self._wrong(row)
            keys[row.id] = _unwrap(master, row)
        self._root = keys.pop(ROOT, b"")
        live = [row for row in rows if row.id != ROOT and row.retired is None]
        if not self._root or not live:
            raise Unavailable(
                "the database has lost data keys; what they sealed cannot be opened.",
                file=self._db.name,
                hint="put back the newest backup of the database",
            )
        self._keys = keys
        self.current = max(live, key=lambda row: row.created).id
        self.master_id = live[0].master_id
        if masters[self.master_id].file == masterkey.beside(self.key_file)[0]:
            with contextlib.suppress(Unavailable):  # a read-only key folder: the key works where it lies
                masterkey.finish_change(self.key_file)

    def derive(self, purpose: str) -> bytes:
        """Give 32 bytes for `purpose` (`audit`, `token`, …), the same for the life of this installation."""
        if not self._root:
            raise Unavailable("the keys are not opened.", hint="this is a fault of OpsDeck: report it")
        return HKDF(SHA256(), 32, salt=None, info=f"opsdeck {purpose}".encode()).derive(self._root)

    def seal(self, plain: bytes, aad: str) -> bytes:
        """Seal `plain`, bound to `aad` (the place where it is kept: table, name, version)."""
        head = bytes([FORMAT]) + bytes.fromhex(self.current) + os.urandom(_NONCE)
        return head + AESGCM(self._keys[self.current]).encrypt(head[-_NONCE:], plain, head + aad.encode())

    def unseal(self, blob: bytes, aad: str) -> bytes:
        """Open what `seal` made for the same `aad`.

        Raises `Unavailable` when it was changed, belongs to another place, or its key is not here.
        """
        key = self._keys.get(self.key_of(blob))
        if key is None:
            raise Unavailable(
                f"{aad} is sealed with a data key that is not here.",
                file=self._db.name,
                hint="`opsdeck secret check` lists all such values; put back a backup that has the key",
            )
        try:
            return AESGCM(key).decrypt(blob[_HEAD - _NONCE : _HEAD], blob[_HEAD:], blob[:_HEAD] + aad.encode())
        except InvalidTag as fault:
            raise Unavailable(
                f"{aad} does not open: its row was changed, or holds another row's value.",
                file=self._db.name,
                hint="set it again, and find out who wrote to the database; `opsdeck audit verify` may tell",
            ) from fault

    @staticmethod
    def key_of(blob: bytes) -> str:
        """Give the name of the data key that sealed `blob`; empty when it is no blob of a known format."""
        return blob[1 : 1 + _ID].hex() if len(blob) > _HEAD and blob[0] == FORMAT else ""

    async def knows(self, key_id: str) -> bool:
        """Tell whether the data key is here, looking again in the database when another process may have added it."""
        if key_id not in self._keys:
            await self.open()
        return key_id in self._keys

    async def ensure_current(self, session: AsyncSession) -> None:
        """Before sealing inside a write session: make sure that the sealing key was not retired by another process."""
        live = (await session.exec(select(DataKey.id).where(col(DataKey.retired).is_(None)))).all()
        if self.current not in live:
            raise StaleKey

    async def add_key(self) -> str:
        """Add a data key and seal with it from now on; give its name. The others still open, and are not retired."""
        await self.open()
        master = {key.id: key for key in self._masters()}[self.master_id]
        row, material = _fresh(master, os.urandom(_ID).hex())
        async with self._db.write() as session:
            session.add(row)
        self._keys[row.id] = material
        self.current = row.id
        return row.id

    async def rotate_master(self) -> tuple[str, str]:
        """Replace the master key: write the next beside it, wrap every data key under it, rename.

        Gives the old and the new key's name. A crash at any point leaves rows and files that open. The old file stays
        as `<file>.old`, since backups of the database from before need it. Other nodes need a copy of the new file
        before their next start.
        """
        new = masterkey.begin_change(self.key_file)
        masters = {key.id: key for key in self._masters()}
        async with self._db.write() as session:
            rows = (await session.exec(select(DataKey).with_for_update())).all()
            old = rows[0].master_id
            for row in rows:
                master = masters.get(row.master_id)
                if master is None:
                    raise self._wrong(row)
                material = _unwrap(master, row)
                row.master_id, row.wrapped = new.id, _wrap(new, row.id, material)
                session.add(row)
        masterkey.finish_change(self.key_file)
        self.master_id = new.id
        return old, new.id

    def _masters(self) -> Iterator[MasterKey]:
        new, old = masterkey.beside(self.key_file)
        if self.key_file.exists() or not new.exists():
            yield masterkey.load(self.key_file)
        for file in (new, old):
            if file.exists():
                yield masterkey.load(file)

    async def _rows(self) -> list[DataKey]:
        async with self._db.read() as session:
            return list((await session.exec(select(DataKey))).all())

    async def _found(self, master: MasterKey) -> None:
        root, _ = _fresh(master, ROOT)
        first, _ = _fresh(master, os.urandom(_ID).hex())
        with contextlib.suppress(IntegrityError):  # another process was first: its keys are read next
            async with self._db.write() as session:
                session.add(root)
                session.add(first)

    def _wrong(self, row: DataKey) -> Unavailable:
        return Unavailable(
            f"the master key {self.key_file} is not the one this database was sealed under (that is {row.master_id}).",
            file=str(self.key_file),
            hint="put the right key file there, or name its place in OPSDECK_MASTER_KEY_FILE",
        )


class StaleKey(Exception):
    """The sealing key was retired meanwhile; `open()` the keyring again and repeat."""


def _fresh(master: MasterKey, key_id: str) -> tuple[DataKey, bytes]:
    material = os.urandom(32)
    return DataKey(id=key_id, master_id=master.id, wrapped=_wrap(master, key_id, material), created=utcnow()), material


def _wrap(master: MasterKey, key_id: str, material: bytes) -> bytes:
    nonce = os.urandom(_NONCE)
    return bytes([FORMAT]) + nonce + AESGCM(master.material).encrypt(nonce, material, f"data key:{key_id}".encode())


def _unwrap(master: MasterKey, row: DataKey) -> bytes:
    try:
        return AESGCM(master.material).decrypt(
            row.wrapped[1 : 1 + _NONCE], row.wrapped[1 + _NONCE :], f"data key:{row.id}".encode()
        )
    except InvalidTag as fault:
        raise Unavailable(
            f"data key {row.id} does not open under the master key {master.file}: its row was changed.",
            file=str(master.file),
            hint="put back the newest backup of the database",
        ) from fault
