"""A mapping as forms, files and rows hold it: fields, casts, constants, templates, places, filters, hooks."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from opsdeck_search_sync.hooks import check_name


class Cast(StrEnum):
    """What a value becomes."""

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    UNIX = "unix"
    ISO = "iso"
    JSON = "json"
    LIST = "list"
    """A text with commas, as a list of texts."""


class Compare(StrEnum):
    """How a row is chosen."""

    EQ = "eq"
    NE = "ne"
    LT = "lt"
    LE = "le"
    GT = "gt"
    GE = "ge"
    IN = "in"
    NULL = "null"
    FILLED = "filled"


class FieldRule(BaseModel):
    """A field of the document out of a column."""

    model_config = ConfigDict(extra="forbid")

    column: str = Field(min_length=1, max_length=128)
    name: str = Field("", max_length=128)
    cast: Cast | None = None


class FilterRule(BaseModel):
    """A condition on a column; all must hold."""

    model_config = ConfigDict(extra="forbid")

    column: str = Field(min_length=1, max_length=128)
    is_: Compare = Field(Compare.EQ, alias="is")
    value: bool | int | float | str | list[bool | int | float | str] | None = None

    @model_validator(mode="after")
    def _fits(self) -> FilterRule:
        if self.is_ is Compare.IN and not isinstance(self.value, list):
            raise ValueError(f"filter on {self.column}: `in` wants a list")
        if self.is_ in {Compare.LT, Compare.LE, Compare.GT, Compare.GE} and isinstance(self.value, list | bool | None):
            raise ValueError(f"filter on {self.column}: `{self.is_}` wants a number or a text")
        return self


class GeoRule(BaseModel):
    """Where `_geo` comes from: two columns, or one of a point."""

    model_config = ConfigDict(extra="forbid")

    lat: str = ""
    lng: str = ""
    point: str = ""

    @model_validator(mode="after")
    def _one_way(self) -> GeoRule:
        if bool(self.point) == bool(self.lat and self.lng):
            raise ValueError("geo: give lat and lng, or point")
        return self


class MappingRules(BaseModel):
    """A sync's mapping, as forms, files and rows hold it. No `fields` means all columns as they are."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    fields: list[FieldRule] = []
    leave_out: list[str] = []
    """Columns that stay out when `fields` is empty."""
    id: str = Field("id", min_length=1, max_length=128)
    """Name of the document's id field."""
    constants: dict[str, bool | int | float | str | None] = {}
    templates: dict[str, str] = {}
    """Texts with columns in braces, such as `{first} {last}`."""
    geo: GeoRule | None = None
    filter: list[FilterRule] = []
    hooks: list[str] = []
    """Python files of the data folder, one after the other; see `hooks.py`."""

    @field_validator("hooks")
    @classmethod
    def _named(cls, names: list[str]) -> list[str]:
        return [check_name(name) for name in names]

    @field_validator("templates")
    @classmethod
    def _known_braces(cls, templates: dict[str, str]) -> dict[str, str]:
        for name, text in templates.items():
            for _literal, column, spec, conversion in string.Formatter().parse(text):
                if column is not None and (spec or conversion or not re.fullmatch(r"\w+", column)):
                    raise ValueError(f"template {name}: only plain {{column}} is known")
        return templates

    @property
    def columns(self) -> set[str]:
        """Give the columns that something beside plain fields is made of."""
        found = {rule.column for rule in self.filter}
        for text in self.templates.values():
            found |= {column for _literal, column, _spec, _conversion in string.Formatter().parse(text) if column}
        if self.geo:
            found |= {self.geo.lat, self.geo.lng, self.geo.point} - {""}
        return found

    def frozen(self, rules: Iterable[tuple[str, str, Cast | None]]) -> MappingRules:
        """Give the same mapping with every field named."""
        fields = [
            FieldRule(column=column, name=name if name != column else "", cast=how) for column, name, how in rules
        ]
        return self.model_copy(update={"fields": fields, "leave_out": []})
