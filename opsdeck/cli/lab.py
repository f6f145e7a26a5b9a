"""`opsdeck lab`: real hosts on this machine, for tests and for play."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from opsdeck.cli.frame import json_option, print_json, print_table

if TYPE_CHECKING:
    from opsdeck.lab.fleet import Fleet

name_option = click.option("--name", default="dev", show_default=True, help="Which fleet; fleets never meet.")


@click.group()
def lab() -> None:
    """Real Debian hosts on this machine: systemd, sshd and a network of their own each. Needs root."""


@lab.command()
@name_option
@click.option("--hosts", "count", type=click.IntRange(1, 200), default=3, show_default=True, help="How many hosts.")
@click.option("--package", "packages", multiple=True, metavar="PACKAGE", help="A Debian package that each host has.")
@click.option("--disk-mb", type=click.IntRange(16), help="Give each host a small disk of its own, in MiB.")
@click.option("--tun", is_flag=True, help="Let the hosts make tunnels and network namespaces.")
@json_option
def up(*, name: str, count: int, packages: tuple[str, ...], disk_mb: int | None, tun: bool, as_json: bool) -> None:
    """Bring a fleet up; hosts that are there stay as they are.

    The first time an image is made, which takes a few minutes; after that a host is up in a second or two.
    """
    from opsdeck.lab.fleet import Fleet, HostSpec

    fleet = Fleet(name)
    fleet.up([HostSpec(f"{name}{number}", packages, disk_mb, tun) for number in range(1, count + 1)])
    _show([fleet], as_json)
    if not as_json:
        click.echo(f"Keys and addresses: {fleet.inventory_file}", err=True)


@lab.command()
@click.option("--name", default="dev", show_default=True, help="Which fleet to remove.")
@click.option("--all", "everything", is_flag=True, help="Remove every fleet.")
@json_option
def down(name: str, everything: bool, as_json: bool) -> None:
    """Remove a fleet without a trace, also one that a crash left half up. The images stay."""
    from opsdeck.lab.fleet import Fleet, fleets, require

    require()
    names = fleets() if everything else [name]
    for one in names:
        Fleet(one).down()
    if as_json:
        print_json({"removed": names})
    else:
        click.echo(f"Removed: {', '.join(names) or 'nothing, no fleet is up'}")


@lab.command()
@click.option("--name", help="Only this fleet.")
@json_option
def status(name: str | None, as_json: bool) -> None:
    """Show the fleets and their hosts, and whether this machine can carry them."""
    from opsdeck.lab.fleet import Fleet, fleets, missing

    if not as_json and (reasons := missing()):
        click.echo(f"Real lab hosts cannot run here: {'; '.join(reasons)}.", err=True)
    _show([Fleet(one) for one in ([name] if name else fleets())], as_json)


def _show(fleets: list[Fleet], as_json: bool) -> None:
    from opsdeck.lab.fleet import missing

    rows = [(fleet, host) for fleet in fleets for host in fleet.status()]
    if as_json:
        found = [{"fleet": fleet.name} | asdict(host) | {"user": "root"} for fleet, host in rows]
        print_json({"missing": list(missing()), "hosts": found})
        return
    print_table(
        ["fleet", "host", "address", "port", "state", "packages"],
        [(fleet.name, host.name, host.address, host.port, host.state, " ".join(host.packages)) for fleet, host in rows],
        empty="No fleet is up. Next: opsdeck lab up",
    )
