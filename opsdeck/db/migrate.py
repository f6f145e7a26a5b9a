"""Bringing the tables up to date: the core's first, then each plugin's, each with its own version table.

A version table per owner (`core_alembic`, `cdn_alembic`) lets a plugin be removed without its revisions being missed.
Everything that is pending runs in one transaction, so an upgrade that fails leaves the tables as they were.

Two facts behind the SQLite part: rebuilding a table with `foreign_keys=ON` deletes its child rows (the cascade fires
when the old table is dropped), hence an engine without that pragma and a `foreign_key_check` before the commit;
and a copy by `VACUUM INTO` beside the database is made before anything is touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, make_url, text
from sqlalchemy.exc import DBAPIError

from opsdeck.clock import stamp, utcnow
from opsdeck.db.engine import Database, guard, make_engine
from opsdeck.errors import Unavailable

if TYPE_CHECKING:
    from alembic.config import Config

    from opsdeck.manifest import Manifest
    from opsdeck.plugins import Plugins

HERE = Path(__file__).parent
PG_LOCK = 7002
KEPT_BACKUPS = 5

_REVISION = re.compile(r"^revision(?:\s*:[^=]+)?\s*=\s*['\"]([^'\"]+)['\"]", re.M)
_PARENT = re.compile(r"^down_revision(?:\s*:[^=]+)?\s*=\s*['\"]([^'\"]+)['\"]", re.M)


@dataclass(frozen=True)
class Owner:
    """Whose tables: the core or a plugin, and where its revisions lie."""

    name: str
    versions: Path

    @property
    def version_table(self) -> str:
        """Give the name of the table that keeps the owner's revision."""
        return f"{self.name}_alembic"

    def revisions(self) -> tuple[frozenset[str], str | None]:
        """Give all revisions this code knows, and the newest; read from the files without importing them."""
        known: set[str] = set()
        parents: set[str] = set()
        for file in sorted(self.versions.glob("*.py")):
            source = file.read_text()
            known.update(_REVISION.findall(source))
            parents.update(_PARENT.findall(source))
        heads = sorted(known - parents)
        if len(heads) > 1:
            raise Unavailable(
                f"the revisions of {self.name} have two ends: {', '.join(heads)}.",
                file=str(self.versions),
                hint="the developer sets one as the other's down_revision",
            )
        return frozenset(known), heads[0] if heads else None


@dataclass(frozen=True)
class Pending:
    """An owner whose tables are behind the code: `found` is None when it has none yet."""

    owner: str
    found: str | None
    wanted: str


def owners(plugins: Plugins | None) -> tuple[Owner, ...]:
    """Give the core and every plugin that brings revisions, in the order of their upgrade."""
    found = [Owner("core", HERE / "versions")]
    for manifest in plugins.ordered() if plugins else ():
        versions = _versions_of(manifest)
        if manifest.name != "core" and versions is not None:
            found.append(Owner(manifest.name, versions))
    return tuple(found)


def _versions_of(manifest: Manifest) -> Path | None:
    folder = Path(str(files(manifest.package))) / "migrations" / "versions"
    if folder.is_dir():
        return folder
    if manifest.models:
        raise Unavailable(
            f"plugin {manifest.name} brings tables and no migrations.",
            file=str(folder),
            hint="its developer makes them with `python -m opsdeck.db.revise`",
        )
    return None


def owns(owner: str, names: Iterable[str]) -> Callable[[str | None], bool]:
    """Give the test whether a table is `owner`'s, among all owners' `names` (the longest prefix wins)."""
    longest_first = sorted(names, key=len, reverse=True)

    def test(table: str | None) -> bool:
        if table is None or table.endswith("_alembic"):
            return False
        return next((name for name in longest_first if table.startswith(f"{name}_")), None) == owner

    return test


def config(connection: Connection, owner: Owner, everyone: Sequence[Owner]) -> Config:
    """Give Alembic's configuration for one owner on an open connection."""
    from alembic.config import Config

    import opsdeck.db.tables  # noqa: F401 - the metadata must be whole

    made = Config()
    made.set_main_option("script_location", str(HERE / "environment"))
    made.set_main_option("path_separator", "newline")
    made.set_main_option("version_locations", str(owner.versions))
    names = [each.name for each in everyone]
    made.attributes.update(connection=connection, owner=owner.name, owns=owns(owner.name, names))
    return made


async def pending(db: Database, plugins: Plugins | None) -> tuple[Pending, ...]:
    """Tell which owners' tables are behind the code; empty means up to date.

    Raises `Unavailable` when the database is newer than the code, or cannot be used.
    """
    everyone = owners(plugins)
    async with guard(db.url), db.engine.connect() as connection:
        await connection.execution_options(readonly=True)
        return await connection.run_sync(lambda sync: _behind(sync, everyone))


async def upgrade(db: Database, plugins: Plugins | None) -> tuple[Pending, ...]:
    """Bring every owner's tables up to date, in one transaction; give what was behind.

    SQLite: a copy `<database>.before-<time>` is made first unless the database is empty. PostgreSQL: an advisory
    lock makes a second node wait. Raises `Unavailable` when the database is newer than the code, cannot be used, or a
    migration fails (nothing of it is kept).
    """
    if db.absent:
        async with guard(db.url):
            await asyncio.to_thread(Path(db.name).touch, 0o600)
    if not await pending(db, plugins):
        return ()
    everyone = owners(plugins)
    if db.sqlite:
        await asyncio.to_thread(_back_up, db.url)
    engine = make_engine(db.url, foreign_keys=False)
    try:
        async with guard(db.url), engine.begin() as connection:
            if not db.sqlite:
                await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": PG_LOCK})
            return await connection.run_sync(lambda sync: _upgrade(sync, everyone))
    finally:
        await engine.dispose()


async def upgrade_at(url: str, plugins: Plugins | None) -> tuple[Pending, ...]:
    """Do `upgrade` on the database at `url`, opened for this alone."""
    db = Database(url)
    try:
        return await upgrade(db, plugins)
    finally:
        await db.close()


def _behind(connection: Connection, everyone: Sequence[Owner]) -> tuple[Pending, ...]:
    found = []
    tables = set(inspect(connection).get_table_names())
    for owner in everyone:
        known, wanted = owner.revisions()
        now = None
        if owner.version_table in tables:
            now = connection.execute(text(f"SELECT version_num FROM {owner.version_table}")).scalar()  # noqa: S608
        if now is not None and now not in known:
            raise Unavailable(
                f"the tables of {owner.name} are at revision {now}, which this version of OpsDeck does not know.",
                hint="a newer OpsDeck made them: install that one, or put back the copy made before its upgrade",
            )
        if wanted is not None and now != wanted:
            found.append(Pending(owner.name, now, wanted))
    return tuple(found)


def _upgrade(connection: Connection, everyone: Sequence[Owner]) -> tuple[Pending, ...]:
    from alembic import command

    behind = _behind(connection, everyone)
    names = {each.owner for each in behind}
    for owner in everyone:
        if owner.name in names:
            try:
                command.upgrade(config(connection, owner, everyone), "head")
            except DBAPIError as fault:
                raise Unavailable(
                    f"bringing the tables of {owner.name} up to date failed: {str(fault.orig).splitlines()[0]}.",
                    hint="nothing was changed; report it to the developer with this line",
                ) from fault
    if connection.dialect.name == "sqlite":
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
        if broken is not None:
            raise Unavailable(
                f"bringing the tables up to date would leave a row of {broken[0]} without its {broken[2]}.",
                hint="nothing was changed; report it to the developer with this line",
            )
    return behind


def _back_up(url: str) -> Path | None:
    name = make_url(url).database
    if not name or name == ":memory:" or not Path(name).is_file():
        return None
    file = Path(name)
    copy = file.with_name(f"{file.name}.before-{stamp(utcnow())}")
    try:
        source = sqlite3.connect(file, isolation_level=None, timeout=10)
        try:
            if source.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
                return None
            copy.unlink(missing_ok=True)
            copy.touch(mode=0o600)
            source.execute("VACUUM INTO ?", (str(copy),))
        finally:
            source.close()
    except (sqlite3.Error, OSError) as fault:
        with contextlib.suppress(OSError):  # what stopped the copy may stop this too, and is told below
            copy.unlink(missing_ok=True)
        raise Unavailable(
            f"no copy of the database could be made before its upgrade: {fault}.",
            file=str(copy),
            hint="free space beside the database, then try again; nothing was changed",
        ) from fault
    for old in sorted(file.parent.glob(f"{file.name}.before-*"))[:-KEPT_BACKUPS]:
        old.unlink()
    return copy
