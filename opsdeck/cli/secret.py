"""`opsdeck secret`: sealed values. A value comes from a pipe, a file or a prompt, never from an argument."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from opsdeck.cli import frame
from opsdeck.cli.frame import json_option, print_json, print_table, with_deck
from opsdeck.errors import Invalid

if TYPE_CHECKING:
    from opsdeck.deck import Deck


@click.group()
def secret() -> None:
    """Sealed values: passwords, keys, tokens."""


@secret.command("set")
@click.argument("name")
@click.option("--kind", default="text", show_default=True, help="text, password, token, ssh-key, ssh-certificate, …")
@click.option("--note", default=None, help="What it is for.")
@click.option("--file", metavar="PATH", default=None, help="Read the value from a file; - is standard input.")
@click.option("--generate", type=click.Choice(["ssh-key", "password"]), default=None, help="Make the value.")
@json_option
def set_(*, name: str, kind: str, note: str | None, file: str | None, generate: str | None, as_json: bool) -> None:
    """Set a secret. The value comes from standard input, --file, or a prompt.

    --generate ssh-key makes a key and prints its public line, for ~/.ssh/authorized_keys on the hosts.
    """

    async def work(deck: Deck) -> dict[str, object]:
        from opsdeck.accounts.passwords import make_password
        from opsdeck.secrets.store import check_name

        check_name(name)
        if generate == "ssh-key":
            public = await deck.secrets.generate_ssh_key(name, note=note, actor=frame.actor())
            return {"name": name, "version": 1, "public": public}
        value = make_password() if generate else frame.read_value(file, f"Value of {name}")
        chosen = "password" if generate and kind == "text" else kind
        version = await deck.secrets.set(name, value, kind=chosen, note=note, actor=frame.actor())
        return {"name": name, "version": version}

    if generate and file:
        raise Invalid("--generate makes the value: --file has no place.", field="file", hint="give one of the two")
    done = with_deck(work)
    if as_json:
        print_json(done)
    elif "public" in done:
        click.echo(done["public"])
    else:
        click.echo(f"{name} is set, version {done['version']}", err=True)


@secret.command("list")
@click.option("--kind", default=None, help="Only this kind.")
@json_option
def list_(kind: str | None, as_json: bool) -> None:
    """List secrets without their values."""

    async def work(deck: Deck) -> list[dict[str, object]]:
        return [asdict(info) for info in await deck.secrets.list() if kind in (None, info.kind)]

    rows = with_deck(work)
    if as_json:
        print_json(rows)
        return
    print_table(
        ("name", "kind", "version", "updated", "by", "last used", "note"),
        [
            (
                row["name"],
                row["kind"],
                row["version"],
                frame.short(row["updated"]),
                row["updated_by"],
                frame.short(row["last_used"]),
                row["note"],
            )
            for row in rows
        ],
        empty="No secrets yet. Next: opsdeck secret set NAME",
    )


@secret.command()
@click.argument("name")
@click.option("--reveal", is_flag=True, help="Print the value itself; written to the audit trail.")
@click.option("--yes", is_flag=True, help="Do not ask before showing it.")
@json_option
def show(name: str, reveal: bool, yes: bool, as_json: bool) -> None:
    """Show what is known of a secret, and what uses it; the value only with --reveal."""
    if reveal:
        frame.confirmed(f"Print the value of {name} here?", yes)

    async def work(deck: Deck) -> dict[str, object]:
        found = asdict(await deck.secrets.show(name)) | {"used_by": await deck.secrets.used_by(name)}
        if reveal:
            found["value"] = (await deck.secrets.disclose(name, actor=frame.actor())).reveal()
        return found

    found = with_deck(work)
    if as_json:
        print_json(found)
    elif reveal:
        click.echo(found["value"])
    else:
        frame.print_facts(found)


@secret.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
def rm(name: str, yes: bool) -> None:
    """Remove a secret that nothing uses."""
    frame.confirmed(f"Remove the secret {name}?", yes)
    with_deck(lambda deck: deck.secrets.remove(name, frame.actor()))
    click.echo(f"{name} is removed", err=True)


@secret.command()
@click.option("--master", is_flag=True, help="Replace the master key instead of the data key.")
@click.option("--prune", is_flag=True, help="Also remove retired data keys that seal nothing.")
@json_option
def rotate(master: bool, prune: bool, as_json: bool) -> None:
    """Renew keys: seal every value anew under a fresh data key, or replace the master key (--master).

    The old master key stays beside the new one as master.key.old: backups from before need it.
    """

    async def work(deck: Deck) -> dict[str, object]:
        from opsdeck.secrets.rotation import Rotation

        rotation = Rotation(deck.db, deck.keyring, deck.audit)
        done: dict[str, object] = {}
        if master:
            done["master_key"] = await rotation.master(frame.actor())
        else:
            done["values_sealed_anew"] = await rotation.data_key(frame.actor())
        if prune:
            done["data_keys_removed"] = await rotation.prune(frame.actor())
        return done

    done = with_deck(work)
    if as_json:
        print_json(done)
        return
    frame.print_facts(done)
    if master:
        click.echo(f"Keep a copy of the new {frame.settings().key_file} away from this machine.", err=True)


@secret.command()
@json_option
def check(as_json: bool) -> None:
    """Open every sealed value, and say which old keys are no longer needed. Exit status 1 when one does not open."""

    async def work(deck: Deck) -> dict[str, object]:
        from opsdeck.secrets.rotation import Rotation

        return asdict(await Rotation(deck.db, deck.keyring, deck.audit).check())

    report = with_deck(work)
    broken = report["broken"]
    assert isinstance(broken, tuple)  # noqa: S101 - it is the report's field
    if as_json:
        print_json(report)
    else:
        click.echo(f"{report['opened']} sealed values open, {len(broken)} do not")
        for sentence in broken:
            click.echo(f"broken  {sentence}")
        if report["removable_keys"]:
            click.echo("Retired data keys seal nothing any more. Next: opsdeck secret rotate --prune")
        if report["old_master"]:
            click.echo(f"{report['old_master']} is needed only for backups from before its replacement.")
    if broken:
        raise SystemExit(1)
