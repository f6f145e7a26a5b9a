"""Python for what a mapping cannot say: files of the console's data folder, `search_sync/<name>.py`.

A hook may define `document(row, document)`, which gives the document as it shall be or None to leave the row out, and
`after(written, removed)`, which is told what is in the index now. Nobody brings code in through a page: a mapping names
a file, and the file must belong to who runs the console, as the master key beside it does.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import stat
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

from opsdeck.api import Invalid, NotFound, Refused
from opsdeck_search_sync.changes import Json

FOLDER = "search_sync"
BOUND = 30.0
"""Seconds that a hook may take for one part of a transaction or for one batch."""

Document = dict[str, Json]


class HookFailed(Exception):
    """A hook raised, or gave something that is no document."""


@dataclass(frozen=True)
class Hook:
    """One file's functions."""

    name: str
    document: Callable[[Document, Document], Any] | None
    after: Callable[[dict[Any, Document], list[Any]], Any] | None

    def apply(self, row: Document, document: Document) -> Document | None:
        """Give the document as the hook wants it. Raises `HookFailed`."""
        if self.document is None:
            return document
        try:
            made = self.document(row, document)
        except Exception as fault:  # whatever a hook does, it is told of that document
            raise HookFailed(f"{self.name}: {_where(fault)}") from fault
        if made is not None and not isinstance(made, dict):
            raise HookFailed(f"{self.name}: document() gave a {type(made).__name__}, neither a dict nor None")
        return made


def load(home: Path, names: Sequence[str]) -> tuple[Hook, ...]:
    """Load hooks by their names. Raises `NotFound`, `Refused` for a file that others may write, `Invalid`."""
    return tuple(_load(home / FOLDER, name) for name in names)


def _load(folder: Path, name: str) -> Hook:
    file = folder / f"{name}.py"
    try:
        for path in (folder, file):
            there = path.stat()
            if there.st_uid not in {0, os.geteuid()} or stat.S_IMODE(there.st_mode) & 0o022:
                raise Refused(
                    f"others may write to {path}.",
                    field="mapping",
                    hint=f"chown it to who runs the console, and chmod go-w {path}",
                )
        text = file.read_text("utf-8")
    except FileNotFoundError as fault:
        raise NotFound(
            f"there is no hook {name!r} on this node.", field="mapping", hint=f"put it to {file}, on every node"
        ) from fault
    except (OSError, UnicodeDecodeError) as fault:
        raise Invalid(f"{file} cannot be read: {fault}", field="mapping", hint="it is Python in UTF-8") from fault
    space: dict[str, Any] = {"__name__": f"opsdeck_search_sync_hook_{name}", "__file__": str(file)}
    try:
        code: CodeType = compile(text, str(file), "exec", dont_inherit=True)
        exec(code, space)  # noqa: S102 - the file of who runs the console, see above
    except Exception as fault:  # whatever is wrong with it, it is told with its line
        raise Invalid(f"{file} is no hook: {_where(fault)}", field="mapping", hint="mend that line") from fault
    found = {word: space.get(word) for word in ("document", "after")}
    if not any(found.values()):
        raise Invalid(
            f"{file} defines neither document nor after.", field="mapping", hint="def document(row, document): …"
        )
    for word, function in found.items():
        if function is not None and (not callable(function) or inspect.iscoroutinefunction(function)):
            raise Invalid(f"{word} in {file} is no plain function.", field="mapping", hint=f"def {word}(…): …")
    return Hook(name, found["document"], found["after"])


def _where(fault: Exception) -> str:
    if isinstance(fault, SyntaxError):
        return f"line {fault.lineno}: {fault.msg}"
    frames = traceback.extract_tb(fault.__traceback__)
    return f"{type(fault).__name__} in line {frames[-1].lineno}: {fault}"[:500]


async def bounded(work: Callable[[], Any]) -> Any:
    """Do in a thread what calls hooks. Raises `Refused` when it does not come back."""
    try:
        async with asyncio.timeout(BOUND):
            return await asyncio.to_thread(work)
    except TimeoutError as fault:
        raise Refused(
            f"a hook did not come back within {BOUND:g} s.",
            field="mapping",
            hint="mend it, then resume the sync; the console needs a restart to be rid of the old call",
        ) from fault


async def told(hooks: Sequence[Hook], written: Mapping[Any, Document], removed: Sequence[Any]) -> str:
    """Tell hooks what is in the index now; give what went wrong, since that undoes nothing."""

    def work() -> str:
        for hook in hooks:
            if hook.after is not None:
                try:
                    hook.after(dict(written), list(removed))
                except Exception as fault:  # what is in the index stays; the fault is shown
                    return f"{hook.name}: after(): {_where(fault)}"
        return ""

    if not any(hook.after for hook in hooks):
        return ""
    try:
        return str(await bounded(work))
    except Refused as fault:
        return str(fault.message)


def check_name(name: str) -> str:
    """Give a hook's name. Raises `ValueError`."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name):
        raise ValueError(f"hook {name!r}: small letters, digits and _; it names {FOLDER}/<name>.py in the data folder")
    return name
