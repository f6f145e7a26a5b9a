"""Parameters of actions: raw values in, a checked model out, and what a door must know to ask for them.

One Pydantic model per action makes the CLI's options, the page's form, the API's schema and the frozen row of a job.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from opsdeck.errors import Invalid
from opsdeck.secrets.sensitive import Sensitive

if TYPE_CHECKING:
    from opsdeck.manifest import Action


class FieldKind(StrEnum):
    """How a door asks for a value."""

    TEXT = "text"
    MULTILINE = "multiline"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    CHOICE = "choice"
    LIST = "list"
    SECRET = "secret"  # noqa: S105 - the kind of a field, not a password
    HOST = "host"
    PATH = "path"
    DURATION = "duration"
    JSON = "json"
    """Anything deeper: given as JSON text."""


@dataclass(frozen=True)
class FormField:
    """One parameter as a door shows it. `item` is the kind of a list's elements."""

    name: str
    title: str
    help: str
    kind: FieldKind
    required: bool
    default: Any = None
    choices: tuple[str, ...] = ()
    item: FieldKind | None = None
    nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    max_length: int | None = None
    pattern: str | None = None
    unit: str = ""
    examples: tuple[str, ...] = ()


WHOLE = "all"
"""Stands as the field of an error that is about all parameters together."""


@dataclass(frozen=True)
class FieldError:
    """What is wrong with one parameter."""

    field: str
    message: str


class InvalidParams(Invalid):
    """Parameters that the action's model refuses; `errors` has all of them, the message the first."""

    def __init__(self, action: str, errors: Sequence[FieldError]) -> None:
        first = errors[0]
        more = f" ({len(errors) - 1} more)" if len(errors) > 1 else ""
        which = "parameters" if first.field == WHOLE else f"parameter {first.field!r}"
        super().__init__(
            f"{which} of {action}: {first.message}{more}.",
            field=first.field,
            hint=f"`opsdeck plugin run {action.replace('.', ' ')} --help` shows what it takes",
        )
        self.errors = tuple(errors)


def parse(plugin: str, action: Action, raw: Mapping[str, Any]) -> BaseModel:
    """Check raw values (typed or text) by the action's model. Raises `InvalidParams` naming every bad field."""
    name = f"{plugin}.{action.name}"
    model = action.params
    errors = []
    if model.model_config.get("extra", "ignore") == "ignore":
        known = set(model.model_fields) | {field.alias for field in model.model_fields.values() if field.alias}
        errors = [FieldError(str(key) or "(empty)", "there is no such parameter") for key in raw if key not in known]
    try:
        params = model.model_validate(dict(raw))
    except ValidationError as fault:
        for error in fault.errors(include_url=False, include_context=False, include_input=False):
            where = ".".join(str(part) for part in error["loc"]) or WHOLE
            unknown = error["type"] == "extra_forbidden"
            said = "there is no such parameter" if unknown else str(error["msg"]).removeprefix("Value error, ")
            errors.append(FieldError(where, said))
        raise InvalidParams(name, errors) from None
    if errors:
        raise InvalidParams(name, errors)
    for field in model.model_fields:
        if isinstance(getattr(params, field), Sensitive):
            raise Invalid(f"{name} takes a value that must be a secret.", field=field, hint="declare it as SecretName")
    return params


def dump(params: BaseModel) -> dict[str, Any]:
    """Give the parameters as JSON-ready data, as they are frozen into a job."""
    return params.model_dump(mode="json", by_alias=True)


def fields(model: type[BaseModel]) -> tuple[FormField, ...]:
    """Give what a door must know about each parameter, in the model's order."""
    schema = model.model_json_schema(by_alias=True)
    required = set(schema.get("required", ()))
    return tuple(
        _field(name, part, name in required, schema.get("$defs", {}))
        for name, part in schema.get("properties", {}).items()
    )


def from_text(model: type[BaseModel], given: Mapping[str, str | Sequence[str]]) -> dict[str, Any]:
    """Turn texts, as forms and `--param` give them, into raw values for `parse`.

    An empty text for a field that is not text means "not given". A list is several texts, or one text with a line for
    each. Raises `Invalid` for JSON that is none.
    """
    known = {field.name: field for field in fields(model)}
    values: dict[str, Any] = {}
    for name, value in given.items():
        field = known.get(name)
        texts = [value] if isinstance(value, str) else list(value)
        if field is None:
            values[name] = value
        elif field.kind is FieldKind.LIST:
            items = texts if len(texts) != 1 else texts[0].splitlines()
            values[name] = [_one(field.item or FieldKind.TEXT, name, item) for item in items if item != ""]
        elif texts and (texts[-1] != "" or (field.kind in _TEXTUAL and not field.nullable)):
            values[name] = _one(field.kind, name, texts[-1])
    return values


_TEXTUAL = (FieldKind.TEXT, FieldKind.MULTILINE)


def _one(kind: FieldKind, name: str, text: str) -> Any:
    if kind is not FieldKind.JSON:
        return text.replace("\r\n", "\n") if kind is FieldKind.MULTILINE else text
    try:
        return json.loads(text)
    except ValueError as fault:
        raise Invalid(f"parameter {name!r} is not JSON: {fault}.", field=name, hint="give a JSON value") from fault


def _field(name: str, part: Mapping[str, Any], required: bool, defs: Mapping[str, Any]) -> FormField:
    core, nullable = _resolve(part, defs)
    kind = _kind(core)
    item = None
    if kind is FieldKind.LIST:
        inner, _ = _resolve(core.get("items", {}), defs)
        item = _kind(inner)
        if item is FieldKind.LIST:
            item = FieldKind.JSON
        core = {**inner, **core} if "enum" in inner else core
    extra = {**core, **part}
    return FormField(
        name=name,
        title=str(part.get("title") or name.replace("_", " ").capitalize()),
        help=str(part.get("description", "")),
        kind=kind,
        required=required,
        default=part.get("default"),
        choices=tuple(str(choice) for choice in core.get("enum", ()))
        or ((str(core["const"]),) if "const" in core else ()),
        item=item,
        nullable=nullable,
        minimum=core.get("minimum", core.get("exclusiveMinimum")),
        maximum=core.get("maximum", core.get("exclusiveMaximum")),
        max_length=core.get("maxLength"),
        pattern=core.get("pattern"),
        unit=str(extra.get("unit", "")),
        examples=tuple(str(example) for example in extra.get("examples", ())),
    )


def _resolve(part: Mapping[str, Any], defs: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """Follow references and take `X | None` apart: the schema of X, and whether None is allowed."""
    core = dict(part)
    if "$ref" in core:
        core = {**defs[core["$ref"].rsplit("/", 1)[-1]], **{k: v for k, v in core.items() if k != "$ref"}}
    if "allOf" in core and len(core["allOf"]) == 1:
        inner, _ = _resolve(core["allOf"][0], defs)
        core = {**inner, **core}
    if "anyOf" in core:
        options = [option for option in core["anyOf"] if option.get("type") != "null"]
        nullable = len(options) < len(core["anyOf"])
        if len(options) == 1:
            inner, _ = _resolve(options[0], defs)
            return {**inner, **{k: v for k, v in core.items() if k in ("opsdeck", "unit", "examples")}}, nullable
        return core, nullable
    return core, False


_BY_TYPE = {
    "string": FieldKind.TEXT,
    "integer": FieldKind.INTEGER,
    "number": FieldKind.NUMBER,
    "boolean": FieldKind.BOOLEAN,
    "array": FieldKind.LIST,
}
_BY_FORMAT = {
    "path": FieldKind.PATH,
    "file-path": FieldKind.PATH,
    "directory-path": FieldKind.PATH,
    "duration": FieldKind.DURATION,
}


def _kind(core: Mapping[str, Any]) -> FieldKind:
    marked = core.get("opsdeck")
    if marked in list(FieldKind):
        return FieldKind(marked)
    if "enum" in core or "const" in core:
        return FieldKind.CHOICE
    if core.get("format") in _BY_FORMAT:
        return _BY_FORMAT[core["format"]]
    return _BY_TYPE.get(str(core.get("type")), FieldKind.JSON)
