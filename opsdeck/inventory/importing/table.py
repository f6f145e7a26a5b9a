"""Lists of hosts: CSV with a line of headings, or a YAML list; the columns are the fields of a host."""

from __future__ import annotations

import csv
import io

from yaml.nodes import MappingNode

from opsdeck.inventory.forms import HostIn
from opsdeck.inventory.importing import nodes
from opsdeck.inventory.importing.rows import MAX_ROWS, Parsed, Row

ALSO = {
    "host": "name",
    "hostname": "address",
    "ip": "address",
    "quota": "quota_bytes",
    "reset_day": "quota_reset_day",
    "jump_host": "jump",
    "lat": "latitude",
    "lon": "longitude",
}
"""Headings that other tables use, and the field each means."""

FIELDS = frozenset(HostIn.model_fields) | {"key_file"}


def parse_csv(text: str, file: str = "") -> Parsed:
    """Read CSV with `,`, `;` or tabs. Nothing is raised: a row that cannot be used is a problem with its line."""
    parsed = Parsed(file)
    head = text.lstrip("\ufeff").partition("\n")[0]
    separator = max(",;\t", key=head.count)
    reader = csv.reader(io.StringIO(text.lstrip("\ufeff")), delimiter=separator, strict=True)
    fields: list[str] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells) or cells[0].lstrip().startswith("#"):
                continue
            if not fields:
                fields = _headings(cells, reader.line_num, parsed)
                if not fields:
                    return parsed
                continue
            if len(cells) != len(fields):
                parsed.wrong(reader.line_num, f"has {len(cells)} cells under {len(fields)} headings")
                continue
            given: dict[str, object] = {
                name: cell.strip() for name, cell in zip(fields, cells, strict=True) if cell.strip()
            }
            _take(given, reader.line_num, parsed)
            if len(parsed.rows) > MAX_ROWS:
                parsed.wrong(reader.line_num, f"more than {MAX_ROWS} hosts")
                return parsed
    except csv.Error as fault:
        parsed.wrong(reader.line_num, f"is no CSV: {fault}")
    return parsed


def parse_yaml(text: str, file: str = "") -> Parsed:
    """Read a YAML list of hosts, or a mapping with such a list under `hosts`."""
    parsed = Parsed(file)
    root = nodes.compose(text, parsed)
    if root is None:
        return parsed
    listed = next((value for key, _, value in nodes.pairs(root) if key == "hosts"), root)
    found = list(nodes.items(listed))
    if not found:
        parsed.wrong(nodes.line(root), "holds no list of hosts")
    for item in found[:MAX_ROWS]:
        if not isinstance(item, MappingNode):
            parsed.wrong(nodes.line(item), "is no host: write name: and address:")
            continue
        given: dict[str, object] = {}
        for key, at, value in nodes.pairs(item):
            name = ALSO.get(key, key)
            if name not in FIELDS:
                parsed.wrong(nodes.line(at), f"{key!r} is no field of a host")
            elif (content := nodes.plain(value)) is not None:
                given[name] = content
        _take(given, nodes.line(item), parsed)
    if len(found) > MAX_ROWS:
        parsed.wrong(1, f"more than {MAX_ROWS} hosts")
    return parsed


def _headings(cells: list[str], line: int, parsed: Parsed) -> list[str]:
    fields = []
    for cell in cells:
        heading = cell.strip().lower().replace(" ", "_")
        name = ALSO.get(heading, heading)
        if name not in FIELDS:
            parsed.wrong(line, f"{cell.strip()!r} is no field of a host")
        elif name in fields:
            parsed.wrong(line, f"{cell.strip()!r} is there twice")
        fields.append(name)
    for needed in ("name", "address"):
        if needed not in fields:
            parsed.wrong(line, f"there is no column {needed!r}")
    return [] if parsed.problems else fields


def _take(given: dict[str, object], line: int, parsed: Parsed) -> None:
    name = given.pop("name", None)
    key = given.pop("key_file", None)
    if not isinstance(name, str) or not name.strip():
        parsed.wrong(line, "has no name")
        return
    parsed.rows.append(Row(name.strip().lower(), line, given, key if isinstance(key, str) else None, parsed.file))
