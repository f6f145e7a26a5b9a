"""Who holds what: the right of one holder to a resource for a while, with a fencing number.

A lease lasts `TTL` seconds and is renewed every `BEAT` seconds by the process that holds it; a process that dies loses
it. A person can take it away; the holder hears of that at its next beat. The fencing number grows with each new
holder and never shrinks, so the row stays when nobody holds it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import update
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from opsdeck.actor import Actor
from opsdeck.clock import utcnow
from opsdeck.errors import Conflict, NotFound, Unavailable
from opsdeck.jobs.models import Lease

if TYPE_CHECKING:
    from opsdeck.audit.log import AuditLog
    from opsdeck.db import Database

TTL = 12.0
BEAT = 4.0


@dataclass(frozen=True)
class Grant:
    """A lease in hand."""

    name: str
    fence: int
    holder: str


class LeaseLost(Conflict):
    """A lease went to somebody else while it was needed."""


@dataclass(eq=False)
class _Held:
    grant: Grant
    lost: Callable[[LeaseLost], None] | None
    renewed: float = field(default_factory=time.monotonic)


class Leases:
    """Takes, renews and gives back leases in the name of this node."""

    def __init__(self, db: Database, node: str, audit: AuditLog, *, now: Callable[[], datetime] = utcnow) -> None:
        self._db, self._node, self._audit, self._now = db, node, audit, now
        self._held: dict[str, _Held] = {}
        self._keeper: asyncio.Task[None] | None = None

    async def acquire(
        self, names: Sequence[str], holder: str, purpose: str = "", *, wait: float = 0.0
    ) -> tuple[Grant, ...]:
        """Take all of `names` or none, in one transaction, waiting at most `wait` seconds.

        Raises `Conflict` saying who holds what since when. Renew with `renew`, or take through `hold`.
        """
        wanted = sorted(set(names))
        end = time.monotonic() + wait
        races = 0
        while True:
            try:
                return await self._acquire(wanted, holder, purpose)
            except IntegrityError:
                # PostgreSQL: another node made a row at the same moment; now it is there. At most once for each name.
                races += 1
                if races > len(wanted):
                    raise
            except Conflict:
                left = end - time.monotonic()
                if left <= 0:
                    raise
                await asyncio.sleep(min(left, random.uniform(0.3, 0.7)))  # noqa: S311 - spread, not a secret

    async def _acquire(self, names: Sequence[str], holder: str, purpose: str) -> tuple[Grant, ...]:
        now = self._now()
        grants = []
        async with self._db.write() as session:
            found = await session.exec(select(Lease).where(col(Lease.name).in_(names)).with_for_update())
            rows = {row.name: row for row in found.all()}
            for name in names:
                row = rows.get(name)
                if row is None:
                    row = Lease(name=name, node=self._node, holder=holder, fence=0)
                elif row.expires > now:
                    raise _conflict(row, now)
                row.node, row.holder, row.purpose = self._node, holder, purpose
                row.fence += 1
                row.acquired, row.expires = now, now + timedelta(seconds=TTL)
                session.add(row)
                grants.append(Grant(name, row.fence, holder))
        return tuple(grants)

    async def renew(self, grants: Sequence[Grant]) -> tuple[Grant, ...]:
        """Make leases last for another `TTL`; give those that are lost."""
        until = self._now() + timedelta(seconds=TTL)
        lost = []
        async with self._db.write() as session:
            for grant in grants:
                if not await self._set(session, grant, expires=until):
                    lost.append(grant)
        return tuple(lost)

    async def release(self, grants: Sequence[Grant]) -> None:
        """Give leases back; what somebody else has by now is left alone."""
        async with self._db.write() as session:
            for grant in grants:
                await self._set(session, grant, expires=self._now(), holder="", node="", purpose="")

    async def _set(self, session: AsyncSession, grant: Grant, **values: object) -> bool:
        mine = (col(Lease.name) == grant.name, col(Lease.node) == self._node, col(Lease.fence) == grant.fence)
        result = await (await session.connection()).execute(update(Lease).where(*mine).values(**values))
        return bool(result.rowcount == 1)

    async def release_holder(self, session: AsyncSession, holder: str) -> int:
        """Free everything that `holder` (`job:17`) has, whichever node it ran on; for the recovery of dead nodes."""
        nobody = {"holder": "", "node": "", "purpose": "", "expires": self._now()}
        gone = update(Lease).where(col(Lease.holder) == holder).values(**nobody)
        return int((await (await session.connection()).execute(gone)).rowcount)

    async def steal(self, name: str, actor: Actor) -> Lease:
        """Take a lease away from its holder; give what it was. Raises `NotFound` when nobody holds it."""
        now = self._now()
        async with self._db.write() as session:
            row = (await session.exec(select(Lease).where(Lease.name == name).with_for_update())).first()
            if row is None or row.expires <= now:
                raise NotFound(f"nobody holds {name!r}.", field="lease", hint="`opsdeck lease list` shows what is held")
            before = Lease.model_validate(row.model_dump())
            detail = {"holder": row.holder, "node": row.node, "purpose": row.purpose, "since": row.acquired.isoformat()}
            row.fence += 1
            row.holder = row.node = row.purpose = ""
            row.expires = now
            session.add(row)
            await self._audit.append(session, actor, "lease.stolen", f"lease:{name}", detail=detail)
        return before

    async def list(self) -> tuple[Lease, ...]:
        """Give the leases that are held now, by name."""
        async with self._db.read() as session:
            held = select(Lease).where(col(Lease.expires) > self._now()).order_by(col(Lease.name))
            return tuple((await session.exec(held)).all())

    @contextlib.asynccontextmanager
    async def hold(
        self,
        names: Sequence[str],
        holder: str,
        purpose: str = "",
        *,
        wait: float = 0.0,
        lost: Callable[[LeaseLost], None] | None = None,
    ) -> AsyncIterator[tuple[Grant, ...]]:
        """Have leases for as long as the block runs, renewed meanwhile.

        When one is lost, `lost` is called once with the reason; without it the task that entered is cancelled.
        """
        grants = await self.acquire(names, holder, purpose, wait=wait)
        told = lost or _canceller()
        held = [_Held(grant, told) for grant in grants]
        self._held |= {each.grant.name: each for each in held}
        if self._keeper is None or self._keeper.done():
            self._keeper = asyncio.create_task(self._keep(), name="leases")
        try:
            yield grants
        finally:
            mine = [each.grant for each in held if self._held.get(each.grant.name) is each]
            for grant in mine:
                del self._held[grant.name]
            if mine:
                await asyncio.shield(self.release(mine))

    async def close(self) -> None:
        """Stop renewing; what is still held runs out by itself."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])

    async def _keep(self) -> None:
        """Renew what is held until nothing is."""
        while self._held:
            await asyncio.sleep(BEAT)
            held = list(self._held.values())
            began = time.monotonic()
            try:
                lost = set(await self.renew([each.grant for each in held])) if held else set()
            except Unavailable:
                # A locked SQLite file blocks who would take the lease as well; a lost PostgreSQL does not.
                patience = 4 * TTL if self._db.sqlite else TTL - BEAT
                lost = {each.grant for each in held if began - each.renewed > patience}
            else:
                for each in held:
                    each.renewed = began
            for each in held:
                if each.grant in lost and self._held.get(each.grant.name) is each:
                    del self._held[each.grant.name]
                    if each.lost:
                        each.lost(_lost(each.grant))


def _canceller() -> Callable[[LeaseLost], None]:
    task = asyncio.current_task()

    def cancel(reason: LeaseLost) -> None:
        if task is not None:
            task.cancel(str(reason))

    return cancel


def _lost(grant: Grant) -> LeaseLost:
    return LeaseLost(
        f"the lease on {grant.name} was lost: it was taken away, or could not be renewed in time.",
        hint="`opsdeck lease list` and `opsdeck audit list` show who has it",
    )


def _conflict(row: Lease, now: datetime) -> Conflict:
    seconds = max(0, round((now - row.acquired).total_seconds()))
    why = f" ({row.purpose})" if row.purpose else ""
    return Conflict(
        f"{row.name} is held by {row.holder}{why} on {row.node}, for {seconds} s.",
        field="lease",
        hint=f"wait for it, or take it away with `opsdeck lease steal {row.name}`",
    )
