"""What is needed to reach a host: resolved, frozen, free of the database.

An `Endpoint` is made by the inventory for each job; the pool keys its connections by `Endpoint.identity`, so a
rotated credential or a newly pinned host key never meets an old connection.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum

from opsdeck.secrets.sensitive import Sensitive


class Method(StrEnum):
    """How a login proves itself."""

    KEY = "key"
    CERTIFICATE = "certificate"
    PASSWORD = "password"  # noqa: S105 - the name of a method, not a password
    AGENT = "agent"


@dataclass(frozen=True)
class Credential:
    """One way to log in, opened from the secret store and held in memory only.

    `secret` is the private key (OpenSSH or PEM text), or the password; `certificate` the OpenSSH user certificate;
    `passphrase` opens an encrypted key. `name` is the secret's name and `version` grows with each rotation.
    """

    method: Method
    name: str
    version: int = 1
    secret: Sensitive = field(default_factory=lambda: Sensitive(""))
    passphrase: Sensitive | None = None
    certificate: str | None = None
    agent_path: str | None = None


class Sudo(StrEnum):
    """How a command becomes root on a host."""

    NONE = "none"
    NOPASSWD = "nopasswd"
    PASSWORD = "password"  # noqa: S105 - the name of a way, not a password


@dataclass(frozen=True)
class Endpoint:
    """A host as SSH sees it.

    `host_keys` are the pinned public keys in OpenSSH form (`ssh-ed25519 AAAA…`); empty means that nothing is pinned
    yet, and connecting is refused. `via` is the next hop towards it (a chain of any length).
    """

    name: str
    address: str
    port: int
    user: str
    credential: Credential
    host_keys: tuple[str, ...] = ()
    via: Endpoint | None = None
    sudo: Sudo = Sudo.NONE
    sudo_password: Sensitive | None = None

    @property
    def identity(self) -> str:
        """Give the digest under which a connection may be shared: address, login, credential version, pins, hops."""
        parts = (
            self.name,
            self.address,
            str(self.port),
            self.user,
            self.credential.method,
            self.credential.name,
            str(self.credential.version),
            *self.host_keys,
            self.via.identity if self.via else "",
        )
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()
