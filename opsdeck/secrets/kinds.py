"""What each kind of secret must look like, checked where it enters."""

from __future__ import annotations

from collections.abc import Callable

from opsdeck.errors import Invalid
from opsdeck.secrets.redact import SHORTEST

LONGEST = 65_536
"""Longest value, characters."""

Check = Callable[[str], None]


def checked(kind: str, text: str, checks: dict[str, Check]) -> str:
    """Give `text` as it is kept: keys end with one newline, all else without the newline that a file or pipe added.

    Raises `Invalid` when it cannot be a secret of this kind.
    """
    check = checks.get(kind)
    if check is None:
        raise Invalid(
            f"no kind of secret is called {kind!r}.", field="kind", hint=f"use one of: {', '.join(sorted(checks))}"
        )
    kept = text.strip() + "\n" if kind in MULTILINE else text.removesuffix("\n").removesuffix("\r")
    if len(kept.strip()) < SHORTEST:
        raise Invalid(
            f"the value has fewer than {SHORTEST} characters, so it could not be kept out of logs.",
            field="value",
            hint="use a longer one",
        )
    if len(kept) > LONGEST:
        raise Invalid(f"the value has more than {LONGEST} characters.", field="value", hint="keep it in a file")
    if "\0" in kept:
        raise Invalid("the value has a NUL byte in it.", field="value", hint="secrets are text")
    check(kept)
    return kept


def _any(_text: str) -> None:
    return


def _one_line(text: str) -> None:
    if "\n" in text or "\r" in text:
        raise Invalid("the value has several lines.", field="value", hint="give one line, or use the kind `text`")


def _ssh_key(text: str) -> None:
    import asyncssh

    if not text.startswith("-----BEGIN "):
        hint = "give the private key, not the .pub file" if text.startswith(("ssh-", "ecdsa-", "sk-")) else ""
        raise Invalid(
            "the value is no private key.", field="value", hint=hint or "give an OpenSSH or PEM private key, whole"
        )
    try:
        asyncssh.import_private_key(text)
    except (asyncssh.KeyImportError, ValueError) as fault:
        if "Passphrase must be specified" in str(fault):
            return  # the passphrase is a secret of its own, met when the key is used; asyncssh has no class for this
        raise Invalid(
            f"the private key cannot be read: {fault}.", field="value", hint="give the whole file, from BEGIN to END"
        ) from fault


def _ssh_certificate(text: str) -> None:
    import asyncssh

    try:
        asyncssh.import_certificate(text)
    except (asyncssh.KeyImportError, ValueError) as fault:
        raise Invalid(
            f"the SSH certificate cannot be read: {fault}.", field="value", hint="give the -cert.pub file"
        ) from fault


def _certificate(text: str) -> None:
    from cryptography import x509

    try:
        x509.load_pem_x509_certificates(text.encode())
    except ValueError as fault:
        raise Invalid("the certificate cannot be read.", field="value", hint="give it in PEM form") from fault


BUILT_IN: dict[str, Check] = {
    "text": _any,
    "password": _one_line,
    "token": _one_line,
    "ssh-key": _ssh_key,
    "ssh-certificate": _ssh_certificate,
    "certificate": _certificate,
}

MULTILINE = frozenset({"ssh-key", "ssh-certificate", "certificate"})


def new_ssh_key(comment: str) -> tuple[str, str]:
    """Make an ed25519 key; give the private key (OpenSSH form) and the public line."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.OpenSSH, form.NoEncryption()).decode()
    public = key.public_key().public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH).decode()
    return private, f"{public} {comment}"
