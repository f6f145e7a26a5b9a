"""Which format a file has, and reading it."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path

from opsdeck.errors import Invalid, NotFound
from opsdeck.inventory.importing import ansible_ini, ansible_yaml, nodes, ssh_config, table
from opsdeck.inventory.importing.rows import Parsed, read_bounded


class Format(StrEnum):
    """What can be imported."""

    AUTO = "auto"
    SSH_CONFIG = "ssh-config"
    ANSIBLE_INI = "ansible-ini"
    ANSIBLE_YAML = "ansible-yaml"
    CSV = "csv"
    YAML = "yaml"


def load(path: Path, format: Format = Format.AUTO) -> tuple[Format, Parsed]:
    """Read a file; give its format and what came of it. Raises `NotFound`, `Invalid` for a file that is no text."""
    try:
        if path.is_dir():
            raise Invalid(f"{path} is a folder.", file=str(path), hint="name a file in it")
        data = read_bounded(path)
    except FileNotFoundError:
        raise NotFound(f"There is no file {path}.", file=str(path), hint="name a file that is there") from None
    except OSError as fault:
        raise Invalid(f"{path} cannot be read: {fault.strerror}.", file=str(path), hint="check its rights") from fault
    if not data.strip():
        raise Invalid(f"{path} is empty.", file=str(path), hint="name another file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        at = data[: fault.start].count(b"\n") + 1
        raise Invalid(f"{path} is not UTF-8 (line {at}).", file=str(path), hint="save it as UTF-8") from fault
    kind = guess(path, text) if format is Format.AUTO else format
    file = str(path)
    match kind:
        case Format.SSH_CONFIG:
            return kind, ssh_config.parse(path, text)
        case Format.ANSIBLE_INI:
            return kind, ansible_ini.parse(text, file)
        case Format.ANSIBLE_YAML:
            return kind, ansible_yaml.parse(text, file)
        case Format.CSV:
            return kind, table.parse_csv(text, file)
        case _:
            return kind, table.parse_yaml(text, file)


def guess(path: Path, text: str) -> Format:
    """Guess a file's format from its ending, then from what it holds."""
    ending = path.suffix.lower()
    if ending in (".csv", ".tsv"):
        return Format.CSV
    if ending in (".yml", ".yaml", ".json"):
        root = nodes.compose(text, Parsed())
        keys = {key: value for key, _, value in nodes.pairs(root)}
        listed = list(nodes.items(root)) or list(nodes.items(keys.get("hosts")))
        return Format.YAML if listed or root is None else Format.ANSIBLE_YAML
    if re.search(r"^\s*(Host|Match|Include)[\s=]", text, re.MULTILINE | re.IGNORECASE) and not re.search(
        r"^\[", text, re.MULTILINE
    ):
        return Format.SSH_CONFIG
    first = next((row for row in text.splitlines() if row.strip() and not row.lstrip().startswith("#")), "")
    headings = {cell.strip().lower() for cell in re.split(r"[,;\t]", first)}
    if {"name", "address"} <= headings | {table.ALSO.get(cell, cell) for cell in headings}:
        return Format.CSV
    if re.match(r"(---|- |\w+:\s*$)", first):
        return guess(path.with_suffix(".yaml"), text)
    return Format.ANSIBLE_INI
