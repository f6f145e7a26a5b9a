"""The console as a plugin of the core: its manifest and `opsdeck serve`."""

from __future__ import annotations

import importlib

import click

from opsdeck import __version__
from opsdeck.hookspecs import hookimpl
from opsdeck.manifest import API, Manifest
from opsdeck_web.demo import demo


@hookimpl
def opsdeck_manifest() -> Manifest:
    """Name the console; its pages are built into it, so it brings no routes of the plugin kind."""
    return Manifest(name="web", version=__version__, api=API, package="opsdeck_web", title="Console")


@hookimpl
def opsdeck_commands(cli: click.Group) -> None:
    """Add `opsdeck serve` and `opsdeck demo`."""
    cli.add_command(serve)
    cli.add_command(demo)


@click.command()
@click.option("--bind", metavar="ADDRESS", help="Address to listen on; default from the settings (127.0.0.1).")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 takes a free one.")
@click.option("--open", "open_browser", is_flag=True, help="Open the console in a browser.")
def serve(bind: str | None, port: int | None, open_browser: bool) -> None:
    """Run the console, with jobs, schedules and services beside it."""
    importlib.import_module("opsdeck_web.serve").run(bind, port, open_browser=open_browser)
