"""known_hosts files: read for keys to trust, written for other tools. Format: sshd(8), SSH_KNOWN_HOSTS FILE FORMAT."""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass

from opsdeck.errors import Invalid
from opsdeck.ssh.hostkeys import OfferedKey


@dataclass(frozen=True)
class KnownHost:
    """One line: the names it is for (patterns, or one hashed name), its key, and `@revoked` or `@cert-authority`."""

    names: tuple[str, ...]
    key: OfferedKey
    marker: str = ""
    line: int = 0

    def matches(self, address: str, port: int = 22) -> bool:
        """Tell whether the line is for that address and port."""
        name = lookup_name(address, port)
        found = False
        for pattern in self.names:
            if pattern.startswith("|1|"):
                found = found or _hashed(pattern, name)
            elif pattern.startswith("!"):
                if _glob(pattern[1:], name):
                    return False
            else:
                found = found or _glob(pattern, name)
        return found


@dataclass(frozen=True)
class Skipped:
    """A line that could not be used, and why."""

    line: int
    reason: str


def lookup_name(address: str, port: int = 22) -> str:
    """Give the name under which known_hosts keeps a server: `[address]:port` unless the port is 22."""
    return address.lower() if port == 22 else f"[{address.lower()}]:{port}"


def parse(text: str) -> tuple[tuple[KnownHost, ...], tuple[Skipped, ...]]:
    """Read known_hosts lines: those that can be used, and those that cannot with the reason. Never raises."""
    known: list[KnownHost] = []
    skipped: list[Skipped] = []
    for number, raw in enumerate(text.splitlines(), 1):
        words = raw.split()
        if not words or words[0].startswith("#"):
            continue
        marker = words.pop(0) if words[0].startswith("@") else ""
        if len(words) < 3:
            skipped.append(Skipped(number, "a line needs names, an algorithm and a key"))
            continue
        if marker not in ("", "@revoked", "@cert-authority"):
            skipped.append(Skipped(number, f"{marker[:40]!r} is no marker"))
            continue
        try:
            key = OfferedKey.of(f"{words[1]} {words[2]}")
        except Invalid as error:
            skipped.append(Skipped(number, error.message))
            continue
        known.append(KnownHost(tuple(words[0].split(",")), key, marker, number))
    return tuple(known), tuple(skipped)


def keys_for(known: Iterable[KnownHost], address: str, port: int = 22) -> tuple[OfferedKey, ...]:
    """Give the keys to pin for a server: those of its plain lines, without the revoked ones, each once."""
    matching = [entry for entry in known if entry.matches(address, port)]
    revoked = {entry.key for entry in matching if entry.marker == "@revoked"}
    keys = (entry.key for entry in matching if not entry.marker)
    return tuple(dict.fromkeys(key for key in keys if key not in revoked))


def line(address: str, port: int, public: str) -> str:
    """Write a server's public key, in OpenSSH form, as a known_hosts line for other tools."""
    return f"{lookup_name(address, port)} {public}\n"


def _hashed(pattern: str, name: str) -> bool:
    parts = pattern.split("|")
    if len(parts) != 4:
        return False
    try:
        salt, digest = base64.b64decode(parts[2], validate=True), base64.b64decode(parts[3], validate=True)
    except binascii.Error:
        return False
    return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), digest)


def _glob(pattern: str, name: str) -> bool:
    # Only * and ? are special there; fnmatch also knows [...], which is how ports are written.
    return fnmatch.fnmatchcase(name, pattern.lower().replace("[", "[[]"))
