"""Passwords: argon2id, and the same work for people who do not exist."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable
from functools import cached_property
from typing import TypeVar

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from opsdeck.errors import Invalid, Unavailable
from opsdeck.secrets.sensitive import Sensitive

MEMORY_KIB = 65_536
ROUNDS = 3
LANES = 1
"""One: with several, OpenSSL shares out its threads per process and fails when two passwords are worked on at once."""
SHORTEST, LONGEST = 12, 1024
AT_ONCE = 2
"""How many are worked on at once: each takes 64 MiB for about a fifth of a second."""
WAIT_SECONDS = 15.0

T = TypeVar("T")
_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"


class Passwords:
    """Hashes and checks passwords off the event loop, a few at a time."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(AT_ONCE)

    async def hash(self, password: Sensitive) -> str:
        """Give the hash to keep, in PHC form. Raises `Invalid` for a password that is too short or long."""
        text = password.reveal()
        if len(text) < SHORTEST or len(text) > LONGEST:
            raise Invalid(
                f"a password has {SHORTEST} to {LONGEST} characters.", field="password", hint="a few words will do"
            )
        return await self._work(_hash, text)

    async def matches(self, password: Sensitive, kept: str | None) -> bool:
        """Tell whether `password` is the one of `kept`; with None, do the same work and give False."""
        known = await self._work(_verify, password.reveal()[: LONGEST + 1], kept or self._nobody)
        return known and bool(kept)

    @staticmethod
    def outdated(kept: str) -> bool:
        """Tell whether `kept` was made with other costs than today's."""
        return f"$m={MEMORY_KIB},t={ROUNDS},p={LANES}$" not in kept

    @cached_property
    def _nobody(self) -> str:
        return _hash(secrets.token_hex(16))

    async def _work(self, call: Callable[..., T], *given: str) -> T:
        try:
            async with asyncio.timeout(WAIT_SECONDS), self._turn:
                return await asyncio.to_thread(call, *given)
        except TimeoutError as fault:
            raise Unavailable("too many people log in at once.", hint="try again in a minute") from fault


def make_password() -> Sensitive:
    """Make a password of 24 letters and digits in groups of six, none of which look alike (118 bits)."""
    letters = "".join(secrets.choice(_ALPHABET) for _ in range(24))
    return Sensitive("-".join(letters[at : at + 6] for at in range(0, 24, 6)))


def _hash(password: str) -> str:
    return Argon2id(
        salt=os.urandom(16), length=32, iterations=ROUNDS, lanes=LANES, memory_cost=MEMORY_KIB
    ).derive_phc_encoded(password.encode("utf-8", "surrogatepass"))


def _verify(password: str, kept: str) -> bool:
    try:
        Argon2id.verify_phc_encoded(password.encode("utf-8", "surrogatepass"), kept)
    except InvalidKey:
        return False
    return True
