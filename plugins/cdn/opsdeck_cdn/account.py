"""The ACME account: one key for the whole CDN, so that any edge can answer the CA for any other.

A challenge over HTTP is answered with its token and the thumbprint of the account's key (RFC 8555 §8.3, RFC 7638), so
an edge that knows the thumbprint needs to know nothing of who ordered what. The key lies where Caddy looks for it,
under the CA and the e-mail that are set now; it stays the same when either of them changes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from opsdeck.api import Directory, File, HostAccess, Invalid, Sensitive, StepRun, directories, files
from opsdeck_cdn.book import LETS_ENCRYPT
from opsdeck_cdn.render import layout
from opsdeck_cdn.sites import Setup

STAGING = "https://acme-staging-v02.api.letsencrypt.org/directory"
"""Where Caddy tries again what Let's Encrypt refused, before it asks there anew."""


@dataclass(frozen=True)
class Account:
    """The key as PEM, and what may be known of it."""

    key: Sensitive
    thumbprint: str

    @classmethod
    def of(cls, pem: str) -> Account:
        """Take a key. Raises `Invalid` for what is no key on a curve of NIST, which is all that Caddy makes."""
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        try:
            key = serialization.load_pem_private_key(pem.encode(), None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        names = {"secp256r1": "P-256", "secp384r1": "P-384"}
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in names:
            raise Invalid("the key of the ACME account cannot be read.", hint="deploy again to have another one made")
        numbers, size = key.public_key().public_numbers(), key.key_size // 8
        x, y = (_text(number.to_bytes(size, "big")) for number in (numbers.x, numbers.y))
        told = json.dumps({"crv": names[key.curve.name], "kty": "EC", "x": x, "y": y}, separators=(",", ":"))
        return cls(Sensitive(pem), _text(hashlib.sha256(told.encode()).digest()))

    @classmethod
    def make(cls) -> Account:
        """Make a key; Caddy registers it with the CA when it orders first."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        made = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        return cls.of(made.decode())


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _safe(text: str) -> str:
    """Write a part of a path as Caddy's store does (certmagic, `KeyBuilder.Safe`)."""
    text = text.lower().strip()
    for old, new in ((" ", "_"), ("+", "_plus_"), ("*", "wildcard_"), (":", "-"), ("..", "")):
        text = text.replace(old, new)
    return re.sub(r"[^\w@.-]", "", text, flags=re.ASCII)


def folder(directory: str) -> str:
    """Give the folder of all accounts with the CA of a directory."""
    parts = urlsplit(directory)
    return f"{layout.STORE}/acme/{_safe(parts.netloc + parts.path.replace('/', '-'))}/users"


def key_path(directory: str, email: str) -> str:
    """Give the path at which Caddy looks for the key of the account with an e-mail."""
    user = email.lower() or "default"
    return f"{folder(directory)}/{_safe(user)}/{_safe(user.partition('@')[0])}.key"


def _cas(setup: Setup) -> tuple[str, ...]:
    return (setup.acme_directory, STAGING) if setup.acme_directory == LETS_ENCRYPT else (setup.acme_directory,)


def places(setup: Setup, seen: Iterable[str]) -> tuple[str, ...]:
    """Give all paths where the key must lie: where it is looked for, and where an older one could be found instead."""
    found = [key_path(directory, setup.acme_email) for directory in _cas(setup)]
    folders = tuple(f"{folder(directory)}/" for directory in _cas(setup))
    found += [path for path in sorted(seen) if path.endswith(".key") and path.startswith(folders)]
    return tuple(dict.fromkeys(found))


async def read(host: HostAccess, setup: Setup, seen: Iterable[str]) -> Account | None:
    """Read the account that an edge has: that of the CA in force, else another's; None without one."""
    keys = sorted(path for path in seen if path.endswith(".key"))
    if not keys:
        return None
    own = [path for path in places(setup, keys) if path in keys]
    data = await host.get((own or keys)[0], sudo=True, limit=64 * 1024)
    try:
        return Account.of(data.decode("ascii", "replace"))
    except Invalid:
        return None


async def give(step: StepRun, account: Account, setup: Setup, seen: Mapping[str, str]) -> None:
    """Put the account and its thumbprint on an edge; `seen` are the sha256 of the files of accounts that it has."""
    own = f"{layout.USER}:{layout.USER}"
    digest = hashlib.sha256(account.key.reveal().encode()).hexdigest()
    wanted: list[File] = []
    folders: list[str] = []
    for path in places(setup, seen):
        if seen.get(path) == digest:
            continue
        parts = path.removeprefix(layout.STORE + "/").split("/")[:-1]
        folders += [f"{layout.STORE}/{'/'.join(parts[: count + 1])}" for count in range(len(parts))]
        # Without a status Caddy asks the CA for the account of this key, which may know it already.
        email = f"mailto:{setup.acme_email}"
        told = {"status": "", "contact": [email] if setup.acme_email else [], "termsOfServiceAgreed": True}
        wanted.append(File(path.removesuffix(".key") + ".json", json.dumps(told).encode(), 0o600, own))
        wanted.append(File(path, account.key, 0o600, own))
    if folders:
        await directories.apply(step, [Directory(path, 0o700, own) for path in dict.fromkeys(folders)])
    wanted.append(File(layout.THUMBPRINT, f"{account.thumbprint}\n".encode(), owner="root:root"))
    await files.apply(step, wanted, keep_previous=False)
