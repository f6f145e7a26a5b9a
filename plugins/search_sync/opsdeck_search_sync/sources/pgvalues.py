"""PostgreSQL's texts of values as JSON-ready values: one codec for the copy and the stream.

Both sessions speak UTC, ISO dates and `postgres` intervals (`SESSION`), so a value has one text. Source: PostgreSQL's
manual, data types and their output functions; numbers of types from `pg_type.dat`.
"""

from __future__ import annotations

import base64
import calendar
import json
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime

from opsdeck_search_sync.changes import Json

SESSION = "-c TimeZone=UTC -c DateStyle=ISO,YMD -c IntervalStyle=postgres -c extra_float_digits=3 -c bytea_output=hex"

SAFE = 2**53
"""Above this an integer loses digits where JSON numbers are doubles."""

Decoder = Callable[[str], Json]
RawDecoder = Callable[[bytes], Json]


def integer(text: str) -> Json:
    """Give an integer; a text where a double could not hold it."""
    value = int(text)
    return value if -SAFE <= value <= SAFE else text


def exact(text: str) -> Json:
    """Give a decimal as a number while 15 digits hold it, else as its text; NaN and infinity as null."""
    if len(text) <= 15 and text[-1].isdigit():  # the common case: not even every character could be too much
        return float(text) if "." in text or "e" in text.lower() else int(text)
    if text in {"NaN", "Infinity", "-Infinity"}:
        return None
    digits = sum(character.isdigit() for character in text.lstrip("-0."))
    if digits > 15:
        return text
    return float(text) if "." in text or "e" in text.lower() else int(text)


def real(text: str) -> Json:
    """Give a float; NaN and infinity as null."""
    value = float(text)
    return value if math.isfinite(value) else None


def timestamp(text: str) -> Json:
    """Give UNIX seconds: an integer, or a float where there are fractions. Infinity and years BC stay text."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return text
    if found.tzinfo is None:
        found = found.replace(tzinfo=UTC)
    found = found.astimezone(UTC)
    whole = calendar.timegm(found.timetuple())
    return whole + found.microsecond / 1_000_000 if found.microsecond else whole


def time(text: str) -> Json:
    """Give seconds since midnight."""
    found = re.fullmatch(r"(\d+):(\d+):(\d+)(\.\d+)?(?:[+-]\d+(?::\d+)*)?", text)
    if not found:
        return text
    hours, minutes, seconds, rest = found.groups()
    whole = int(hours) * 3600 + int(minutes) * 60 + int(seconds)
    return whole + float(rest) if rest else whole


def interval(text: str) -> Json:
    """Give seconds; a month counts 30 days and a year 365.25, as `extract(epoch …)` counts them."""
    seconds = 0.0
    for number, unit in re.findall(r"(-?\+?\d+) (year|mon|day)s?", text):
        seconds += int(number) * {"year": 31557600, "mon": 2592000, "day": 86400}[unit]
    clock = re.search(r"([+-]?)(\d+):(\d+):(\d+(?:\.\d+)?)", text)
    if clock:
        sign, hours, minutes, rest = clock.groups()
        seconds += (-1 if sign == "-" else 1) * (int(hours) * 3600 + int(minutes) * 60 + float(rest))
    return int(seconds) if seconds.is_integer() else seconds


def binary(text: str) -> Json:
    """Give bytes as base64."""
    return base64.b64encode(bytes.fromhex(text[2:])).decode()


def document(text: str) -> Json:
    """Give JSON as it is, numbers above 2^53 as texts."""
    found: Json = json.loads(text, parse_int=integer, parse_float=exact, parse_constant=lambda _name: None)
    return found


def point(text: str) -> Json:
    """Give a point as a place: x is the longitude, y the latitude."""
    found = re.fullmatch(r"\(([^,]+),([^)]+)\)", text)
    return {"lat": real(found[2]), "lng": real(found[1])} if found else text


def array(element: Decoder) -> Decoder:
    """Make the decoder of an array, of any depth."""

    def decode(text: str) -> Json:
        if text.startswith("["):
            text = text.partition("=")[2]  # bounds other than 1 are written in front
        found, end = _items(text, 0, element)
        if end != len(text):
            raise ValueError(f"an array goes on after its end: {text[:80]!r}")
        return found

    return decode


def _items(text: str, at: int, element: Decoder) -> tuple[list[Json], int]:
    if text[at] != "{":
        raise ValueError(f"no array: {text[:80]!r}")
    at += 1
    found: list[Json] = []
    while text[at] != "}":
        if text[at] == ",":
            at += 1
        if text[at] == "{":
            inner, at = _items(text, at, element)
            found.append(inner)
        elif text[at] == '"':
            piece, at = _quoted(text, at + 1)
            found.append(element(piece))
        else:
            end = at
            while text[end] not in ",}":
                end += 1
            piece, at = text[at:end], end
            found.append(None if piece == "NULL" else element(piece))
    return found, at + 1


def _quoted(text: str, at: int) -> tuple[str, int]:
    made = []
    while text[at] != '"':
        if text[at] == "\\":
            at += 1
        made.append(text[at])
        at += 1
    return "".join(made), at + 1


def _same(text: str) -> Json:
    return text


_BASE: dict[str, Decoder] = {
    "bool": lambda text: text == "t",
    "int2": int,
    "int4": int,
    "int8": integer,
    "oid": int,
    "float4": real,
    "float8": real,
    "numeric": exact,
    "date": timestamp,
    "timestamp": timestamp,
    "timestamptz": timestamp,
    "time": time,
    "timetz": time,
    "interval": interval,
    "bytea": binary,
    "json": document,
    "jsonb": document,
    "point": point,
    "bpchar": lambda text: text.rstrip(" "),
    "bit": lambda text: text == "1" if len(text) == 1 else int(text, 2),
    "varbit": lambda text: int(text, 2) if text else None,
}


def decoder(type_name: str) -> Decoder:
    """Give the decoder of a type, by its name in `pg_type` (an array's begins with `_`); unknown ones stay text."""
    if type_name.startswith("_"):
        return array(_BASE.get(type_name[1:], _same))
    return _BASE.get(type_name, _same)


def _raw_integer(raw: bytes) -> Json:
    value = int(raw)
    return value if -SAFE <= value <= SAFE else raw.decode()


def _raw_exact(raw: bytes) -> Json:
    if len(raw) <= 15 and raw[-1] in b"0123456789":
        return float(raw) if b"." in raw else int(raw)
    return exact(raw.decode())


_RAW: dict[str, RawDecoder] = {
    "bool": lambda raw: raw == b"t",
    "int2": int,
    "int4": int,
    "int8": _raw_integer,
    "oid": int,
    "numeric": _raw_exact,
    "text": bytes.decode,
    "varchar": bytes.decode,
    "uuid": bytes.decode,
}
"""What needs no text in between: the types of most columns."""


def raw_decoder(type_name: str) -> RawDecoder:
    """Give the decoder of a type for the bytes as the server sends them."""
    if type_name in _RAW:
        return _RAW[type_name]
    decode = decoder(type_name)
    return lambda raw: decode(raw.decode())
