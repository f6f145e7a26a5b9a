"""The errors of the house: raised where a fault is known, shown once at the door.

Every error says what is wrong, names the host, field or file it is about, and gives the next step.
The exit codes are those of the CLI: 0 all succeeded, 1 some step failed, 2 usage or validation,
3 not found, 4 refused. `status` is the HTTP status of the same fault.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class OpsDeckError(Exception):
    """A fault that a person can act on.

    `message` is one sentence; `host`, `field` and `file` name what it is about; `hint` is the next step.
    """

    exit_code = 1
    status = 500

    def __init__(
        self,
        message: str,
        *,
        host: str | None = None,
        field: str | None = None,
        file: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.host = host
        self.field = field
        self.file = file
        self.hint = hint

    def __str__(self) -> str:
        """Give the one line that is shown everywhere: `host: message Next: hint`."""
        text = f"{self.host}: {self.message}" if self.host else self.message
        return f"{text} Next: {self.hint}" if self.hint else text

    def as_dict(self) -> dict[str, str]:
        """Give the fault as JSON-ready text: `error` (the class) and every part that is set."""
        parts = {"message": self.message, "host": self.host, "field": self.field, "file": self.file, "hint": self.hint}
        return {"error": type(self).__name__} | {name: text for name, text in parts.items() if text}


class Invalid(OpsDeckError):
    """Something a person gave cannot be used: a parameter, a selector, a file to import."""

    exit_code = 2
    status = 422


class NotFound(OpsDeckError):
    """No host, secret, job or other thing of that name exists."""

    exit_code = 3
    status = 404


class Refused(OpsDeckError):
    """It exists and is well formed, and is not allowed: permission, host key, lease, guard."""

    exit_code = 4
    status = 403


class Conflict(Refused):
    """Somebody else holds it, or it changed meanwhile."""

    status = 409


class Unavailable(OpsDeckError):
    """A thing the work leans on is gone or full: the database, the disk, the master key file."""

    status = 503


@contextlib.contextmanager
def as_value_error() -> Iterator[None]:
    """Let Pydantic name the field: a fault of the house inside the block, or the decorated function, is a ValueError.

    For validators of forms and parameters that ask a check which raises `Invalid`. Of the fault its sentence and its
    hint are kept.
    """
    try:
        yield
    except OpsDeckError as fault:
        raise ValueError(f"{fault.message} {fault.hint or ''}".strip()) from fault
