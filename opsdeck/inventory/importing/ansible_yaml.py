"""Ansible's YAML inventory: groups with hosts, children and vars."""

from __future__ import annotations

from yaml.nodes import MappingNode, Node

from opsdeck.inventory.importing import ansible, nodes
from opsdeck.inventory.importing.rows import MAX_ROWS, Parsed


def parse(text: str, file: str = "") -> Parsed:
    """Read an inventory. Nothing is raised: what cannot be used is a problem with its line."""
    parsed, fleet = Parsed(file), ansible.Fleet()
    root = nodes.compose(text, parsed)
    if root is not None and not isinstance(root, MappingNode):
        parsed.wrong(nodes.line(root), "an inventory is a mapping of groups")
    for name, _, body in nodes.pairs(root):
        _group(fleet, name, body, parsed, 0)
    return ansible.rows(fleet, parsed)


def _group(fleet: ansible.Fleet, name: str, body: Node, parsed: Parsed, depth: int) -> None:
    group = fleet.group(name)
    if depth > nodes.MAX_DEPTH:
        parsed.wrong(nodes.line(body), "groups lie too deep in each other")
        return
    for key, at, value in nodes.pairs(body):
        if key == "vars":
            group.variables |= _variables(value)
        elif key == "children":
            for child, _, inner in nodes.pairs(value):
                if child not in group.children:
                    group.children.append(child)
                _group(fleet, child, inner, parsed, depth + 1)
        elif key == "hosts":
            for _, where, variables in nodes.pairs(value):
                _hosts(fleet, name, where, variables, parsed)
        else:
            parsed.wrong(nodes.line(at), f"{name}: {key!r} is no part of a group")


def _hosts(fleet: ansible.Fleet, group: str, where: Node, variables: Node, parsed: Parsed) -> None:
    try:
        for host in ansible.expand(nodes.text(where) or ""):
            if len(fleet.members) >= MAX_ROWS:
                raise ValueError(f"more than {MAX_ROWS} hosts")
            fleet.member(host, nodes.line(where), group).variables |= _variables(variables)
    except ValueError as fault:
        parsed.wrong(nodes.line(where), str(fault))


def _variables(node: Node) -> dict[str, str]:
    return {key: value for key, _, item in nodes.pairs(node) if (value := nodes.text(item)) is not None}
