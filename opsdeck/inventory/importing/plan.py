"""What an import would do, and doing it: all or nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from opsdeck.actor import Actor
from opsdeck.errors import Invalid, OpsDeckError
from opsdeck.forms import checked
from opsdeck.inventory.forms import HostIn, HostPatch
from opsdeck.inventory.importing.rows import Parsed, Problem, Row, name_from
from opsdeck.inventory.models import Host
from opsdeck.secrets.sensitive import Sensitive

if TYPE_CHECKING:
    from opsdeck.inventory.hosts import Inventory
    from opsdeck.secrets.store import SecretStore

MAX_KEY_BYTES = 64 * 1024


@dataclass(frozen=True)
class Edit:
    """A host that is there and would become different: before and after by field."""

    name: str
    line: int
    before: Mapping[str, object]
    after: Mapping[str, object]
    patch: HostPatch


@dataclass(frozen=True)
class ImportPlan:
    """Everything an import would do. Applied only when no problem is serious."""

    added: tuple[tuple[int, HostIn], ...] = ()
    changed: tuple[Edit, ...] = ()
    same: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    keys: Mapping[str, str] = field(default_factory=dict)
    """Secrets that would be made: name → key file."""

    @property
    def serious(self) -> tuple[Problem, ...]:
        """Give the problems that keep it from being applied."""
        return tuple(problem for problem in self.problems if problem.serious)

    @property
    def empty(self) -> bool:
        """Tell whether there is nothing to do."""
        return not self.added and not self.changed


def plan(parsed: Parsed, hosts: Sequence[Host], *, with_keys: bool = False, known: Sequence[str] = ()) -> ImportPlan:
    """Compare what a file says with the hosts that are there.

    A field that the file does not name is left as it is. With `with_keys` the key files become secrets, named after
    the file; `known` are the secrets that are there already, which are used and not written.
    """
    there = {host.name: host for host in hosts}
    problems = list(parsed.problems)
    keys = _keys(parsed.rows, problems) if with_keys else {}
    added: list[tuple[int, HostIn]] = []
    changed: list[Edit] = []
    same: list[str] = []
    lines: dict[str, int] = {}
    for row in parsed.rows:
        if row.name in lines:
            text = f"{row.name} stands on line {lines[row.name]} already"
            problems.append(Problem(row.line, text, True, row.file))
            continue
        lines[row.name] = row.line
        given = dict(row.given)
        if row.key_file and row.key_file in keys and "credential" not in given:
            given["credential"] = keys[row.key_file]
        elif row.key_file and not with_keys and row.name not in there:
            note = f"{row.name} logs in with {row.key_file}, which is not imported; --with-keys stores it as a secret"
            problems.append(Problem(row.line, note, False, row.file))
        try:
            if row.name not in there:
                added.append((row.line, checked(HostIn, {"name": row.name, **given}, host=row.name)))
                continue
            edit = _edit(there[row.name], row, given)
        except Invalid as fault:
            problems.append(Problem(row.line, f"{row.name}: {fault.message}", True, row.file))
            continue
        if edit is None:
            same.append(row.name)
        else:
            changed.append(edit)
    names = there.keys() | lines.keys()
    for row in parsed.rows:
        jump = row.given.get("jump")
        if isinstance(jump, str) and jump and jump.strip().lower() not in names:
            text = f"{row.name}: there is no host {jump!r} to go through, here or in the file"
            problems.append(Problem(row.line, text, True, row.file))
    made = {name: file for file, name in keys.items() if name not in known}
    for file, name in keys.items():
        if name in known:
            problems.append(Problem(0, f"the secret {name} is there already and is used, not {file}", False, file))
    problems.sort(key=lambda problem: (problem.file, problem.line))
    return ImportPlan(tuple(added), tuple(changed), tuple(same), tuple(problems), made)


async def apply(planned: ImportPlan, inventory: Inventory, secrets: SecretStore, actor: Actor) -> tuple[Host, ...]:
    """Do what was planned: keys first, then all hosts in one transaction; on any error nothing is left behind.

    Raises `Invalid` when a problem is serious, and what the inventory and the secret store raise.
    """
    if planned.serious:
        raise Invalid(
            f"{len(planned.serious)} lines cannot be imported, so nothing was; the first: {planned.serious[0]}.",
            hint="correct the file; --dry-run shows what would happen",
        )
    made: list[str] = []
    try:
        for name, file in planned.keys.items():
            text = await asyncio.to_thread(_read_key, file)
            await secrets.set(name, Sensitive(text), kind="ssh-key", note=f"imported from {file}", actor=actor)
            made.append(name)
        edits = {edit.name: edit.patch for edit in planned.changed}
        return await inventory.apply([form for _, form in planned.added], edits, actor)
    except BaseException:
        for name in made:
            with contextlib.suppress(OpsDeckError):  # the first error is the one to tell
                await secrets.remove(name, actor)
        raise


def _read_key(file: str) -> str:
    return Path(file).expanduser().read_text()


def _edit(host: Host, row: Row, given: Mapping[str, object]) -> Edit | None:
    patch = checked(HostPatch, given, host=row.name)
    after = {name: value for name, value in patch.changes().items() if getattr(host, name) != value}
    if "tags" in after and isinstance(after["tags"], dict):
        after["tags"] = {**host.tags, **after["tags"]}
        patch = patch.model_copy(update={"tags": after["tags"]})
        if after["tags"] == host.tags:
            del after["tags"]
    if not after:
        return None
    return Edit(row.name, row.line, {name: getattr(host, name) for name in after}, after, patch)


def _keys(rows: Sequence[Row], problems: list[Problem]) -> dict[str, str]:
    """Give a secret's name for each key file that can be read; one name per content of a file."""
    names: dict[str, str] = {}
    taken: dict[str, str] = {}
    for row in rows:
        if row.key_file is None or row.key_file in names:
            continue
        path = Path(row.key_file).expanduser()
        try:
            if path.stat().st_size > MAX_KEY_BYTES:
                raise OSError(None, "too large to be a key")
            content = path.read_text()
        except (OSError, UnicodeDecodeError) as fault:
            why = getattr(fault, "strerror", None) or "it is no text"
            problems.append(Problem(row.line, f"{row.name}: the key file {row.key_file} cannot be read: {why}"))
            continue
        base = name_from(path.name) or "key"
        name, number = base, 2
        while taken.get(name, content) != content:
            name, number = f"{base}-{number}", number + 1
        taken[name] = content
        names[row.key_file] = name
    return names
