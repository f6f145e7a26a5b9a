"""Renewals that come soon and traffic quotas that are nearly used become incidents."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from opsdeck.clock import utcnow
from opsdeck.inventory.models import Host
from opsdeck.inventory.samples.book import MonthTraffic
from opsdeck.inventory.terms import RENEWAL_DAYS

if TYPE_CHECKING:
    from opsdeck.deck import Deck

QUOTA_SHARE = 0.8


async def watch_terms(deck: Deck, now: datetime | None = None) -> None:
    """Open and close the incidents for renewals that come soon and traffic quotas that are nearly used."""
    at = now or utcnow()
    hosts = await deck.inventory.list()
    traffic = await deck.samples.month(hosts, at)
    wanted = {
        key: (title, host.name)
        for host in hosts
        for key, title in terms_due(host, traffic[host.name], at.astimezone(UTC).date())
    }
    known = {
        one.key: one.title for one in await deck.incidents.open_now() if one.key.startswith(("renewal:", "quota:"))
    }
    for key in known.keys() - wanted.keys():
        await deck.incidents.close(key)
    for key, (title, name) in wanted.items():
        if known.get(key) != title:
            await deck.incidents.open(key, title, host=name, severity="attention")


def terms_due(host: Host, traffic: MonthTraffic, today: date) -> list[tuple[str, str]]:
    """Give (key, title) for each of a host's terms that asks for attention."""
    due = []
    if host.renewal is not None and host.renewal - today <= timedelta(days=RENEWAL_DAYS):
        days = (host.renewal - today).days
        when = f"in {days} days" if days > 1 else {1: "tomorrow", 0: "today"}.get(days, f"{-days} days ago")
        verb = "renews" if days >= 0 else "was to renew"
        due.append((f"renewal:{host.name}", f"{host.name} {verb} {when} ({host.renewal.isoformat()})"))
    if traffic.share is not None and traffic.share >= QUOTA_SHARE:
        text = f"{host.name} has used {traffic.share:.0%} of its traffic until {traffic.ends.isoformat()}"
        due.append((f"quota:{host.name}", text))
    return due
