"""`opsdeck host check` and `facts`: what the hosts say of themselves, through the same jobs as every action."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from opsdeck.cli import frame
from opsdeck.cli.options import complete_hosts

if TYPE_CHECKING:
    from opsdeck.deck import Deck
    from opsdeck.inventory.facts.book import FactChange
    from opsdeck.inventory.models import FactSet

_CONSENT: dict[str, Any] = {"confirm": None, "yes": False}


@click.command()
@click.argument("selector", nargs=-1, shell_complete=complete_hosts)
@click.option("--disk", type=int, default=90, show_default=True, help="A fuller file system is told, percent.")
@frame.json_option
def check(selector: tuple[str, ...], disk: int, as_json: bool) -> None:
    """Reach hosts, log in, become root where that is set up, look at clock, disks and units. All when none is named."""
    from opsdeck.cli.plugin import run_here
    from opsdeck.jobs.jobs import Submission

    submission = Submission("core", "check", {"disk": disk}, ",".join(selector) or "all")
    action = frame.plugins().action("core", "check")
    given = {**_CONSENT, "as_json": as_json}
    sys.exit(frame.with_deck(lambda deck: run_here(deck, submission, action, given)))


@click.command()
@click.argument("selector", nargs=-1, shell_complete=complete_hosts)
@click.option("--last", is_flag=True, help="Show what is known and ask no host.")
@click.option("--diff", metavar="SINCE", help="What changed since: 2026-11-20, 3d, yesterday, tuesday. Asks no host.")
@click.option("--until", metavar="TIME", help="With --diff: up to then; now unless said.")
@frame.json_option
def facts(selector: tuple[str, ...], last: bool, diff: str | None, until: str | None, as_json: bool) -> None:
    """Read the facts of hosts and show them; or show what changed. All hosts when none is named."""
    wanted = ",".join(selector) or "all"
    if diff is not None:
        frame.with_deck(lambda deck: _diff(deck, wanted, diff, until, as_json))
    else:
        sys.exit(frame.with_deck(lambda deck: _facts(deck, wanted, last, as_json)))


async def _facts(deck: Deck, wanted: str, last: bool, as_json: bool) -> int:
    hosts = await deck.inventory.select(wanted)
    code, job = (0, None) if last else await _gather(deck, wanted, as_json)
    pages = await deck.facts.latest_of([host.name for host in hosts])
    if as_json:
        found = {name: _page(page) for name, page in sorted(pages.items())}
        frame.print_json({"job": job, "hosts": found})
        return code
    for host in hosts:
        page = pages.get(host.name)
        click.echo(f"{host.name}" + (f", as of {frame.short(page.confirmed)} UTC" if page else ""))
        if page is None:
            click.echo("  no facts were read yet")
        else:
            for title, value in titled(page):
                click.echo(f"  {title:<26} {value}")
    return code


async def _gather(deck: Deck, wanted: str, as_json: bool) -> tuple[int, dict[str, Any] | None]:
    from opsdeck.cli.running import Show, exit_code, interruptible, summary
    from opsdeck.jobs.jobs import Submission

    show, actor = Show(quiet=True), frame.actor()
    job = await interruptible(
        deck, actor, show, lambda: deck.jobs.run(Submission("core", "facts", {}, wanted), actor, show)
    )
    steps = list(show.steps.values())
    code = exit_code(job, steps)
    if code and not as_json:
        click.echo(summary(job, steps), err=True)
    return code, show.result(job)


async def _diff(deck: Deck, wanted: str, diff: str, until: str | None, as_json: bool) -> None:
    from opsdeck.clock import utcnow
    from opsdeck.inventory.facts.since import since

    now = utcnow()
    begin, end = since(diff, now), since(until, now) if until else None
    hosts = await deck.inventory.select(wanted)
    changes = {host.name: await deck.facts.changes(host.name, begin, end) for host in hosts}
    if as_json:
        frame.print_json(
            {
                "since": begin,
                "until": end or now,
                "hosts": {name: [_change(item) for item in items] for name, items in changes.items()},
            }
        )
        return
    for name, items in changes.items():
        click.echo(f"{name}: {'nothing changed' if not items else f'{len(items)} changed'}")
        for item in items:
            for phrase in item.phrases:
                click.echo(f"  {item.title}: {phrase}")


def titled(page: FactSet) -> list[tuple[str, str]]:
    """Give the facts of a page in the catalogue's order, for people."""
    from opsdeck.inventory.facts.catalogue import BY_NAME

    order = {name: place for place, name in enumerate(BY_NAME)}
    names = sorted(page.facts, key=lambda name: (order.get(name, len(order)), name))
    return [(BY_NAME[name].title if name in BY_NAME else name, _shown(name, page.facts[name])) for name in names]


def _shown(name: str, value: Any) -> str:
    from datetime import UTC, datetime

    from opsdeck.inventory.facts.catalogue import BY_NAME

    unit = BY_NAME[name].unit if name in BY_NAME else ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        more = f" and {len(value) - 6} more" if len(value) > 6 else ""
        return ", ".join(str(item) for item in value[:6]) + more or "none"
    if unit == "B":
        return f"{value / 2**30:.1f} GiB"
    if unit == "epoch":
        return f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M} UTC"
    return f"{value} {unit}".strip()


def _page(page: FactSet) -> dict[str, Any]:
    return {"taken": page.taken, "confirmed": page.confirmed, "facts": page.facts}


def _change(change: FactChange) -> dict[str, Any]:
    return {"fact": change.name, "before": change.before, "after": change.after}
