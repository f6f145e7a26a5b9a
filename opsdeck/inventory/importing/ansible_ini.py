"""Ansible's INI inventory: groups, children, vars, ranges."""

from __future__ import annotations

import re
import shlex

from opsdeck.inventory.importing import ansible
from opsdeck.inventory.importing.rows import MAX_ROWS, Parsed

_SECTION = re.compile(r"\[([^\]:\s]+)(?::(\w+))?\]\s*(?:[#;].*)?\Z")
_PORT = re.compile(r"([^:\s]+):(\d+)\Z")


def parse(text: str, file: str = "") -> Parsed:
    """Read an inventory. Nothing is raised: a line that cannot be used is a problem with its number."""
    parsed, fleet = Parsed(file), ansible.Fleet()
    group, kind = "ungrouped", "hosts"
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line[0] in "#;":
            continue
        if line.startswith("[") and (match := _SECTION.match(line)):
            group, kind = match[1], match[2] or "hosts"
            fleet.group(group)
            if kind not in ("hosts", "children", "vars"):
                parsed.wrong(number, f"[{group}:{kind}] is no section that is known here")
            continue
        if line.startswith("["):
            parsed.wrong(number, f"{line[:60]!r} is no section")
            continue
        try:
            _take(fleet, group, kind, line, number)
        except ValueError as fault:
            parsed.wrong(number, str(fault))
        if len(fleet.members) > MAX_ROWS:
            parsed.wrong(number, f"more than {MAX_ROWS} hosts")
            return parsed
    return ansible.rows(fleet, parsed)


def _take(fleet: ansible.Fleet, group: str, kind: str, line: str, number: int) -> None:
    if kind == "vars":
        name, equals, value = line.partition("=")
        if not equals:
            raise ValueError(f"{line[:60]!r} sets no variable")
        fleet.group(group).variables[name.strip()] = _unquoted(value.strip())
        return
    words = shlex.split(line, comments=True)
    if not words:
        return
    if kind == "children":
        fleet.group(words[0])
        fleet.group(group).children.append(words[0])
        return
    if kind != "hosts":
        return
    variables = {}
    for word in words[1:]:
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"{word[:60]!r} sets no variable")
        variables[name] = value
    pattern = words[0]
    if match := _PORT.match(pattern):
        pattern = match[1]
        variables.setdefault("ansible_port", match[2])
    for host in ansible.expand(pattern):
        fleet.member(host, number, group).variables |= variables


def _unquoted(value: str) -> str:
    try:
        words = shlex.split(value, comments=False)
    except ValueError:
        return value
    return words[0] if len(words) == 1 else value
