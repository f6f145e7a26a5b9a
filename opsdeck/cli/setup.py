"""`opsdeck init`, `doctor`, `migrate`, `worker`: making an installation, looking at it, running it."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from opsdeck.actor import Role
from opsdeck.cli import frame
from opsdeck.cli.frame import json_option, print_json, with_deck
from opsdeck.errors import Unavailable

if TYPE_CHECKING:
    from opsdeck.db import Database
    from opsdeck.deck import Deck
    from opsdeck.manifest import Finding
    from opsdeck.secrets.sensitive import Sensitive


@click.command()
@click.option("--yes", is_flag=True, help="Ask nothing: make a password and print it once.")
@click.option("--admin", metavar="NAME", default="admin", show_default=True, help="Name of the first admin.")
@json_option
def init(yes: bool, admin: str, as_json: bool) -> None:
    """Make the data folder, the master key, the tables and the first admin.

    What is there already is named and left as it is, so it may be run again at any time.
    """
    settings = frame.settings()
    said: dict[str, str] = {}
    said["data folder"] = _make_folder(settings.home)
    said["master key"] = asyncio.run(_make_key())
    said["database"] = asyncio.run(_upgrade()) or "there already, up to date"

    async def first_admin(deck: Deck) -> Sensitive | None:
        from opsdeck.accounts.passwords import make_password

        if await deck.accounts.count():
            said["first admin"] = "people are there already"
            return None
        password = make_password() if yes else frame.new_password(f"Password for {admin}")
        await deck.accounts.create(admin, password, Role.ADMIN, frame.actor())
        said["first admin"] = f"made: {admin}"
        return password if yes else None

    password = with_deck(first_admin)
    if as_json:
        shown = {"admin": admin, "password": password.reveal()} if password else {}
        print_json({"home": settings.home, "key_file": settings.key_file, "steps": said, **shown})
        return
    for what, text in said.items():
        click.echo(f"{what:<12} {text}")
    if password:
        click.echo(f"\nPassword of {admin}, shown this once: {password.reveal()}")
    click.echo(f"\nKeep a copy of {settings.key_file} away from this machine: without it no secret opens.")
    click.echo("Next: opsdeck serve")


def _make_folder(home: Path) -> str:
    if home.is_dir():
        return f"there already: {home}"
    try:
        home.mkdir(mode=0o700, parents=True)
    except OSError as fault:
        raise Unavailable(
            f"the data folder {home} cannot be made: {fault.strerror}.",
            file=str(home),
            hint="name another in OPSDECK_HOME",
        ) from fault
    return f"made: {home}"


async def _make_key() -> str:
    from opsdeck.db import Database
    from opsdeck.secrets import masterkey

    settings = frame.settings()
    if settings.key_file.exists():
        masterkey.load(settings.key_file)
        return f"there already: {settings.key_file}"
    db = Database(settings.url)
    try:
        if await _holds_keys(db):
            raise Unavailable(
                f"the master key {settings.key_file} is missing, and the database {db.name} was sealed under it.",
                file=str(settings.key_file),
                hint="put the key back from your safe copy; a new one would open nothing",
            )
    finally:
        await db.close()
    masterkey.create(settings.key_file)
    return f"made: {settings.key_file}"


async def _holds_keys(db: Database) -> bool:
    from sqlalchemy import inspect, text

    if db.absent:
        return False
    async with db.read() as session:
        connection = await session.connection()
        if not await connection.run_sync(lambda sync: inspect(sync).has_table("core_data_key")):
            return False
        return bool((await connection.execute(text("SELECT count(*) FROM core_data_key"))).scalar())


async def _upgrade() -> str:
    from opsdeck.db.migrate import upgrade_at

    done = await upgrade_at(frame.settings().url, frame.plugins())
    return ", ".join(f"{each.owner} {each.found or 'nothing'} → {each.wanted}" for each in done)


@click.command()
@json_option
def migrate(as_json: bool) -> None:
    """Bring the database's tables up to date, after a copy of it was made (SQLite)."""
    done = asyncio.run(_upgrade())
    if as_json:
        print_json({"upgraded": done})
    else:
        click.echo(done or "the tables are up to date")


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Look at this installation and say what to mend. Exit status 1 when something is broken."""
    from opsdeck.deck import Deck
    from opsdeck.health import BROKEN, examine

    async def look() -> tuple[Finding, ...]:
        deck = Deck(frame.settings(), frame.plugins(), node="doctor")
        try:
            return await examine(deck)
        finally:
            await deck.close()

    findings = asyncio.run(look())
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            click.echo(f"{finding.state:<10} {finding.subject:<12} {finding.text}")
            if finding.hint:
                click.echo(f"{'':<23} Next: {finding.hint}")
    if any(finding.state == BROKEN for finding in findings):
        raise SystemExit(1)


@click.command()
def worker() -> None:
    """Run jobs, schedules and services without the console, until it is told to stop (SIGTERM, Ctrl-C)."""

    async def work(deck: Deck) -> None:
        stop = frame.stopped()
        click.echo(f"worker {deck.node} is ready", err=True)
        await deck.jobs.serve(stop)

    asyncio.run(_upgrade())
    with_deck(work, kind="worker")
