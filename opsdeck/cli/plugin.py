"""`opsdeck plugin`: what there is to do, and doing it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from opsdeck.cli import frame
from opsdeck.cli.options import collect, on_option, options, param_option
from opsdeck.manifest import Action, Manifest, Risk

if TYPE_CHECKING:
    from opsdeck.deck import Deck
    from opsdeck.jobs.jobs import Submission
    from opsdeck.jobs.models import Job
    from opsdeck.plan import Plan


@click.group()
def plugin() -> None:
    """List plugins and run their actions."""


@plugin.command("list")
@frame.json_option
def list_(as_json: bool) -> None:
    """List the plugins with their actions, and those that could not be loaded."""
    found = frame.plugins()
    if as_json:
        frame.print_json([_described(manifest) for manifest in found.manifests.values()])
    else:
        rows = [
            (manifest.name, manifest.version, action.name, action.risk, action.title)
            for manifest in found.manifests.values()
            for action in manifest.offered
        ]
        frame.print_table(("plugin", "version", "action", "risk", "what it does"), rows, empty="No plugins are there.")
    for fault in found.faults:
        click.echo(f"Not loaded: {fault}", err=True)


def _described(manifest: Manifest) -> dict[str, Any]:
    return {
        "name": manifest.name,
        "version": manifest.version,
        "title": manifest.title,
        "actions": [
            {
                "name": action.name,
                "title": action.title,
                "summary": action.summary,
                "risk": action.risk,
                "targets": action.targets,
                "plan": action.plan is not None,
            }
            for action in manifest.offered
        ],
    }


class _Runs(click.Group):
    """`plugin run`: a group of groups, made of the loaded plugins when it is asked."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(frame.plugins().manifests)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        manifest = frame.plugins().manifest(cmd_name)
        if manifest is None:
            frame.plugins().action(cmd_name, "")
        return _Actions(cmd_name, manifest.title if manifest else "")


class _Actions(click.Group):
    """One plugin's actions as commands."""

    def __init__(self, name: str, title: str) -> None:
        super().__init__(name, help=f"{title or name}: run one of its actions.")

    def list_commands(self, ctx: click.Context) -> list[str]:
        manifest = frame.plugins().manifests[str(self.name)]
        return sorted(action.name for action in manifest.offered)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = str(self.name)
        return _command(name, frame.plugins().action(name, cmd_name.replace("-", "_")))


plugin.add_command(_Runs("run", help="Run an action: PLUGIN ACTION, then its options."))


def _command(plugin_name: str, action: Action) -> click.Command:
    """Make the command of one action: its parameters as options, and what every run takes."""

    def call(**given: Any) -> None:
        from opsdeck.jobs.jobs import Submission

        submission = Submission(
            plugin_name,
            action.name,
            collect(action.params, given),
            given["selector"],
            given["confirm"],
            timeout=given["job_timeout"],
            silence=given["job_silence"],
        )
        if given["plan"]:
            _print_plan(frame.with_deck(lambda deck: deck.jobs.plan(submission, frame.actor())), given["as_json"])
        elif given["background"]:
            frame.with_deck(lambda deck: _queue(deck, submission, action, given))
        else:
            sys.exit(frame.with_deck(lambda deck: run_here(deck, submission, action, given)))

    made: Callable[..., Any] = call
    for option in _SHARED:
        made = option(made)
    command = click.command(action.name, help=f"{action.title}.\n\n{action.summary}")(made)
    command.params = [*options(action.params), *command.params]
    return command


_SHARED = (
    frame.json_option,
    click.option("--job-silence", type=float, metavar="SECONDS", help="End it after this long without a line of log."),
    click.option("--job-timeout", type=float, metavar="SECONDS", help="End it after this long in total."),
    click.option("--background", is_flag=True, help="Queue it for a server or worker; print its number."),
    click.option("--confirm", metavar="TEXT", help="The consent that is asked for: the number of hosts or its name."),
    click.option("--yes", is_flag=True, help="Consent to a change on many hosts."),
    click.option("--plan", is_flag=True, help="Only say what would change."),
    param_option,
    on_option,
)


async def consented(make: Callable[[str | None], Any], action: Action, given: dict[str, Any]) -> Any:
    """Call `make` with the consent that was given; ask for it at a terminal when it is needed.

    `--yes` consents to changes on many hosts; what destroys wants its word typed, or given by `--confirm`.
    """
    from opsdeck.jobs.consent import ConsentNeeded

    try:
        return await make(given["confirm"])
    except ConsentNeeded as need:
        if given.get("yes") and action.risk is Risk.CHANGE and given["confirm"] is None:
            return await make(need.expected)
        if given["confirm"] is not None or given["as_json"] or not sys.stdin.isatty():
            raise
        click.echo(need.message, err=True)
        return await make(click.prompt(f"Type {need.expected!r} to go on", default="", show_default=False, err=True))


async def run_here(deck: Deck, submission: Submission, action: Action, given: dict[str, Any]) -> int:
    """Run a job in this process and show it; give the exit code."""
    from dataclasses import replace

    from opsdeck.cli.running import Show, interruptible

    actor = frame.actor()
    show = Show(quiet=given["as_json"])

    async def make(confirm: str | None) -> Job:
        return await deck.jobs.run(replace(submission, confirm=confirm), actor, show)

    async def work() -> Job:
        job: Job = await consented(make, action, given)
        return job

    with show.shown():
        job = await interruptible(deck, actor, show, work)
    return finished(deck, show, job, given["as_json"])


def finished(deck: Deck, show: Any, job: Job, as_json: bool) -> int:
    """Print a job's end and give the exit code; end the process at once if an action would hold it up."""
    import os

    from opsdeck.cli.running import exit_code, summary

    steps = list(show.steps.values())
    if as_json:
        frame.print_json(show.result(job))
    else:
        click.echo(summary(job, steps), err=True)
    code = exit_code(job, steps)
    if deck.jobs.left_behind:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


async def _queue(deck: Deck, submission: Submission, action: Action, given: dict[str, Any]) -> None:
    from dataclasses import replace

    async def make(confirm: str | None) -> Job:
        return await deck.jobs.submit(replace(submission, confirm=confirm), frame.actor())

    job = await consented(make, action, given)
    await queued(deck, job, given["as_json"])


async def queued(deck: Deck, job: Job, as_json: bool) -> None:
    """Print the number of a queued job, and say so when no node is there to run it."""
    from opsdeck.cli.running import job_data

    if as_json:
        frame.print_json({"job": job_data(job)})
    else:
        click.echo(f"Job {job.id} is queued. Follow it with `opsdeck job log -f {job.id}`.")
    await warn_idle(deck)


async def warn_idle(deck: Deck) -> None:
    """Say so when no node is there to run what was queued or planned."""
    if not await deck.jobs.nodes():
        click.echo("No server or worker is running; start one with `opsdeck serve` or `opsdeck worker`.", err=True)


def _print_plan(plan: Plan, as_json: bool) -> None:
    from opsdeck.jobs.lines import plain

    if as_json:
        frame.print_json(plan.as_dict())
        return
    if plan.empty:
        click.echo("Nothing to do.")
    for change in plan.changes:
        where = f"{change.host}: " if change.host else ""
        detail = f" ({plain(change.detail)})" if change.detail else ""
        click.echo(f"{where}{change.verb} {plain(change.target)}{detail}")
        for line in change.diff():
            colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
            click.echo("  " + click.style(plain(line), fg=colour))
    for note in plan.notes:
        click.echo(f"Note: {plain(note)}")
