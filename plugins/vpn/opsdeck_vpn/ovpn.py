"""Reading a raw `.ovpn`: what of it may run on a gateway, and what was left out, why. Pure.

What is not known is left out, never passed on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from opsdeck.api import Invalid
from opsdeck_vpn.directives import DROPPED, FILES, INLINE, KEPT

LIMIT = 512 * 1024
"""Bytes of a profile with everything inline."""

_WORD = re.compile(r"[A-Za-z0-9-]{1,64}")
_LOCKED = ("BEGIN ENCRYPTED PRIVATE KEY", "Proc-Type: 4,ENCRYPTED")
_WEAK = frozenset(["BF-CBC", "DES-CBC", "DES-EDE3-CBC", "CAST5-CBC", "RC2-CBC", "NONE"])


class Weight(StrEnum):
    """How much a line of the report matters."""

    STRIPPED = "stripped"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Remark:
    """One line of the report: what (a directive, with its line in the file), and why."""

    weight: Weight
    what: str
    why: str
    line: int = 0


@dataclass(frozen=True)
class Remote:
    """A server as the profile names it."""

    host: str
    port: int
    proto: str


@dataclass(frozen=True)
class Profile:
    """What an `.ovpn` asks for, safe to run, and the report. `text` holds private keys: seal it."""

    text: str = field(repr=False)
    remotes: tuple[Remote, ...]
    remarks: tuple[Remark, ...]
    wants_password: bool
    inline_login: tuple[str, str] | None = field(default=None, repr=False)
    challenge: str = ""
    """The question of `static-challenge`, "" without."""
    locked: bool = False
    """Whether the private key has a passphrase."""


@dataclass(frozen=True)
class _Line:
    number: int
    words: tuple[str, ...]
    body: tuple[str, ...] | None = None


def parse(text: str, files: Mapping[str, str] | None = None) -> Profile:
    """Read a profile; `files` are those it refers to, by their names without folders.

    Raises `Invalid` with the line when it cannot be one: no server, an unclosed block, a file that was not given.
    """
    if len(text.encode("utf-8", "replace")) > LIMIT:
        raise Invalid(f"the profile is over {LIMIT // 1024} KiB.", field="profile", hint="leave out what is no profile")
    if "\0" in text:
        raise Invalid("the profile is not text.", field="profile", hint="give the .ovpn itself, not an archive")
    reader = _Reader(dict(files or {}))
    for line in _lines(text):
        reader.take(line)
    return reader.finish()


def _lines(text: str) -> list[_Line]:
    found: list[_Line] = []
    rows = text.lstrip("\ufeff").splitlines()
    at = 0
    while at < len(rows):
        row, number = rows[at].strip(), at + 1
        at += 1
        if not row or row[0] in "#;":
            continue
        if opening := re.fullmatch(r"<([a-z0-9-]+)>", row):
            name = opening[1]
            body: list[str] = []
            while at < len(rows) and rows[at].strip() != f"</{name}>":
                body.append(rows[at].rstrip("\r"))
                at += 1
            if at == len(rows):
                raise Invalid(
                    f"line {number}: the block <{name}> is not closed.", field="profile", hint=f"end it with </{name}>"
                )
            at += 1
            found.append(_Line(number, (name,), tuple(body)))
        else:
            found.append(_Line(number, _words(row, number)))
    return found


def _words(row: str, number: int) -> tuple[str, ...]:
    """Split a line as openvpn(8) does: blanks, quotes, backslashes, comments."""
    words: list[str] = []
    word: list[str] | None = None
    quote = ""
    letters = iter(row)
    for char in letters:
        if quote:
            if char == quote:
                quote = ""
            elif char == "\\" and quote == '"':
                word = [*(word or []), next(letters, "\\")]
            else:
                word = [*(word or []), char]
        elif char in "\"'":
            quote, word = char, word or []
        elif char == "\\":
            word = [*(word or []), next(letters, "\\")]
        elif char.isspace():
            if word is not None:
                words.append("".join(word))
            word = None
        elif char in "#;" and word is None:
            break
        else:
            word = [*(word or []), char]
    if quote:
        raise Invalid(f"line {number}: a quote is not closed.", field="profile", hint="close it")
    if word is not None:
        words.append("".join(word))
    return tuple(words)


def _quoted(word: str) -> str:
    if word and re.fullmatch(r"[A-Za-z0-9_.:/@%+=,!\[\]-]+", word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


class _Reader:
    def __init__(self, files: dict[str, str]) -> None:
        self._files = files
        self._used: set[str] = set()
        self._out: list[str] = []
        self._remarks: list[Remark] = []
        self._remotes: list[tuple[str, int | None, str | None]] = []
        self._names: set[str] = set()
        self._port, self._proto = 1194, "udp"
        self._password = False
        self._login: tuple[str, str] | None = None
        self._challenge = ""
        self._ciphers: list[str] = []

    def take(self, line: _Line) -> None:
        name = line.words[0].lstrip("-") if line.words else ""
        if not name:
            return
        if not _WORD.fullmatch(name):
            self._say(Weight.STRIPPED, name[:40], "is no directive", line.number)
            return
        self._names.add(name)
        if line.body is not None:
            self._block(name, line)
        elif name in DROPPED:
            self._say(Weight.STRIPPED, name, DROPPED[name], line.number)
        elif name not in KEPT:
            self._say(Weight.STRIPPED, name, "is not known to be safe", line.number)
        else:
            self._directive(name, line.words[1:], line.number)

    def _say(self, weight: Weight, what: str, why: str, line: int = 0) -> None:
        self._remarks.append(Remark(weight, what, why, line))

    def _block(self, name: str, line: _Line) -> None:
        body = line.body or ()
        if name == "connection":
            self._connection(body, line.number + 1)
            return
        if name not in INLINE:
            self._say(Weight.STRIPPED, f"<{name}>", "is not known to be safe", line.number)
            return
        if name == "auth-user-pass":
            self._password = True
            rows = [row.strip() for row in body if row.strip()]
            if len(rows) >= 2:
                self._login = (rows[0], rows[1])
            self._say(
                Weight.NOTE, "<auth-user-pass>", "the password was taken out of the profile and sealed", line.number
            )
            return
        self._inline(name, "\n".join(body), line.number)

    def _connection(self, body: tuple[str, ...], first: int) -> None:
        """Take one server with its own port and protocol, whichever comes first."""
        before, port, proto = len(self._remotes), None, None
        for number, row in enumerate(body, first):
            match _words(row.strip(), number):
                case ("remote", *words):
                    self._remote(tuple(words), number)
                case ("port" | "rport", word, *_):
                    port = _port(word, number)
                case ("proto", word, *_):
                    proto = word
                case (word, *_):
                    self._say(Weight.STRIPPED, word, "an option of one server only; the profile's own holds", number)
        self._remotes[before:] = [(host, own or port, of or proto) for host, own, of in self._remotes[before:]]

    def _inline(self, name: str, body: str, number: int) -> None:
        if f"</{name}>" in body:
            raise Invalid(f"line {number}: the block <{name}> holds its own end.", field="profile", hint="mend it")
        self._out += [f"<{name}>", body.strip("\r\n"), f"</{name}>"]

    def _directive(self, name: str, words: tuple[str, ...], number: int) -> None:
        match name:
            case "remote":
                self._remote(words, number)
            case "auth-user-pass":
                self._password = True
                if words:
                    self._login = self._login or self._login_of(words[0], number)
            case "proto":
                self._proto = words[0] if words else "udp"
            case "port" | "rport":
                self._port = _port(words[0] if words else "", number)
            case "static-challenge":
                self._challenge = words[0] if words else ""
                self._out.append(" ".join(("static-challenge", *map(_quoted, words[:2]))))
            case "setenv" if not words or not (words[0].startswith("UV_") or words[0] in ("FRIENDLY_NAME", "opt")):
                self._say(Weight.STRIPPED, "setenv", "would change the environment of the gateway's script", number)
            case "setenv" if words[0] == "opt":
                self.take(_Line(number, words[1:]))
            case "pull-filter" if words[:2] == ("ignore", "auth-token"):
                self._say(Weight.STRIPPED, name, "without its token each rekey would ask for a code again", number)
            case "secret":
                raise Invalid(
                    f"line {number}: a static key (`secret`) has no server that pushes anything.",
                    field="profile",
                    hint="ask for a profile with certificates",
                )
            case _ if name in FILES and words and words[0] != "[inline]":
                self._file(name, words, number)
            case _ if name in FILES:
                self._direction(name, words)
            case _:
                if name in ("cipher", "data-ciphers", "ncp-ciphers", "data-ciphers-fallback"):
                    self._ciphers += [name, *words]
                if any("\n" in word or len(word) > 1000 for word in words):
                    raise Invalid(f"line {number}: {name} is too long.", field="profile")
                self._out.append(" ".join((name, *map(_quoted, words))))

    def _remote(self, words: tuple[str, ...], number: int) -> None:
        if not words or not re.fullmatch(r"[A-Za-z0-9._:-]{1,253}", words[0]):
            raise Invalid(f"line {number}: `remote` names no server.", field="profile", hint="remote HOST PORT")
        port = _port(words[1], number) if len(words) > 1 else None
        self._remotes.append((words[0], port, words[2] if len(words) > 2 else None))

    def _login_of(self, name: str, number: int) -> tuple[str, str] | None:
        body = self._files.get(_base(name))
        if body is None:
            self._say(
                Weight.NOTE, "auth-user-pass", f"its file {_base(name)} was not given: enter the password here", number
            )
            return None
        self._used.add(_base(name))
        rows = [row.strip() for row in body.splitlines() if row.strip()]
        return (rows[0], rows[1]) if len(rows) >= 2 else None

    def _file(self, name: str, words: tuple[str, ...], number: int) -> None:
        base = _base(words[0])
        if base not in self._files:
            raise Invalid(
                f"line {number}: {name} refers to the file {base!r}, which was not given.",
                field="files",
                file=base,
                hint="give the file too, or put its text inline",
            )
        self._used.add(base)
        self._inline(name, self._files[base], number)
        self._direction(name, words)

    def _direction(self, name: str, words: tuple[str, ...]) -> None:
        if name == "tls-auth" and len(words) > 1:
            self._out.append(f"key-direction {_quoted(words[1])}")

    def finish(self) -> Profile:
        if not self._remotes:
            raise Invalid("the profile names no server.", field="profile", hint="it needs a line `remote HOST PORT`")
        remotes = tuple(
            Remote(host, port or self._port, (proto or self._proto).removesuffix("-client"))
            for host, port, proto in self._remotes
        )
        for remote in remotes:
            if not re.fullmatch(r"(udp|tcp)[46]?", remote.proto):
                raise Invalid(f"{remote.proto!r} is no protocol.", field="profile", hint="udp or tcp")
        lines = [f"remote {remote.host} {remote.port} {remote.proto}" for remote in remotes]
        self._warn()
        for name in sorted(set(self._files) - self._used):
            self._say(Weight.NOTE, name, "the profile does not refer to this file")
        return Profile(
            "\n".join([*lines, *self._out]) + "\n",
            remotes,
            tuple(self._remarks),
            self._password,
            self._login,
            self._challenge,
            any(mark in line for line in self._out for mark in _LOCKED),
        )

    def _warn(self) -> None:
        if not {"remote-cert-tls", "ns-cert-type", "verify-x509-name", "peer-fingerprint"} & self._names:
            self._say(
                Weight.WARNING,
                "remote-cert-tls",
                "is missing: any certificate of the same authority can play the server",
            )
        ciphers = {word.upper() for words in self._ciphers for word in words.split(":")}
        if weak := sorted(ciphers & _WEAK):
            self._say(Weight.WARNING, "cipher", f"{', '.join(weak)} is weak, and OpenVPN 2.6 takes it only if told so")
        if "CIPHER" in ciphers and not {"DATA-CIPHERS", "NCP-CIPHERS", "DATA-CIPHERS-FALLBACK"} & ciphers:
            self._say(
                Weight.WARNING, "cipher", "alone is not heeded by OpenVPN 2.6; data-ciphers-fallback may be needed"
            )
        if {"compress", "comp-lzo"} & self._names:
            self._say(
                Weight.WARNING, "compress", "compression lets others guess what is sent; OpenVPN 2.6 only receives it"
            )


def _base(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2]


def _port(text: str, number: int) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 0 < int(text) < 65536:
        raise Invalid(f"line {number}: {text[:20]!r} is no port.", field="profile", hint="1 to 65535")
    return int(text)
