"""For developers: write a revision from the difference between the models and the newest revision.

`python -m opsdeck.db.revise "add a column for the rack"` writes one for the core; `--plugin cdn` for a plugin.
`python -m opsdeck.db.revise --initial` writes the core's first revision anew (only before the first release).
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click
from sqlalchemy import Connection

from opsdeck.db.engine import Database, make_engine
from opsdeck.db.migrate import Owner, config, owners, upgrade
from opsdeck.errors import NotFound
from opsdeck.plugins import Plugins

if TYPE_CHECKING:
    from alembic.operations.ops import MigrationScript
    from alembic.runtime.migration import MigrationContext

INITIAL = "0001"


async def make_revision(owner_name: str, message: str, plugins: Plugins) -> Path | None:
    """Write the next revision of `owner_name`; give its file, or None when models and revisions agree.

    A plugin's first revision asks for an existing `migrations/versions/` folder. Raises `NotFound` for an owner that
    has none.
    """
    everyone = owners(plugins)
    owner = next((each for each in everyone if each.name == owner_name), None)
    if owner is None:
        raise NotFound(f"{owner_name!r} has no migrations/versions folder.", field="owner", hint="make it, then again")
    number = f"{len(list(owner.versions.glob('[0-9]*.py'))) + 1:04d}"
    return await _write(owner, everyone, message, number, plugins)


async def remake_initial(plugins: Plugins) -> Path:
    """Write the core's first revision anew from the models; the later ones stay as they are."""
    with tempfile.TemporaryDirectory() as folder:
        core = Owner("core", Path(folder))
        made = await _write(core, (core,), "tables", INITIAL, plugins, fresh=True)
        if made is None:
            raise NotFound("no model of the core was found.", hint="run it where OpsDeck is installed whole")
        versions = owners(None)[0].versions
        for old in versions.glob(f"{INITIAL}_*.py"):
            old.unlink()
        return Path(shutil.copy(made, versions))


async def _write(
    owner: Owner, everyone: tuple[Owner, ...], message: str, number: str, plugins: Plugins, *, fresh: bool = False
) -> Path | None:
    with tempfile.TemporaryDirectory() as folder:
        db = Database(f"sqlite+aiosqlite:///{folder}/scratch.db")
        engine = make_engine(db.url, foreign_keys=False)
        try:
            if not fresh:
                await upgrade(db, plugins)
            async with engine.begin() as connection:
                return await connection.run_sync(lambda sync: _autogenerate(sync, owner, everyone, message, number))
        finally:
            await engine.dispose()
            await db.close()


def _autogenerate(
    connection: Connection, owner: Owner, everyone: tuple[Owner, ...], message: str, number: str
) -> Path | None:
    from alembic import command
    from alembic.script import Script

    def drop_empty(_context: MigrationContext, _revision: object, directives: list[MigrationScript]) -> None:
        if directives and directives[0].upgrade_ops is not None and directives[0].upgrade_ops.is_empty():
            directives.clear()

    setting = config(connection, owner, everyone)
    setting.set_main_option("file_template", "%%(rev)s_%%(slug)s")
    made = command.revision(
        setting,
        message,
        autogenerate=True,
        rev_id=number,
        process_revision_directives=drop_empty,
    )
    return Path(made.path) if isinstance(made, Script) else None


@click.command()
@click.argument("message", default="")
@click.option("--plugin", "owner", default="core", help="Whose tables.")
@click.option("--initial", is_flag=True, help="Write the core's first revision anew.")
def main(message: str, owner: str, initial: bool) -> None:
    """Write a revision from the models."""
    if not initial and not message:
        raise click.UsageError("Say in a few words what changes.")
    plugins = Plugins()
    plugins.load()
    made = asyncio.run(remake_initial(plugins) if initial else make_revision(owner, message, plugins))
    click.echo(made or "models and revisions agree: nothing to write")


if __name__ == "__main__":
    main()
