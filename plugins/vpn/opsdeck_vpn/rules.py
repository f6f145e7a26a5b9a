"""The rule list as people write it: one rule a line, the first that fits wins. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from opsdeck.api import Invalid

LIMIT = 100_000
"""Rules in the list."""
_DOMAIN = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_-]{1,63})*")
_KEYWORD = re.compile(r"[a-z0-9._-]{2,100}")
_TARGET = re.compile(r"direct|reject|(tunnel|proxy):[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


class Match(StrEnum):
    """What a rule looks at."""

    CIDR = "cidr"
    SUFFIX = "suffix"
    """The name and everything below it."""
    DOMAIN = "domain"
    """The name alone."""
    KEYWORD = "keyword"


@dataclass(frozen=True)
class RuleLine:
    """One rule. `target` is `direct`, `reject`, `tunnel:NAME` or `proxy:NAME`."""

    kind: Match
    value: str
    target: str
    note: str = ""

    @property
    def text(self) -> str:
        """Give it as it is written."""
        return f"{self.kind.value} {self.value} {self.target}{f'  # {self.note}' if self.note else ''}"


def parse(text: str, tunnels: Collection[str], proxies: Collection[str] = ()) -> tuple[RuleLine, ...]:
    """Read the list. Raises `Invalid` with the number of the line."""
    found: list[RuleLine] = []
    for number, row in enumerate(text.splitlines(), 1):
        words, _, note = row.partition("#")
        parts = words.split()
        if not parts:
            continue
        if len(parts) != 3:
            raise Invalid(
                f"line {number} has {len(parts)} words, not 3.",
                field="rules",
                hint="such as: suffix corp.test tunnel:office",
            )
        try:
            found.append(_rule(parts, note.strip()[:200], tunnels, proxies))
        except Invalid as fault:
            raise Invalid(f"line {number}: {fault.message}", field="rules", hint=fault.hint) from None
        if len(found) > LIMIT:
            raise Invalid(f"there are over {LIMIT} rules.", field="rules", hint="write networks in larger pieces")
    return tuple(found)


def _rule(parts: Sequence[str], note: str, tunnels: Collection[str], proxies: Collection[str]) -> RuleLine:
    kind, value, target = parts[0].lower(), parts[1].lower(), parts[2]
    if kind not in tuple(Match):
        raise Invalid(f"{parts[0][:40]!r} is no kind of rule.", hint=f"one of {', '.join(Match)}")
    if not _TARGET.fullmatch(target):
        raise Invalid(f"{target[:40]!r} is no target.", hint="direct, reject, tunnel:NAME or proxy:NAME")
    sort, _, name = target.partition(":")
    if (sort == "tunnel" and name not in tunnels) or (sort == "proxy" and name not in proxies):
        raise Invalid(f"there is no {sort} {name!r}.", hint="add it first, or mend the name")
    match Match(kind):
        case Match.CIDR:
            value = network(value)
        case Match.KEYWORD if not _KEYWORD.fullmatch(value):
            raise Invalid(f"{value[:60]!r} is no part of a name.", hint="letters, digits, . and -")
        case Match.SUFFIX | Match.DOMAIN:
            value = domain(value)
    return RuleLine(Match(kind), value, target, note)


def network(text: str) -> str:
    """Give a network in its plain form; a netmask in dots is taken too. Raises `Invalid`."""
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        raise Invalid(f"{text[:60]!r} is no network.", hint="such as 10.78.0.0/16") from None


def domain(text: str) -> str:
    """Give a name in its plain form, Unicode as punycode. Raises `Invalid`."""
    plain = text.strip().lower().removeprefix("*.").removeprefix("+.").strip(".")
    try:
        plain = plain if plain.isascii() else plain.encode("idna").decode()
    except UnicodeError:
        plain = ""
    if not _DOMAIN.fullmatch(plain):
        raise Invalid(f"{text[:60]!r} is no name.", hint="such as corp.test")
    return plain


def text_of(rules: Sequence[RuleLine]) -> str:
    """Give the list as it is written."""
    return "".join(f"{rule.text}\n" for rule in rules)


def pushed(tunnel: str, push: dict[str, list[str]]) -> tuple[RuleLine, ...]:
    """Make rules of what an office pushed: its networks, its name servers, its names. Never the whole internet."""
    found: list[RuleLine] = []
    target = f"tunnel:{tunnel}"
    for name in push.get("domain", []):
        found.append(RuleLine(Match.SUFFIX, domain(name), target, "pushed"))
    for route in [*push.get("route", []), *push.get("dns", [])]:
        plain = network(route)
        if not plain.endswith("/0"):
            found.append(RuleLine(Match.CIDR, plain, target, "pushed"))
    return tuple(dict.fromkeys(found))


def merged(rules: Sequence[RuleLine], new: Sequence[RuleLine]) -> tuple[RuleLine, ...]:
    """Put new rules before the others, without those whose match the list has already."""
    there = {(rule.kind, rule.value) for rule in rules}
    return (*(rule for rule in new if (rule.kind, rule.value) not in there), *rules)
