"""Which hosts: one small language for the CLI, the pages and the schedules.

    web1            the host of that name            edge-*          names by shell pattern
    tag:role=edge   hosts with that tag and value    tag:prod        hosts with that tag, whatever its value
    region:tokyo    hosts of that region             all             every host
    a,b             either                           !x              but not x; alone: all but x

Names, tags and regions may be patterns. Exclusions win, wherever they stand.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Protocol, TypeVar

from opsdeck.errors import Invalid, NotFound

HINT = "write names, patterns like 'edge-*', tag:role=edge, region:tokyo or all, with commas between; !x leaves x out"

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*\Z")
_PATTERN = re.compile(r"[a-z0-9._*?\[\]!^-]+\Z")


class Selectable(Protocol):
    """What a selector looks at in a host."""

    name: str
    tags: dict[str, str]
    region: str


H = TypeVar("H", bound=Selectable)


class Kind(StrEnum):
    """What a term compares."""

    ALL = "all"
    NAME = "name"
    PATTERN = "pattern"
    TAG = "tag"
    REGION = "region"


@dataclass(frozen=True)
class Term:
    """One word of a selector. `value` is None for a tag whatever its value."""

    kind: Kind
    key: str = ""
    value: str | None = None
    excluded: bool = False

    def matches(self, host: Selectable) -> bool:
        """Tell whether the host is meant, exclusion left aside."""
        return _MATCHERS[self.kind](self, host)

    def __str__(self) -> str:
        bare = {
            Kind.ALL: "all",
            Kind.NAME: self.key,
            Kind.PATTERN: self.key,
            Kind.REGION: f"region:{self.key}",
            Kind.TAG: f"tag:{self.key}" if self.value is None else f"tag:{self.key}={self.value}",
        }[self.kind]
        return f"!{bare}" if self.excluded else bare


_MATCHERS: dict[Kind, Callable[[Term, Selectable], bool]] = {
    Kind.ALL: lambda term, host: True,
    Kind.NAME: lambda term, host: host.name == term.key,
    Kind.PATTERN: lambda term, host: fnmatchcase(host.name, term.key),
    Kind.REGION: lambda term, host: fnmatchcase(host.region.lower(), term.key),
    Kind.TAG: lambda term, host: any(
        fnmatchcase(key, term.key) and (term.value is None or fnmatchcase(value, term.value))
        for key, value in host.tags.items()
    ),
}


@dataclass(frozen=True)
class Selector:
    """A parsed selector. `str()` gives it in its plain form, which parses to the same selector."""

    terms: tuple[Term, ...]

    @classmethod
    def parse(cls, text: str) -> Selector:
        """Parse `text`. Raises `Invalid` for an empty selector or a word that is none."""
        terms = tuple(dict.fromkeys(_term(word) for part in text.split(",") if (word := part.strip())))
        if not terms:
            raise Invalid("The selector is empty.", field="selector", hint=HINT)
        return cls(terms)

    @classmethod
    def of(cls, names: Iterable[str]) -> Selector:
        """Make a selector that means exactly these hosts."""
        return cls(tuple(Term(Kind.NAME, name) for name in dict.fromkeys(names)))

    def match(self, hosts: Sequence[H]) -> tuple[H, ...]:
        """Give the hosts that are meant, in the order given.

        Raises `NotFound` for a term that names a host that is not there, with names like it; a pattern, tag or
        region that meets nothing is no fault.
        """
        known = {host.name for host in hosts}
        for term in self.terms:
            if term.kind is Kind.NAME and term.key not in known:
                raise unknown_host(term.key, known)
        wanted = [term for term in self.terms if not term.excluded] or [Term(Kind.ALL)]
        unwanted = [term for term in self.terms if term.excluded]
        return tuple(
            host
            for host in hosts
            if any(term.matches(host) for term in wanted) and not any(term.matches(host) for term in unwanted)
        )

    def __str__(self) -> str:
        return ",".join(str(term) for term in self.terms)


def unknown_host(name: str, known: Iterable[str]) -> NotFound:
    """Make the error for a name that no host has, with the names nearest to it."""
    names = sorted(known)
    near = [other for other in names if name in other or other in name] + difflib.get_close_matches(name, names, n=3)
    if near:
        hint = f"did you mean {', '.join(list(dict.fromkeys(near))[:3])}?"
    else:
        hint = "see `opsdeck host list`" if names else "add a host with `opsdeck host add`"
    return NotFound(f"There is no host named {name!r}.", host=name, hint=hint)


def _term(word: str) -> Term:
    excluded = word.startswith("!")
    bare = word[1:].strip() if excluded else word
    kind, colon, rest = bare.partition(":")
    kind, rest = kind.strip().lower(), rest.strip()
    if colon and kind == "tag":
        key, equals, value = (part.strip() for part in rest.partition("="))
        if not key:
            raise _wrong(word, "name the tag")
        return Term(Kind.TAG, key, value if equals else None, excluded)
    if colon and kind == "region":
        if not rest:
            raise _wrong(word, "name the region")
        return Term(Kind.REGION, rest.lower(), None, excluded)
    name = bare.lower()
    if name == "all":
        return Term(Kind.ALL, excluded=excluded)
    if _NAME.match(name):
        return Term(Kind.NAME, name, None, excluded)
    if any(mark in name for mark in "*?[") and _PATTERN.match(name) and not name.startswith("!"):
        return Term(Kind.PATTERN, name, None, excluded)
    raise _wrong(word, HINT)


def _wrong(word: str, hint: str) -> Invalid:
    return Invalid(f"{word!r} is no selector.", field="selector", hint=hint)
