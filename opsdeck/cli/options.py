"""Options of a command made from an action's parameters: one definition, the same names at every door."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from opsdeck.errors import Invalid, OpsDeckError
from opsdeck.jobs.params import FieldKind, FormField, fields, from_text

if TYPE_CHECKING:
    from pydantic import BaseModel

    from opsdeck.deck import Deck

TAKEN = frozenset(
    {"on", "plan", "yes", "confirm", "background", "json", "param", "help", "job-timeout", "job-silence"}
    | {"cron", "every", "tz", "misfire", "overlap", "paused"}
)
"""Names of the commands' own options; a parameter of such a name is given by `--param`."""

PREFIX = "p_"
"""What generated options begin with in click's dictionary, so that they meet no other."""

param_option = click.option(
    "--param", "params", metavar="NAME=VALUE", multiple=True, help="Any parameter by its name; repeat it for a list."
)


def complete_names(names: Callable[[Deck], Awaitable[Iterable[str]]], start: str) -> list[str]:
    """Give those of `names` that begin with `start`; none when they cannot be asked for: completion shows no errors."""
    from opsdeck.cli.frame import with_deck

    try:
        return [name for name in with_deck(names) if name.startswith(start)]
    except OpsDeckError:
        return []


def complete_hosts(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the names of the hosts after the last comma of a selector."""
    head, comma, start = incomplete.rpartition(",")

    async def names(deck: Deck) -> list[str]:
        return [*(host.name for host in await deck.inventory.list()), "all"]

    return [CompletionItem(head + comma + name) for name in complete_names(names, start)]


def complete_secrets(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the names of the secrets."""
    return [CompletionItem(name) for name in complete_names(lambda deck: deck.secrets.names(), incomplete)]


on_option = click.option(
    "--on",
    "selector",
    metavar="SELECTOR",
    default="",
    shell_complete=complete_hosts,
    help="Hosts: web1, 'edge-*', tag:role=edge, all, a,b, '!x'.",
)


def options(model: type[BaseModel]) -> list[click.Option]:
    """Make an option for each parameter of an action."""
    return [_option(field) for field in fields(model) if _flag(field) not in TAKEN]


def collect(model: type[BaseModel], given: Mapping[str, Any]) -> dict[str, Any]:
    """Turn what click gave (generated options, and `params` of `--param`) into raw values for the model.

    Raises `Invalid` for a `--param` without `=`, and for a file that cannot be read.
    """
    known = {field.name: field for field in fields(model)}
    texts: dict[str, Any] = {}
    for name, field in known.items():
        value = given.get(PREFIX + name)
        if value is None or value == ():
            continue
        texts[name] = _read(field, value) if not isinstance(value, bool) else str(value).lower()
    for pair in given.get("params", ()):
        name, equals, value = pair.partition("=")
        name = name.replace("-", "_") if name not in known else name
        if not equals:
            raise Invalid(f"--param {pair!r} has no value.", field=name, hint=f"write --param {name}=VALUE")
        wanted = known.get(name)
        if wanted is not None and wanted.kind is FieldKind.LIST:
            texts[name] = [*texts.get(name, ()), value]
        else:
            texts[name] = _read(wanted, value) if wanted is not None else value
    return from_text(model, texts)


def _flag(field: FormField) -> str:
    return field.name.replace("_", "-")


def _option(field: FormField) -> click.Option:
    flag, name = f"--{_flag(field)}", PREFIX + field.name
    if field.kind is FieldKind.BOOLEAN:
        return click.Option([f"{flag}/--no-{_flag(field)}", name], default=None, help=_help(field))
    many = field.kind is FieldKind.LIST
    kind = field.item if many and field.item else field.kind
    return click.Option(
        [flag, name],
        type=click.Choice(field.choices) if kind is FieldKind.CHOICE else click.STRING,
        multiple=many,
        required=False,
        metavar=None if kind is FieldKind.CHOICE else _UNITS.get(field.unit) or _METAVAR.get(kind, "TEXT"),
        help=_help(field),
        shell_complete=_COMPLETE.get(kind),
    )


_METAVAR = {
    FieldKind.INTEGER: "NUMBER",
    FieldKind.NUMBER: "NUMBER",
    FieldKind.MULTILINE: "TEXT|@FILE|-",
    FieldKind.SECRET: "SECRET",
    FieldKind.HOST: "HOST",
    FieldKind.PATH: "PATH",
    FieldKind.DURATION: "DURATION",
    FieldKind.JSON: "JSON",
}
_UNITS = {"s": "SECONDS", "h": "HOURS", "d": "DAYS", "%": "PERCENT"}
_COMPLETE = {FieldKind.HOST: complete_hosts, FieldKind.SECRET: complete_secrets}


def _help(field: FormField) -> str:
    text = f"{field.title}." + (f" {field.help}" if field.help else "")
    if field.kind is FieldKind.LIST:
        text += " Repeat for more."
    if field.required:
        return f"{text} [required]"
    if field.default in (None, "", [], False):
        return text
    return f"{text} [default: {field.default}]"


def _read(field: FormField | None, value: Any) -> Any:
    """Read a text of several lines from a file (`@file`) or standard input (`-`); `@@` begins a text with one `@`."""
    if field is None or field.kind is not FieldKind.MULTILINE or not isinstance(value, str):
        return list(value) if isinstance(value, tuple) else value
    if value == "-":
        return _text(sys.stdin.buffer.read(), "standard input", field)
    if value.startswith("@@"):
        return value[1:]
    if value.startswith("@"):
        try:
            return _text(Path(value[1:]).read_bytes(), value[1:], field)
        except OSError as fault:
            raise Invalid(
                f"{value[1:]} cannot be read: {fault.strerror}.", field=field.name, hint="name a file after the @"
            ) from fault
    return value


def _text(data: bytes, where: str, field: FormField) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as fault:
        raise Invalid(f"{where} is not UTF-8 text.", field=field.name, hint="give a text file") from fault
