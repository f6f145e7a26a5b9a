"""The plugin's hooks: a table of contents of what it brings."""

from collections.abc import Sequence
from importlib.metadata import version

import click
from sqlmodel import col, select

from opsdeck.api import API, Deck, Event, Finding, Host, HostCard, Manifest, hookimpl
from opsdeck_hello.actions import greet
from opsdeck_hello.models import Greeting


@hookimpl
def opsdeck_manifest() -> Manifest:
    """Say what the plugin brings."""
    return Manifest(
        name="hello",
        version=version("opsdeck-plugin-hello"),
        api=API,
        package="opsdeck_hello",
        title="Hello",
        actions=(greet,),
        models=(Greeting,),
    )


@hookimpl
def opsdeck_commands(cli: click.Group) -> None:
    """Add `opsdeck hello`."""

    @cli.command()
    def hello() -> None:
        """Say hello."""
        click.echo("hello")


@hookimpl
async def opsdeck_health(deck: Deck) -> Sequence[Finding]:
    """Say how many hosts were greeted."""
    async with deck.db.read() as session:
        hosts = (await session.exec(select(col(Greeting.host)))).all()
    return (Finding("greetings", "ok", f"{len(hosts)} hosts have one"),)


@hookimpl
async def opsdeck_host_cards(deck: Deck, host: Host) -> Sequence[HostCard]:
    """Show the greeting on the host's page."""
    async with deck.db.read() as session:
        greeting = await session.get(Greeting, host.name)
    return (HostCard("Greeting", "ok", (("text", greeting.text),)),) if greeting else ()


@hookimpl
def opsdeck_on_event(event: Event) -> None:
    """Hear of every event; this plugin has nothing to do about any."""
