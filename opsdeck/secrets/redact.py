"""Taking secrets out of what hosts send, before it is written anywhere.

A secret is looked for as it is and in the forms in which programs commonly print it: URL-quoted, JSON-escaped,
shell-quoted, HTML-escaped, base64 at its three alignments (also wrapped in lines), and keys line by line. Long forms
are looked for in pieces of 64 bytes, so that a beginning of a key is hidden too and at most 71 bytes are held back.

The rule is leftmost match, longest first, neighbouring masks joined; it gives the same output for every way of
cutting a stream into chunks.
"""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar
from urllib.parse import quote, quote_plus

from opsdeck.secrets.sensitive import MASK, Sensitive

SHORTEST = 6
"""Secrets shorter than this are refused by the store: hiding them would blacken common words."""

SHORTEST_LINE = 8
"""Shortest line of a secret of several lines that is looked for on its own."""

PIECE = 64
T = TypeVar("T")
_MASK = MASK.encode()


class Redactor:
    """Knows the forms of some secrets, and hides them. Without secrets it costs nothing."""

    def __init__(self, secrets: Iterable[Sensitive] = ()) -> None:
        self._seen: set[str] = set()
        self._patterns: list[bytes] = []
        self._beginnings: set[bytes] | None = None
        self.longest = 0
        self.add(*secrets)

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def add(self, *secrets: Sensitive) -> None:
        """Hide these too from now on, in this redactor's streams as well."""
        fresh = {secret.reveal() for secret in secrets} - self._seen
        if not fresh:
            return
        self._seen |= fresh
        self._look_for(form for text in fresh for form in _forms(text))

    def add_key(self, key: Sensitive) -> None:
        """Hide a private key from now on: its lines as they are, without the many forms of other secrets.

        Every host's login has one, and some are long: all their forms would make each chunk of output ten times as
        dear, and whatever prints a key prints its lines.
        """
        if key.reveal() not in self._seen:
            self._seen.add(key.reveal())
            self._look_for(_lines(key.reveal()))

    def _look_for(self, patterns: Iterable[bytes]) -> None:
        self._patterns = sorted({*self._patterns, *patterns})
        self._beginnings = None
        self.longest = max(map(len, self._patterns), default=0)

    def text(self, text: str) -> str:
        """Give `text` with every known secret as `••••`."""
        if not self._patterns:
            return text
        data = text.encode("utf-8", "surrogateescape")
        return Stream(self).whole(data).decode("utf-8", "surrogateescape")

    def data(self, value: T) -> T:
        """Give plain data (mappings, sequences, frozen dataclasses, texts) with every known secret as `••••`."""
        if not self._patterns:
            return value
        masked: Any = value
        if type(value) is str:
            masked = self.text(str(value))
        elif isinstance(value, Mapping):
            masked = {self.data(key): self.data(part) for key, part in value.items()}
        elif isinstance(value, list | tuple):
            masked = type(value)(self.data(part) for part in value)
        elif is_dataclass(value) and not isinstance(value, type):
            masked = replace(value, **{field.name: self.data(getattr(value, field.name)) for field in fields(value)})
        return masked  # type: ignore[no-any-return]

    def stream(self) -> Stream:
        """Give a stream of its own for one channel of output."""
        return Stream(self)

    def expression(self, data: bytes) -> re.Pattern[bytes] | None:
        """Give an expression of the patterns that occur in `data`, longest first; None when none does."""
        there = [pattern for pattern in self._patterns if pattern in data]
        if not there:
            return None
        return re.compile(b"|".join(re.escape(pattern) for pattern in sorted(there, key=len, reverse=True)))

    def undecided(self, data: bytes, start: int) -> int:
        """Give where, from `start`, the end of `data` may be the beginning of a pattern; its length when nowhere."""
        if self._beginnings is None:
            self._beginnings = {pattern[:size] for pattern in self._patterns for size in range(1, len(pattern))}
        for at in range(max(start, len(data) - self.longest + 1), len(data)):
            if data[at:] in self._beginnings:
                return at
        return len(data)


class Stream:
    """One channel of output. What may be the beginning of a secret is held back until the next chunk or `flush`."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._held = b""
        self._masked = False

    @property
    def held(self) -> int:
        """Give how many bytes are held back; flush when they have waited longer than a reader should."""
        return len(self._held)

    def feed(self, data: bytes) -> bytes:
        """Take a chunk; give what is decided."""
        if not self._redactor:
            return data
        return self._decide(self._held + data, more=True)

    def whole(self, data: bytes) -> bytes:
        """Take a chunk that is whole: nothing that follows belongs to it."""
        return self._decide(self._held + data, more=False) if self._redactor else data

    def flush(self) -> bytes:
        """Give what was held back. What comes later is not joined to it: a secret sent in halves around it shows."""
        if not self._held:
            return b""
        return self._decide(self._held, more=False)

    def _decide(self, data: bytes, *, more: bool) -> bytes:
        redactor = self._redactor
        expression = redactor.expression(data)
        out: list[bytes] = []
        at = 0
        while True:
            found = expression.search(data, at) if expression else None
            match = found.span() if found else None
            if match is None or match[0] > len(data) - redactor.longest:
                open_at = redactor.undecided(data, at) if more else len(data)
                if match is None or open_at <= match[0]:
                    break
            self._plain(out, data[at : match[0]])
            if not self._masked:
                out.append(_MASK)
                self._masked = True
            at = match[1]
        self._plain(out, data[at:open_at])
        self._held = data[open_at:]
        return b"".join(out)

    def _plain(self, out: list[bytes], data: bytes) -> None:
        if data:
            out.append(data)
            self._masked = False


def _forms(text: str) -> Iterator[bytes]:
    """Give every form of a secret that is looked for, in pieces."""
    yield from _lines(text)
    whole = text.strip("\r\n")
    if not whole:
        return
    for form in _texts(whole):
        if "\n" not in form:
            yield from _pieces(form.encode("utf-8", "surrogateescape"))
    for raw in {whole.encode("utf-8", "surrogateescape"), text.encode("utf-8", "surrogateescape")}:
        for encoded in _base64s(raw):
            yield from _pieces(encoded)


def _lines(text: str) -> Iterator[bytes]:
    """Give the lines of a text of several, without those that only frame it."""
    lines = text.splitlines()
    if len(lines) > 1:
        for line in lines:
            if len(line.strip()) >= SHORTEST_LINE and not line.startswith("-----"):
                yield from _pieces(line.strip().encode("utf-8", "surrogateescape"))


def _texts(text: str) -> set[str]:
    escaped = {json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
    escaped |= {each.replace("/", "\\/") for each in escaped}
    plain = text.encode("utf-8", "surrogateescape")
    quoted = {quote(plain, safe=""), quote(plain), quote_plus(plain)}
    quoted |= {re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), each) for each in quoted}
    return {
        text,
        *escaped,
        *quoted,
        shlex.quote(text).removeprefix("'").removesuffix("'"),
        text.replace("'", "'\\''"),
        re.sub(r'([$`"\\!])', r"\\\1", text),
        re.sub(r"([^\w@%+=:,./-])", r"\\\1", text),
        html.escape(text),
        html.escape(text, quote=False),
    }


def _base64s(raw: bytes) -> Iterator[bytes]:
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        whole = encode(raw)
        yield whole
        yield whole.rstrip(b"=")
        for before in range(3):
            first = -(-8 * before // 6)
            last = 8 * (before + len(raw)) // 6
            yield encode(b"\0" * before + raw)[first:last]
        for width in (64, 76):
            if len(whole) > width:
                for begin in range(0, len(whole), width):
                    yield whole[begin : begin + width]


def _pieces(form: bytes) -> Iterator[bytes]:
    """Cut a long form into pieces of 64 to 71 bytes or less; forms that are too short to look for are left out."""
    if len(form) < SHORTEST:
        return
    while len(form) >= PIECE + SHORTEST_LINE:
        yield form[:PIECE]
        form = form[PIECE:]
    yield form
