"""The reference of every command, made from the commands: `python -m opsdeck.cli.reference > docs/cli.md`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import click

from opsdeck.cli import main

PREFACE = """# The command line

Made from the code by `python -m opsdeck.cli.reference > docs/cli.md`; do not edit it by hand.

Every command that prints takes `--json`, and every command `--help`. `OPSDECK_HOME` names the data folder.
Exit codes: 0 all succeeded, 1 some step failed, 2 usage or validation, 3 not found, 4 refused (permission, host key,
lease). Hosts are chosen by selectors: `web1`, `edge-*`, `tag:role=edge`, `region:tokyo`, `all`, `a,b`, `!x`.
Shell completion: `eval "$(_OPSDECK_COMPLETE=bash_source opsdeck)"` (or `zsh_source`, `fish_source`).
"""
OPEN = {"opsdeck plugin run", "opsdeck schedule add"}
"""Groups whose commands are made of the plugins that are loaded."""


def reference() -> str:
    """Give the whole reference as Markdown."""
    parts = [PREFACE]
    for name, command in _commands(main, "opsdeck"):
        parts.append(_section(name, command))
    return "\n".join(parts)


def _commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group, info_name=path)
    if group is main:
        group.format_help(context, context.make_formatter())  # asks the plugins for their commands
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.hidden or not _ours(command):
            continue
        whole = f"{path} {name}"
        yield whole, command
        if isinstance(command, click.Group) and whole not in OPEN:
            yield from _commands(command, whole)


def _ours(command: click.Command) -> bool:
    """Tell our commands from those of plugins that happen to be installed."""
    module = getattr(inspect.unwrap(command.callback), "__module__", "") if command.callback else "opsdeck"
    return module.split(".")[0] in {"opsdeck", "opsdeck_web"}


def _section(name: str, command: click.Command) -> str:
    arguments = [_argument(one) for one in command.params if isinstance(one, click.Argument)]
    options = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
    usage = [name, *(["[OPTIONS]"] if options else []), *arguments]
    if name in OPEN:
        usage.append("PLUGIN ACTION [OPTIONS]" if "schedule" not in name else "NAME PLUGIN ACTION [OPTIONS]")
    elif isinstance(command, click.Group):
        usage.append("COMMAND")
    lines = [f"{'##' if name.count(' ') == 1 else '###'} {name}", "", f"    {' '.join(usage)}", ""]
    lines += [_text(command.help or ""), ""]
    lines += [f"- {_option(one)}" for one in options]
    return "\n".join(lines).rstrip() + "\n"


def _text(text: str) -> str:
    """Give the help's text; what is kept as written there is shown as code here."""
    parts = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(
        "\n".join(f"    {line}" for line in part.split("\n")[1:]) if part.startswith("\b\n") else part for part in parts
    )


def _argument(one: click.Argument) -> str:
    text = (one.metavar or one.human_readable_name).upper() + ("..." if one.nargs != 1 else "")
    return text if one.required else f"[{text}]"


def _option(one: click.Option) -> str:
    names = ", ".join(one.opts) + ("/" + ", ".join(one.secondary_opts) if one.secondary_opts else "")
    metavar = "" if one.is_flag or one.count else " " + (one.metavar or _metavar(one.type))
    default = one.default if one.show_default and not callable(one.default) else None
    words = [one.help or ""]
    if one.multiple:
        words.append("May be given several times.")
    if one.required:
        words.append("Required.")
    if default not in (None, (), ""):
        words.append(f"Default: {default}.")
    return f"`{names}{metavar}` {' '.join(word for word in words if word)}".rstrip()


def _metavar(kind: click.ParamType[Any]) -> str:
    if isinstance(kind, click.Choice):
        return "[" + "|".join(str(choice) for choice in kind.choices) + "]"
    return kind.name.removesuffix(" range").upper()


if __name__ == "__main__":
    click.echo(reference(), nl=False)
