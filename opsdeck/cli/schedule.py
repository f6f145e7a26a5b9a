"""`opsdeck schedule`: when actions recur, what comes next, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from opsdeck.cli import frame
from opsdeck.cli.options import collect, complete_names, on_option, options, param_option
from opsdeck.cli.plugin import consented, warn_idle
from opsdeck.errors import Invalid, OpsDeckError

if TYPE_CHECKING:
    from opsdeck.deck import Deck
    from opsdeck.jobs.models import Schedule, Slot
    from opsdeck.jobs.schedules import NextRun
    from opsdeck.manifest import Action

RULE = (
    click.option("--cron", metavar="RULE", help="Crontab's five fields: '30 2 * * *', '0 9 * * mon-fri'."),
    click.option("--every", metavar="INTERVAL", help="90s, 15m, 6h, 1d, 1w; counted from when it was made."),
    click.option("--tz", metavar="ZONE", help="Time zone of the cron rule, such as Europe/Berlin. [default: UTC]"),
    click.option(
        "--misfire",
        type=click.Choice(["skip", "once", "each"]),
        help="Times that passed while nothing ran: missed, one run for all, a run each. [default: once]",
    ),
    click.option(
        "--overlap",
        type=click.Choice(["skip", "queue", "allow"]),
        help="A time that comes while the run before goes on: skipped, waits, runs beside it. [default: skip]",
    ),
)
"""When it recurs; taken before the plugin's name and after the action's alike."""


def _with(made: Sequence[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    def wrap(function: Any) -> Any:
        for option in reversed(made):
            function = option(function)
        return function

    return wrap


def _complete(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    async def names(deck: Deck) -> list[str]:
        return [row.name for row in await deck.schedules.list()]

    return [CompletionItem(name) for name in complete_names(names, incomplete)]


name_argument = click.argument("name", shell_complete=_complete)


@click.group()
def schedule() -> None:
    """When actions recur."""


class _Names(click.Group):
    """`schedule add`: whatever comes first is the new schedule's name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return []

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        @click.pass_context
        def name(inner: click.Context, /, **given: Any) -> None:
            inner.obj = _over(inner.obj, given) | {"name": cmd_name}

        help_text = "The action that recurs, after when it does."
        command: click.Command = _Plugins(cmd_name, callback=name, help=help_text, subcommand_metavar=_AFTER)
        command.params = list(click.command()(_with(RULE)(lambda: None)).params)
        return command


class _Plugins(click.Group):
    """`schedule add NAME`: the plugins, then their actions, then the action's own options."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        found = frame.plugins().manifests.values()
        return sorted(one.name for one in found if one.offered)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in frame.plugins().manifests:
            frame.plugins().action(cmd_name, "")
        return _Actions(cmd_name)


class _Actions(click.Group):
    def __init__(self, name: str) -> None:
        super().__init__(name, help=f"{name}: the action that recurs.")

    def list_commands(self, ctx: click.Context) -> list[str]:
        manifest = frame.plugins().manifests[str(self.name)]
        return sorted(action.name for action in manifest.offered)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = str(self.name)
        return _add_command(name, frame.plugins().action(name, cmd_name.replace("-", "_")))


_AFTER = "PLUGIN ACTION [OPTIONS]"


@schedule.group("add", cls=_Names, subcommand_metavar=f"NAME [OPTIONS] {_AFTER}")
@_with(RULE)
@click.pass_context
def add(ctx: click.Context, /, **given: Any) -> None:
    """Make a schedule: NAME, when, then the action as in `plugin run`.

    \b
    opsdeck schedule add nightly --cron '30 2 * * *' --tz Europe/Berlin core packages --on all
    """
    ctx.obj = given


def _over(before: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Give the rule as it was said so far: what comes later wins."""
    return {key: given.get(key) or before[key] for key in ("cron", "every", "tz", "misfire", "overlap")}


def _add_command(plugin: str, action: Action) -> click.Command:
    @_with((*RULE, click.option("--paused", is_flag=True, help="Make it, but do not plan yet."), on_option))
    @_with((param_option, click.option("--yes", is_flag=True, help="Consent to a change on many hosts.")))
    @_with((click.option("--confirm", metavar="TEXT", help="The consent that is asked for."), frame.json_option))
    @click.pass_context
    def call(ctx: click.Context, /, **given: Any) -> None:
        from opsdeck.forms import checked
        from opsdeck.jobs.schedules import ScheduleIn

        when = _over(ctx.obj, given)
        told = {
            "name": ctx.obj["name"],
            "plugin": plugin,
            "action": action.name,
            "params": collect(action.params, given),
            "selector": given["selector"],
            "paused": given["paused"],
        }
        wanted = checked(ScheduleIn, told | _timing(when), hint="`opsdeck schedule add --help`")

        async def work(deck: Deck) -> tuple[Schedule, Sequence[NextRun]]:
            async def make(confirm: str | None) -> Schedule:
                return await deck.schedules.add(wanted.model_copy(update={"confirm": confirm}), frame.actor())

            row = await consented(make, action, given)
            await warn_idle(deck)
            return row, deck.schedules.preview(row)

        row, runs = frame.with_deck(work)
        if given["as_json"]:
            frame.print_json(_described(row) | {"next": _runs(runs)})
        else:
            click.echo(f"Schedule {row.name} runs {plugin} {action.name} next:")
            _print_runs(runs)

    command = click.command(action.name, help=f"{action.title}.\n\n{action.summary}")(call)
    command.params = [*options(action.params), *command.params]
    return command


@schedule.command("list")
@frame.json_option
def list_(as_json: bool) -> None:
    """List the schedules with their next time."""

    async def work(deck: Deck) -> list[tuple[Schedule, Sequence[NextRun]]]:
        return [(row, _next(deck, row)) for row in await deck.schedules.list()]

    rows = frame.with_deck(work)
    if as_json:
        frame.print_json([_described(row) | {"next": _runs(runs)} for row, runs in rows])
        return
    frame.print_table(
        ("name", "runs", "on", "when", "next (UTC)", "state"),
        [
            (
                row.name,
                f"{row.plugin} {row.action}",
                row.selector,
                _when(row),
                frame.short(runs[0].utc) if runs and not row.paused else "",
                _state(row),
            )
            for row, runs in rows
        ],
        empty="No schedules yet; make one with `opsdeck schedule add`.",
    )


@schedule.command()
@name_argument
@click.option("--slots", "limit", default=20, show_default=True, help="How many past times to show.")
@frame.json_option
def show(name: str, limit: int, as_json: bool) -> None:
    """Show a schedule and what became of its last planned times."""

    async def work(deck: Deck) -> tuple[Schedule, Sequence[NextRun], tuple[Slot, ...]]:
        row = await deck.schedules.get(name)
        return row, _next(deck, row, 5), await deck.schedules.slots(name, limit=limit)

    row, runs, slots = frame.with_deck(work)
    if as_json:
        past = [slot.model_dump(include={"planned", "state", "reason", "job_id", "decided"}) for slot in slots]
        frame.print_json(_described(row) | {"next": _runs(runs), "slots": past})
        return
    frame.print_facts(_described(row))
    _print_runs(runs)
    frame.print_table(
        ("planned (UTC)", "became", "job", "why"),
        [(frame.short(slot.planned), slot.state, slot.job_id, slot.reason) for slot in slots],
        empty="No planned time has come yet.",
    )


@schedule.command("next")
@click.argument("name", required=False, shell_complete=_complete)
@click.option("-n", "count", type=click.IntRange(1, 100), default=5, show_default=True, help="How many times.")
@frame.json_option
def next_(name: str | None, count: int, as_json: bool) -> None:
    """Show the next planned times, in UTC and in the schedule's zone; of all schedules without NAME."""

    async def work(deck: Deck) -> list[tuple[Schedule, Sequence[NextRun]]]:
        rows = [await deck.schedules.get(name)] if name else await deck.schedules.list()
        return [(row, _next(deck, row, count)) for row in rows if name or not row.paused]

    found = frame.with_deck(work)
    if as_json:
        frame.print_json([{"schedule": row.name, "paused": row.paused, "next": _runs(runs)} for row, runs in found])
        return
    if name and found[0][0].paused:
        click.echo(f"{name} is paused; it would run:", err=True)
    runs = sorted(((row.name, run) for row, runs in found for run in runs), key=lambda pair: pair[1].utc)[:count]
    _print_runs([run for _, run in runs], [] if name else [owner for owner, _ in runs])


@schedule.command()
@name_argument
@_with(RULE)
@on_option
@param_option
@click.option("--yes", is_flag=True, help="Consent to a change on many hosts.")
@click.option("--confirm", metavar="TEXT", help="The consent that is asked for.")
@frame.json_option
def edit(name: str, **given: Any) -> None:
    """Change when a schedule runs, on which hosts, or its parameters (`--param`); it then runs as you."""

    async def work(deck: Deck) -> tuple[Schedule, Sequence[NextRun]]:
        from opsdeck.jobs.schedules import SchedulePatch

        old = await deck.schedules.get(name)
        action = deck.plugins.action(old.plugin, old.action)
        changed = collect(action.params, given)
        patch = SchedulePatch(
            params=old.params | changed if changed else None,
            selector=given["selector"] or None,
            **_timing(given, old=old),
        )

        async def make(confirm: str | None) -> Schedule:
            return await deck.schedules.edit(name, patch.model_copy(update={"confirm": confirm}), frame.actor())

        row = await consented(make, action, given)
        return row, _next(deck, row, 5)

    row, runs = frame.with_deck(work)
    if given["as_json"]:
        frame.print_json(_described(row) | {"next": _runs(runs)})
    else:
        click.echo(f"Schedule {row.name} runs next:")
        _print_runs(runs)


@schedule.command()
@name_argument
@frame.json_option
def pause(name: str, as_json: bool) -> None:
    """Stop planning; times until `resume` are not made up for."""
    _done(frame.with_deck(lambda deck: deck.schedules.pause(name, frame.actor())), "is paused", as_json)


@schedule.command()
@name_argument
@frame.json_option
def resume(name: str, as_json: bool) -> None:
    """Plan again, from now on."""
    _done(frame.with_deck(lambda deck: deck.schedules.resume(name, frame.actor())), "is planned again", as_json)


@schedule.command("rm")
@name_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
@frame.json_option
def remove(name: str, yes: bool, as_json: bool) -> None:
    """Remove a schedule; the jobs it made stay."""

    async def work(deck: Deck) -> Schedule:
        row = await deck.schedules.get(name)
        frame.confirmed(f"Remove schedule {name}?", yes)
        await deck.schedules.remove(name, frame.actor())
        return row

    _done(frame.with_deck(work), "is removed", as_json)


def _done(row: Schedule, what: str, as_json: bool) -> None:
    if as_json:
        frame.print_json(_described(row))
    else:
        click.echo(f"Schedule {row.name} {what}.")


def _timing(given: dict[str, Any], *, old: Schedule | None = None) -> dict[str, Any]:
    """Give the rule's fields that were given. Raises `Invalid` for none or two rules in a new schedule."""
    from opsdeck.jobs.timing import seconds

    if given["cron"] and given["every"]:
        raise Invalid("--cron and --every exclude each other.", field="cron", hint="give one of them")
    if old is None and not (given["cron"] or given["every"]):
        raise Invalid(
            "say when: --cron or --every is missing.", field="cron", hint="--cron '30 2 * * *' or --every 15m"
        )
    found = {
        "cron": given["cron"],
        "every_seconds": seconds(given["every"]) if given["every"] else None,
        "time_zone": given["tz"],
        "misfire": given["misfire"],
        "overlap": given["overlap"],
    }
    return {key: value for key, value in found.items() if value is not None}


def _next(deck: Deck, row: Schedule, count: int = 1) -> Sequence[NextRun]:
    try:
        return deck.schedules.preview(row, count)
    except OpsDeckError as fault:  # such as a zone that is gone: the others are shown
        click.echo(f"{row.name}: {fault}", err=True)
        return ()


def _described(row: Schedule) -> dict[str, Any]:
    kept = ("name", "plugin", "action", "params", "selector", "misfire", "overlap", "actor", "role", "held_by")
    return {key: getattr(row, key) for key in kept} | {"when": _when(row), "state": _state(row)}


def _when(row: Schedule) -> str:
    if row.every_seconds:
        return f"every {_interval(row.every_seconds)}"
    return f"{row.cron} {row.time_zone}"


def _interval(value: int) -> str:
    for unit, size in (("w", 604800), ("d", 86400), ("h", 3600), ("m", 60)):
        if value % size == 0:
            return f"{value // size}{unit}"
    return f"{value}s"


def _state(row: Schedule) -> str:
    if row.paused:
        return "paused"
    return f"held by {row.held_by}" if row.held_by else "planned"


def _runs(runs: Sequence[NextRun]) -> list[dict[str, Any]]:
    return [{"utc": run.utc, "local": run.local.isoformat(), "note": run.note} for run in runs]


def _print_runs(runs: Sequence[NextRun], owners: Sequence[str] = ()) -> None:
    rows = [
        (*owners[place : place + 1], frame.short(run.utc), f"{run.local:%a %Y-%m-%d %H:%M %Z}", run.note)
        for place, run in enumerate(runs)
    ]
    columns = ("UTC", "there", "note")
    frame.print_table(("schedule", *columns) if owners else columns, rows, empty="Nothing is planned.")
