"""age keys: what a host gets (recipients), and what opens a backup (an identity, sealed on the console)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from opsdeck.api import Invalid, Refused, Sensitive

_SECRET = re.compile(r"AGE-SECRET-KEY-1[0-9A-Z]+")


def check_identity(text: str) -> None:
    """Raise `Invalid` unless `text` holds an age identity, as `age-keygen` writes it."""
    public_of(Sensitive(text))


def public_of(identity: Sensitive) -> tuple[str, ...]:
    """Give the recipients that belong to the identities in a text. Raises `Invalid` when there is none."""
    import pyrage  # type: ignore[import-untyped]

    found = _SECRET.findall(identity.reveal())
    try:
        keys = tuple(str(pyrage.x25519.Identity.from_str(one).to_public()) for one in found)
    except pyrage.IdentityError as fault:
        raise Invalid(
            "the age identity cannot be read.", field="value", hint="give it whole, with its check"
        ) from fault
    if not keys:
        raise Invalid(
            "there is no age identity in it.",
            field="value",
            hint="give the file that age-keygen or `opsdeck backup key` wrote",
        )
    return keys


def opened(sealed: bytes, identity: Sensitive) -> bytes:
    """Open what was sealed with age. Raises `Refused` when none of the identities does."""
    import pyrage

    mine = [pyrage.x25519.Identity.from_str(one) for one in _SECRET.findall(identity.reveal())]
    try:
        return bytes(pyrage.decrypt(sealed, mine))
    except pyrage.DecryptError as fault:
        raise Refused(
            f"the key does not open it: {fault}.", hint="give the identity of one of its recipients"
        ) from fault


def check_recipients(recipients: Sequence[str]) -> tuple[str, ...]:
    """Give the recipients without repeats. Raises `Invalid` for one that is no public age key."""
    import pyrage

    for one in recipients:
        try:
            pyrage.x25519.Recipient.from_str(one)
        except pyrage.RecipientError as fault:
            hint = "this is a private key: it must never be here" if _SECRET.search(one) else "it begins with age1"
            shown = "a recipient" if _SECRET.search(one) else repr(one)
            raise Invalid(f"{shown} is no public age key.", field="recipients", hint=hint) from fault
    return tuple(dict.fromkeys(recipients))


def new_identity() -> tuple[Sensitive, str]:
    """Make a key; give the identity and its recipient."""
    import pyrage

    made = pyrage.x25519.Identity.generate()
    public = str(made.to_public())
    return Sensitive(f"# public key: {public}\n{made}\n"), public
