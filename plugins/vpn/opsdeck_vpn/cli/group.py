"""The group itself, and what its commands share."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from opsdeck.api import Invalid, NotFound


@click.group()
def vpn() -> None:
    """The office network: tunnels, rules, devices."""


def text_of(path: str) -> str:
    """Read a file, or standard input for `-`. Raises `NotFound`, `Invalid`."""
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text()
    except OSError as fault:
        raise NotFound(f"{path} cannot be read: {fault.strerror}.", file=path, hint="check the path") from fault
    except UnicodeDecodeError as fault:
        raise Invalid(
            "the file is not text.", file=path, field="file", hint="give the .ovpn or .conf itself"
        ) from fault
