"""A real database file and the rooms around the inventory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import SQLModel, col, select

from opsdeck.actor import SYSTEM
from opsdeck.db import Database, tables
from opsdeck.events import Bus
from opsdeck.inventory.endpoints import Endpoints
from opsdeck.inventory.hosts import Inventory
from opsdeck.secrets.models import DataKey, Secret
from opsdeck.secrets.sensitive import Sensitive

assert tables.ROOMS


@dataclass
class Heard:
    """Keeps what would go to the audit chain."""

    entries: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)

    async def append(self, session: Any, actor: Any, verb: str, target: str, **body: Any) -> int:
        self.entries.append((verb, target, body))
        return len(self.entries)

    async def record(self, actor: Any, verb: str, target: str, **body: Any) -> int:
        return await self.append(None, actor, verb, target, **body)

    @property
    def verbs(self) -> list[str]:
        return [verb for verb, _, _ in self.entries]


class ClearSecrets:
    """Secrets without seals, for tests of what is made from them."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.values: dict[str, str] = {}
        self.reveals: list[tuple[tuple[str, ...], str]] = []

    async def set(self, name: str, value: Sensitive, *, kind: str = "text", note: str = "", actor: Any = None) -> int:
        async with self.db.write() as session:
            if await session.get(DataKey, "k") is None:
                session.add(DataKey(id="k", master_id="m", wrapped=b""))
                await session.flush()
            row = (await session.exec(select(Secret).where(Secret.name == name))).first()
            row = row or Secret(name=name, kind=kind, data_key="k", blob=b"", version=0)
            row.version += 1
            session.add(row)
        self.values[name] = value.reveal()
        return row.version

    async def reveal_many(self, names: Iterable[str], *, actor: Any, purpose: str) -> Mapping[str, Sensitive]:
        self.reveals.append((tuple(names), purpose))
        async with self.db.read() as session:
            found = (await session.exec(select(Secret.name).where(col(Secret.name).in_(names)))).all()
        return {name: Sensitive(self.values[name]) for name in found}


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(f"sqlite+aiosqlite:///{tmp_path / 'deck.db'}")
    async with database.engine.begin() as connection:
        await connection.run_sync(SQLModel.metadata.create_all)
    yield database
    await database.close()


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def bus() -> Bus:
    return Bus()


@pytest.fixture
def secrets(db: Database) -> ClearSecrets:
    return ClearSecrets(db)


@pytest.fixture
def inventory(db: Database, heard: Heard, bus: Bus) -> Inventory:
    return Inventory(db, heard, bus)  # type: ignore[arg-type]


@pytest.fixture
def endpoints(inventory: Inventory, secrets: ClearSecrets) -> Endpoints:
    return Endpoints(inventory, secrets)  # type: ignore[arg-type]


@pytest.fixture
def someone() -> Any:
    return SYSTEM
