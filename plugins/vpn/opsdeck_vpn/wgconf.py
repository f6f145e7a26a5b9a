"""Reading a WireGuard configuration in the form of wg-quick(8). Pure."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from dataclasses import dataclass, field

from opsdeck.api import Invalid
from opsdeck_vpn.ovpn import Profile, Remark, Remote, Weight

_HOOKS = ("preup", "postup", "predown", "postdown")
_INTERFACE = {"privatekey": "PrivateKey", "listenport": "ListenPort", "fwmark": "FwMark"}
_PEER = {
    "publickey": "PublicKey",
    "presharedkey": "PresharedKey",
    "allowedips": "AllowedIPs",
    "endpoint": "Endpoint",
    "persistentkeepalive": "PersistentKeepalive",
}


@dataclass
class _Read:
    lines: list[str] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    routes: list[str] = field(default_factory=list)
    dns: list[str] = field(default_factory=list)
    domains: list[str] = field(default_factory=list)
    remotes: list[Remote] = field(default_factory=list)
    mtu: int = 1420
    key: bool = False


def parse(text: str) -> Profile:
    """Read a configuration. The `text` of the result is what `wg setconf` takes, after `#:` lines of our own.

    Raises `Invalid` with the line.
    """
    if len(text) > 256 * 1024 or "\0" in text:
        raise Invalid("this is no WireGuard configuration.", field="profile", hint="give the .conf itself")
    read = _Read()
    section = ""
    for number, row in enumerate(text.lstrip("\ufeff").splitlines(), 1):
        line = row.partition("#")[0].strip()
        if not line:
            continue
        if line.lower() in ("[interface]", "[peer]"):
            section = line.lower()[1:-1]
            read.lines.append(f"[{section.capitalize()}]")
            continue
        name, equals, value = (part.strip() for part in line.partition("="))
        if not equals or not section or not value:
            raise Invalid(f"line {number} is neither a section nor `Name = value`.", field="profile", hint="mend it")
        (_interface if section == "interface" else _peer)(read, name, value, number)
    if not read.key or not read.remotes or not read.addresses:
        lacks = "PrivateKey" if not read.key else "Address" if not read.addresses else "a peer's Endpoint"
        raise Invalid(f"the configuration lacks {lacks}.", field="profile", hint="ask for a complete one")
    notes = [f"#:mtu {read.mtu}"]
    for word, values in (
        ("address", read.addresses),
        ("route", read.routes),
        ("dns", read.dns),
        ("domain", read.domains),
    ):
        notes += [f"#:{word} {value}" for value in values]
    return Profile("\n".join([*notes, *read.lines]) + "\n", tuple(read.remotes), tuple(read.remarks), False)


def _interface(read: _Read, name: str, value: str, number: int) -> None:
    key = name.lower()
    if key in _HOOKS:
        read.remarks.append(Remark(Weight.STRIPPED, name, "would run a program of the profile's as root", number))
    elif key == "address":
        read.addresses += [str(_network(part, number, ipaddress.ip_interface)) for part in _parts(value)]
    elif key == "dns":
        for part in _parts(value):
            try:
                read.dns.append(str(ipaddress.ip_address(part)))
            except ValueError:
                if not re.fullmatch(r"[A-Za-z0-9._-]{1,253}", part):
                    raise Invalid(f"line {number}: {part[:40]!r} is no name server.", field="profile") from None
                read.domains.append(part)
    elif key == "mtu":
        if not value.isdigit() or not 576 <= int(value) <= 9000:
            raise Invalid(f"line {number}: {value[:20]!r} is no MTU.", field="profile", hint="1280 to 1420")
        read.mtu = int(value)
    elif key in ("table", "saveconfig"):
        read.remarks.append(Remark(Weight.STRIPPED, name, "the tunnel lives in a network namespace of its own", number))
    elif key == "privatekey":
        _key(value, number)
        read.key = True
        read.lines.append(f"PrivateKey = {value}")
    elif key in ("listenport", "fwmark"):
        read.remarks.append(Remark(Weight.STRIPPED, name, "the gateway chooses this itself", number))
    else:
        read.remarks.append(Remark(Weight.STRIPPED, name, "is not known to be safe", number))


def _peer(read: _Read, name: str, value: str, number: int) -> None:
    key = name.lower()
    if key not in _PEER:
        read.remarks.append(Remark(Weight.STRIPPED, name, "is not known to be safe", number))
        return
    if key in ("publickey", "presharedkey"):
        _key(value, number)
    elif key == "allowedips":
        networks = [str(_network(part, number, ipaddress.ip_network)) for part in _parts(value)]
        read.routes += networks
        value = ", ".join(networks)
    elif key == "endpoint":
        found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]{1,253}):([0-9]{1,5})", value)
        if not found or not 0 < int(found[2]) < 65536:
            raise Invalid(f"line {number}: {value[:60]!r} is no endpoint.", field="profile", hint="HOST:PORT")
        read.remotes.append(Remote(found[1].strip("[]"), int(found[2]), "udp"))
    elif value != "off" and (not value.isdigit() or int(value) > 65535):
        raise Invalid(f"line {number}: {value[:20]!r} is no keepalive.", field="profile", hint="seconds, such as 25")
    read.lines.append(f"{_PEER[key]} = {value}")


def _parts(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


def _network(text: str, number: int, kind: object) -> object:
    try:
        if kind is ipaddress.ip_interface:
            return ipaddress.ip_interface(text)
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise Invalid(f"line {number}: {text[:40]!r} is no network.", field="profile", hint="10.8.0.2/24") from None


def _key(value: str, number: int) -> None:
    try:
        whole = len(base64.b64decode(value, validate=True)) == 32
    except (binascii.Error, ValueError):
        whole = False
    if not whole:
        raise Invalid(f"line {number}: this is no key of WireGuard.", field="profile", hint="44 characters of base64")
