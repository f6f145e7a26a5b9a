"""Looking at what lies there now: implements `PlanRun`. Reads are audited, nothing is logged or changed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sqlmodel import col, select

from opsdeck.actor import Actor
from opsdeck.audit.entry import Record
from opsdeck.errors import NotFound, OpsDeckError
from opsdeck.inventory.models import Host
from opsdeck.jobs.access import Access, hide_logins
from opsdeck.jobs.run import Doors
from opsdeck.manifest import Action, Targets
from opsdeck.plan import Plan
from opsdeck.secrets.redact import Redactor
from opsdeck.secrets.sensitive import Sensitive

if TYPE_CHECKING:
    from pydantic import BaseModel

    from opsdeck.db import Database
    from opsdeck.deck import Deck
    from opsdeck.jobs.context import HostAccess
    from opsdeck.ssh.endpoint import Endpoint

PLAN_SECONDS = 300.0
"""Bound of making a plan, over all hosts."""


class Unlogged:
    """A book that keeps only the notes for the audit trail; what a plan can read in `PLAN_SECONDS` bounds them."""

    full = False

    def __init__(self) -> None:
        self.notes: list[tuple[str, str, Mapping[str, Any]]] = []

    async def room(self) -> None:
        """There is always room for lines that are not kept."""

    def lines(self, host: str, stream: str, texts: Sequence[str]) -> None:
        """Keep nothing."""

    def heard(self) -> None:
        """Nothing listens for silence here."""

    def note(self, verb: str, target: str, detail: Mapping[str, Any]) -> None:
        """Keep an audit entry until the end."""
        self.notes.append((verb, target, detail))


class PlanWork:
    """Implements `PlanRun`."""

    def __init__(
        self,
        deck: Deck,
        name: str,
        hosts: Sequence[Host],
        actor: Actor,
        book: Unlogged,
        *,
        within: Sequence[Host] | None = None,
    ) -> None:
        self.actor, self.hosts = actor, tuple(hosts)
        self._within = tuple(hosts) if within is None else tuple(within)
        self.db: Database = deck.db
        self.home = deck.settings.home
        self._deck, self._book, self._origin = deck, book, f"plan:{name}"
        self._doors = Doors(deck, [host.name for host in hosts], actor, self._origin)
        self._redactor = Redactor()

    def on(self, host: str) -> HostAccess:
        """Reach one of the hosts (any, for an action that works on the console); only read there."""
        found = next((known for known in self._within if known.name == host), None)
        if found is None:
            raise NotFound(f"the plan does not look at the host {host!r}.", host=host)
        return Access(
            found, lambda: self._endpoint(host), self._deck.ssh, self._book, self._redactor, origin=self._origin
        )

    async def _endpoint(self, host: str) -> Endpoint:
        endpoint = await self._doors.endpoint(host)
        hide_logins(self._redactor, endpoint)
        return endpoint

    def masked(self, plan: Plan) -> Plan:
        """Give a plan without the secrets that were opened for it: people see it, and jobs keep it."""
        return self._redactor.data(plan)

    async def gather(
        self,
        look: Callable[[HostAccess], Awaitable[Any]],
        hosts: Sequence[str] | None = None,
        *,
        parallel: int = 32,
    ) -> dict[str, Any]:
        """Look at all hosts (or those named) side by side; give results by host name. The first error ends it."""
        gate = asyncio.Semaphore(max(1, parallel))

        async def one(host: str) -> tuple[str, Any]:
            async with gate:
                try:
                    return host, await look(self.on(host))
                except OpsDeckError as fault:
                    fault.host = fault.host or host
                    raise

        names = [host.name for host in self.hosts] if hosts is None else list(hosts)
        tasks = [asyncio.create_task(one(host)) for host in names]
        try:
            return dict(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def secret(self, name: str) -> Sensitive:
        """Open a secret, audited."""
        value = await self._deck.secrets.reveal(name, actor=self.actor, purpose=self._origin)
        self._redactor.add(value)
        return value


async def make_plan(
    deck: Deck, plugin: str, action: Action, given: BaseModel, *, hosts: Sequence[str], actor: Actor
) -> Plan:
    """Ask an action for its plan. What it raises of the house goes on; anything else is named as the action's fault."""
    on_console = action.targets is Targets.CONSOLE
    query = select(Host) if on_console else select(Host).where(col(Host.name).in_(hosts))
    async with deck.db.read() as session:
        rows = (await session.exec(query)).all() if hosts or on_console else []
    by_name = {host.name: host for host in rows}
    book = Unlogged()
    title = f"{plugin}.{action.name}"
    chosen = [by_name[name] for name in hosts if name in by_name]
    work = PlanWork(deck, title, chosen, actor, book, within=rows if on_console else None)
    try:
        async with asyncio.timeout(min(PLAN_SECONDS, action.timeout or PLAN_SECONDS)):
            plan = await action.plan(work, given) if action.plan else Plan()
    except TimeoutError:
        raise OpsDeckError(f"the plan of {title} was not made in time.", hint="try fewer hosts") from None
    except OpsDeckError:
        raise
    except (Exception, SystemExit, KeyboardInterrupt) as fault:  # a plugin's fault ends its own plan only
        raise OpsDeckError(
            f"the plan of {title} failed with {type(fault).__name__}: {fault}.",
            hint="report this to the plugin's author",
        ) from fault
    finally:
        records = [Record(actor, verb, target, detail) for verb, target, detail in book.notes]
        if records:
            await asyncio.shield(deck.audit.record_many(records))
    if not isinstance(plan, Plan):
        raise OpsDeckError(
            f"{title} gave no plan but a {type(plan).__name__}.", hint="report this to the plugin's author"
        )
    return work.masked(plan)
