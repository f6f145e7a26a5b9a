"""Raw data into a checked form, the same for every door: what is wrong is one sentence with its field."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from opsdeck.errors import Invalid

F = TypeVar("F", bound=BaseModel)


def checked(
    form: type[F],
    data: Mapping[str, object],
    *,
    host: str | None = None,
    file: str | None = None,
    hint: str | None = None,
) -> F:
    """Make a form of raw data.

    Raises `Invalid` that names the first field that is wrong, and why; `host`, `file` and `hint` go along with it.
    """
    try:
        return form.model_validate(data)
    except ValidationError as fault:
        raise _invalid(fault, host, file, hint) from fault


def _invalid(fault: ValidationError, host: str | None, file: str | None, hint: str | None) -> Invalid:
    first = fault.errors()[0]
    text = first["msg"].removeprefix("Value error, ")
    field = ".".join(str(part) for part in first["loc"][:1])
    if not field and re.match(r"[a-z_]+: ", text):
        field, _, text = text.partition(": ")
    if first["type"] == "extra_forbidden":
        text = "there is no such field"
    elif first["type"] == "missing":
        text = "it is needed"
    said = f"{field}: {text}" if field else text
    return Invalid(
        f"{said.rstrip('.')}.", field=field or None, host=host, file=file, hint=hint or f"correct {field or 'it'}"
    )
