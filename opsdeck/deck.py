"""The whole of one process: every room opened once, in order, and closed in reverse.

Doors (CLI, pages, API, schedules) hold a `Deck` and nothing else. Rooms are opened when first used, so a command
that needs no SSH does not load it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from functools import cached_property
from typing import TYPE_CHECKING

from opsdeck.events import Bus
from opsdeck.plugins import Plugins
from opsdeck.settings import Settings

if TYPE_CHECKING:
    from opsdeck.accounts.accounts import Accounts
    from opsdeck.audit.log import AuditLog
    from opsdeck.db import Database
    from opsdeck.inventory.endpoints import Endpoints
    from opsdeck.inventory.facts.book import FactBook
    from opsdeck.inventory.hostkeys import HostKeys
    from opsdeck.inventory.hosts import Inventory
    from opsdeck.inventory.samples.book import SampleBook
    from opsdeck.jobs.jobs import Jobs
    from opsdeck.jobs.leases import Leases
    from opsdeck.jobs.schedules import Schedules
    from opsdeck.jobs.services import Services
    from opsdeck.notify.incidents import Incidents
    from opsdeck.secrets.keyring import Keyring
    from opsdeck.secrets.store import SecretStore
    from opsdeck.ssh.pool import Pool


class Deck:
    """The rooms of one process. Make it with `Deck.open`."""

    def __init__(self, settings: Settings, plugins: Plugins, *, node: str) -> None:
        self.settings = settings
        self.plugins = plugins
        self.node = node
        """Name of this process among the nodes, such as `deck1` or `deck1/cli-4711`."""
        self.events = Bus()

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, settings: Settings, *, plugins: Plugins | None = None, kind: str = "cli"
    ) -> AsyncIterator[Deck]:
        """Open the rooms for `kind` (`server`, `worker` or `cli`), and close them at the end.

        Raises `Unavailable` when the database or the master key cannot be used. The tables must be up to date
        (`opsdeck init` and `opsdeck serve` bring them there).
        """
        import os

        from opsdeck.notify.fanout import Fanout

        if plugins is None:
            plugins = Plugins(trace=settings.trace)
            plugins.find(settings.disabled_plugins)
        name = settings.node or socket.gethostname()
        deck = cls(settings, plugins, node=name if kind == "server" else f"{name}/{kind}-{os.getpid()}")
        fanout = Fanout(plugins, deck.events)
        try:
            await deck.keyring.open()
            yield deck
        finally:
            await deck.close()
            await asyncio.to_thread(fanout.close)

    @cached_property
    def db(self) -> Database:
        """The database."""
        from opsdeck.db import Database

        return Database(self.settings.url)

    @cached_property
    def keyring(self) -> Keyring:
        """The master key and the keys under it."""
        from opsdeck.secrets.keyring import Keyring

        return Keyring(self.db, self.settings.key_file)

    @cached_property
    def audit(self) -> AuditLog:
        """The audit chain."""
        from opsdeck.audit.log import AuditLog

        return AuditLog(self.db, self.keyring)

    @cached_property
    def secrets(self) -> SecretStore:
        """The secret store."""
        from opsdeck.secrets.store import SecretStore

        return SecretStore(
            self.db,
            self.keyring,
            self.audit,
            lambda: [kind for manifest in self.plugins.ordered() for kind in manifest.secret_kinds],
        )

    @cached_property
    def accounts(self) -> Accounts:
        """People, sessions and tokens."""
        from opsdeck.accounts.accounts import Accounts

        return Accounts(self.db, self.keyring, self.audit)

    @cached_property
    def inventory(self) -> Inventory:
        """The hosts."""
        from opsdeck.inventory.hosts import Inventory

        return Inventory(self.db, self.audit, self.events)

    @cached_property
    def endpoints(self) -> Endpoints:
        """Hosts with their opened credentials, as SSH needs them."""
        from opsdeck.inventory.endpoints import Endpoints

        return Endpoints(self.inventory, self.secrets)

    @cached_property
    def host_keys(self) -> HostKeys:
        """Which keys the hosts may show."""
        from opsdeck.inventory.hostkeys import HostKeys

        return HostKeys(
            self.db,
            self.audit,
            inventory=self.inventory,
            endpoints=self.endpoints,
            pool=self.ssh,
            incidents=self.incidents,
        )

    @cached_property
    def facts(self) -> FactBook:
        """What was read from the hosts, with its history."""
        from opsdeck.inventory.facts.book import FactBook

        return FactBook(self.db)

    @cached_property
    def samples(self) -> SampleBook:
        """The hosts' counters and their traffic."""
        from opsdeck.inventory.samples.book import SampleBook

        return SampleBook(self.db)

    @cached_property
    def ssh(self) -> Pool:
        """The warm connections."""
        from opsdeck.ssh.pool import Pool

        return Pool(trace=self.settings.trace)

    @cached_property
    def leases(self) -> Leases:
        """Who holds what."""
        from opsdeck.jobs.leases import Leases

        return Leases(self.db, self.node, self.audit)

    @cached_property
    def jobs(self) -> Jobs:
        """The way through: submit, follow, cancel, retry."""
        from opsdeck.jobs.jobs import Jobs

        return Jobs(self)

    @cached_property
    def schedules(self) -> Schedules:
        """When actions recur."""
        from opsdeck.jobs.schedules import Schedules

        return Schedules(self)

    @cached_property
    def services(self) -> Services:
        """The long-running tasks of plugins on this node."""
        from opsdeck.jobs.services import Services

        return Services(self)

    @cached_property
    def incidents(self) -> Incidents:
        """What is wrong now."""
        from opsdeck.notify.incidents import Incidents

        return Incidents(self.db, self.events)

    async def close(self) -> None:
        """Close the rooms that were opened."""
        opened = self.__dict__
        if "jobs" in opened:
            await self.jobs.close()
        if "leases" in opened:
            await self.leases.close()
        if "ssh" in opened:
            await self.ssh.close()
        if "db" in opened:
            await self.db.close()
