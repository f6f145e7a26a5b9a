"""YAML with line numbers: nodes as they stand in the file, nothing constructed, nothing executed."""

from __future__ import annotations

from collections.abc import Iterator

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from opsdeck.inventory.importing.rows import Parsed

MAX_DEPTH = 40


def compose(text: str, parsed: Parsed) -> Node | None:
    """Read the first document. None when it is empty or no YAML; the latter is a problem with its line."""
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as fault:
        mark = fault.problem_mark
        parsed.wrong(mark.line + 1 if mark else 1, f"is no YAML: {fault.problem or fault}")
    except (yaml.YAMLError, RecursionError) as fault:
        parsed.wrong(1, f"is no YAML: {str(fault).splitlines()[0]}")
    return None


def line(node: Node) -> int:
    """Give the line a node begins on, from 1."""
    return int(node.start_mark.line) + 1


def pairs(node: Node | None) -> Iterator[tuple[str, Node, Node]]:
    """Give (key, key's node, value) of a mapping; nothing for anything else."""
    if isinstance(node, MappingNode):
        for key, value in node.value:
            if isinstance(key, ScalarNode):
                yield str(key.value), key, value


def items(node: Node | None) -> Iterator[Node]:
    """Give the items of a list; nothing for anything else."""
    if isinstance(node, SequenceNode):
        yield from node.value


def text(node: Node) -> str | None:
    """Give a scalar's text; None for null and for what is no scalar."""
    if not isinstance(node, ScalarNode) or node.tag == "tag:yaml.org,2002:null":
        return None
    return str(node.value)


def plain(node: Node) -> object:
    """Give texts, lists of texts and mappings of texts, as a form takes them."""
    if isinstance(node, SequenceNode):
        return [text(item) or "" for item in items(node)]
    if isinstance(node, MappingNode):
        return {key: text(value) or "" for key, _, value in pairs(node)}
    return text(node)
