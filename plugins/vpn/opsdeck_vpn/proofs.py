"""What is proven of a tunnel: it reaches the office, asks only the office for names, lets large packets through."""

from __future__ import annotations

import re
from dataclasses import dataclass

from opsdeck.api import HostAccess, Invalid, JobRun, Refused, Sensitive, StepRun, Unavailable, utcnow
from opsdeck_vpn import drivers, socks, tunnels
from opsdeck_vpn.models import Proof, Tunnel
from opsdeck_vpn.render.gateway import FOLDER, SOCKS_USER

TCP_HEADERS = 52
"""Bytes of IPv4, TCP and its usual options."""


@dataclass(frozen=True)
class Finding:
    """What a proof of the kind `kind` found."""

    kind: str
    passed: bool
    text: str
    hint: str = "see the tunnel's page"


async def record(run: JobRun, step: StepRun, tunnel: Tunnel, finding: Finding) -> None:
    """Keep what a proof found, and say it."""
    async with run.db.write() as session:
        row = Proof(tunnel=tunnel.name, kind=finding.kind, at=utcnow(), passed=finding.passed, text=finding.text[:500])
        await session.merge(row)
    step.log(finding.text, "good" if finding.passed else "bad")


def target(tunnel: Tunnel) -> tuple[str, int]:
    """Give the office address to reach. Raises `Invalid` when none is known."""
    found = tunnels.probe_of(tunnel)
    if found is None:
        raise Invalid(
            "the office pushes no name server and the tunnel has no address to probe.",
            field="probe",
            hint="`opsdeck vpn set NAME --probe HOST:PORT` with an address inside the office",
        )
    return found


async def reach(door: int, password: Sensitive, host: str, port: int) -> float | str:
    """Give the milliseconds through the SOCKS port, or why it is not reached."""
    try:
        return round(await socks.latency(door, SOCKS_USER, password, host, port, timeout=6), 1)
    except (Unavailable, Refused) as fault:
        return fault.message


async def connectivity(door: int, password: Sensitive, tunnel: Tunnel) -> tuple[Finding, list[float]]:
    """Reach an office address five times; give the milliseconds too."""
    host, port = target(tunnel)
    times = [await reach(door, password, host, port) for _ in range(5)]
    good = sorted(time for time in times if isinstance(time, float))
    bad = [time for time in times if isinstance(time, str)]
    text = bad[0] if bad else f"{host}:{port} in {good[len(good) // 2]} ms"
    return Finding("connectivity", not bad, text), good


async def names(step: HostAccess, tunnel: Tunnel) -> Finding:
    """Look which name servers the SOCKS server really has, and which way they are reached."""
    passed, text = await _names(step, tunnel)
    return Finding("dns", passed, text)


async def _names(step: HostAccess, tunnel: Tunnel) -> tuple[bool, str]:
    driver = drivers.of(tunnel.driver)
    data = await driver.resolver(step, tunnel.name)
    if data is None:
        return False, "the SOCKS server does not run"
    rows = [line.split() for line in data.decode("ascii", "replace").splitlines()]
    servers = [row[1] for row in rows if len(row) > 1 and row[0] == "nameserver"]
    allowed = set(tunnel.pushed.get("dns", []))
    if strangers := [server for server in servers if server not in allowed]:
        return False, f"names are asked of {', '.join(strangers)}, which the office did not name"
    device = f"ov-{tunnel.name}"
    for server in servers:
        asked = driver.inside(tunnel.name, "ip", "route", "get", server)
        way = await step.run(asked, check=False, log=False)
        if f"dev {device}" not in way.stdout.decode("ascii", "replace"):
            return False, f"the name server {server} is not reached through the tunnel"
    return True, f"names are asked of {', '.join(servers)} only, through the tunnel" if servers else "no name is asked"


async def sizes(step: HostAccess, door: int, password: Sensitive, tunnel: Tunnel) -> Finding | None:
    """Send packets of all sizes; None when the office answers no pings, so that nothing is known."""
    host, port = target(tunnel)
    script = f"{FOLDER}/{tunnel.name}/tunnel.sh"
    sized = drivers.of(tunnel.driver).inside(tunnel.name, script, "sizes", tunnel.name, str(port))
    try:
        async with socks.connect(door, SOCKS_USER, password, host, port):
            done = await step.run(sized, check=False, log=False, timeout=40)
    except (Unavailable, Refused):
        return None  # that it is not reached is another proof's word
    found = re.fullmatch(r"(\d{1,5}) (\d{1,5}) (\d{1,5})", done.stdout.decode("ascii", "replace").strip())
    return judge_sizes(tunnel.name, *map(int, found.groups())) if found else None


def judge_sizes(name: str, whole: int, heard: int, segment: int) -> Finding | None:
    """Judge a tunnel that takes packets of `whole` bytes, whose office answers up to `heard`; TCP sends `segment`."""
    if not heard:
        return None
    if heard == whole:
        return Finding("size", True, f"packets of {whole} bytes arrive")
    if segment + TCP_HEADERS <= heard:
        return Finding(
            "size", True, f"packets over {heard} bytes vanish on the way; connections keep theirs below that"
        )
    return Finding(
        "size",
        False,
        f"packets over {heard} bytes vanish on the way, and larger ones are sent: pages hang while pings go through",
        f"`opsdeck vpn set {name} --mtu {heard}`, then bring it up again",
    )
