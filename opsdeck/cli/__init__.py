"""The `opsdeck` command: thin doors to the services, one file per room.

`--help` must be quick, so a command's module is imported when the command is called, and rooms inside it.
"""

from __future__ import annotations

import atexit
import importlib
import os
import sys
from typing import Any, NoReturn

import click

from opsdeck import __version__
from opsdeck.errors import OpsDeckError

COMMANDS = {
    "init": ("opsdeck.cli.setup:init", "Make the data folder, the master key and the first admin."),
    "doctor": ("opsdeck.cli.setup:doctor", "Check this installation and say what to mend."),
    "migrate": ("opsdeck.cli.setup:migrate", "Bring the database's tables up to date."),
    "worker": ("opsdeck.cli.setup:worker", "Run jobs, schedules and services without the console."),
    "lab": ("opsdeck.cli.lab:lab", "Real hosts on this machine, for tests and play."),
    "host": ("opsdeck.cli.host:host", "Know the fleet: add, list, check, import hosts."),
    "secret": ("opsdeck.cli.secret:secret", "Sealed values: passwords, keys, tokens."),
    "user": ("opsdeck.cli.account:user", "People who may log in."),
    "token": ("opsdeck.cli.account:token", "API tokens."),
    "audit": ("opsdeck.cli.audit:audit", "Who did what: list, verify, export."),
    "plugin": ("opsdeck.cli.plugin:plugin", "List plugins and run their actions."),
    "job": ("opsdeck.cli.job:job", "See, follow, cancel and retry jobs."),
    "schedule": ("opsdeck.cli.schedule:schedule", "When actions recur."),
    "lease": ("opsdeck.cli.job:lease", "Who holds what, and taking it away."),
    "incident": ("opsdeck.cli.job:incident", "What is wrong now."),
}
"""Name → (where the command lives, its line of help), so that `--help` imports none of them."""


LOST_OUTPUT = 120
"""Exit code when the last of the output could not be written; Python's own for that."""


class LazyGroup(click.Group):
    """A group that imports a command when it is called, and asks plugins for theirs only when none of ours fits."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*COMMANDS, *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            module, _, attribute = COMMANDS[cmd_name][0].partition(":")
            command: click.Command = getattr(importlib.import_module(module), attribute)
            return command
        self._ask_plugins()
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self._ask_plugins()
        rows = {name: text for name, (_, text) in COMMANDS.items()}
        rows |= {name: command.get_short_help_str(80) for name, command in self.commands.items()}
        with formatter.section("Commands"):
            formatter.write_dl(sorted(rows.items()))

    def _ask_plugins(self) -> None:
        from opsdeck.cli.frame import plugins

        if not self.commands:
            plugins().call("opsdeck_commands", cli=self)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().main(*args, **kwargs)
        except OpsDeckError as fault:
            from opsdeck.cli.frame import show_error

            show_error(fault)
            sys.exit(fault.exit_code)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="opsdeck")
def main() -> None:
    """One console for a fleet of Debian hosts, over SSH, without agents."""


def enter() -> NoReturn:
    """Run the command that was typed and end the process with its exit code: the console script.

    What was registered for the end is done and all output written; only the interpreter's own clearing away of
    hundreds of modules is left out, which takes a fifth of a quick command's time.
    """
    status: str | int | None = None
    try:
        main()
    except SystemExit as end:
        status = end.code
    if isinstance(status, str):
        click.echo(status, err=True)
    code = 1 if isinstance(status, str) else status or 0
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = code or LOST_OUTPUT
    os._exit(code)
