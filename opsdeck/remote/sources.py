"""The shell texts of the operations: files of their own, so that a shell checker can read them."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def shell(name: str) -> str:
    """Give the text of `sh/<name>.sh`."""
    return files("opsdeck.remote").joinpath("sh", f"{name}.sh").read_text()
