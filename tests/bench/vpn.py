"""The plugin vpn: 50,000 rules rendered for each core, then (as root, on the lab) what the SOCKS port costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from opsdeck_vpn.cores import Core, render
from opsdeck_vpn.render.setting import Office, Setting
from opsdeck_vpn.rules import parse

from opsdeck.secrets.sensitive import Sensitive

COUNT = 50_000


def rendering() -> dict[str, float]:
    """Give the seconds for reading the list and rendering it, the best of three."""
    office = Office("corp", "192.0.2.1", 1080, "office", Sensitive("password"), dns=("10.77.0.1",))
    text = "".join(
        f"cidr 10.{n // 250 % 250}.{n % 250}.0/24 tunnel:corp\nsuffix h{n}.test direct\n" for n in range(COUNT // 2)
    )
    figures = {}
    begun = time.perf_counter()
    listed = parse(text, {"corp"})
    figures["read"] = time.perf_counter() - begun
    for core in Core:
        times = []
        for _ in range(3):
            begun = time.perf_counter()
            render(core, Setting((office,), listed))
            times.append(time.perf_counter() - begun)
        figures[core.value] = min(times)
    return {name: round(seconds, 3) for name, seconds in figures.items()}


print(json.dumps({"rules": COUNT, "seconds": rendering()}))
if os.geteuid() == 0:
    test = Path(__file__).parents[1] / "fleet" / "vpn" / "test_vpn_speed.py"
    argv = [sys.executable, "-m", "pytest", "-q", "-s", str(test)]
    sys.exit(subprocess.call(argv, env=os.environ | {"OPSDECK_BENCH": "1"}))
