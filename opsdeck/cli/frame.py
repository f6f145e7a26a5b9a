"""What every command shares: opening the deck, `--json`, questions, tables, errors, the signals that end it."""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from opsdeck.actor import Actor, Door, Role
from opsdeck.errors import Invalid, NotFound, OpsDeckError, Refused
from opsdeck.plugins import Plugins
from opsdeck.settings import Settings, load

if TYPE_CHECKING:
    from opsdeck.deck import Deck
    from opsdeck.secrets.sensitive import Sensitive

T = TypeVar("T")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@cache
def settings() -> Settings:
    """Give the settings of this process."""
    return load()


@cache
def plugins() -> Plugins:
    """Give the plugins of this process, each imported when it is needed."""
    found = Plugins(trace=settings().trace)
    found.find(settings().disabled_plugins)
    return found


def actor() -> Actor:
    """Give who runs this command: the data folder's owner on this machine, who holds the master key anyway."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = f"uid{os.getuid()}"
    return Actor(f"{name}@cli", Role.ADMIN, Door.CLI, stepped_up=True)


def with_deck(work: Callable[[Deck], Awaitable[T]], *, kind: str = "cli") -> T:
    """Open the deck, do the work in a fresh event loop, close it; give what the work gave."""

    async def inside() -> T:
        from opsdeck.deck import Deck

        async with Deck.open(settings(), plugins=plugins(), kind=kind) as deck:
            return await work(deck)

    return asyncio.run(inside())


def run_action(
    plugin: str, name: str, params: Mapping[str, Any], *, selector: str = "", confirm: str | None = None
) -> int:
    """Run an action here and show its log, as `opsdeck plugin run` does; give the exit code."""
    from opsdeck.cli.plugin import run_here
    from opsdeck.jobs.jobs import Submission

    submission = Submission(plugin, name, params, selector, confirm)
    given = {"as_json": False, "confirm": confirm, "yes": False}
    return with_deck(lambda deck: run_here(deck, submission, plugins().action(plugin, name), given))


def stopped() -> asyncio.Event:
    """Give an event that SIGTERM and Ctrl-C set; call it within the running loop."""
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    return told


def read_value(file: str | None, prompt: str, *, confirm: bool = True) -> Sensitive:
    """Read a value that must not stand in the arguments: from a file, a pipe, or a prompt that does not show it."""
    from opsdeck.secrets.sensitive import Sensitive

    try:
        if file and file != "-":
            return Sensitive(Path(file).read_text())
        if file == "-" or not sys.stdin.isatty():
            return Sensitive(sys.stdin.read())
    except OSError as fault:
        raise NotFound(f"{file} cannot be read: {fault.strerror}.", file=file, hint="check the path") from fault
    except UnicodeDecodeError as fault:
        raise Invalid("the value is not text in UTF-8.", field="value", file=file, hint="secrets are text") from fault
    return Sensitive(click.prompt(prompt, hide_input=True, confirmation_prompt=confirm, err=True))


def new_password(prompt: str) -> Sensitive:
    """Read a new password from a pipe (its first line) or a prompt."""
    from opsdeck.secrets.sensitive import Sensitive

    return Sensitive(read_value(None, prompt).reveal().split("\n")[0].removesuffix("\r"))


def confirmed(question: str, yes: bool) -> None:
    """Ask before something that cannot be taken back; without a terminal `--yes` must say it."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise Invalid("this asks before it acts, and there is no terminal.", field="yes", hint="add --yes")
    if not click.confirm(question, err=True):
        raise Refused("not done, as you said.")


def moment(text: str | None, field: str) -> datetime | None:
    """Read a time as ISO 8601; without a zone it is UTC. Raises `Invalid`."""
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as fault:
        raise Invalid(f"{text!r} is no time.", field=field, hint="write it as 2026-11-23T01:45 (UTC)") from fault
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def print_json(data: Any) -> None:
    """Print JSON, times as ISO 8601 in UTC."""
    from pydantic_core import to_jsonable_python

    click.echo(json.dumps(to_jsonable_python(data), ensure_ascii=False, indent=2))


def short(at: object) -> str:
    """Give a time as people read it in a table, in UTC; empty for none."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M") if isinstance(at, datetime) else ""


def print_facts(facts: Mapping[str, object]) -> None:
    """Print names and values, one a line."""
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        text = short(value) if isinstance(value, datetime) else value
        if isinstance(value, tuple | list):
            text = ", ".join(str(each) for each in value)
        click.echo(f"{name.replace('_', ' '):<{width}}  {'' if text is None else text}".rstrip())


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """Print rows under their column names; `empty` says what to do when there are none."""
    if not rows:
        click.echo(empty, err=True)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() else 1000, soft_wrap=True).print(table)


def show_error(fault: OpsDeckError) -> None:
    """Print a fault on standard error: as JSON when `--json` was given, else as one line or two."""
    if "--json" in sys.argv:
        click.echo(json.dumps(fault.as_dict(), ensure_ascii=False), err=True)
        return
    where = f"{fault.host}: " if fault.host else ""
    click.echo(f"Error: {where}{fault.message}", err=True)
    if fault.hint:
        click.echo(f"Next: {fault.hint}", err=True)
