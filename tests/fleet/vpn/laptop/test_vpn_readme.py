"""The plugin's README, followed word by word: from an `.ovpn` to a laptop that is in the office and everywhere else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from opsdeck_vpn.cores import Core, program

pytestmark = pytest.mark.fleet

if TYPE_CHECKING:
    Office = Any

README = Path(__file__).parents[4] / "plugins" / "vpn" / "README.md"
SITE = "the intranet says hello"


def guide() -> list[str]:
    """Give the commands of the guide in their order."""
    (text,) = re.findall(r"(?s)## From an \.ovpn to a laptop\n(.*?)\n## ", README.read_text())
    commands = [line.strip() for line in text.splitlines() if line.startswith("       ")]
    return commands + re.findall(r"Then `(curl [^`]+)`", text)


class Admin:
    """Somebody with a shell on the console's machine and one on the laptop."""

    def __init__(self, folder: Path, url: str, gateway: Any, laptop: Any) -> None:
        self.folder, self.gateway, self.laptop = folder, gateway, laptop
        bin_ = str(Path(sys.executable).parent)
        self.environment = os.environ | {
            "OPSDECK_HOME": str(folder / "deck"),
            "OPSDECK_PUBLIC_URL": url,
            "PATH": f"{bin_}:{os.environ['PATH']}",
        }
        self.address = ""

    async def console(self, line: str, typed: str = "") -> str:
        """Run a line on the console's machine."""
        argv = ["sh", "-c", line.replace("10.0.0.5", self.gateway.address)]
        done = await asyncio.to_thread(
            subprocess.run, argv, cwd=self.folder, env=self.environment, input=typed, capture_output=True, text=True,
            timeout=150,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return str(done.stdout)

    async def on_laptop(self, line: str, *, check: bool = False) -> str:
        """Run a line on the laptop."""
        argv = ["sh", "-c", f"cd /srv/core; {line}"]
        return str(await asyncio.to_thread(self.laptop.execute, argv, check=check, timeout=40))


@pytest.fixture
async def admin(machines: dict[str, Any], fleet: Any, tmp_path: Path) -> AsyncIterator[Admin]:
    """A fresh console that knows the gateway, `opsdeck serve` running."""
    gateway, laptop = machines["vpn-gw"], machines["vpn-laptop"]
    console = laptop.execute(["sh", "-c", "ip route show default"]).split()[2]
    with socket.create_server((console, 0)) as free:
        port = free.getsockname()[1]
    admin = Admin(tmp_path, f"http://{console}:{port}", gateway, laptop)
    await admin.console("opsdeck init --yes")
    await admin.console("opsdeck secret set login --kind ssh-key", gateway.private_key.read_text())
    await admin.console(f"opsdeck host add gw --address {gateway.address} --credential login --approve")
    argv = ["opsdeck", "serve", "--bind", console, "--port", str(port)]
    with served(argv, admin):
        yield admin


@contextlib.contextmanager
def served(argv: list[str], admin: Admin) -> Iterator[None]:
    """Run the console for a while."""
    with (admin.folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(argv, env=admin.environment, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait(20)


async def test_the_readme_leads_from_a_profile_to_the_intranet(
    office: Office, admin: Admin, machines: dict[str, Any], wire: Any, udp: Any
) -> None:
    laptop, gateway = machines["vpn-laptop"], machines["vpn-gw"]
    core = program(Core.MIHOMO)
    assert core is not None
    shutil.copy(core, laptop.root / "usr/local/bin/mihomo")
    laptop.execute(["sh", "-c", "systemctl stop core 2>/dev/null; rm -rf /srv/core; mkdir -p /srv/core"])
    office.open(login=True)
    office.tells_who()
    (admin.folder / "office.ovpn").write_text(office.profile(login=True, extra='up "/bin/touch /tmp/owned"'))
    said = {}
    for line in guide():
        if line.startswith("opsdeck "):
            said[line] = await admin.console(line, "right-one\n" if " import " in line else "")
            if " device add " in line:
                (admin.address,) = re.findall(r"\S+/config\.yaml", said[line])
        elif line.startswith("mihomo "):
            await admin.on_laptop(f"systemd-run -q --unit=core --working-directory=/srv/core {line}", check=True)
            await admin.on_laptop("for i in $(seq 100); do ss -ltn | grep -q :7890 && break; sleep 0.25; done")
        else:
            said[line] = await admin.on_laptop(line.replace("ADDRESS", admin.address), check=True)
    everything = "\n".join(said.values())
    assert "would run a program of the profile's as root" in everything
    assert "up" in said["opsdeck vpn show office"]
    assert "10.78.0.0/16" in (admin.folder / "rules.txt").read_text()
    assert laptop.address in said["opsdeck vpn device fetches laptop"]
    (page,) = [text for line, text in said.items() if "intra.corp.test" in line and line.startswith("curl")]
    assert SITE in page
    direct = f"curl -s --max-time 20 --proxy http://127.0.0.1:7890 http://{office.host.address}:8081/"
    named = "curl -s --max-time 20 --proxy http://127.0.0.1:7890 http://{}.corp.test/"
    with wire(laptop) as outside, wire(gateway) as beyond:
        assert await admin.on_laptop(direct) == laptop.address
        assert SITE in await admin.on_laptop(named.format("intra"))
        nowhere = named.format("other").replace("corp.test", "elsewhere.test").replace("time 20", "time 6")
        await admin.on_laptop(nowhere)
        assert "silence" in await udp(laptop)
        row = json.loads(await admin.console("opsdeck vpn show office --json"))
        assert {proof["kind"]: proof["passed"] for proof in row["proofs"]} == dict.fromkeys(
            ("connectivity", "dns", "leak", "size"), True
        )
        await admin.console("opsdeck vpn down office")
        assert SITE not in await admin.on_laptop(named.format("intra"))
        assert await admin.on_laptop(direct) == laptop.address
    assert outside.asked("other.elsewhere.test", but=1080) > 0
    for name in ("intra.corp.test", "corp.test"):
        assert outside.asked(name, but=1080) == 0
        assert beyond.asked(name, but=1080) == 0
    await admin.console("opsdeck vpn remove office --confirm remove")
    assert "vpn-office" not in await admin.console("opsdeck secret list")
    left = "ls /etc/systemd/system /etc/opsdeck/vpn; ip netns list; ls /tmp"
    found = gateway.execute(["sh", "-c", left], check=False)
    assert "opsdeck-vpn" not in found
    assert "ov-office" not in found
    assert "owned" not in found
    laptop.execute(["systemctl", "stop", "core"])
