"""A profile for mihomo, the living Clash core. Pure.

Facts: rules go top to bottom, the first wins; an address rule without `no-resolve` asks for names here; UDP to a proxy
without UDP goes on to later rules, so it is rejected before; `#name` after a name server dials it through that proxy.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from opsdeck_vpn.render.setting import Office, Setting
from opsdeck_vpn.rules import Match, RuleLine

_KINDS = {Match.SUFFIX: "DOMAIN-SUFFIX", Match.DOMAIN: "DOMAIN", Match.KEYWORD: "DOMAIN-KEYWORD"}


def render(setting: Setting) -> str:
    """Give the YAML: each value is written as JSON, which YAML reads and nothing can break out of."""
    parts = [
        "# Made by OpsDeck; fetch it again instead of changing it.",
        f"mixed-port: {setting.port}",
        "bind-address: 127.0.0.1",
        "allow-lan: false",
        "mode: rule",
        "log-level: info",
        "ipv6: true",
        _block("proxies", list(_proxies(setting))),
        _block("proxy-groups", list(_groups(setting))),
        _dns(setting),
        "rules:",
        *(f"  - {json.dumps(rule, ensure_ascii=False)}" for rule in _rules(setting)),
    ]
    return "\n".join(parts) + "\n"


def _block(name: str, items: list[dict[str, object]]) -> str:
    if not items:
        return f"{name}: []"
    return "\n".join([f"{name}:", *(f"  - {json.dumps(item, ensure_ascii=False)}" for item in items)])


def _proxies(setting: Setting) -> Iterator[dict[str, object]]:
    for office in setting.used():
        yield {
            "name": office.tag,
            "type": "socks5",
            "server": office.server,
            "port": office.port,
            "username": office.user,
            "password": office.password.reveal(),
            "udp": False,
        }
    for other in setting.others:
        item: dict[str, object] = {"name": other.tag, "type": other.kind, "server": other.server, "port": other.port}
        if other.user:
            item |= {"username": other.user, "password": other.password.reveal()}
        yield item


def _groups(setting: Setting) -> Iterator[dict[str, object]]:
    for office in setting.used():
        yield {
            "name": _group(office),
            "type": "select",
            "proxies": [office.tag, "REJECT"] if office.open else ["REJECT"],
        }


def _group(office: Office) -> str:
    return f"OFFICE-{office.name.upper()}"


def _dns(setting: Setting) -> str:
    policy: dict[str, list[str]] = {}
    for office in setting.used():
        servers = [f"tcp://{_bracketed(server)}#{office.tag}" for server in office.dns]
        if servers and office.open:
            policy |= {f"+.{name}": servers for name in setting.names_of(office)}
    data = {
        "enable": True,
        "ipv6": True,
        "enhanced-mode": "fake-ip",
        "fake-ip-filter": ["+.lan", "+.local", *policy],
        "nameserver": ["system"],
        "nameserver-policy": policy,
        "proxy-server-nameserver": ["system"],
    }
    return "\n".join(["dns:", *(f"  {key}: {json.dumps(value)}" for key, value in data.items())])


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _rules(setting: Setting) -> Iterator[str]:
    for kind, value in setting.direct_first():
        yield f"{_match(kind, value)},DIRECT{_tail(kind)}"
    for rule in setting.rules:
        yield from _rule(setting, rule)
    yield "MATCH,DIRECT"


def _rule(setting: Setting, rule: RuleLine) -> Iterator[str]:
    match, tail = _match(rule.kind, rule.value), _tail(rule.kind)
    sort, _, name = rule.target.partition(":")
    if sort == "tunnel":
        office = setting.office_of(rule.target)
        yield f"AND,((NETWORK,UDP),({match}{tail})),REJECT"
        yield f"{match},{_group(office) if office else 'REJECT'}{tail}"
    elif sort == "proxy":
        yield f"{match},proxy-{name}{tail}"
    else:
        yield f"{match},{sort.upper()}{tail}"


def _match(kind: Match, value: str) -> str:
    if kind is Match.CIDR:
        return f"{'IP-CIDR6' if ':' in value else 'IP-CIDR'},{value}"
    return f"{_KINDS[kind]},{value}"


def _tail(kind: Match) -> str:
    return ",no-resolve" if kind is Match.CIDR else ""
