"""`opsdeck demo`: a working console with hosts to play with, on this machine only."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from opsdeck.actor import SYSTEM, Role
from opsdeck.clock import utcnow
from opsdeck.errors import Unavailable
from opsdeck.secrets.sensitive import Sensitive

if TYPE_CHECKING:
    from opsdeck.deck import Deck
    from opsdeck.lab.fleet import Fleet
    from opsdeck.plugins import Plugins
    from opsdeck.settings import Settings

CREDENTIAL = "demo-key"
LINK_HOURS = 12
LAB = "demo"


@dataclass(frozen=True)
class Place:
    """A host's name, place and terms; `renews_in` is in days from today."""

    name: str
    region: str
    latitude: float
    longitude: float
    role: str
    quota: str
    price: float
    currency: str
    renews_in: int


PLACES = (
    Place("tyo-edge-1", "Tokyo", 35.68, 139.69, "edge", "1TB", 4.90, "EUR", 23),
    Place("lax-edge-1", "Los Angeles", 34.05, -118.24, "edge", "3TB", 3.50, "USD", 58),
    Place("fra-edge-2", "Frankfurt", 50.11, 8.68, "edge", "2TB", 4.15, "EUR", 91),
    Place("sin-db-1", "Singapore", 1.35, 103.82, "db", "1TB", 6.00, "USD", 34),
    Place("nue-origin", "Nuremberg", 49.45, 11.08, "origin", "20TB", 5.39, "EUR", 140),
)
"""Names, places and terms of the demo's hosts; everything else about them is read from the real thing."""


@dataclass(frozen=True)
class PlayedHost:
    """A host of the demo as the inventory needs it."""

    name: str
    address: str
    port: int
    user: str
    host_key: str
    sudo: str


@click.command()
@click.option("--lab", is_flag=True, help="Real Debian hosts with systemd instead; needs root.")
@click.option("--hosts", type=click.IntRange(3, len(PLACES)), default=len(PLACES), show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8600, show_default=True, help="0 takes a free one.")
def demo(lab: bool, hosts: int, port: int) -> None:
    """Start a console with hosts to play with.

    Everything is made in a temporary folder and is gone when it ends (Ctrl-C). The hosts are real SSH servers on this
    machine; a command that is run on them runs as you.
    """
    from opsdeck.cli.frame import plugins
    from opsdeck.settings import load

    with tempfile.TemporaryDirectory(prefix="opsdeck-demo-") as place:
        settings = load(
            Path(place) / "data", database_url="", master_key_file=None, port=port, node="demo", sample_seconds=10
        )
        asyncio.run(_play(settings, plugins(), Path(place), lab=lab, names=[place.name for place in PLACES[:hosts]]))


async def _play(settings: Settings, plugins: Plugins, place: Path, *, lab: bool, names: Sequence[str]) -> None:
    from opsdeck.cli.frame import stopped
    from opsdeck_web.serve import address, serve

    sock = _listen(settings.bind, settings.port)
    stop = stopped()
    async with _lab_hosts(names) if lab else _play_hosts(place / "hosts", names) as (played, key):
        link = await _set_up(settings, plugins, played, key)

        def ready(_: Deck) -> None:
            click.echo(f"OpsDeck runs on {address(sock)} with {len(played)} hosts to play with.")
            if not lab:
                click.echo("Their commands run on this machine, as you, each host in a folder of its own.")
            click.echo(f"Log in once with {address(sock)}login/link/{link.reveal()}")
            click.echo("Ctrl-C ends it and removes everything it made.")

        await serve(settings, plugins, sock, ready, stop)


def _listen(bind: str, port: int) -> socket.socket:
    """Listen on `port`, or on any free one when something else has it."""
    from opsdeck_web.serve import listen

    try:
        return listen(bind, port)
    except Unavailable:
        return listen(bind, 0)


async def _set_up(settings: Settings, plugins: Plugins, played: Sequence[PlayedHost], key: Sensitive) -> Sensitive:
    """Make the data folder, know the hosts, make the person; give the one-time login."""
    from opsdeck.accounts.passwords import make_password
    from opsdeck.db.migrate import upgrade_at
    from opsdeck.deck import Deck
    from opsdeck.inventory.forms import HostIn
    from opsdeck.secrets.keyring import Keyring

    settings.home.mkdir(mode=0o700, parents=True)
    Keyring.create(settings.key_file)
    await upgrade_at(settings.url, plugins)
    async with Deck.open(settings, plugins=plugins) as deck:
        await deck.secrets.set(CREDENTIAL, key, kind="ssh-key", note="Lets in to the demo's hosts", actor=SYSTEM)
        terms = {place.name: place for place in PLACES}
        for host in played:
            place = terms[host.name]
            form = HostIn.model_validate(
                {
                    "name": host.name,
                    "address": host.address,
                    "port": host.port,
                    "user": host.user,
                    "credential": CREDENTIAL,
                    "sudo": host.sudo,
                    "tags": {"role": place.role},
                    "region": place.region,
                    "latitude": place.latitude,
                    "longitude": place.longitude,
                    "quota_bytes": place.quota,
                    "price": place.price,
                    "currency": place.currency,
                    "renewal": utcnow().date() + timedelta(days=place.renews_in),
                }
            )
            await deck.inventory.add(form, SYSTEM)
            await deck.host_keys.pin(host.name, host.host_key, SYSTEM, source="demo")
        await deck.accounts.create("demo", make_password(), Role.ADMIN, SYSTEM)
        return await deck.accounts.make_login_link("demo", SYSTEM, timedelta(hours=LINK_HOURS))


@contextlib.asynccontextmanager
async def _play_hosts(folder: Path, names: Sequence[str]) -> AsyncIterator[tuple[list[PlayedHost], Sensitive]]:
    """Serve the hosts in this process."""
    from opsdeck.lab.inprocess import PlayHosts

    async with PlayHosts(folder, names) as hosts:
        played = [PlayedHost(host.name, host.address, host.port, host.user, host.host_key, "none") for host in hosts]
        yield played, Sensitive(hosts.private_key)


@contextlib.asynccontextmanager
async def _lab_hosts(names: Sequence[str]) -> AsyncIterator[tuple[list[PlayedHost], Sensitive]]:
    """Boot real hosts, and take them down at the end."""
    from opsdeck.lab.fleet import Fleet, HostSpec

    fleet = Fleet(LAB)
    click.echo("Booting the hosts. The first time, their Debian is fetched, which takes a few minutes.")
    with _taken_down(fleet):
        hosts = await asyncio.to_thread(fleet.up, [HostSpec(name) for name in names])
        played = [PlayedHost(host.name, host.address, 22, "root", host.host_key, "none") for host in hosts]
        yield played, Sensitive(fleet.private_key.read_text())


@contextlib.contextmanager
def _taken_down(fleet: Fleet) -> Iterator[None]:
    try:
        yield
    finally:
        fleet.down()
