"""People to log in, and cheap password hashing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest

from opsdeck.accounts import limits, login, passwords, sessions, tokens
from opsdeck.accounts.accounts import Accounts
from opsdeck.actor import SYSTEM, Role
from opsdeck.audit.log import AuditLog
from opsdeck.clock import utcnow
from opsdeck.db import Database
from opsdeck.secrets.keyring import Keyring
from opsdeck.secrets.sensitive import Sensitive

PASSWORD = Sensitive("correct horse battery")


@dataclass
class Clock:
    """A clock that a test moves."""

    ahead: timedelta = timedelta(0)

    def __call__(self) -> datetime:
        return utcnow() + self.ahead


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Argon2id with next to no work: the tests look at what is done with it."""
    monkeypatch.setattr(passwords, "MEMORY_KIB", 32)
    monkeypatch.setattr(passwords, "ROUNDS", 1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The accounts' clock."""
    moved = Clock()
    for module in (limits, login, sessions, tokens):
        monkeypatch.setattr(module, "utcnow", moved)
    return moved


@pytest.fixture
def password() -> Sensitive:
    """Everybody's password."""
    return PASSWORD


@pytest.fixture
async def accounts(db: Database, keyring: Keyring, audit: AuditLog) -> Accounts:
    """Ada the admin, Olga the operator, Vera the viewer."""
    made = Accounts(db, keyring, audit)
    for name, role in (("ada", Role.ADMIN), ("olga", Role.OPERATOR), ("vera", Role.VIEWER)):
        await made.create(name, PASSWORD, role, SYSTEM)
    return made
