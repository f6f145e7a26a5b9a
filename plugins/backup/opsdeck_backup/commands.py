"""`opsdeck backup`: looking at targets and backups, and making keys. What changes things is an action."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from opsdeck.api import Conflict, NotFound, frame

if TYPE_CHECKING:
    from opsdeck.api import Deck


@click.group()
def backup() -> None:
    """Backups: targets, what there is, keys. To run one: opsdeck plugin run backup run --target NAME."""


@backup.command("targets")
@frame.json_option
def targets_(as_json: bool) -> None:
    """List the targets with their newest backup and how they stand."""

    async def work(deck: Deck) -> list[dict[str, object]]:
        from opsdeck_backup import health

        return [
            {
                "target": one.row.name,
                "host": one.row.host,
                "state": one.state,
                "newest": one.since.isoformat() if one.since else None,
                "backups": one.count,
                "stored": one.stored,
                "restores_in_seconds": one.rto,
                "wrong": str(one.wrong),
            }
            for one in await health.standings(deck)
        ]

    rows = frame.with_deck(work)
    if as_json:
        frame.print_json(rows)
    else:
        columns = ("target", "host", "state", "newest", "backups", "stored", "wrong")
        frame.print_table(columns, [[row[name] for name in columns] for row in rows], empty="There is no target yet.")


@backup.command("list")
@click.argument("target")
@frame.json_option
def list_(target: str, as_json: bool) -> None:
    """List the backups of a target, the newest first."""

    async def work(deck: Deck) -> list[dict[str, object]]:
        from opsdeck_backup import catalogue

        await catalogue.find(deck, target)
        return [item.model_dump(mode="json", exclude={"manifest"}) for item in await catalogue.items(deck, target)]

    rows = frame.with_deck(work)
    if as_json:
        frame.print_json(rows)
    else:
        columns = ("id", "kind", "state", "stored", "from_lsn", "to_lsn", "reason", "error")
        frame.print_table(columns, [[row[name] for name in columns] for row in rows], empty="There is no backup yet.")


@backup.command()
@click.argument("name")
@frame.json_option
def key(name: str, as_json: bool) -> None:
    """Make an age key, keep it as the secret NAME, and print it once, for a place that survives this console."""

    async def work(deck: Deck) -> dict[str, str]:
        from opsdeck_backup import keys

        try:
            await deck.secrets.show(name)
        except NotFound:
            pass
        else:
            raise Conflict(f"there is a secret {name!r} already.", field="name", hint="choose another name")
        identity, public = keys.new_identity()
        await deck.secrets.set(name, identity, kind="age-identity", note="opens backups", actor=frame.actor())
        return {"name": name, "recipient": public, "identity": identity.reveal()}

    made = frame.with_deck(work)
    if as_json:
        frame.print_json(made)
    else:
        click.echo(made["identity"], nl=False)
        click.echo("Keep a copy of these lines in a safe place: without them no backup opens.", err=True)


@backup.command()
@click.argument("target")
@click.option("--image", default="", help="The sidecar's image, once it is built.")
@click.option("--containerfile", is_flag=True, help="Print what the image is built from instead.")
def sidecar(target: str, image: str, containerfile: bool) -> None:
    """Print what a target in Kubernetes hands to its chart or operator: the sidecar beside the server."""

    async def work(deck: Deck) -> str:
        from opsdeck_backup import catalogue
        from opsdeck_backup.kube import handed

        row = await catalogue.find(deck, target)
        if containerfile:
            return handed.containerfile(row)
        return handed.values(row, image or handed.image(row, await catalogue.items(deck, target)))

    click.echo(frame.with_deck(work), nl=False)
