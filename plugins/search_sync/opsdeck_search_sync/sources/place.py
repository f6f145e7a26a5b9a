"""Where a database is, and how the way to it is kept from others."""

from __future__ import annotations

import ipaddress
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

import certifi

from opsdeck.api import Sensitive


class Tls(StrEnum):
    """What is asked of the link to a database."""

    PREFER = "prefer"
    """Encrypted where an SQL server offers it, and not checked. A MongoDB is asked in the clear."""
    OFF = "off"
    REQUIRE = "require"
    """Encrypted; whose certificate it is remains unknown."""
    VERIFY = "verify"
    """Encrypted, and the certificate is valid for the name."""


@dataclass(frozen=True)
class Place:
    """Where the database is, and who we are there."""

    address: str
    port: int
    database: str
    user: str
    password: Sensitive | None = None
    tls: Tls = Tls.PREFER
    name: str = ""
    """What its certificate must be for, where that is not `address`: it is reached through a host."""
    ca: str = ""
    """Certificates of the authorities that are trusted, as PEM; "" for those that browsers trust."""

    @contextmanager
    def authorities(self) -> Iterator[str]:
        """Give a file with the certificates of the authorities, for as long as a driver needs to read it."""
        if not self.ca:
            yield certifi.where()
            return
        with tempfile.NamedTemporaryFile("w", prefix="opsdeck-ca-", suffix=".pem") as file:
            file.write(self.ca)
            file.flush()
            yield file.name


def local(address: str) -> bool:
    """Tell whether an address cannot leave its machine."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost" or address.startswith("/")


def tls_hint(text: str) -> str:
    """Give the next step for a fault of TLS as OpenSSL, the servers or the drivers tell it; "" for other faults."""
    said = text.lower()
    if "mismatch" in said or "does not match host name" in said or "doesn't match" in said:
        return "save the source with an address that its certificate is for, or with tls = require, which checks none"
    if "expired" in said:
        return "renew the server's certificate"
    if "certificate verify failed" in said or "root certificate" in said:
        return "save the source with the certificate of the authority that signed the server's (tls_ca)"
    if "no encryption" in said or "insecure transport" in said or "require_secure_transport" in said:
        return "save the source with tls = verify, or with tls = require"
    if "not support ssl" in said or "doesn't support it" in said or "ssl handshake failed" in said or "[ssl" in said:
        return "turn TLS on at the server; only where nobody is on the way, save the source with tls = off"
    return ""
