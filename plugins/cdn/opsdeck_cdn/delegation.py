"""Whether the zone above leads resolvers to our name servers: asked of its own servers, as a resolver would."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field

import dns.asyncresolver
import dns.exception
import dns.message
import dns.name
import dns.rdatatype
import dns.resolver

from opsdeck_cdn.resolving import NoName, exchange

LIMIT = 6.0
"""Seconds for one question to the console's own resolver."""


@dataclass(frozen=True)
class Delegation:
    """What the zone above says: the servers of the zone, and the addresses it has for them (glue)."""

    asked: str
    servers: frozenset[str]
    glue: Mapping[str, frozenset[str]] = field(default_factory=dict)


async def look(zone: str, parent: str = "") -> Delegation:
    """Ask a server of the zone above; `parent` is its address, "" finds it. Raises `NoName`."""
    servers = [parent] if parent else await _parents(zone)
    fault: NoName | None = None
    for server in servers[:3]:
        try:
            return read(server, zone, await exchange(server, dns.message.make_query(zone, "NS", use_edns=0)))
        except NoName as problem:
            fault = problem
    raise fault or NoName(f"no name server of the zone above {zone} was found.", hint=HOW)


HOW = "`opsdeck plugin run cdn setup --parent ADDRESS` names one"


def read(server: str, zone: str, answer: dns.message.Message) -> Delegation:
    """Read a referral: NS records of the zone, in whichever part they stand."""
    name = dns.name.from_text(zone)
    found: set[str] = set()
    glue: dict[str, frozenset[str]] = {}
    for group in (*answer.answer, *answer.authority):
        if group.rdtype == dns.rdatatype.NS and group.name == name:
            found |= {item.target.to_text(omit_final_dot=True).lower() for item in group}
    for group in answer.additional:
        if group.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA):
            owner = group.name.to_text(omit_final_dot=True).lower()
            glue[owner] = glue.get(owner, frozenset()) | {item.address for item in group}
    return Delegation(server, frozenset(found), glue)


def judge(wanted: Mapping[str, str], seen: Delegation) -> list[tuple[str, str]]:
    """Compare with our servers, as name and address; give what is wrong, each with `broken` or `attention`."""
    if not seen.servers:
        return [("broken", f"{seen.asked} delegates it to nobody: no resolver finds the edges.")]
    found = []
    if others := sorted(seen.servers - set(wanted)):
        found.append(("broken", f"{', '.join(others)} stand there too and are not ours: some visitors get no answer."))
    if missing := sorted(set(wanted) - seen.servers):
        state = "broken" if len(missing) == len(wanted) else "attention"
        found.append((state, f"{', '.join(missing)} do not stand there."))
    for name in sorted(seen.servers & set(wanted)):
        glue = {text for text in seen.glue.get(name, ()) if ipaddress.ip_address(text).version == 4}
        if not glue:
            found.append(("broken", f"{name} stands there without an address, and lies in the zone itself."))
        elif glue != {wanted[name]}:
            found.append(("broken", f"{name} stands there with {', '.join(sorted(glue))}, and is {wanted[name]}."))
    return found


async def _parents(zone: str) -> list[str]:
    """Find the addresses of the servers of the nearest zone above."""
    resolver = dns.asyncresolver.Resolver()
    resolver.lifetime = LIMIT
    above = dns.name.from_text(zone)
    while len(above) > 2:
        above = above.parent()
        try:
            found = await resolver.resolve(above, "NS")
        except (dns.resolver.NoAnswer, dns.resolver.NXDOMAIN):
            continue  # no zone begins here; the next one above then
        except (OSError, dns.exception.DNSException) as fault:
            raise NoName(f"{above} cannot be looked up: {fault}.", hint=HOW) from fault
        addresses: list[str] = []
        for item in list(found)[:3]:
            try:
                addresses += [entry.address for entry in await resolver.resolve(item.target, "A")]
            except (OSError, dns.exception.DNSException):
                continue  # another of them may be found
        return addresses
    return []
