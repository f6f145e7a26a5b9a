"""From a row to a document: which columns, under which names, as what; and which rows at all.

One `Mapper` serves the first copy, the stream, the preview and the check.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from opsdeck.api import Invalid, Refused
from opsdeck_search_sync.changes import ANY, UNCHANGED, Change, Column, Emptied, Json, Put, Removed, Row
from opsdeck_search_sync.documents import document_id
from opsdeck_search_sync.hooks import Hook, HookFailed
from opsdeck_search_sync.pipeline import Id, Op, Verb
from opsdeck_search_sync.rules import Cast, Compare, FieldRule, FilterRule, MappingRules


class Mapper:
    """Makes documents of the rows of one table. Raises `Invalid` for a mapping that does not fit its columns."""

    def __init__(self, mapping: MappingRules, columns: Sequence[Column], hooks: Sequence[Hook] = ()) -> None:
        self.mapping = mapping
        self.hooks = tuple(hooks)
        self.key = tuple(column.name for column in columns if column.key)
        if not self.key:
            raise Invalid(
                "the table has no primary key.", field="table", hint="give it one: ALTER TABLE … ADD PRIMARY KEY"
            )
        names = {column.name for column in columns}
        self._all = ANY in columns and not mapping.fields
        rules = mapping.fields or [
            FieldRule(column=column.name)
            for column in columns
            if not self._all and column.name not in mapping.leave_out
        ]
        for column in [*(rule.column for rule in rules), *mapping.columns]:
            if column not in names and (ANY not in columns or "." in column):
                raise Invalid(
                    f"there is no column {column!r}.", field="mapping", hint=f"there are: {', '.join(sorted(names))}"
                )
        self.rules = tuple((rule.column, rule.name or rule.column, rule.cast) for rule in rules)
        taken = [name for _column, name, _cast in self.rules] + [*mapping.constants, *mapping.templates]
        for name in taken:
            if taken.count(name) > 1:
                raise Invalid(f"the field {name!r} is made twice.", field="mapping", hint="rename one of them")
        for column, name, _cast in self.rules:
            if name == mapping.id and (column,) != self.key:
                raise Invalid(
                    f"{name!r} is the id of the document, which is made of the primary key ({', '.join(self.key)}); the"
                    f" column {column!r} would be lost under it.",
                    field="mapping",
                    hint="name the id otherwise, as in `id: document_id`, or rename or leave out the column",
                )
        self._derived = mapping.columns
        named = frozenset(column for column, _name, _cast in self.rules) | self._derived | set(self.key)
        self.needed = None if self._all else named
        """The columns that rows must have; None where a row has what it has, and all of it counts."""
        self._conditions = tuple(condition(rule) for rule in mapping.filter)
        more = mapping.constants or mapping.templates or mapping.geo or mapping.filter or self.hooks or self._all
        casts = any(how is not None for _column, _name, how in self.rules)
        self._plain = None if more or casts else tuple((column, name) for column, name, _cast in self.rules)
        """Columns with their fields, where a document is these and its id and nothing else."""
        self._alike = self._plain is not None and {(name, name) for name in named} == set(self._plain)
        """Whether that is the row as it is."""

    @property
    def frozen(self) -> MappingRules:
        """Give the mapping with its columns by name: one that goes later must be missed, not left out in silence."""
        return self.mapping if self._all else self.mapping.frozen(self.rules)

    def shape_of(self, columns: Sequence[Column]) -> dict[str, str]:
        """Tell what the mapping's columns are like: another answer later means other documents of the same rows."""
        used = [each for each in columns if self.needed is None or each.name in self.needed]
        return {"": ", ".join(each.name for each in columns if each.key)} | {
            each.name: f"{each.type} {each.shape}".strip() for each in used
        }

    def id_of(self, row: Row) -> Id:
        """Give the id of a row's document."""
        if len(self.key) == 1 and (value := row[self.key[0]]).__class__ is int:
            return value
        return document_id(tuple(_known(row[name]) for name in self.key))

    def wanted(self, row: Row) -> bool:
        """Tell whether a row is one of those that the filter lets through."""
        return all(holds(self._value(row, column)) for column, holds in self._conditions)

    def _value(self, row: Row, column: str) -> Json:
        return _known(row.get(column) if self._all else row[column])

    def op(self, row: Row) -> Op:
        """Give what becomes of a whole row's document: written, removed, or held back since a hook failed."""
        try:
            made = self.document(row) if self.wanted(row) else None
        except HookFailed as fault:
            return Op(Verb.HOLD, {name: _known(value) for name, value in row.items()}, str(fault))
        return Op(Verb.DELETE) if made is None else Op(Verb.REPLACE, made)

    def document(self, row: Row) -> dict[str, Json] | None:
        """Make the whole document of a whole row; None where a hook leaves it out. Raises `HookFailed`."""
        made: dict[str, Json] | None = self._mapped(row)
        for hook in self.hooks:
            if made is not None:
                made = hook.apply({name: _known(value) for name, value in row.items()}, made)
        if made is not None and self.hooks:
            made[self.mapping.id] = self.id_of(row)
            if made.get("_geo") is not None:
                made["_geo"] = legal_geo(made["_geo"])
        return made

    def _mapped(self, row: Row) -> dict[str, Json]:
        made = self._fields(row)
        made.update(self.mapping.constants)
        for name, text in self.mapping.templates.items():
            made[name] = text.format(**{key: _shown(self._value(row, key)) for key in self._derived})
        geo = self._geo(row)
        if geo is not None:
            made["_geo"] = geo
        made[self.mapping.id] = self.id_of(row)
        return made

    def _fields(self, row: Row) -> dict[str, Json]:
        if self._all:
            away = {*self.mapping.leave_out, *self.key}
            made: dict[str, Json] = {name: _known(value) for name, value in row.items() if name not in away}
            if "_geo" in made and legal_geo(made["_geo"]) is None:
                del made["_geo"]  # it would fail every document beside it
            return made
        made = {}
        for column, name, how in self.rules:
            value = row[column]
            if value is not UNCHANGED:
                made[name] = value if how is None else cast(value, how)
        return made

    def _geo(self, row: Row) -> Json:
        rule = self.mapping.geo
        if rule is None:
            return None
        if rule.point:
            return legal_geo(self._value(row, rule.point))
        return legal_geo({"lat": self._value(row, rule.lat), "lng": self._value(row, rule.lng)})

    def operations(self, changes: Iterable[Change]) -> Iterable[tuple[Id, Op] | Emptied]:
        """Turn changes into what becomes of documents, in order. Raises `Refused` where a value is needed that the
        source left out."""
        plain, alike, id_name = self._plain, self._alike, self.mapping.id
        for change in changes:
            if plain is not None and isinstance(change, Put) and not change.partial:
                row, id_ = change.row, self.id_of(change.row)
                if change.before is not None and (old := self.id_of(change.before)) != id_:
                    yield old, Op(Verb.DELETE)
                made: dict[str, Any] = dict(row) if alike else {name: row[column] for column, name in plain}
                made[id_name] = id_
                yield id_, Op(Verb.REPLACE, made)
            elif isinstance(change, Emptied):
                yield change
            elif isinstance(change, Removed):
                yield self.id_of(change.row), Op(Verb.DELETE)
            else:
                yield from self._put(change)

    def _put(self, change: Put) -> Iterable[tuple[Id, Op]]:
        id_ = self.id_of(change.row)
        if change.before is not None and (old := self.id_of(change.before)) != id_:
            yield old, Op(Verb.DELETE)
        missing: set[str] = set()
        if change.partial:
            missing = {column for column in self.needed or () if change.row[column] is UNCHANGED}
        if not missing:
            yield id_, self.op(change.row)
            return
        if (
            self.hooks
            or missing & self._derived
            or self._conditions
            or (change.before is not None and self.id_of(change.before) != id_)
        ):
            column = sorted(missing)[0]
            raise Refused(
                f"the source left out the unchanged value of {column!r}, which the mapping needs.",
                field="table",
                hint="run at the source: ALTER TABLE … REPLICA IDENTITY FULL; then rebuild",
            )
        partial = self._fields(change.row)
        partial[self.mapping.id] = id_
        yield id_, Op(Verb.MERGE, partial)


def _known(value: Any) -> Json:
    if value is UNCHANGED:
        raise Refused(
            "the source left out a value that the mapping needs.",
            field="table",
            hint="run at the source: ALTER TABLE … REPLICA IDENTITY FULL; then rebuild",
        )
    found: Json = value
    return found


def _shown(value: Json) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def cast(value: Any, how: Cast) -> Json:
    """Turn a value into what a rule asks for; what cannot be turned becomes null."""
    if value is None:
        return None
    try:
        return _CASTS[how](value)
    except (ValueError, TypeError, OverflowError):
        return None


def _boolean(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().lower() in {"1", "t", "true", "y", "yes", "on"}
    return bool(value)


def _unix(value: Any) -> int | float:
    return value if isinstance(value, int | float) else int(moment(value).timestamp())


def _iso(value: Any) -> str:
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC).isoformat().replace("+00:00", "Z")
    return moment(value).isoformat().replace("+00:00", "Z")


def moment(text: str) -> datetime:
    """Read a time; one without a zone is UTC."""
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _number(value: Any) -> float:
    found = float(value)
    if not math.isfinite(found):
        raise ValueError(value)
    return found


_CASTS: Mapping[Cast, Callable[[Any], Json]] = {
    Cast.TEXT: _shown,
    Cast.INTEGER: lambda value: int(value) if not isinstance(value, str) or "." not in value else int(float(value)),
    Cast.NUMBER: _number,
    Cast.BOOLEAN: _boolean,
    Cast.UNIX: _unix,
    Cast.ISO: _iso,
    Cast.JSON: lambda value: json.loads(value) if isinstance(value, str) else value,
    Cast.LIST: lambda value: (
        [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else list(value)
    ),
}


def legal_geo(value: Any) -> Json:
    """Give a place that Meilisearch takes, or None: one bad `_geo` would fail every task of its batch."""
    if not isinstance(value, dict):
        return None
    try:
        lat, lng = float(value["lat"]), float(value["lng"])
    except (KeyError, TypeError, ValueError):
        return None
    if not (math.isfinite(lat) and math.isfinite(lng) and -90 <= lat <= 90 and -180 <= lng <= 180):
        return None
    return {"lat": lat, "lng": lng}


_ORDER: Mapping[Compare, Callable[[Any, Any], bool]] = {
    Compare.LT: operator.lt,
    Compare.LE: operator.le,
    Compare.GT: operator.gt,
    Compare.GE: operator.ge,
}


def condition(rule: FilterRule) -> tuple[str, Callable[[Json], bool]]:
    """Make the test of a filter's rule. A value of another kind than asked for never passes."""
    wanted = rule.value
    if rule.is_ is Compare.NULL:
        return rule.column, lambda value: value is None
    if rule.is_ is Compare.FILLED:
        return rule.column, lambda value: value is not None
    if rule.is_ is Compare.IN:
        among = [_plain(one) for one in wanted] if isinstance(wanted, list) else []
        return rule.column, lambda value: value is not None and _plain(value) in among
    if rule.is_ is Compare.EQ:
        return rule.column, lambda value: value is not None and _plain(value) == _plain(wanted)
    if rule.is_ is Compare.NE:
        return rule.column, lambda value: value is None or _plain(value) != _plain(wanted)
    order: Callable[[Any, Any], bool] = _ORDER[rule.is_]

    def ordered(value: Json) -> bool:
        if isinstance(value, str) and isinstance(wanted, int | float):
            try:
                return bool(order(float(value), wanted))
            except ValueError:
                return False
        same = (isinstance(value, str) and isinstance(wanted, str)) or (
            isinstance(value, int | float) and isinstance(wanted, int | float)
        )
        return same and bool(order(value, wanted))

    return rule.column, ordered


def _plain(value: Any) -> Any:
    """Make `true` and `"true"`, 1 and 1.0 alike, as filters from forms come as text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
