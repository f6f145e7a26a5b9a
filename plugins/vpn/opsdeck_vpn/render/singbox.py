"""A profile for sing-box 1.12 and later. Pure.

Facts: within one rule networks and names are alternatives; rules go top to bottom; a domain goes to the SOCKS port as a
name, and the resolver inside the tunnel decides.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from opsdeck_vpn.render.setting import Setting
from opsdeck_vpn.rules import Match, RuleLine

_FIELDS = {
    Match.CIDR: "ip_cidr",
    Match.SUFFIX: "domain_suffix",
    Match.DOMAIN: "domain",
    Match.KEYWORD: "domain_keyword",
}


def render(setting: Setting) -> str:
    """Give the JSON."""
    data = {
        "log": {"level": "info"},
        "dns": _dns(setting),
        "inbounds": [{"type": "mixed", "tag": "in", "listen": "127.0.0.1", "listen_port": setting.port}],
        "outbounds": [*_outbounds(setting), {"type": "direct", "tag": "direct"}],
        "route": {
            "rules": [{"action": "sniff"}, {"protocol": "dns", "action": "hijack-dns"}, *_rules(setting)],
            "default_domain_resolver": "dns-here",
            "final": "direct",
            "auto_detect_interface": True,
        },
    }
    # Indenting is a matter of people, and slow: a long list is for the program alone.
    indent = 1 if len(setting.rules) < 2000 else None
    return json.dumps(data, indent=indent, ensure_ascii=False) + "\n"


def _dns(setting: Setting) -> dict[str, Any]:
    servers: list[dict[str, Any]] = [{"type": "local", "tag": "dns-here"}]
    rules: list[dict[str, Any]] = []
    for office in setting.used():
        names = setting.names_of(office)
        if office.dns and names and office.open:
            tag = f"dns-{office.tag}"
            servers.append({"type": "tcp", "tag": tag, "server": office.dns[0], "detour": office.tag})
            rules.append({"domain_suffix": list(names), "action": "route", "server": tag})
        elif names:
            rules.append({"domain_suffix": list(names), "action": "reject"})
    return {"servers": servers, "rules": rules, "final": "dns-here"}


def _outbounds(setting: Setting) -> Iterator[dict[str, Any]]:
    for office in setting.used():
        yield {
            "type": "socks",
            "tag": office.tag,
            "version": "5",
            "server": office.server,
            "server_port": office.port,
            "username": office.user,
            "password": office.password.reveal(),
        }
    for other in setting.others:
        kind = "socks" if other.kind == "socks5" else "http"
        item: dict[str, Any] = {"type": kind, "tag": other.tag, "server": other.server, "server_port": other.port}
        if other.user:
            item |= {"username": other.user, "password": other.password.reveal()}
        yield item


def _rules(setting: Setting) -> Iterator[dict[str, Any]]:
    first: dict[str, list[str]] = {}
    for kind, value in setting.direct_first():
        first.setdefault(_FIELDS[kind], []).append(value)
    if first:
        yield {**first, "action": "route", "outbound": "direct"}
    for target, rules in groupby(setting.rules, key=lambda rule: rule.target):
        yield from _segment(setting, target, list(rules))


def _segment(setting: Setting, target: str, rules: list[RuleLine]) -> Iterator[dict[str, Any]]:
    fields: dict[str, list[str]] = {}
    for rule in rules:
        fields.setdefault(_FIELDS[rule.kind], []).append(rule.value)
    sort, _, name = target.partition(":")
    if sort == "tunnel":
        office = setting.office_of(target)
        if office is None or not office.open:
            yield {**fields, "action": "reject"}
            return
        yield {"network": ["udp"], **fields, "action": "reject"}
        yield {**fields, "action": "route", "outbound": office.tag}
    elif sort == "reject":
        yield {**fields, "action": "reject"}
    else:
        yield {**fields, "action": "route", "outbound": f"proxy-{name}" if sort == "proxy" else "direct"}
