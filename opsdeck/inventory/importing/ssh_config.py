"""~/.ssh/config: Host patterns, Include, HostName, Port, User, IdentityFile, ProxyJump. Source: ssh_config(5).

The first value found for a host holds, as in ssh itself. `Match` blocks are told and left out.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from opsdeck.inventory.importing.rows import MAX_ROWS, Parsed, Row, jump_name, read_bounded

MAX_DEPTH = 16
"""Includes within includes, as ssh allows."""

MAX_FILES = 200
"""Files that one config may include, counted each time: every level of includes could double them."""

_KEYWORD = re.compile(r"\s*([A-Za-z][A-Za-z0-9]*)(?:\s*=\s*|\s+)(.*?)\s*\Z")
_USED = frozenset({"hostname", "port", "user", "identityfile", "proxyjump"})


@dataclass(frozen=True)
class _Line:
    file: str
    number: int
    keyword: str
    words: tuple[str, ...]


@dataclass
class _Block:
    """The settings under one `Host` line. No patterns means that it never holds (`Match`)."""

    patterns: tuple[str, ...]
    lines: list[_Line] = field(default_factory=list)

    def holds(self, alias: str) -> bool:
        if any(fnmatchcase(alias, pattern[1:]) for pattern in self.patterns if pattern.startswith("!")):
            return False
        return any(fnmatchcase(alias, pattern) for pattern in self.patterns if not pattern.startswith("!"))


def parse(path: Path, text: str | None = None) -> Parsed:
    """Read a config file with what it includes. Nothing is raised: what cannot be read is a problem."""
    parsed = Parsed()
    blocks = [_Block(("*",))]
    aliases: dict[str, _Line] = {}
    for line in _lines(path, text, _Reading(parsed), ()):
        if line.keyword == "host":
            blocks.append(_Block(line.words))
            for word in line.words:
                if not any(mark in word for mark in "*?!"):
                    aliases.setdefault(word, line)
        elif line.keyword == "match":
            whole = line.words == ("all",)
            blocks.append(_Block(("*",) if whole else ()))
            if not whole:
                parsed.note(line.number, "Match blocks are left out", file=line.file)
        elif line.keyword in _USED:
            blocks[-1].lines.append(line)
    names = parsed.names({alias: (line.number, line.file) for alias, line in aliases.items()})
    if len(names) > MAX_ROWS:
        parsed.wrong(1, f"more than {MAX_ROWS} hosts", file=str(path))
        return parsed
    rows: dict[str, Row] = {}
    for alias, name in names.items():
        rows[name] = _row(alias, name, aliases[alias], blocks)
    _jumps(rows, names, blocks, parsed)
    parsed.rows = list(rows.values())
    return parsed


def _row(alias: str, name: str, line: _Line, blocks: list[_Block]) -> Row:
    found = _settings(alias, blocks)
    address = found["hostname"].words[0] if "hostname" in found else alias
    given: dict[str, object] = {"address": address.replace("%h", alias).replace("%%", "%")}
    for field_name in ("port", "user"):
        if field_name in found:
            given[field_name] = found[field_name].words[0]
    key = found["identityfile"].words[0] if "identityfile" in found else None
    if key is not None:
        key = key.replace("%d", str(Path.home())).replace("%h", address).replace("%%", "%")
        key = str(Path(key).expanduser()) if key.lower() != "none" else None
    return Row(name, line.number, given, key, line.file)


def _jumps(rows: dict[str, Row], names: dict[str, str], blocks: list[_Block], parsed: Parsed) -> None:
    """Turn each ProxyJump into the name of a host; hops that are no host of the file become one."""
    for alias, name in names.items():
        line = _settings(alias, blocks).get("proxyjump")
        if line is None or line.words[0].lower() == "none":
            continue
        behind = name
        for hop in reversed(line.words[0].split(",")):
            raw, given = jump_name(hop, names)
            target = names.get(raw, raw)
            if not target or "%" in hop:
                parsed.wrong(line.number, f"the jump host {hop!r} cannot be understood", file=line.file)
                break
            if target == name:
                break
            if target not in rows:
                rows[target] = Row(target, line.number, given, rows[name].key_file, line.file)
            before = rows[behind]
            had = before.given.get("jump")
            if had is not None and had != target:
                parsed.note(line.number, f"{behind} has the jump host {had} already, not {target}", file=line.file)
            else:
                rows[behind] = Row(
                    before.name, before.line, {**before.given, "jump": target}, before.key_file, before.file
                )
            behind = target


def _settings(alias: str, blocks: list[_Block]) -> dict[str, _Line]:
    found: dict[str, _Line] = {}
    for block in blocks:
        if block.holds(alias):
            for line in block.lines:
                found.setdefault(line.keyword, line)
    return found


@dataclass
class _Reading:
    """What is found, and how many files were read for it."""

    parsed: Parsed
    files: int = 0


def _lines(path: Path, text: str | None, reading: _Reading, above: tuple[Path, ...]) -> Iterator[_Line]:
    file, parsed = str(path), reading.parsed
    if text is None:
        try:
            text = read_bounded(path).decode("utf-8", "backslashreplace")
        except OSError as fault:
            parsed.wrong(1, f"cannot be read: {fault.strerror}", file=file)
            return
        if not text:
            return
    for number, raw in enumerate(text.splitlines(), 1):
        if not raw.strip() or raw.lstrip().startswith("#"):
            continue
        match = _KEYWORD.match(raw)
        if match is None:
            parsed.wrong(number, f"{raw.strip()[:60]!r} is no setting", file=file)
            continue
        try:
            words = tuple(shlex.split(match[2], comments=True))
        except ValueError:
            parsed.wrong(number, "a quotation mark is not closed", file=file)
            continue
        if not words:
            parsed.wrong(number, f"{match[1]} has no value", file=file)
            continue
        keyword = match[1].lower()
        if keyword != "include":
            yield _Line(file, number, keyword, words)
            continue
        for word in words:
            yield from _included(path, word, number, reading, (*above, path.resolve()))


def _included(path: Path, word: str, number: int, reading: _Reading, above: tuple[Path, ...]) -> Iterator[_Line]:
    target = Path(word).expanduser()
    base = target if target.is_absolute() else path.parent / target
    anchor = Path(base.anchor)
    found = sorted(anchor.glob(str(base.relative_to(anchor))))
    if not found:
        reading.parsed.note(number, f"{word} includes no file", file=str(path))
    for other in found:
        if not other.is_file():
            reading.parsed.note(number, f"{other} is no file; left out", file=str(path))
            continue
        if other.resolve() in above:
            reading.parsed.wrong(number, f"{other} includes itself", file=str(path))
            continue
        if len(above) > MAX_DEPTH or reading.files >= MAX_FILES:
            reading.parsed.wrong(number, "too many files that include each other", file=str(path))
            return
        reading.files += 1
        yield from _lines(other, None, reading, above)
