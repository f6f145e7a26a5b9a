"""`opsdeck host import`: hosts out of files that people have already."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from opsdeck.cli import frame
from opsdeck.errors import Invalid

if TYPE_CHECKING:
    from opsdeck.deck import Deck
    from opsdeck.inventory.importing.plan import ImportPlan

FORMATS = ("auto", "ssh-config", "ansible-ini", "ansible-yaml", "csv", "yaml")


@click.command("import")
@click.argument("file", type=click.Path())
@click.option("--format", "kind", type=click.Choice(FORMATS), default="auto", show_default=True, help="What FILE is.")
@click.option("--dry-run", is_flag=True, help="Only show what would happen.")
@click.option("--with-keys", is_flag=True, help="Store the private keys that FILE names as secrets.")
@frame.json_option
def import_(file: str, kind: str, dry_run: bool, with_keys: bool, as_json: bool) -> None:
    """Add and change hosts as FILE says: an ssh config, an Ansible inventory, CSV or YAML. All of it or nothing."""
    from opsdeck.inventory.importing.formats import Format, load
    from opsdeck.inventory.importing.plan import apply, plan

    found, parsed = load(Path(file).expanduser(), Format(kind))

    async def work(deck: Deck) -> None:
        hosts = await deck.inventory.list()
        planned = plan(parsed, hosts, with_keys=with_keys, known=await deck.secrets.names())
        done = not dry_run and not planned.serious
        if done:
            await apply(planned, deck.inventory, deck.secrets, frame.actor())
        if as_json:
            frame.print_json({"format": found, "applied": done, **plan_data(planned)})
        else:
            show(planned, found, done=done)
        if planned.serious:
            raise Invalid(
                f"{len(planned.serious)} lines of {file} cannot be imported, so nothing was.",
                file=file,
                hint="correct these lines; --dry-run shows what would happen",
            )

    frame.with_deck(work)


def show(planned: ImportPlan, found: str, *, done: bool) -> None:
    """Print what is or would be done, with the lines it comes from."""
    verb = ("Added", "Changed") if done else ("Would add", "Would change")
    for line, form in planned.added:
        jump = f" through {form.jump}" if form.jump else ""
        click.echo(f"{verb[0]} {form.name}: {form.user}@{form.address}:{form.port}{jump} (line {line})")
    for edit in planned.changed:
        parts = ", ".join(f"{name} {edit.before[name]!r} → {edit.after[name]!r}" for name in edit.after)
        click.echo(f"{verb[1]} {edit.name}: {parts} (line {edit.line})")
    for name, file in planned.keys.items():
        click.echo(f"{'Stored' if done else 'Would store'} the key {file} as the secret {name}")
    for problem in planned.problems:
        click.echo(f"{'Wrong' if problem.serious else 'Note'}: {problem}", err=True)
    counts = f"{len(planned.added)} new, {len(planned.changed)} changed, {len(planned.same)} as they are"
    click.echo(f"Read as {found}: {counts}." + ("" if done else " Nothing was changed."), err=True)


def plan_data(planned: ImportPlan) -> dict[str, Any]:
    """Give a plan as JSON-ready data."""
    return {
        "added": [{"line": line, **form.model_dump()} for line, form in planned.added],
        "changed": [
            {"line": edit.line, "name": edit.name, "before": edit.before, "after": edit.after}
            for edit in planned.changed
        ],
        "same": planned.same,
        "keys": planned.keys,
        "problems": [
            {"line": item.line, "file": item.file, "text": item.text, "serious": item.serious}
            for item in planned.problems
        ],
    }
