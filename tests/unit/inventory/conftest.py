"""A real database file with the real rooms around the inventory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from opsdeck.actor import SYSTEM
from opsdeck.audit.log import AuditLog, Filters
from opsdeck.builtin import plugin as core
from opsdeck.db import Database, migrate
from opsdeck.deck import Deck
from opsdeck.events import Bus
from opsdeck.inventory.endpoints import Endpoints
from opsdeck.inventory.forms import HostIn
from opsdeck.inventory.hosts import Inventory
from opsdeck.lab.inprocess import PlayHosts
from opsdeck.plugins import Plugins
from opsdeck.secrets.keyring import Keyring
from opsdeck.secrets.sensitive import Sensitive
from opsdeck.secrets.store import SecretStore
from opsdeck.settings import Settings


@dataclass
class Heard:
    """Reads the audit chain back, oldest first."""

    audit: AuditLog

    async def entries(self, verb: str = "") -> list[dict[str, Any]]:
        found = await self.audit.list(Filters(verb=verb or "host*"), limit=1000)
        return [entry.as_dict() for entry in reversed(found)]

    async def verbs(self) -> list[str]:
        return [str(entry["verb"]) for entry in await self.entries()]


@dataclass
class Keys:
    """Secrets of the kinds that log in, really made."""

    store: SecretStore

    async def key(self, name: str) -> None:
        text = asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()
        await self.store.set(name, Sensitive(text), kind="ssh-key", actor=SYSTEM)

    async def certificate(self, name: str) -> None:
        authority = asyncssh.generate_private_key("ssh-ed25519")
        certificate = authority.generate_user_certificate(authority, "test")
        text = certificate.export_certificate().decode()
        await self.store.set(name, Sensitive(text), kind="ssh-certificate", actor=SYSTEM)

    async def password(self, name: str, text: str) -> None:
        await self.store.set(name, Sensitive(text), kind="password", actor=SYSTEM)


@pytest.fixture
def heard(audit: AuditLog) -> Heard:
    return Heard(audit)


@pytest.fixture
def bus() -> Bus:
    return Bus()


@pytest.fixture
def secrets(db: Database, keyring: Keyring, audit: AuditLog) -> SecretStore:
    return SecretStore(db, keyring, audit)


@pytest.fixture
def keys(secrets: SecretStore) -> Keys:
    return Keys(secrets)


@pytest.fixture
def inventory(db: Database, audit: AuditLog, bus: Bus) -> Inventory:
    return Inventory(db, audit, bus)


@pytest.fixture
def endpoints(inventory: Inventory, secrets: SecretStore) -> Endpoints:
    return Endpoints(inventory, secrets)


@pytest.fixture
async def deck(tmp_path: Path) -> AsyncIterator[Deck]:
    """A whole deck with the core's own plugin."""
    settings = Settings(home=tmp_path / "home", sample_seconds=60)
    settings.home.mkdir(mode=0o700)
    Keyring.create(settings.key_file)
    plugins = Plugins()
    plugins.add("core", core)
    database = Database(settings.url)
    await migrate.upgrade(database, plugins)
    await database.close()
    async with Deck.open(settings, plugins=plugins, kind="server") as opened:
        yield opened


@pytest.fixture
async def hosts(play_hosts: PlayHosts, deck: Deck) -> PlayHosts:
    """Three play hosts in the deck, nothing pinned yet."""
    await deck.secrets.set("play", Sensitive(play_hosts.private_key), kind="ssh-key", actor=SYSTEM)
    forms = [
        HostIn(name=host.name, address=host.address, port=host.port, user=host.user, credential="play")
        for host in play_hosts
    ]
    await deck.inventory.apply(forms, {}, SYSTEM)
    return play_hosts


@pytest.fixture
async def pinned(hosts: PlayHosts, deck: Deck) -> PlayHosts:
    """The same, their keys trusted."""
    for host in hosts:
        await deck.host_keys.pin(host.name, host.host_key, SYSTEM)
    return hosts
