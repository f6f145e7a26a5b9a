"""A secret store and who acts on it."""

from __future__ import annotations

import pytest

from opsdeck.audit.log import AuditLog
from opsdeck.db import Database
from opsdeck.secrets.keyring import Keyring
from opsdeck.secrets.store import SecretStore


@pytest.fixture
def store(db: Database, keyring: Keyring, audit: AuditLog) -> SecretStore:
    """An empty store."""
    return SecretStore(db, keyring, audit)
