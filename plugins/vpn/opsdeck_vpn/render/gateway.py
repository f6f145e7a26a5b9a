"""What lies on the gateway for one tunnel: OpenVPN's configuration, the script, the units. Pure."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files as resources

from opsdeck.api import File, Sensitive

FOLDER = "/etc/opsdeck/vpn"
SOCKS_USER = "office"
_SIZED = frozenset(("mssfix", "fragment", "tun-mtu", "link-mtu"))
PACKAGES = {
    "openvpn": ("openvpn", "iputils-ping", "python3-minimal"),
    "wireguard": ("wireguard-go", "wireguard-tools", "iputils-ping", "python3-minimal"),
}
"""What the gateway needs from Debian."""


@dataclass(frozen=True)
class Gateway:
    """What is rendered for one tunnel. `profile` is the cleaned one; `login` whether the server wants a password."""

    name: str
    kind: str
    profile: Sensitive
    login: bool
    listen: str
    port: int
    management_port: int
    management_password: Sensitive
    socks_password: Sensitive
    locked: bool = False
    """Whether the profile's private key has a passphrase."""
    coded: bool = False
    """Whether logging in takes a one-time code."""
    mtu: int = 0

    @property
    def namespace(self) -> str:
        """Give the network namespace, and the device in it."""
        return f"ov-{self.name}"

    @property
    def asked(self) -> bool:
        """Tell whether OpenVPN asks the console for something before it dials."""
        return self.login or self.locked

    @property
    def folder(self) -> str:
        """Give the folder on the host."""
        return f"{FOLDER}/{self.name}"


@cache
def carried(name: str) -> bytes:
    """Give one of the programs that run on the gateway."""
    return (resources("opsdeck_vpn") / "onhost" / name).read_bytes()


def unit_names(name: str) -> tuple[str, str, str, str]:
    """Give a tunnel's units: the namespace, the dialler, the SOCKS server, and the port that it is handed."""
    stem = f"opsdeck-vpn-{name}"
    return f"{stem}-net.service", f"{stem}-dial.service", f"{stem}-door.service", f"{stem}-door.socket"


def client_conf(gateway: Gateway, control: str = "127.0.0.1") -> str:
    """Give OpenVPN's configuration: ours first, then what is kept of the profile. `control`: where it listens to us."""
    script_path = f"{gateway.folder}/tunnel.sh"
    lines = [
        "# Made by OpsDeck; changes are overwritten.",
        f"dev {gateway.namespace}",
        "dev-type tun",
        "disable-dco",
        "ifconfig-noexec",
        "route-noexec",
        "persist-key",
        "persist-tun",
        "script-security 2",
        f'up "{script_path} up {gateway.name}"',
        f'route-up "{script_path} route-up {gateway.name}"',
        f"management {control} {gateway.management_port} {gateway.folder}/management.pw",
        "management-log-cache 100",
        "auth-retry interact",
        # However long a server was away, it is dialled within ten seconds of its return.
        "connect-retry 1 5",
        "connect-timeout 10",
    ]
    profile = gateway.profile.reveal()
    if gateway.mtu:
        profile = "\n".join(line for line in profile.split("\n") if line.split(" ", 1)[0] != "mssfix")
        lines.append(f"mssfix {gateway.mtu} mtu")
    elif not _SIZED & {line.split(" ", 1)[0] for line in profile.splitlines()}:
        # Small enough for any path of IPv6: where large packets vanish, pages would hang while pings go through.
        lines.append("mssfix 1250 mtu")
    if gateway.login:
        lines.append("auth-user-pass")
    if gateway.coded:
        # Without its token it would send the code of the last time again, instead of asking for a new one.
        lines.append("auth-nocache")
    if gateway.asked:
        lines += ["management-hold", "management-query-passwords"]
    return "\n".join([*lines, "", profile])


def wireguard_conf(gateway: Gateway) -> Sensitive:
    """Give WireGuard's configuration, with the MTU that somebody said."""
    profile = gateway.profile.reveal()
    if gateway.mtu:  # 80 bytes are IPv6, UDP and WireGuard's own
        profile = re.sub(r"(?m)^#:mtu .*", f"#:mtu {max(gateway.mtu - 80, 576)}", profile)
    return Sensitive(profile)


def net_unit(gateway: Gateway) -> str:
    """Give the unit that holds the namespace: it outlives every reconnect."""
    return f"""[Unit]
Description=Network of the office tunnel {gateway.name}

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={gateway.folder}/tunnel.sh open {gateway.name}
ExecStop={gateway.folder}/tunnel.sh close {gateway.name}

[Install]
WantedBy=multi-user.target
"""


def dial_unit(gateway: Gateway) -> str:
    """Give the unit that dials, in the host's own network."""
    net = unit_names(gateway.name)[0]
    if gateway.kind == "openvpn":
        service = f"""Type=exec
ExecStart=/usr/sbin/openvpn --suppress-timestamps --config {gateway.folder}/client.conf"""
    else:
        run = f"{gateway.folder}/tunnel.sh"
        service = f"""Type=exec
ExecStart={run} wg-run {gateway.name}
ExecStartPost={run} wg-up {gateway.name}
ExecStopPost={run} wg-down {gateway.name}"""
    return f"""[Unit]
Description=Office tunnel {gateway.name}
Requires={net}
After={net} network-online.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
{service}
Restart=always
RestartSec=2
UMask=0077

[Install]
WantedBy=multi-user.target
"""


def door_socket(gateway: Gateway) -> str:
    """Give the socket on the host's side."""
    host = f"[{gateway.listen}]" if ipaddress.ip_address(gateway.listen).version == 6 else gateway.listen
    return f"""[Unit]
Description=SOCKS port of the office tunnel {gateway.name}

[Socket]
ListenStream={host}:{gateway.port}
FreeBind=yes
NoDelay=yes
Backlog=1024

[Install]
WantedBy=sockets.target
"""


def door_unit(gateway: Gateway) -> str:
    """Give the unit of the SOCKS server: its port is the host's, and it has no network but the tunnel's."""
    net, _dial, _door, socket = unit_names(gateway.name)
    return f"""[Unit]
Description=SOCKS server of the office tunnel {gateway.name}
Requires={net} {socket}
After={net} {socket}
StartLimitIntervalSec=0

[Service]
ExecStart=/usr/bin/python3 -I -S {gateway.folder}/door.py
LoadCredential=user:{gateway.folder}/socks.user
LoadCredential=password:{gateway.folder}/socks.pw
NetworkNamespacePath=/run/netns/{gateway.namespace}
BindReadOnlyPaths=/run/opsdeck-vpn/{gateway.name}/resolv.conf:/etc/resolv.conf
DynamicUser=yes
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectSystem=strict
ProtectHome=yes
PrivateDevices=yes
LimitNOFILE=16384
Restart=always
RestartSec=1

[Install]
WantedBy=multi-user.target
"""


def rendered(gateway: Gateway) -> tuple[File, ...]:
    """Give every file of a tunnel."""
    net, dial, door, socket = unit_names(gateway.name)
    root = "root:root"

    def own(name: str, content: bytes | Sensitive, mode: int = 0o600) -> File:
        return File(f"{gateway.folder}/{name}", content, mode=mode, owner=root)

    def unit(name: str, text: str) -> File:
        return File(f"/etc/systemd/system/{name}", text.encode(), mode=0o644, owner=root)

    config = (
        own("client.conf", Sensitive(client_conf(gateway)))
        if gateway.kind == "openvpn"
        else own("wg.conf", wireguard_conf(gateway))
    )
    return (
        own("tunnel.sh", carried("tunnel.sh"), 0o755),
        own("door.py", carried("door.py"), 0o644),
        config,
        own("management.pw", Sensitive(gateway.management_password.reveal() + "\n")),
        own("socks.user", f"{SOCKS_USER}\n".encode()),
        own("socks.pw", Sensitive(gateway.socks_password.reveal() + "\n")),
        unit(net, net_unit(gateway)),
        unit(dial, dial_unit(gateway)),
        unit(door, door_unit(gateway)),
        unit(socket, door_socket(gateway)),
    )
