"""What a service instance is given to work with: implements `ServiceRun`."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlmodel import select

from opsdeck.actor import Actor, Door, Role
from opsdeck.audit.entry import Record
from opsdeck.clock import utcnow
from opsdeck.errors import NotFound
from opsdeck.inventory.models import Host
from opsdeck.jobs.access import Access, hide_logins
from opsdeck.jobs.lines import cut
from opsdeck.secrets.redact import Redactor
from opsdeck.secrets.sensitive import Sensitive

if TYPE_CHECKING:
    from opsdeck.db import Database
    from opsdeck.deck import Deck
    from opsdeck.events import Event
    from opsdeck.jobs.context import HostAccess
    from opsdeck.ssh.endpoint import Endpoint

KEPT_LINES = 500
NOTES = 200
"""Audit entries that wait before the service itself waits until they are written."""
SECRET_SECONDS = 3600.0
ENDPOINT_SECONDS = 10.0
"""How long an endpoint is believed before its host, pins and credentials are compared again."""


@dataclass(frozen=True)
class Said:
    """A line of a service's log."""

    at: datetime
    host: str
    stream: str
    text: str


class Diary:
    """A service instance's own log, bounded, and its notes for the audit trail. Where `Access` writes."""

    def __init__(self, deck: Deck, actor: Actor) -> None:
        self._deck, self._actor = deck, actor
        self._notes: list[Record] = []
        self.said: deque[Said] = deque(maxlen=KEPT_LINES)

    @property
    def full(self) -> bool:
        """Tell whether notes must be written before more is done."""
        return len(self._notes) >= NOTES

    async def room(self) -> None:
        """Write the notes when there are too many."""
        if self.full:
            await self.flush()

    def lines(self, host: str, stream: str, texts: Sequence[str]) -> None:
        """Keep masked lines; the oldest go."""
        self.said.extend(Said(utcnow(), host, stream, text) for text in texts)

    def heard(self) -> None:
        """Nothing listens for silence here."""

    def note(self, verb: str, target: str, detail: Mapping[str, Any]) -> None:
        """Keep an audit entry until `flush`."""
        self._notes.append(Record(self._actor, verb, target, dict(detail)))

    async def flush(self) -> None:
        """Write the notes into the audit trail; those that cannot be written stay."""
        notes, self._notes = self._notes, []
        if not notes:
            return
        try:
            await self._deck.audit.record_many(notes)
        except BaseException:
            self._notes = notes + self._notes
            raise


class Attendance:
    """Implements `ServiceRun` for one instance, from the moment it has its lease."""

    def __init__(self, deck: Deck, plugin: str, service: str, key: str = "", fence: int = 0) -> None:
        self.key, self.fence = key, fence
        self.db: Database = deck.db
        self.home = deck.settings.home
        self._origin = name_of(plugin, service, key)
        self._plugin = plugin
        self._deck = deck
        self._actor = Actor(self._origin, Role.ADMIN, Door.SYSTEM, stepped_up=True)
        self._redactor = Redactor()
        self._secrets: dict[str, tuple[Sensitive, float]] = {}
        self._endpoints: dict[str, tuple[Endpoint, tuple[object, ...]]] = {}
        self._versions: dict[str, tuple[object, ...]] = {}
        self._compared = float("-inf")
        self.diary = Diary(deck, self._actor)

    @contextlib.asynccontextmanager
    async def on(self, host: str) -> AsyncIterator[HostAccess]:
        """Reach a host by its name. Raises `NotFound`, and what resolving its credential raises."""
        await self.diary.room()
        async with self.db.read() as session:
            row = (await session.exec(select(Host).where(Host.name == host))).first()
        if row is None:
            raise NotFound(f"no host is called {host!r}.", host=host, hint="`opsdeck host list` names them")
        try:
            yield Access(
                row, lambda: self._endpoint(host), self._deck.ssh, self.diary, self._redactor, origin=self._origin
            )
        finally:
            await self.diary.flush()

    async def submit(self, action: str, params: dict[str, Any], selector: str = "") -> int:
        """Submit a job of the same plugin; give its number. Raises like `Jobs.submit`."""
        from opsdeck.jobs.jobs import Submission

        job = await self._deck.jobs.submit(Submission(self._plugin, action, params, selector), self._actor)
        return job.id or 0

    async def secret(self, name: str, *, fresh: bool = False) -> Sensitive:
        """Open a secret, audited once per hour and instance, and masked in its log. Raises `NotFound`."""
        known = None if fresh else self._secrets.get(name)
        if known is None or time.monotonic() - known[1] > SECRET_SECONDS:
            value = await self._deck.secrets.reveal(name, actor=self._actor, purpose=self._origin)
            self._redactor.add(value)
            known = self._secrets[name] = (value, time.monotonic())
        return known[0]

    def log(self, text: str, stream: str = "info") -> None:
        """Say something in the service's own bounded log."""
        self.diary.lines("", stream, [cut(line) for line in self._redactor.text(text).split("\n")])

    def publish(self, event: Event) -> None:
        """Tell that something happened."""
        self._deck.events.publish(event)

    async def open_incident(
        self, key: str, title: str, *, detail: str = "", host: str = "", severity: str = "broken"
    ) -> None:
        """Say that something is wrong; the same `key` is one incident until it is closed."""
        mask = self._redactor.text
        await self._deck.incidents.open(
            key, mask(title), detail=mask(detail), host=host, severity=severity, plugin=self._plugin
        )

    async def close_incident(self, key: str) -> None:
        """Say that it is over."""
        await self._deck.incidents.close(key)

    async def _endpoint(self, host: str) -> Endpoint:
        if time.monotonic() - self._compared > ENDPOINT_SECONDS:
            self._versions = await self._deck.endpoints.versions()
            self._compared = time.monotonic()
        version = self._versions.get(host, ())
        known = self._endpoints.get(host)
        if known is None or known[1] != version:
            found = await self._deck.endpoints.resolve([host], actor=self._actor, purpose=self._origin)
            known = self._endpoints[host] = (found[host], version)
            hide_logins(self._redactor, found[host])
        return known[0]


class CoreAttendance(Attendance):
    """What a service of the core itself is given beyond that: the deck."""

    def __init__(self, deck: Deck, plugin: str, service: str, key: str = "", fence: int = 0) -> None:
        super().__init__(deck, plugin, service, key, fence)
        self.deck = deck


def attendance(deck: Deck, plugin: str, service: str, key: str = "", fence: int = 0) -> Attendance:
    """Give an instance its means: the core's own services get the deck as well."""
    kind = CoreAttendance if plugin in ("core", "web") else Attendance
    return kind(deck, plugin, service, key, fence)


def name_of(plugin: str, service: str, key: str = "") -> str:
    """Give the name under which an instance is known: of its lease, its incident and in the audit trail."""
    return f"service:{plugin}/{service}/{key}" if key else f"service:{plugin}/{service}"
