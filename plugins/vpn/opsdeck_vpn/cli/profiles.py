"""The rule list, devices, what they are served, other proxies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from opsdeck.api import Sensitive, frame
from opsdeck_vpn.cli.group import text_of as text_of_file
from opsdeck_vpn.cli.group import vpn

if TYPE_CHECKING:
    from opsdeck.api import Deck


@vpn.group()
def rules() -> None:
    """The rule list: one rule a line, the first that fits wins."""


@rules.command("show")
def rules_show() -> None:
    """Print the list as it is written."""
    from opsdeck_vpn import book
    from opsdeck_vpn.rules import text_of

    click.echo(text_of(frame.with_deck(book.rules)), nl=False)


@rules.command("set")
@click.argument("file", type=click.Path())
def rules_set(file: str) -> None:
    """Replace the list by a file (- is standard input), once both cores accepted it."""
    from opsdeck_vpn import book

    text = text_of_file(file)
    done = frame.with_deck(lambda deck: book.set_rules(deck, text, frame.actor()))
    click.echo(f"{len(done)} rules", err=True)


@rules.command("pushed")
@click.argument("name")
def rules_pushed(name: str) -> None:
    """Put what an office pushed (networks, names, name servers) before the list."""
    from opsdeck_vpn import book

    done = frame.with_deck(lambda deck: book.take_over(deck, name, frame.actor()))
    click.echo(f"{len(done)} rules", err=True)


@vpn.group()
def device() -> None:
    """Devices, and the profiles they fetch."""


@device.command("add")
@click.argument("name")
def device_add(name: str) -> None:
    """Make a device; print the addresses of its profiles, once."""
    from opsdeck_vpn import book
    from opsdeck_vpn.cores import Core

    async def work(deck: Deck) -> tuple[str, Sensitive]:
        return deck.settings.public_url, await book.add_device(deck, name, frame.actor())

    base, token = frame.with_deck(work)
    for core in Core:
        click.echo(f"{core.value:<9} {base.rstrip('/') or 'CONSOLE'}/p/vpn/profile/{token.reveal()}/{core.file}")
    click.echo("Keep them like a password: they are not shown again.", err=True)
    if not base:
        hint = "CONSOLE is the address of `opsdeck serve`; with OPSDECK_PUBLIC_URL set it is written out."
        click.echo(hint, err=True)


@device.command("list")
@frame.json_option
def device_list(as_json: bool) -> None:
    """List the devices and what they fetched last."""
    from opsdeck_vpn import book

    found = frame.with_deck(book.devices)
    if as_json:
        frame.print_json(
            [
                {"name": row.name, "created": row.created, "revoked": row.revoked, "last": last and last.model_dump()}
                for row, last in found
            ]
        )
        return
    table = [
        (
            row.name,
            "revoked" if row.revoked else "counts",
            frame.short(last.at) if last else "never",
            last.core if last else "",
            last.source if last else "",
        )
        for row, last in found
    ]
    frame.print_table(
        ("device", "token", "fetched", "core", "from"), table, empty="No device yet: opsdeck vpn device add"
    )


@device.command("revoke")
@click.argument("name")
def device_revoke(name: str) -> None:
    """End a device's token at once."""
    from opsdeck_vpn import book

    frame.with_deck(lambda deck: book.revoke(deck, name, frame.actor()))


@device.command("remove")
@click.argument("name")
def device_remove(name: str) -> None:
    """Remove a revoked device and what is known of its fetches."""
    from opsdeck_vpn import book

    frame.with_deck(lambda deck: book.forget(deck, name, frame.actor()))


@device.command("fetches")
@click.argument("name", default="")
@frame.json_option
def device_fetches(name: str, as_json: bool) -> None:
    """Show who fetched which profile when, the newest first."""
    from opsdeck_vpn import book

    found = frame.with_deck(lambda deck: book.fetches(deck, name))
    if as_json:
        frame.print_json([row.model_dump() for row in found])
        return
    table = [(frame.short(row.at), row.device, row.core, row.status, row.source, row.agent) for row in found]
    frame.print_table(("when", "device", "core", "status", "from", "program"), table, empty="Nothing was fetched yet.")


@vpn.command()
@click.argument("core", type=click.Choice(["mihomo", "sing-box"]))
def profile(core: str) -> None:
    """Print the profile that devices are served, once the core accepted it."""
    from opsdeck_vpn import book
    from opsdeck_vpn.cores import Core

    served = frame.with_deck(lambda deck: book.profile(deck, Core(core), frame.actor(), "shown on the command line"))
    click.echo(served.text, nl=False)
    if served.stale:
        click.echo(f"This is the last good one: {served.stale}", err=True)


@vpn.group()
def proxy() -> None:
    """Other proxies that rules may name as proxy:NAME."""


@proxy.command("add")
@click.argument("name")
@click.argument("kind", type=click.Choice(["socks5", "http"]))
@click.argument("server")
@click.argument("port", type=click.IntRange(1, 65535))
@click.option("--user", default="")
@click.option("--password-secret", default="", help="Name of the secret with its password.")
def proxy_add(name: str, kind: str, server: str, port: int, user: str, password_secret: str) -> None:
    """Add a proxy."""
    from opsdeck_vpn import book
    from opsdeck_vpn.models import Proxy

    row = Proxy(name=name, kind=kind, server=server, port=port, username=user, password_secret=password_secret)
    frame.with_deck(lambda deck: book.add_proxy(deck, row, frame.actor()))


@proxy.command("list")
def proxy_list() -> None:
    """List the proxies."""
    from opsdeck_vpn import book

    table = [(row.name, row.kind, row.server, row.port) for row in frame.with_deck(book.proxies)]
    frame.print_table(("proxy", "kind", "server", "port"), table, empty="No other proxy is there.")


@proxy.command("remove")
@click.argument("name")
def proxy_remove(name: str) -> None:
    """Remove a proxy that no rule names."""
    from opsdeck_vpn import book

    frame.with_deck(lambda deck: book.remove_proxy(deck, name, frame.actor()))
