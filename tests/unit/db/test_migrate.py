"""Migrations: models and revisions agree, upgrades keep rows, and a newer database is refused."""

from __future__ import annotations

import shutil
import stat
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import text
from sqlmodel import Field, SQLModel, select

from opsdeck.accounts.models import User, WebSession
from opsdeck.clock import utcnow
from opsdeck.db import Database, Table, migrate
from opsdeck.db.migrate import Owner, Pending, config, owns, pending, upgrade
from opsdeck.errors import Unavailable
from opsdeck.manifest import API, Manifest
from opsdeck.plugins import Plugins

FIRST = """
import sqlalchemy as sa
from alembic import op
revision = "0001"
down_revision = None
branch_labels = None
depends_on = None
def upgrade() -> None:
    op.create_table("shelf_box", sa.Column("id", sa.Integer(), nullable=False), sa.Column("user_id", sa.Integer()),
        sa.ForeignKeyConstraint(["user_id"], ["core_user.id"], ondelete="CASCADE"), sa.PrimaryKeyConstraint("id"))
def downgrade() -> None:
    op.drop_table("shelf_box")
"""

REBUILD = """
import sqlalchemy as sa
from alembic import op
revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None
def upgrade() -> None:
    how = "always" if op.get_bind().dialect.name == "sqlite" else "never"
    with op.batch_alter_table("core_user", recreate=how) as batch:
        batch.add_column(sa.Column("shoe_size", sa.Integer(), nullable=True))
def downgrade() -> None:
    pass
"""


ORPHAN = """
from alembic import op
revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None
def upgrade() -> None:
    op.execute("INSERT INTO core_token (prefix, mac, name, user_id, role, scopes, created)"
        " VALUES ('p', 'm', 'n', 77, 'viewer', '[]', '2026-01-01')")
def downgrade() -> None:
    pass
"""


@pytest.fixture
def core_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The core's revisions in a folder that a test may add to."""
    folder = tmp_path / "core" / "versions"
    shutil.copytree(migrate.HERE / "versions", folder)
    real = migrate.owners
    monkeypatch.setattr(migrate, "owners", lambda plugins: (Owner("core", folder), *real(plugins)[1:]))
    return folder


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plugins]:
    """A plugin `shelf` with a table and a revision of its own."""
    folder = tmp_path / "opsdeck_shelf"
    (folder / "migrations" / "versions").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "migrations" / "versions" / "0001_boxes.py").write_text(FIRST)
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins = Plugins()
    plugins.manifests["shelf"] = Manifest("shelf", "1", API, "opsdeck_shelf")
    yield plugins
    sys.modules.pop("opsdeck_shelf", None)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'empty.db'}"
    return str(request.getfixturevalue("postgres_url"))


async def test_models_and_revisions_agree(db: Database) -> None:
    everyone = migrate.owners(None)
    async with db.engine.connect() as connection:
        await connection.run_sync(lambda sync: command.check(config(sync, everyone[0], everyone)))


@pytest.mark.filterwarnings("ignore:This declarative base")
async def test_check_sees_a_model_that_has_no_revision(db: Database) -> None:
    everyone = migrate.owners(None)

    class Odd(Table, table=True):
        __tablename__ = "core_odd"
        id: int | None = Field(default=None, primary_key=True)

    try:
        async with db.engine.connect() as connection:
            with pytest.raises(Exception, match="core_odd"):
                await connection.run_sync(lambda sync: command.check(config(sync, everyone[0], everyone)))
    finally:
        SQLModel.metadata.remove(SQLModel.metadata.tables["core_odd"])


async def test_upgrade_makes_everything_and_then_nothing(empty_url: str) -> None:
    db = Database(empty_url)
    head = Owner("core", migrate.HERE / "versions").revisions()[1]
    assert head
    assert await pending(db, None) == (Pending("core", None, head),)
    assert await upgrade(db, None) == (Pending("core", None, head),)
    assert await pending(db, None) == ()
    assert await upgrade(db, None) == ()
    await db.close()


async def test_a_plugin_has_its_own_version_table(db: Database, shelf: Plugins) -> None:
    assert await upgrade(db, shelf) == (Pending("shelf", None, "0001"),)
    assert await scalar(db, "SELECT version_num FROM shelf_alembic") == "0001"
    assert await pending(db, None) == (), "a removed plugin is not missed"


async def test_a_newer_database_is_refused(db: Database) -> None:
    async with db.write() as session:
        await (await session.connection()).execute(text("UPDATE core_alembic SET version_num = '0099'"))
    for call in (pending, upgrade):
        with pytest.raises(Unavailable, match=r"0099.*does not know") as caught:
            await call(db, None)
        assert "newer OpsDeck" in str(caught.value.hint)


async def test_rebuilding_a_table_keeps_its_child_rows(db: Database, core_copy: Path) -> None:
    async with db.write() as session:
        user = User(name="ada", role="admin")
        session.add(user)
        await session.flush()
        session.add(WebSession(key="k", user_id=user.id, data=b"", expires=utcnow()))
    (core_copy / "0003_shoes.py").write_text(REBUILD)
    await upgrade(db, None)
    async with db.read() as session:
        assert (await session.exec(select(WebSession.key))).all() == ["k"]


async def test_a_failing_upgrade_changes_nothing(db: Database, core_copy: Path) -> None:
    before = await db_tables(db)
    (core_copy / "0003_shoes.py").write_text(REBUILD)
    bad = REBUILD.replace('"0003"', '"0004"').replace('"0002"', '"0003"')
    half = '    op.create_table("core_half", sa.Column("id", sa.Integer()))\n    op.execute("SELECT nonsense")\n'
    (core_copy / "0004_bad.py").write_text(bad.replace("    how", half + "    how"))
    with pytest.raises(Unavailable, match="tables of core up to date failed"):
        await upgrade(db, None)
    assert await db_tables(db) == before
    assert await scalar(db, "SELECT version_num FROM core_alembic") == "0002"


async def test_orphans_stop_an_upgrade_on_sqlite(tmp_path: Path, sqlite_template: Path, core_copy: Path) -> None:
    shutil.copy(sqlite_template, tmp_path / "o.db")
    db = Database(f"sqlite+aiosqlite:///{tmp_path / 'o.db'}")
    (core_copy / "0003_orphan.py").write_text(ORPHAN)
    with pytest.raises(Unavailable, match="row of core_token without its core_user"):
        await upgrade(db, None)
    assert await scalar(db, "SELECT count(*) FROM core_token") == 0
    await db.close()


async def test_a_copy_is_made_before_an_upgrade_and_old_copies_go(
    tmp_path: Path, sqlite_template: Path, core_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "c.db"
    shutil.copy(sqlite_template, file)
    for year in range(2001, 2008):
        (tmp_path / f"c.db.before-{year}0101T000000Z").write_text("old")
    db = Database(f"sqlite+aiosqlite:///{file}")
    async with db.write() as session:
        session.add(User(name="ada"))
    (core_copy / "0003_shoes.py").write_text(REBUILD)
    await upgrade(db, None)
    copies = sorted(tmp_path.glob("c.db.before-*"))
    assert len(copies) == migrate.KEPT_BACKUPS
    assert stat.S_IMODE(copies[-1].stat().st_mode) == 0o600
    copy = Database(f"sqlite+aiosqlite:///{copies[-1]}")
    async with copy.read() as session:
        assert (await session.exec(select(User.name))).all() == ["ada"]
    assert await scalar(copy, "SELECT version_num FROM core_alembic") == "0002"
    await copy.close()
    await db.close()


async def test_without_room_for_the_copy_nothing_is_touched(
    tmp_path: Path, sqlite_template: Path, core_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "c.db"
    shutil.copy(sqlite_template, file)
    db = Database(f"sqlite+aiosqlite:///{file}")
    (core_copy / "0003_shoes.py").write_text(REBUILD)
    monkeypatch.setattr(migrate, "stamp", lambda _at: "x" * 300)  # a name that no file can have
    with pytest.raises(Unavailable, match="no copy of the database"):
        await upgrade(db, None)
    assert await pending(db, None) == (Pending("core", "0002", "0003"),)
    await db.close()


async def test_the_database_file_is_its_owners(tmp_path: Path) -> None:
    db = Database(f"sqlite+aiosqlite:///{tmp_path / 'n.db'}")
    await upgrade(db, None)
    assert stat.S_IMODE((tmp_path / "n.db").stat().st_mode) == 0o600
    await db.close()


def test_two_ends_are_named(tmp_path: Path) -> None:
    for number in ("0002", "0003"):
        (tmp_path / f"{number}.py").write_text(f'revision = "{number}"\ndown_revision = "0001"\n')
    with pytest.raises(Unavailable, match="two ends: 0002, 0003"):
        Owner("x", tmp_path).revisions()


def test_models_without_revisions_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins = Plugins()
    model = types.new_class("Box")
    model.__tablename__ = "json_box"  # type: ignore[attr-defined]
    plugins.manifests["json"] = Manifest("json", "1", API, "json", models=(model,))
    with pytest.raises(Unavailable, match="plugin json brings tables and no migrations"):
        migrate.owners(plugins)


def test_the_longest_owner_owns() -> None:
    test = owns("search", ["core", "search", "search_sync"])
    assert test("search_index")
    assert not test("search_sync_stream")
    assert not test("search_alembic")
    assert not test("core_user")


async def scalar(db: Database, query: str) -> object:
    async with db.read() as session:
        return (await (await session.connection()).execute(text(query))).scalar()


async def db_tables(db: Database) -> set[str]:
    from sqlalchemy import inspect

    async with db.engine.connect() as connection:
        return await connection.run_sync(lambda sync: set(inspect(sync).get_table_names()))
