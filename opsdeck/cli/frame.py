"""What every command shares: opening the deck, `--json`, errors, selectors."""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import click

from opsdeck.actor import Actor, Door, Role
from opsdeck.errors import OpsDeckError
from opsdeck.plugins import Plugins
from opsdeck.settings import Settings, load

if TYPE_CHECKING:
    from opsdeck.deck import Deck

T = TypeVar("T")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
on_option = click.option(
    "--on", "selector", metavar="SELECTOR", default="", help="Hosts: web1, 'edge-*', tag:role=edge, all, a,b, '!x'."
)


@cache
def settings() -> Settings:
    """Give the settings of this process."""
    return load()


@cache
def plugins() -> Plugins:
    """Give the loaded plugins of this process."""
    found = Plugins(trace=settings().trace)
    found.load(settings().disabled_plugins)
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


def print_json(data: Any) -> None:
    """Print JSON, times as ISO 8601 in UTC."""
    from pydantic_core import to_jsonable_python

    click.echo(json.dumps(to_jsonable_python(data), ensure_ascii=False, indent=2))


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
    Console(soft_wrap=not sys.stdout.isatty()).print(table)


def show_error(fault: OpsDeckError) -> None:
    """Print a fault on standard error: as JSON when `--json` was given, else as one line or two."""
    if "--json" in sys.argv:
        click.echo(json.dumps(fault.as_dict(), ensure_ascii=False), err=True)
        return
    where = f"{fault.host}: " if fault.host else ""
    click.echo(f"Error: {where}{fault.message}", err=True)
    if fault.hint:
        click.echo(f"Next: {fault.hint}", err=True)
