"""What both cores are rendered from."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, field

from opsdeck.api import Sensitive
from opsdeck_vpn.rules import Match, RuleLine


@dataclass(frozen=True)
class Office:
    """A tunnel as a device sees it. `open` False makes everything for it rejected."""

    name: str
    server: str
    port: int
    user: str
    password: Sensitive
    open: bool = True
    dns: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    gates: tuple[str, ...] = ()
    """The VPN servers' addresses: reached directly, or the tunnel would be routed into itself."""

    @property
    def tag(self) -> str:
        """Give its name in a profile; no person's proxy can have it."""
        return f"office-{self.name}"


@dataclass(frozen=True)
class Other:
    """Another proxy that rules name. `kind` is `socks5` or `http`."""

    name: str
    kind: str
    server: str
    port: int
    user: str = ""
    password: Sensitive = field(default_factory=lambda: Sensitive(""))

    @property
    def tag(self) -> str:
        """Give its name in a profile."""
        return f"proxy-{self.name}"


@dataclass(frozen=True)
class Setting:
    """Everything a profile is made of."""

    offices: tuple[Office, ...]
    rules: tuple[RuleLine, ...]
    others: tuple[Other, ...] = ()
    port: int = 7890
    """Where the device itself listens, on its loopback."""

    def office_of(self, target: str) -> Office | None:
        """Give the tunnel that a target names."""
        name = target.removeprefix("tunnel:")
        return next((one for one in self.offices if target.startswith("tunnel:") and one.name == name), None)

    def used(self) -> tuple[Office, ...]:
        """Give the tunnels that rules name, in the order of their rows."""
        named = {rule.target for rule in self.rules}
        return tuple(one for one in self.offices if f"tunnel:{one.name}" in named)

    def direct_first(self) -> Iterator[tuple[Match, str]]:
        """Give what must be direct before anything else: the VPN servers and the SOCKS ports' own addresses."""
        seen: set[str] = set()
        for office in self.used():
            for host in (*office.gates, office.server):
                if host in seen:
                    continue
                seen.add(host)
                try:
                    address = ipaddress.ip_address(host)
                except ValueError:
                    yield Match.DOMAIN, host.lower()
                else:
                    yield Match.CIDR, f"{address}/{address.max_prefixlen}"

    def names_of(self, office: Office) -> tuple[str, ...]:
        """Give the names that belong to an office: those it pushed and those its rules name."""
        target = f"tunnel:{office.name}"
        ruled = (
            rule.value for rule in self.rules if rule.target == target and rule.kind in (Match.SUFFIX, Match.DOMAIN)
        )
        return tuple(dict.fromkeys((*office.domains, *ruled)))
