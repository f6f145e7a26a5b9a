"""The Docker Compose form of a tunnel: the same programs and files in two containers with one network. Pure.

`dial` owns the network and runs OpenVPN; `door` serves the SOCKS port in it as a user of its own, which a rule of the
network lets begin no connection but into the tunnel. Each has its own name servers, so that the office's names are
never asked of Docker's. The network between container and host has an address range that no office uses (RFC 2544),
chosen here: Docker's own pool (172.17-172.31) is what many offices have.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json

from opsdeck.api import Directory, File, Sensitive
from opsdeck_vpn.render.gateway import FOLDER, SOCKS_USER, Gateway, carried, client_conf

DOOR_USER = 20080
"""Who serves the port once it has read the login: a number that no user has. The script on the gateway knows it too."""
DOCKERFILE = b"""# Made by OpsDeck; changes are overwritten.
FROM debian:bookworm-slim
RUN apt-get update \\
 && apt-get install -y --no-install-recommends openvpn iproute2 iputils-ping nftables python3-minimal \\
 && rm -rf /var/lib/apt/lists/*
"""
IMAGE = f"opsdeck-vpn:{hashlib.sha256(DOCKERFILE).hexdigest()[:12]}"
_FIRST_CONTROL = 17505
_ANY = "0.0.0.0"  # noqa: S104 - inside the containers' own network; what is published is the one address of the tunnel


def project(name: str) -> str:
    """Give the name of a tunnel's Compose project."""
    return f"opsdeck-vpn-{name}"


def path(name: str) -> str:
    """Give where the Compose file lies."""
    return f"{FOLDER}/{name}/compose.yaml"


def subnet(gateway: Gateway) -> str:
    """Give the network of the containers: eight addresses of 198.18.0.0/15 that no other tunnel has."""
    pool = ipaddress.ip_network("198.18.0.0/15")
    return str(ipaddress.ip_network((int(pool.network_address) + 8 * (gateway.management_port - _FIRST_CONTROL), 29)))


def compose_yaml(gateway: Gateway) -> str:
    """Give the Compose file."""
    folder, room = gateway.folder, f"/run/opsdeck-vpn/{gateway.name}"
    listen = f"[{gateway.listen}]" if ":" in gateway.listen else gateway.listen
    shared = {
        "image": IMAGE,
        "init": True,
        "restart": "unless-stopped",
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "logging": {"driver": "json-file", "options": {"max-size": "5m", "max-file": "3"}},
    }
    dial = shared | {
        "container_name": f"{project(gateway.name)}-dial",
        "build": {"context": f"{folder}/image"},
        "command": ["sh", f"{folder}/tunnel.sh", "dial", gateway.name],
        "cap_add": ["NET_ADMIN"],
        "devices": ["/dev/net/tun:/dev/net/tun"],
        "networks": ["way-out"],
        "ports": [
            f"{listen}:{gateway.port}:1080",
            f"127.0.0.1:{gateway.management_port}:{gateway.management_port}",
        ],
        "volumes": [f"{folder}:{folder}:ro", f"{room}:{room}"],
    }
    door = shared | {
        "container_name": f"{project(gateway.name)}-door",
        "command": ["python3", "-I", "-S", "/door.py", _ANY, "1080", str(DOOR_USER)],
        "cap_add": ["SETGID", "SETUID"],
        "depends_on": ["dial"],
        "network_mode": "service:dial",
        "read_only": True,
        "environment": {"CREDENTIALS_DIRECTORY": "/login"},
        "volumes": [
            f"{folder}/door.py:/door.py:ro",
            f"{folder}/login:/login:ro",
            f"{room}/resolv.conf:/etc/resolv.conf:ro",
        ],
    }
    whole = {
        "services": {"dial": dial, "door": door},
        "networks": {"way-out": {"ipam": {"config": [{"subnet": subnet(gateway)}]}}},
    }
    # JSON is YAML that nothing can break out of; Compose reads `$` as the beginning of a variable.
    return "# Made by OpsDeck; changes are overwritten.\n" + json.dumps(whole, indent=2).replace("$", "$$") + "\n"


def folders(gateway: Gateway) -> tuple[Directory, ...]:
    """Give the folders that must be there."""
    room = f"/run/opsdeck-vpn/{gateway.name}"
    plain = ("/etc/opsdeck", FOLDER, gateway.folder, f"{gateway.folder}/image", "/run/opsdeck-vpn", room)
    login = Directory(f"{gateway.folder}/login", 0o700, "root:root")
    return (*(Directory(each, 0o755, "root:root") for each in plain), login)


def rendered(gateway: Gateway, program: tuple[str, ...]) -> tuple[File, ...]:
    """Give every file of a tunnel; the Compose file is put in place only after `program` accepted it."""
    root = "root:root"
    room = f"/run/opsdeck-vpn/{gateway.name}"
    again = f"d {room} 0755 root root -\nf {room}/resolv.conf 0644 root root -\n"

    def own(name: str, content: bytes | Sensitive, mode: int = 0o600) -> File:
        return File(f"{gateway.folder}/{name}", content, mode=mode, owner=root)

    return (
        own("tunnel.sh", carried("tunnel.sh"), 0o755),
        own("door.py", carried("door.py"), 0o644),
        own("image/Dockerfile", DOCKERFILE, 0o644),
        own("client.conf", Sensitive(client_conf(gateway, control=_ANY))),
        own("management.pw", Sensitive(gateway.management_password.reveal() + "\n")),
        own("login/user", f"{SOCKS_USER}\n".encode()),
        own("login/password", Sensitive(gateway.socks_password.reveal() + "\n")),
        File(f"/etc/tmpfiles.d/opsdeck-vpn-{gateway.name}.conf", again.encode(), mode=0o644, owner=root),
        File(
            path(gateway.name),
            compose_yaml(gateway).encode(),
            mode=0o644,
            owner=root,
            check=(*program, "-f", "{}", "config", "-q"),
        ),
    )
