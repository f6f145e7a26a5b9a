"""What contacts with hosts showed: from an error to a reach, from reaches to rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlmodel import col, select

from opsdeck.clock import utcnow
from opsdeck.errors import OpsDeckError
from opsdeck.inventory.models import Host, Reach
from opsdeck.ssh.errors import (
    HostKeyChanged,
    HostKeyUnknown,
    LinkLost,
    LoginRefused,
    ShellRefused,
    Unreachable,
)

if TYPE_CHECKING:
    from opsdeck.db import Database

_REACHES: tuple[tuple[type[OpsDeckError], Reach], ...] = (
    (HostKeyChanged, Reach.KEY_CHANGED),
    (HostKeyUnknown, Reach.UNTRUSTED),
    (LoginRefused, Reach.REFUSED),
    (ShellRefused, Reach.REFUSED),
    (Unreachable, Reach.UNREACHABLE),
    (LinkLost, Reach.UNREACHABLE),
)


@dataclass(frozen=True)
class ReachSeen:
    """What a contact with a host showed."""

    host: str
    reach: Reach
    detail: str = ""


def reach_of(host: str, fault: OpsDeckError) -> ReachSeen | None:
    """Give what an error of SSH says of the host's reach; None when it says nothing.

    When it was a jump host that refused, the host behind it is unreachable.
    """
    for kind, reach in _REACHES:
        if isinstance(fault, kind):
            here = fault.host in (None, host)
            return ReachSeen(host, reach if here else Reach.UNREACHABLE, fault.message if here else str(fault))
    return None


async def note_reach(db: Database, seen: Iterable[ReachSeen]) -> tuple[str, ...]:
    """Note what contacts showed, in one transaction; give the names of hosts whose reach is another now."""
    told = {item.host: item for item in seen}
    if not told:
        return ()
    now, changed = utcnow(), []
    async with db.write() as session:
        for host in (await session.exec(select(Host).where(col(Host.name).in_(told)))).all():
            item = told[host.name]
            if host.reach != item.reach:
                host.reach, host.reach_since = item.reach, now
                changed.append(host.name)
            host.reach_detail = item.detail[:500]
            if item.reach is Reach.OK:
                host.last_seen = now
            session.add(host)
    return tuple(changed)
