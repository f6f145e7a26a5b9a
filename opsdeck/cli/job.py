"""`opsdeck job`, `lease` and `incident`: what runs, ran and is wrong."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from opsdeck.cli import frame
from opsdeck.errors import Invalid

if TYPE_CHECKING:
    from opsdeck.deck import Deck
    from opsdeck.jobs.models import Job


@click.group()
def job() -> None:
    """See, follow, cancel and retry jobs."""


@job.command("list")
@click.option("--plugin", help="Only jobs of this plugin.")
@click.option("--action", help="Only jobs of this action.")
@click.option("--state", help="Only jobs in this state: queued, running, succeeded, failed, cancelled, lost.")
@click.option("--on", "host", metavar="HOST", help="Only jobs that worked on this host.")
@click.option("--before", type=int, metavar="NUMBER", help="Only jobs with a smaller number, for the next page.")
@click.option("--limit", type=click.IntRange(1, 1000), default=30, show_default=True, help="How many.")
@frame.json_option
def list_(as_json: bool, **filters: Any) -> None:
    """List jobs, the newest first."""
    from opsdeck.cli.running import job_data
    from opsdeck.jobs.models import State

    if filters["state"] and filters["state"] not in list(State):
        raise Invalid(f"{filters['state']!r} is no state.", field="state", hint=f"one of {', '.join(State)}")
    jobs = frame.with_deck(lambda deck: deck.jobs.list(**filters))
    if as_json:
        frame.print_json([job_data(each) for each in jobs])
        return
    rows = [
        (each.id, each.state, f"{each.plugin}.{each.action}", _hosts(each), each.actor, _time(each.created), each.error)
        for each in jobs
    ]
    frame.print_table(
        ("job", "state", "action", "hosts", "by", "made", "error"), rows, empty="No jobs. Run one: opsdeck plugin run"
    )


@job.command()
@click.argument("number", type=int)
@frame.json_option
def show(number: int, as_json: bool) -> None:
    """Show one job with its steps."""
    from opsdeck.cli.running import job_data, step_data, summary
    from opsdeck.jobs.ledger import StepState

    async def read(deck: Deck) -> tuple[Job, list[StepState], str]:
        found = await deck.jobs.get(number)
        steps = [StepState.of(step) for step in await deck.jobs.steps(number)]
        return found, steps, deck.jobs.trouble(found)

    found, steps, trouble = frame.with_deck(read)
    if as_json:
        data = {"job": job_data(found), "steps": [step_data(step, {}) for step in steps]}
        frame.print_json(data | ({"trouble": trouble} if trouble else {}))
        return
    click.echo(f"{found.plugin}.{found.action} by {found.actor} ({found.door}), made {_time(found.created)}")
    for name, value in found.params.items():
        click.echo(f"  {name}: {value!r}")
    click.echo(summary(found, steps))
    if trouble:
        click.echo(trouble, err=True)


@job.command()
@click.argument("number", type=int)
@click.option("-f", "--follow", "following", is_flag=True, help="Go on until the job is over.")
@click.option("--host", help="Only this host's lane.")
@click.option("--after", type=int, default=0, metavar="LINE", help="Only lines after this number.")
@frame.json_option
def log(number: int, **given: Any) -> None:
    """Print a job's log; with --json one object per line."""
    sys.exit(frame.with_deck(lambda deck: _log(deck, number, **given)))


async def _log(deck: Deck, number: int, *, following: bool, host: str | None, after: int, as_json: bool) -> int:
    import json

    from opsdeck.cli.running import Show, exit_code, interruptible, prefixed
    from opsdeck.jobs.lines import Line

    def put(lines: tuple[Line, ...]) -> None:
        for line in lines:
            if host is not None and line.host != host:
                continue
            if as_json:
                words = {"number": line.number, "at": line.at.isoformat(), "host": line.host}
                click.echo(json.dumps(words | {"stream": line.stream, "text": line.text}, ensure_ascii=False))
            else:
                click.echo(prefixed(line))

    found = await deck.jobs.get(number)
    if not following:
        while lines := await deck.jobs.log(number, after=after, host=host):
            put(lines)
            after = lines[-1].number
        return 0

    async def work() -> Job:
        last = found
        async for update in deck.jobs.follow(number, after):
            put(update.lines)
            last = update.job
            if trouble := deck.jobs.trouble(last):
                click.echo(trouble, err=True)
                break
        return last

    last = await interruptible(deck, frame.actor(), Show(quiet=True), work, ends=False)
    return exit_code(last, await deck.jobs.steps(number))


@job.command()
@click.argument("number", type=int)
@frame.json_option
def cancel(number: int, as_json: bool) -> None:
    """End a job: what it runs on the hosts is ended there."""
    from opsdeck.cli.running import job_data, summary

    async def work(deck: Deck) -> tuple[Job, Any]:
        found = await deck.jobs.cancel(number, frame.actor())
        if found.state == "running":
            click.echo("Asked; waiting until it is over.", err=True)
        if trouble := deck.jobs.trouble(found):
            click.echo(trouble, err=True)
        else:
            found = await deck.jobs.ended(number)
        return found, await deck.jobs.steps(number)

    found, steps = frame.with_deck(work)
    if as_json:
        frame.print_json({"job": job_data(found)})
    else:
        click.echo(summary(found, steps))
    sys.exit(0 if found.state == "cancelled" else 1)


@job.command()
@click.argument("number", type=int)
@click.option("--failed", is_flag=True, help="Only on the hosts where it did not succeed.")
@click.option("--background", is_flag=True, help="Queue it for a server or worker; print its number.")
@click.option("--yes", is_flag=True, help="Consent to a change on many hosts.")
@click.option("--confirm", metavar="TEXT", help="The consent that is asked for: the number of hosts or its name.")
@frame.json_option
def retry(number: int, **given: Any) -> None:
    """Do a job again with the same parameters."""
    code = frame.with_deck(lambda deck: _retry(deck, number, given))
    sys.exit(code)


async def _retry(deck: Deck, number: int, given: dict[str, Any]) -> int:
    from opsdeck.cli.plugin import consented, finished, queued
    from opsdeck.cli.running import Show, interruptible

    old = await deck.jobs.get(number)
    action = deck.plugins.action(old.plugin, old.action)
    actor, show, here = frame.actor(), Show(quiet=given["as_json"]), not given["background"]

    async def make(confirm: str | None) -> Job:
        return await deck.jobs.retry(
            number, actor, failed_only=given["failed"], confirm=confirm, here=here, on_event=show
        )

    async def work() -> Job:
        made: Job = await consented(make, action, given)
        return made

    if not here:
        await queued(deck, await work(), given["as_json"])
        return 0
    with show.shown():
        found = await interruptible(deck, actor, show, work)
    return finished(deck, show, found, given["as_json"])


@job.command()
@frame.json_option
def recover(as_json: bool) -> None:
    """Take up or close, here and now, the jobs whose node is gone."""
    count = frame.with_deck(lambda deck: deck.jobs.recover())
    if as_json:
        frame.print_json({"recovered": count})
    else:
        click.echo(f"{count} jobs were taken up or closed.")


@click.group()
def lease() -> None:
    """Who holds what, and taking it away."""


@lease.command("list")
@frame.json_option
def list_leases(as_json: bool) -> None:
    """List what is held now."""
    held = frame.with_deck(lambda deck: deck.leases.list())
    if as_json:
        frame.print_json([each.model_dump() for each in held])
        return
    rows = [(each.name, each.holder, each.node, each.purpose, _time(each.acquired)) for each in held]
    frame.print_table(("lease", "holder", "node", "for", "since"), rows, empty="Nothing is held.")


@lease.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@frame.json_option
def steal(name: str, yes: bool, as_json: bool) -> None:
    """Take a lease away from its holder, who stops at its next beat (5 s)."""
    frame.confirmed(f"Take {name} away from its holder?", yes)
    before = frame.with_deck(lambda deck: deck.leases.steal(name, frame.actor()))
    if as_json:
        frame.print_json({"taken_from": before.model_dump()})
    else:
        click.echo(f"{name} was taken from {before.holder} on {before.node}.")


@click.group()
def incident() -> None:
    """What is wrong now."""


@incident.command("list")
@click.option("--all", "everything", is_flag=True, help="Also those that are over.")
@frame.json_option
def list_incidents(everything: bool, as_json: bool) -> None:
    """List incidents, the newest first."""

    async def read(deck: Deck) -> Any:
        return await (deck.incidents.list() if everything else deck.incidents.open_now())

    found = frame.with_deck(read)
    if as_json:
        frame.print_json([each.model_dump() for each in found])
        return
    rows = [(each.severity, each.title, each.host, _time(each.opened), _time(each.closed)) for each in found]
    frame.print_table(("severity", "what", "host", "since", "until"), rows, empty="Nothing is wrong.")


def _hosts(job: Job) -> str:
    return ", ".join(job.hosts[:3]) + (f" +{len(job.hosts) - 3}" if len(job.hosts) > 3 else "")


def _time(at: Any) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S UTC") if at else ""
