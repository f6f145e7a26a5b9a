"""The ACME account: where its key must lie for Caddy to find it, and the thumbprint that answers for it."""

from __future__ import annotations

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from opsdeck_cdn import account, book
from opsdeck_cdn.sites import Setup

from opsdeck.errors import Invalid

STORE = "/var/lib/opsdeck-cdn/caddy/acme"


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


@pytest.mark.parametrize(("curve", "name", "size"), [(ec.SECP256R1(), "P-256", 32), (ec.SECP384R1(), "P-384", 48)])
def test_the_thumbprint_is_that_of_the_key(curve, name, size):
    # A small secret: its numbers begin with zeros on no curve by design, so many are tried until one does.
    for secret in range(1, 600):
        key = ec.derive_private_key(secret, curve)
        numbers = key.public_key().public_numbers()
        if numbers.x.bit_length() <= size * 8 - 8:
            break
    x, y = (base64.urlsafe_b64encode(n.to_bytes(size, "big")).rstrip(b"=").decode() for n in (numbers.x, numbers.y))
    told = f'{{"crv":"{name}","kty":"EC","x":"{x}","y":"{y}"}}'
    wanted = base64.urlsafe_b64encode(hashlib.sha256(told.encode()).digest()).rstrip(b"=").decode()
    assert account.Account.of(pem(key)).thumbprint == wanted


def test_a_key_that_is_made_is_one_that_can_be_read_and_is_not_shown():
    made = account.Account.make()
    assert account.Account.of(made.key.reveal()) == made
    assert made.key.reveal() not in repr(made)
    assert account.Account.make().thumbprint != made.thumbprint


@pytest.mark.parametrize(
    "bad", ["", "no key", pem(rsa.generate_private_key(65537, 2048)), pem(ec.derive_private_key(7, ec.SECP521R1()))]
)
def test_what_is_no_key_of_an_account_is_said(bad):
    with pytest.raises(Invalid, match="cannot be read"):
        account.Account.of(bad)


@pytest.mark.parametrize(
    ("directory", "email", "path"),
    [
        ("https://acme.test/dir", "", "acme.test-dir/users/default/default.key"),
        ("https://10.0.0.1:14000/dir", "Ops@Site.test", "10.0.0.1-14000-dir/users/ops@site.test/ops.key"),
        ("https://acme.test/a/b", "a+b@c.test", "acme.test-a-b/users/a_plus_b@c.test/a_plus_b.key"),
    ],
)
def test_the_key_lies_where_caddy_looks(directory, email, path):
    assert account.key_path(directory, email) == f"{STORE}/{path}"


def test_the_key_takes_the_place_of_every_other_of_the_same_ca():
    setup = Setup("m", "https://acme.test/dir", "new@site.test")
    old, other = (
        f"{STORE}/acme.test-dir/users/old@site.test/old.key",
        f"{STORE}/else.test-dir/users/default/default.key",
    )
    seen = (old, old.replace(".key", ".json"), other)
    assert account.places(setup, seen) == (f"{STORE}/acme.test-dir/users/new@site.test/new.key", old)
    # What it refuses is tried again with its staging CA, by an account of its own there.
    assert len(account.places(Setup("m", book.LETS_ENCRYPT), ())) == 2
