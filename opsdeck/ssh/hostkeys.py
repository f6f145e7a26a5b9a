"""Host keys as a person sees them: algorithm, OpenSSH text, SHA256 fingerprint."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass

from opsdeck.errors import Invalid

_RSA_SIGNATURES = ("rsa-sha2-512", "rsa-sha2-256")
_ALGORITHMS = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-rsa",
)


@dataclass(frozen=True)
class OfferedKey:
    """A public host key. `openssh` is `algorithm base64`, without a comment; equal keys are equal objects."""

    algorithm: str
    openssh: str
    fingerprint: str

    @classmethod
    def of(cls, text: str) -> OfferedKey:
        """Read a public key in OpenSSH form (a comment is dropped); `Invalid` if it is none, or of no known kind."""
        parts = text.split()
        hint = "give one line as in /etc/ssh/ssh_host_ed25519_key.pub."
        if len(parts) < 2:
            raise Invalid("a host key needs its algorithm and its text.", field="host_key", hint=hint)
        algorithm, body = parts[0], parts[1]
        if algorithm not in _ALGORITHMS:
            raise Invalid(f"{algorithm[:40]!r} is no host key algorithm known here.", field="host_key", hint=hint)
        try:
            blob = base64.b64decode(body, validate=True)
        except binascii.Error:
            raise Invalid("the host key's text is not base64.", field="host_key", hint=hint) from None
        name = algorithm.encode()
        if blob[: 4 + len(name)] != len(name).to_bytes(4, "big") + name or len(blob) < len(name) + 24:
            raise Invalid(f"the host key's text is not a whole {algorithm} key.", field="host_key", hint=hint)
        digest = base64.b64encode(hashlib.sha256(blob).digest()).rstrip(b"=").decode()
        return cls(algorithm, f"{algorithm} {body}", f"SHA256:{digest}")


def signature_algorithms(pinned: tuple[OfferedKey, ...]) -> list[str]:
    """Give the algorithms to ask the server for, so that it presents a key of a pinned kind."""
    kinds: list[str] = []
    for key in pinned:
        for name in _RSA_SIGNATURES if key.algorithm == "ssh-rsa" else (key.algorithm,):
            if name not in kinds:
                kinds.append(name)
    return kinds


def families() -> tuple[tuple[str, ...], ...]:
    """Give the groups of algorithms to ask for, one after another, to see every key of a server."""
    return (("ssh-ed25519",), tuple(name for name in _ALGORITHMS if name.startswith("ecdsa")), _RSA_SIGNATURES)
