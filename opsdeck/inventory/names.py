"""The rule for host names, in one place."""

from __future__ import annotations

import re

from opsdeck.errors import Invalid

RESERVED = frozenset({"all"})
"""Words that mean something in a selector and so name no host."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}\Z")


def host_name(text: str) -> str:
    """Give `text` as a host's name: lower case, 1 to 63 of `a-z 0-9 . _ -`, beginning with a letter or digit.

    Raises `Invalid` for anything else and for a reserved word.
    """
    name = text.strip().lower()
    if name in RESERVED:
        raise Invalid(f"{text!r} is a word of selectors and cannot name a host.", field="name", hint="choose another")
    if not _NAME.match(name):
        raise Invalid(
            f"{text!r} cannot name a host.",
            field="name",
            hint="use 1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit",
        )
    return name
