"""`opsdeck host approve-key` and `known-hosts`: which keys are trusted."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from opsdeck.cli import frame
from opsdeck.cli.options import complete_hosts
from opsdeck.errors import Invalid, NotFound, OpsDeckError, Refused

if TYPE_CHECKING:
    from opsdeck.deck import Deck
    from opsdeck.inventory.hostkeys import Contact


def read_key(text: str) -> str:
    """Give a public key that was given itself or as a file's name. Raises `NotFound` for a file that is not there."""
    if text.split(" ", maxsplit=1)[0].startswith(("ssh-", "ecdsa-")):
        return text
    try:
        return Path(text).expanduser().read_text()
    except (OSError, UnicodeDecodeError) as fault:
        why = getattr(fault, "strerror", None) or "it is no text"
        raise NotFound(f"{text} cannot be read: {why}.", field="host_key", hint="give the key, or its file") from fault


async def first_contact(deck: Deck, name: str, *, approve: bool, quiet: bool) -> dict[str, Any]:
    """Ask a new host for its keys and a person whether to trust them; that it cannot be reached is no error here."""
    try:
        contact = await deck.host_keys.contact(name, frame.actor())
    except OpsDeckError as fault:
        if not quiet:
            click.echo(f"It showed no key yet: {fault.message}", err=True)
            click.echo(f"Next: when it can be reached, `opsdeck host approve-key {name}`", err=True)
        return {"trusted": False, "error": fault.as_dict()}
    trusted = await decide(deck, contact, approve=approve, quiet=quiet)
    return contact_data(contact) | {"trusted": trusted}


async def decide(deck: Deck, contact: Contact, *, approve: bool, quiet: bool) -> bool:
    """Show what a host offers and pin it if a person says so; tell whether it is trusted now."""
    from opsdeck.inventory.hostkeys import ALL, Trust

    if not contact.offered:
        return True
    if not quiet:
        if contact.trust is Trust.CHANGED:
            click.echo(f"{contact.host} shows ANOTHER host key than the one that is trusted.", err=True)
            for key in contact.pinned:
                click.echo(f"  trusted: {key.algorithm} {key.fingerprint}", err=True)
        for key in contact.offered:
            click.echo(f"  it shows: {key.algorithm} {key.fingerprint}", err=True)
    if not approve:
        if quiet or not sys.stdin.isatty():
            if not quiet:
                click.echo(f"Next: compare, then `opsdeck host approve-key {contact.host} FINGERPRINT`", err=True)
            return False
        question = "Is this the fingerprint on the host's own console? Trust it"
        if not click.confirm(question, default=False, err=True):
            click.echo("Not trusted; nothing is sent to it until you approve a key.", err=True)
            return False
    await deck.host_keys.approve(contact.host, ALL, frame.actor())
    if not quiet:
        click.echo(f"Trusted {len(contact.offered)} key(s) of {contact.host}.")
    return True


def contact_data(contact: Contact) -> dict[str, Any]:
    """Give a contact as JSON-ready data."""
    return {
        "host": contact.host,
        "trust": contact.trust,
        "offered": [{"algorithm": key.algorithm, "fingerprint": key.fingerprint} for key in contact.offered],
        "pinned": [{"algorithm": key.algorithm, "fingerprint": key.fingerprint} for key in contact.pinned],
    }


@click.command("approve-key")
@click.argument("name", shell_complete=complete_hosts)
@click.argument("fingerprint", required=False)
@click.option("--all", "every", is_flag=True, help="Trust every key that it shows now, without asking.")
@frame.json_option
def approve_key(name: str, fingerprint: str | None, every: bool, as_json: bool) -> None:
    """Trust a key that a host shows: the one with FINGERPRINT, or after asking."""
    if fingerprint and every:
        raise Invalid("give a fingerprint or --all, not both.", field="fingerprint", hint="leave one of them out")

    async def work(deck: Deck) -> None:
        host = await deck.inventory.get(name)
        if fingerprint:
            pinned = await deck.host_keys.approve(host.name, fingerprint, frame.actor())
            if as_json:
                keys = [{"algorithm": key.algorithm, "fingerprint": key.fingerprint} for key in pinned]
                frame.print_json({"host": host.name, "trusted": True, "pinned": keys})
            else:
                click.echo(f"Trusted {fingerprint} of {host.name}.")
            return
        contact = await deck.host_keys.contact(host.name, frame.actor())
        if not contact.offered and not as_json:
            click.echo(f"{host.name} shows the key that is trusted already.")
        trusted = await decide(deck, contact, approve=every, quiet=as_json)
        if as_json:
            frame.print_json(contact_data(contact) | {"trusted": trusted})
        if not trusted:
            raise Refused(
                "its key is not trusted.",
                host=host.name,
                hint=f"`opsdeck host approve-key {host.name} FINGERPRINT` with the one that you compared",
            )

    frame.with_deck(work)


@click.command("known-hosts")
@click.argument("selector", nargs=-1, shell_complete=complete_hosts)
@click.option("--import", "source", metavar="FILE", help="Trust the keys that this known_hosts file has for the hosts.")
@click.option("--replace", is_flag=True, help="With --import: also where another key is trusted now.")
@frame.json_option
def known_hosts(selector: tuple[str, ...], source: str | None, replace: bool, as_json: bool) -> None:
    """Print the trusted keys as known_hosts lines, or take them from such a file."""
    wanted = ",".join(selector) or "all"

    async def work(deck: Deck) -> None:
        if source is None:
            text = await deck.host_keys.export(wanted)
            if as_json:
                frame.print_json({"known_hosts": text})
            else:
                click.echo(text, nl=False)
            return
        seeded = await deck.host_keys.seed(text_of(source), frame.actor(), wanted, replace=replace)
        if as_json:
            frame.print_json(
                {
                    "pinned": seeded.pinned,
                    "without": seeded.without,
                    "differ": seeded.differ,
                    "skipped": [{"line": item.line, "reason": item.reason} for item in seeded.skipped],
                }
            )
        else:
            click.echo(f"Trusted keys of {len(seeded.pinned)} hosts: {', '.join(seeded.pinned) or 'none'}.")
            for item in seeded.skipped:
                click.echo(f"line {item.line}: left out, {item.reason}", err=True)
            if seeded.without:
                click.echo(f"Not in the file: {', '.join(seeded.without)}.", err=True)
        if seeded.differ:
            raise Refused(
                f"another key is trusted already for {', '.join(seeded.differ)}; left as it is.",
                hint="find out which is right; --replace takes the file's",
            )

    frame.with_deck(work)


def text_of(source: str) -> str:
    """Read a file, as text whatever its bytes. Raises `NotFound`."""
    try:
        return Path(source).expanduser().read_text("utf-8", "replace")
    except OSError as fault:
        raise NotFound(f"{source} cannot be read: {fault.strerror}.", file=source, hint="check the path") from fault
