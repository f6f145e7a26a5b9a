"""What `opsdeck doctor`, the health page and a host's page say of the CDN: from the rows, without going anywhere."""

from __future__ import annotations

from collections.abc import Sequence

from opsdeck.api import Deck, Finding, Host, HostCard, OpsDeckError, utcnow
from opsdeck_cdn import book, caddy, certificates, checkup, naming
from opsdeck_cdn.book import Model
from opsdeck_cdn.models import EdgeRow


async def findings(deck: Deck) -> Sequence[Finding]:
    """Say what is well and what is not. Nothing is said before there is a site or an edge."""
    model = await book.load(deck.db)
    if not model.sites and not model.edges:
        return ()
    owing = {debt.edge for debt in await book.owed(deck.db)}
    found = [_caddy(model)]
    for edge in model.edges:
        found.append(_edge(model.rows[edge.host], edge.host in owing))
    found += [finding for row in model.rows.values() for finding in _certificates(row)]
    found += _dns(model)
    found += [Finding(row.subject, row.state, row.text, row.hint) for row in await checkup.kept(deck.db)]
    return tuple(found)


def _caddy(model: Model) -> Finding:
    try:
        wanted = caddy.artefact(model.setup.caddy)
    except OpsDeckError as fault:
        return Finding("Caddy for edges", "broken", fault.message, fault.hint or "")
    return Finding("Caddy for edges", "ok", f"{wanted.version}, {wanted.arch}")


def _edge(row: EdgeRow, owes: bool) -> Finding:
    subject = f"edge {row.host}"
    deploy = "`opsdeck plugin run cdn deploy`"
    if not row.generation:
        return Finding(subject, "attention", "not deployed yet", deploy)
    if row.health == "down":
        return Finding(subject, "broken", row.health_text or "does not serve", f"look at {row.host}; it is out of DNS")
    if owes or row.owing:
        settle = f"`serve` has it settle; without: `opsdeck plugin run cdn settle --host {row.host}`"
        return Finding(subject, "attention", "owes purges, and is out of DNS until it did them", settle)
    if not row.admitted:
        return Finding(subject, "attention", "not let into DNS: its last deploy did not end well", deploy)
    if row.drained:
        return Finding(subject, "attention", "drained", f"`opsdeck plugin run cdn drain --host {row.host} --back`")
    return Finding(subject, "ok", "serves")


def _certificates(row: EdgeRow) -> list[Finding]:
    found = []
    now = utcnow()
    for name, life in certificates.known(row.certificates).items():
        if life.late(now):
            ended = life.end < now
            said = "has ended" if ended else f"ends on {life.end:%Y-%m-%d} and was not renewed"
            hint = f"`journalctl -u opsdeck-cdn-front` on {row.host} has the CA's words"
            state = "broken" if ended else "attention"
            found.append(Finding(f"certificate {name}", state, f"{said} on {row.host}", hint))
    return found


def _dns(model: Model) -> list[Finding]:
    if not model.servers:
        return []
    if not model.setup.zone:
        hint = "`opsdeck plugin run cdn setup --zone cdn.example.net`"
        return [Finding("DNS zone", "broken", "there are name servers and no zone", hint)]
    found = [Finding("DNS zone", "ok", f"{model.setup.zone}, {len(naming.up(model))} edges named")]
    if len(model.servers) < 2:
        hint = "`opsdeck plugin run cdn nameserver --host HOST`"
        found.append(Finding("name servers", "attention", "there is only one", hint))
    if not model.geoip.sha256:
        hint = "`opsdeck plugin run cdn geoip --help`"
        found.append(Finding("GeoIP data", "attention", "none: everyone is given every edge", hint))
    lost = [edge.host for edge in model.edges if not edge.latitude and not edge.longitude]
    if lost and model.geoip.sha256:
        hint = f"`opsdeck plugin run cdn edge --host {lost[0]} --region CITY`"
        found.append(Finding("places of edges", "attention", f"none is known for {', '.join(lost)}", hint))
    return found


async def cards(deck: Deck, host: Host) -> Sequence[HostCard]:
    """Give the card of a host that is an edge."""
    model = await book.load(deck.db)
    row = model.rows.get(host.name)
    if row is None:
        return ()
    facts = (
        ("Sites", str(len(model.sites) if row.generation else 0)),
        ("In DNS", "yes" if row.generation and host.name in naming.up(model) else "no"),
    )
    state = "broken" if row.health == "down" else "ok" if row.generation else "idle"
    return (HostCard("CDN edge", state, facts, f"/p/cdn/edges/{host.name}"),)
