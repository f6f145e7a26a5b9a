"""The two programs of an edge, each behind the same small protocol: what it is given, and whether it takes it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Protocol

from opsdeck.api import Command, Completed, OpsDeckError, Script
from opsdeck_cdn.caddy import check_version
from opsdeck_cdn.render import caddy, layout, nginx
from opsdeck_cdn.sites import Edge, Setup, Site


class Engine(Protocol):
    """A program that an edge is made of. All that is told here is pure; `edgehost` runs it."""

    @property
    def name(self) -> str:
        """Give the name that people know it by."""
        ...

    @property
    def unit(self) -> str:
        """Give its unit of systemd, whose reload takes a new configuration without losing a visitor."""
        ...

    @property
    def file(self) -> str:
        """Give the name of its configuration in a generation."""
        ...

    def config(self, sites: Sequence[Site], setup: Setup, edge: Edge, generation: str) -> bytes:
        """Give its configuration; it tells `generation` when it is asked over HTTP."""
        ...

    def service(self, setup: Setup) -> bytes:
        """Give the text of its unit; another text has it restarted, which a reload does not do."""
        ...

    def check(self, folder: str) -> Command | Script:
        """Give the command that checks the configuration in a generation's folder, without touching what serves."""
        ...

    def refusal(self, done: Completed) -> str:
        """Give the engine's own words when it does not take it, "" when it does."""
        ...


class Cache:
    """nginx: keeps what the front sends through it."""

    name = "nginx"
    unit = layout.CACHE_UNIT
    file = "nginx.conf"

    def config(self, sites: Sequence[Site], setup: Setup, edge: Edge, generation: str) -> bytes:
        """Give nginx.conf."""
        return nginx.render(sites, generation=generation, quota_percent=edge.quota_percent)

    def service(self, setup: Setup) -> bytes:
        """Give the text of its unit."""
        return layout.cache_unit()

    def check(self, folder: str) -> Command:
        """Ask nginx itself."""
        return Command((layout.NGINX, "-t", "-q", "-c", f"{folder}/{self.file}"), sudo=True)

    def refusal(self, done: Completed) -> str:
        """Give the lines with `emerg`."""
        return "" if done.ok else _words(done, "emerg")


class Front:
    """Caddy: has the certificates, tells static from dynamic, knows the way to the origins."""

    name = "Caddy"
    unit = layout.FRONT_UNIT
    file = "caddy.json"

    def __init__(self, program: str = layout.CADDY) -> None:
        self.program = program
        """Which Caddy checks: the one that is about to run."""

    def config(self, sites: Sequence[Site], setup: Setup, edge: Edge, generation: str) -> bytes:
        """Give caddy.json."""
        return caddy.render(sites, setup, edge=edge, generation=generation)

    def service(self, setup: Setup) -> bytes:
        """Give the text of its unit. Caddy goes on with the certificates of another CA until it is restarted."""
        return layout.front_unit(setup.acme_directory)

    def check(self, folder: str) -> Script:
        """Ask Caddy itself, as the user that it runs as, and for its version."""
        text = '"$1" validate --config "$2"; status=$?; "$1" version; exit "$status"\n'
        words = (self.program, f"{folder}/{self.file}")
        return Script(text, words, run_as=layout.USER, env={"HOME": layout.STATE}, cwd="/")

    def refusal(self, done: Completed) -> str:
        """Give what it says of an error. One that is too old is refused, whatever it says of the configuration."""
        lines = done.stdout.decode("utf-8", "replace").splitlines()
        try:
            check_version(lines[-1].split(" ")[0] if lines else "")
        except OpsDeckError as fault:
            return fault.message
        return "" if done.ok else _words(done, "Error")


def _words(done: Completed, mark: str) -> str:
    lines = [line for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    told = [line for line in lines if re.search(rf"\b{mark}\b", line)] or [_message(line) for line in lines[-1:]]
    return " ".join(" ".join(told).split())[:600] or f"it ended with {done.exit_status}"


def _message(line: str) -> str:
    """Give what a line of Caddy's log says; any other line as it is."""
    try:
        said = json.loads(line)["msg"]
    except (ValueError, TypeError, KeyError):
        return line
    return str(said)


ENGINES: tuple[Engine, ...] = (Cache(), Front())
"""In the order in which they take a new generation: what the front sends to the cache must be known there."""
