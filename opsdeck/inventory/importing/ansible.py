"""What both Ansible formats share: groups with parents, variables, ranges in names, and the rows that come of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from opsdeck.inventory.importing.rows import MAX_ROWS, Parsed, Row, jump_name

MAX_PLACES = 20 * MAX_ROWS

_RANGE = re.compile(r"\[([0-9]+|[A-Za-z]):([0-9]+|[A-Za-z])(?::([0-9]+))?\]")
_JUMP = re.compile(r"(?:ProxyJump[= ]|-J ?)['\"]?([^\s'\"]+)")
_TRUE = frozenset({"1", "true", "yes", "on"})
_PASSWORDS = ("ansible_password", "ansible_ssh_pass", "ansible_become_password", "ansible_become_pass")
_IMPLIED = frozenset({"all", "ungrouped"})


@dataclass
class Group:
    """A group: its own variables, and the groups within it."""

    variables: dict[str, str] = field(default_factory=dict)
    children: list[str] = field(default_factory=list)


@dataclass
class Member:
    """A host: where it first stands, its own variables, and the groups it stands in."""

    line: int
    variables: dict[str, str] = field(default_factory=dict)
    groups: list[str] = field(default_factory=list)


@dataclass
class Fleet:
    """An inventory before it becomes rows."""

    groups: dict[str, Group] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)
    places: int = 0
    """How often a host stands somewhere: a short file can repeat a long range on every line."""

    def group(self, name: str) -> Group:
        """Give a group, new or known."""
        return self.groups.setdefault(name, Group())

    def member(self, name: str, line: int, group: str) -> Member:
        """Give a host of a group, new or known. Raises ValueError when hosts stand in more than `MAX_PLACES` places."""
        self.places += 1
        if self.places > MAX_PLACES:
            raise ValueError(f"hosts stand in more than {MAX_PLACES} places")
        member = self.members.setdefault(name, Member(line))
        if group not in member.groups:
            member.groups.append(group)
        return member

    def above(self, group: str) -> list[str]:
        """Give a group and all that hold it, the outermost first; circles are broken."""
        found: list[str] = []

        def climb(name: str) -> None:
            if name in found:
                return
            found.append(name)
            for parent, content in self.groups.items():
                if name in content.children:
                    climb(parent)

        climb(group)
        return ["all", *(name for name in reversed(found) if name != "all")]


def expand(pattern: str, most: int = MAX_ROWS) -> Iterator[str]:
    """Give the names that a pattern such as `web[01:10]` stands for, at most `most`.

    Raises ValueError for a range that is none, or where there would be more.
    """
    match = _RANGE.search(pattern)
    if match is None:
        if "[" in pattern and not pattern.startswith("["):
            raise ValueError(f"{pattern!r} holds no range that can be understood")
        yield pattern
        return
    first, last, step = match[1], match[2], int(match[3] or 1)
    digits = first.isdigit()
    if digits != last.isdigit() or step < 1:
        raise ValueError(f"{match[0]} is no range")
    low, high = (int(first), int(last)) if digits else (ord(first), ord(last))
    size = (high - low) // step + 1
    if high < low or size > most:
        raise ValueError(f"{match[0]} is no range, or too long")
    for value in range(low, high + 1, step):
        text = str(value).zfill(len(first)) if digits else chr(value)
        yield from expand(pattern[: match.start()] + text + pattern[match.end() :], most // size)


def rows(fleet: Fleet, parsed: Parsed) -> Parsed:
    """Turn an inventory into rows: a tag for each group; addresses, ports, users, keys, jump hosts from variables."""
    names = parsed.names({called: (member.line, parsed.file) for called, member in fleet.members.items()})
    hops: dict[str, Row] = {}
    for called in names:
        row = _row(fleet, called, parsed, hops, names)
        if row is not None:
            parsed.rows.append(row)
    there = {row.name for row in parsed.rows}
    parsed.rows.extend(row for row in hops.values() if row.name not in there)
    return parsed


def _row(fleet: Fleet, called: str, parsed: Parsed, hops: dict[str, Row], names: Mapping[str, str]) -> Row | None:
    name = names[called]
    member = fleet.members[called]
    groups = list(dict.fromkeys(group for own in member.groups for group in fleet.above(own)))
    variables: dict[str, str] = {}
    for group in groups:
        variables |= fleet.groups.get(group, Group()).variables
    variables |= member.variables
    if variables.get("ansible_connection", "ssh") not in ("ssh", "smart", "paramiko", "paramiko_ssh"):
        parsed.note(member.line, f"{called} is not reached over SSH; left out")
        return None
    for variable in _PASSWORDS:
        if variable in variables:
            parsed.note(member.line, f"{called}: {variable} is left out; set it with `opsdeck secret set`")
    given: dict[str, object] = {"address": _first(variables, "ansible_host", "ansible_ssh_host") or called}
    if port := _first(variables, "ansible_port", "ansible_ssh_port"):
        given["port"] = port
    if user := _first(variables, "ansible_user", "ansible_ssh_user"):
        given["user"] = user
    if variables.get("ansible_become", "").lower() in _TRUE and given.get("user", "root") != "root":
        given["sudo"] = "nopasswd"
    tags = {re.sub(r"[^A-Za-z0-9._/-]", "-", group): "" for group in groups if group not in _IMPLIED}
    if tags:
        given["tags"] = tags
    templated = [field for field, value in given.items() if isinstance(value, str) and "{{" in value]
    for field_name in templated:
        parsed.wrong(member.line, f"{called}: {field_name} is a template, which only Ansible can fill in")
    if templated:
        return None
    arguments = " ".join(variables.get(f"ansible_ssh_{kind}_args", "") for kind in ("common", "extra"))
    if match := _JUMP.search(arguments):
        hop, said = jump_name(match[1].split(",")[-1], names)
        hop = names.get(hop, hop)
        if hop and hop != name:
            given["jump"] = hop
            hops.setdefault(hop, Row(hop, member.line, said, None, parsed.file))
    return Row(name, member.line, given, variables.get("ansible_ssh_private_key_file"), parsed.file)


def _first(variables: Mapping[str, str], *names: str) -> str:
    return next((variables[name] for name in names if variables.get(name)), "")
