"""Paths, owners and modes on a host, checked where they enter."""

from __future__ import annotations

import re
import secrets

from opsdeck.errors import Invalid

# PATH_MAX and NAME_MAX of Linux, less what the names of staged files add.
_PATH_LIMIT = 4000
_NAME_LIMIT = 220
_OWNER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}\$?(:[A-Za-z_][A-Za-z0-9_.-]{0,31})?")


def check_path(path: str, field: str = "path") -> str:
    """Give the path when a file may lie there: absolute, no `.` or `..` in it, no NUL. Raises `Invalid`."""
    if "\0" in path:
        raise Invalid("a NUL byte cannot be part of a path.", field=field)
    if not path.startswith("/"):
        raise Invalid(f"{path!r} is no absolute path.", field=field, hint="begin it with /")
    parts = path.split("/")[1:]
    if any(part in ("", ".", "..") for part in parts):
        raise Invalid(f"{path!r} has an empty part, `.` or `..` in it.", field=field, hint="write it out in full")
    try:
        name, whole = len(parts[-1].encode()), len(path.encode())
    except UnicodeEncodeError:
        raise Invalid("the path is not valid text.", field=field) from None
    if name > _NAME_LIMIT or whole > _PATH_LIMIT:
        raise Invalid(f"the path is too long ({whole} bytes).", field=field)
    return path


def check_owner(owner: str, field: str = "owner") -> str:
    """Give the owner when it is `user` or `user:group`. Raises `Invalid`."""
    if not _OWNER.fullmatch(owner):
        raise Invalid(f"{owner!r} is no owner.", field=field, hint="write user or user:group")
    return owner


def check_mode(mode: int, field: str = "mode") -> int:
    """Give the mode when it is one. Raises `Invalid`."""
    if not 0 <= mode <= 0o7777:
        raise Invalid(f"{mode:o} is no mode.", field=field, hint="use something like 0644")
    return mode


def beside(path: str, what: str) -> str:
    """Name a file that lies beside `path`; hidden, so that no `*` or `*.conf` of a program's folder takes it in."""
    folder, _, name = path.rpartition("/")
    return f"{folder}/.{name}.opsdeck-{what}"


def staged(path: str) -> str:
    """Name a new file beside `path` that nobody can guess."""
    return beside(path, secrets.token_hex(6))


def parse_mode(text: str) -> int:
    """Read `0644` or `644`. Raises `Invalid`."""
    if not re.fullmatch(r"0?[0-7]{3,4}", text):
        raise Invalid(f"{text!r} is no mode.", field="mode", hint="use something like 0644")
    return int(text, 8)
