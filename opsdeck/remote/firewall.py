"""Tables of nftables that are ours alone: replaced as a whole, in one transaction, and never locking SSH out.

The kernel takes the whole table or nothing (`nft -f`), after `nft -c` judged it. Every chain that may drop incoming
packets begins with the rules that keep the host reachable: what is established, loopback, and the SSH ports. And the
host takes the new table back by itself unless a fresh login over the network confirms it in time.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from opsdeck.errors import Invalid, NotFound, OpsDeckError
from opsdeck.plan import Change, Verb
from opsdeck.remote.errors import CheckRefused, NotDone, ProbeFailed, Unreadable
from opsdeck.remote.files import File
from opsdeck.remote.sources import shell
from opsdeck.ssh.command import Completed, Script, printable

if TYPE_CHECKING:
    from opsdeck.jobs.context import HostAccess

_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")
_OURS = "opsdeck_"
FOLDER = "/etc/opsdeck/nftables"


class Hook(StrEnum):
    """Where in a packet's way a chain stands."""

    PREROUTING = "prerouting"
    INPUT = "input"
    FORWARD = "forward"
    OUTPUT = "output"
    POSTROUTING = "postrouting"


@dataclass(frozen=True)
class AddressSet:
    """A named set of IPv4 or IPv6 networks; rules refer to it as `@name`."""

    name: str
    networks: tuple[str, ...] = ()
    version: int = 4

    def __post_init__(self) -> None:
        _check_name(self.name, "set")
        if self.version not in (4, 6):
            raise Invalid("a set is for IPv4 or IPv6.", field="version")
        for text in self.networks:
            try:
                if ipaddress.ip_network(text).version != self.version:
                    raise ValueError(f"it is no IPv{self.version} network")
            except ValueError as fault:
                raise Invalid(f"{text!r} in set {self.name}: {fault}.", field="networks") from None

    def render(self) -> str:
        """Give the set in nft's language; overlapping networks are joined."""
        joined = ipaddress.collapse_addresses(ipaddress.ip_network(text) for text in self.networks)  # type: ignore[type-var]
        elements = ", ".join(str(network) for network in joined)
        inner = f"        elements = {{ {elements} }}\n" if elements else ""
        return f"    set {self.name} {{\n        type ipv{self.version}_addr\n        flags interval\n{inner}    }}\n"


@dataclass(frozen=True)
class Chain:
    """A chain and its rules, one line of nft each (`tcp dport 443 accept`).

    With a `hook` packets come by themselves; without, rules jump to it. `kind` is `filter`, `nat` or `route`.
    """

    name: str
    rules: tuple[str, ...] = ()
    hook: Hook | None = None
    kind: str = "filter"
    priority: int = 0
    drop: bool = False
    """What becomes of a packet that no rule decides on: dropped instead of accepted."""

    def __post_init__(self) -> None:
        _check_name(self.name, "chain")
        if self.kind not in ("filter", "nat", "route"):
            raise Invalid(f"{self.kind!r} is no kind of chain.", field="kind")
        if not -400 <= self.priority <= 400:
            raise Invalid(f"priority {self.priority} is out of range.", field="priority")
        for rule in self.rules:
            _check_rule(rule)

    @property
    def guarded(self) -> bool:
        """Tell whether it could lock somebody out, so that the rules which keep SSH open must come first."""
        return self.hook in (Hook.INPUT, Hook.PREROUTING, Hook.OUTPUT) and self.kind == "filter"

    def render(self, ssh_ports: tuple[int, ...]) -> str:
        """Give the chain in nft's language."""
        lines = []
        if self.hook:
            policy = "drop" if self.drop else "accept"
            lines.append(f"type {self.kind} hook {self.hook} priority {self.priority}; policy {policy};")
        if self.guarded:
            ports = ", ".join(str(port) for port in ssh_ports)
            side = "sport" if self.hook is Hook.OUTPUT else "dport"
            device = "oifname" if self.hook is Hook.OUTPUT else "iifname"
            lines += [
                "ct state established,related accept",
                f'{device} "lo" accept',
                f'tcp {side} {{ {ports} }} accept comment "opsdeck: SSH stays open"',
                # ICMP and ICMPv6 by number: a bare host has no /etc/protocols to look names up in.
                "meta l4proto { 1, 58 } accept",
            ]
        return (
            f"    chain {self.name} {{\n" + "".join(f"        {line}\n" for line in (*lines, *self.rules)) + "    }\n"
        )


@dataclass(frozen=True)
class Firewall:
    """A table of ours: `inet opsdeck_<name>`. No other table of the host is touched."""

    name: str
    chains: tuple[Chain, ...] = ()
    sets: tuple[AddressSet, ...] = ()
    ssh_ports: tuple[int, ...] = (22,)
    """Kept open beside the port the host is reached at."""

    def __post_init__(self) -> None:
        _check_name(self.name, "table")
        names = [part.name for part in (*self.chains,)] + [part.name for part in self.sets]
        if len(set(names)) != len(names):
            raise Invalid("a chain or set is there twice.", field="name")
        if any(not 0 < port < 65536 for port in self.ssh_ports):
            raise Invalid("a port is 1 to 65535.", field="ssh_ports")

    @property
    def table(self) -> str:
        """Give the table's name on the host."""
        return f"{_OURS}{self.name}"

    def render(self, *ports: int) -> str:
        """Give the whole table in nft's language: emptied and filled in one transaction. `ports` stay open too."""
        keep = tuple(sorted({*self.ssh_ports, *ports}))
        body = "".join(part.render() for part in self.sets) + "".join(chain.render(keep) for chain in self.chains)
        return f"table inet {self.table}\ndelete table inet {self.table}\ntable inet {self.table} {{\n{body}}}\n"


def _check_name(name: str, what: str) -> None:
    if not _NAME.fullmatch(name):
        raise Invalid(f"{name!r} cannot name a {what}.", field="name", hint="small letters, digits and _")


def _check_rule(rule: str) -> None:
    # One rule must stay one rule in its own chain: nothing that ends a line or a block, or takes a file in.
    depth = 0
    for char in re.sub(r'"[^"\n]*"', "", rule):
        depth += (char == "{") - (char == "}")
        if depth < 0 or char in '\n\r;#\0\\$`"':
            raise Invalid(f"the rule {rule!r} is more than one rule.", field="rules", hint="give one rule a line")
    first = rule.split(maxsplit=1)[0] if rule.strip() else ""
    if depth or not rule.isprintable() or first in ("", "include", "define", "chain", "set", "table"):
        raise Invalid(f"{rule!r} is no rule.", field="rules", hint="give one rule a line")


_LISTEN = r"""
LC_ALL=C; export LC_ALL; PATH=$PATH:/usr/sbin:/sbin
command -v nft >/dev/null || { echo nonft; exit 91; }
echo "ports ${SSH_CONNECTION:-} $(sshd -T 2>/dev/null | while read -r key value rest; do
    [ "$key" != port ] || printf '%s ' "$value"; done)"
nft -s list table inet "$1" 2>/dev/null
echo end
"""
_CONFIRM = r"""
before=/run/opsdeck/nft/$1.$2.before
[ -e "$before" ] || exit 90
[ "$3" = keep ] || PATH=$PATH:/usr/sbin:/sbin nft -f "$before" || exit 91
rm -f "$before"
"""


_REMOVE = r"""
PATH=$PATH:/usr/sbin:/sbin
rm -f /run/opsdeck/nft/"$1".*.before
nft delete table inet "$1"
"""
_CONF = f'include "{FOLDER}/*.nft"\n'.encode()
_UNIT = b"""[Unit]
Description=Load the nftables tables of OpsDeck
After=nftables.service
Before=network.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/nft -f /etc/opsdeck/nftables.conf
ExecReload=/usr/sbin/nft -f /etc/opsdeck/nftables.conf

[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True)
class FirewallState:
    """What the host has: the ports its sshd listens at, and our table as nft lists it ("" when there is none)."""

    ports: tuple[int, ...]
    listed: str


def look_script(firewall: Firewall) -> Script:
    """Build the look at our table."""
    return Script(_LISTEN, (firewall.table,), sudo=True)


def parse_look(host: str, done: Completed) -> FirewallState:
    """Read what the look printed. Raises `NotFound` without nftables, `Unreadable`."""
    text = done.stdout.decode("utf-8", "replace")
    if text.startswith("nonft"):
        raise NotFound("the host has no nft.", host=host, hint="install the package nftables")
    first, _, rest = text.partition("\n")
    if not first.startswith("ports ") or not rest.endswith("end\n"):
        raise Unreadable("the look at its firewall broke off.", host=host)
    words = first.split()[1:]
    numbers = [word for word in words if word.isdigit() and 0 < int(word) < 65536]
    if len(words) >= 4 and not words[0].isdigit():
        # SSH_CONNECTION: client address and port, server address and port; the client's port is none of ours.
        numbers = [words[3], *(word for word in words[4:] if word.isdigit())]
    return FirewallState(tuple(sorted({int(word) for word in numbers})), rest.removesuffix("end\n"))


async def look(host: HostAccess, firewall: Firewall) -> FirewallState:
    """Look at our table on a host."""
    return parse_look(host.host.name, await host.run(look_script(firewall), check=False, log=False))


def load_script(firewall: Firewall, token: str, *, revert_after: int) -> Script:
    """Build the load; the table itself goes to standard input."""
    return Script(shell("load_table"), ("inet", firewall.table, str(revert_after), token), sudo=True)


def parse_load(host: str, done: Completed) -> None:
    """Read how the load went. Raises `CheckRefused`, `NotFound`, `NotDone`."""
    said = printable(done.stderr[-1500:], 800)
    match done.stdout.decode("ascii", "replace").split():
        case ["loaded"] if done.ok:
            return
        case ["nonft"]:
            raise NotFound("the host has no nft.", host=host, hint="install the package nftables")
        case ["refused"]:
            raise CheckRefused(f"nft refused the table: {said}", host=host, hint="nothing was changed")
    raise NotDone(f"the table was not loaded: {said}", host=host)


async def plan(host: HostAccess, firewall: Firewall) -> tuple[Change, ...]:
    """Say whether the table would change; its text is that of the file it is kept in."""
    from opsdeck.remote import files

    state = await look(host, firewall)
    kept = _kept(firewall, host, state)
    changes = await files.plan(host, [kept])
    if changes or not state.listed:
        before = changes[0].before if changes else None
        after = kept.data.decode() if kept.data else None
        verb = Verb.UPDATE if state.listed else Verb.CREATE
        return (Change(host.host.name, verb, f"nftables inet {firewall.table}", "", before, after),)
    return ()


def _kept(firewall: Firewall, host: HostAccess, state: FirewallState) -> File:
    text = firewall.render(*state.ports, host.host.port)
    return File(f"{FOLDER}/{firewall.table}.nft", text.encode(), mode=0o600, owner="root:root")


def _decide(firewall: Firewall, token: str, what: str) -> Script:
    return Script(_CONFIRM, (firewall.table, token, what), sudo=True)


async def dial(host: HostAccess) -> None:
    """See that a new TCP connection to the host's SSH port gets an answer; through a jump host it cannot be seen."""
    if host.host.jump:
        return
    try:
        async with asyncio.timeout(8):
            reader, writer = await asyncio.open_connection(host.host.address, host.host.port)
            try:
                greeting = await reader.read(4)
            finally:
                writer.close()
    except (OSError, TimeoutError) as fault:
        raise ProbeFailed(f"no new connection gets through: {fault or 'no answer'}.", host=host.host.name) from None
    if not greeting.startswith(b"SSH"):
        raise ProbeFailed("the SSH port answers with something else.", host=host.host.name)


async def apply(
    host: HostAccess,
    firewall: Firewall,
    *,
    revert_after: int = 30,
    probe: Callable[[HostAccess], Awaitable[None]] = dial,
) -> tuple[Change, ...]:
    """Replace our table, prove that the host is still reached, and only then let it stay.

    `probe` must open a new connection and raise when there is none; `revert_after` s without its yes, the host itself
    takes the table back. It is loaded again at boot. Raises `CheckRefused`, `ProbeFailed`.
    """
    from opsdeck.remote import directories, files, units

    name = host.host.name
    changes = await plan(host, firewall)
    if not changes:
        return ()
    kept, token = _kept(firewall, host, await look(host, firewall)), secrets.token_hex(8)
    script = load_script(firewall, token, revert_after=revert_after)
    parse_load(name, await host.run(script, stdin=kept.data, check=False, log=False))
    try:
        await probe(host)
    except ProbeFailed as fault:
        fate = "What was there is in force again."
        try:
            await host.run(_decide(firewall, token, "back"), log=False, timeout=10)
        except OpsDeckError:
            fate = f"The host takes the table back within {revert_after} s."
        raise ProbeFailed(f"{fault.message} {fate}", host=name, hint="mend the rules") from None
    done = await host.run(_decide(firewall, token, "keep"), check=False, log=False)
    if not done.ok:
        raise NotDone("it was confirmed too late; the host took the table back.", host=name, hint="run it again")
    await directories.apply(host, [directories.Directory(FOLDER, 0o700, "root:root")])
    conf = File("/etc/opsdeck/nftables.conf", _CONF, mode=0o600, owner="root:root")
    await files.apply(host, [kept, conf], keep_previous=False)
    await units.ensure(host, units.Unit("opsdeck-nftables", _UNIT, active=None), settle=0)
    return changes


async def remove(host: HostAccess, firewall: Firewall) -> bool:
    """Take our table away, now and at boot; tell whether there was one."""
    from opsdeck.remote import files

    state = await look(host, firewall)
    await files.apply(host, [File(f"{FOLDER}/{firewall.table}.nft", None)], keep_previous=False)
    if not state.listed:
        return False
    await host.run(Script(_REMOVE, (firewall.table,), sudo=True), log=False)
    return True
