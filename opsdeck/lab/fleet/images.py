"""The systems that lab hosts start from: made once by debootstrap or apt, kept outside the repository, never changed.

An image is a folder of the cache. It is built beside its final name and renamed when complete, so a folder under the
final name is always whole; a lock file keeps two builds of one image apart.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from opsdeck.errors import Unavailable
from opsdeck.lab.fleet.machine import LabFault, held, run, unmount_under

SUITE = "bookworm"
"""The suite of lab hosts. The systemd of later ones refuses to start where cgroup v1 is mounted."""

BASE_PACKAGES = (
    "ca-certificates",
    "curl",
    "dbus",
    "iproute2",
    "iputils-ping",
    "openssh-server",
    "procps",
    "sudo",
    "systemd",
    "systemd-sysv",
)

_RECIPE_VERSION = "1"  # grows when _SETTLE changes, so that older images are not used any more

_SETTLE = """
set -eu
useradd --create-home --shell /bin/bash ops
useradd --create-home --shell /bin/bash --groups sudo opspw
printf 'ops ALL=(ALL:ALL) NOPASSWD: ALL\\n' > /etc/sudoers.d/ops
chmod 0440 /etc/sudoers.d/ops
install -d -m 0700 /root/.ssh
install -d -m 0700 -o ops -g ops /home/ops/.ssh
install -d -m 0700 -o opspw -g opspw /home/opspw/.ssh
rm -f /etc/ssh/ssh_host_*
systemctl mask --quiet apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer \
    console-getty.service systemd-networkd-wait-online.service
systemctl enable --quiet ssh.service
: > /etc/machine-id
apt-get clean
rm -rf /var/lib/apt/lists/*
"""

_INSTALL = """
set -eu
printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d
chmod 0755 /usr/sbin/policy-rc.d
export DEBIAN_FRONTEND=noninteractive
apt-get -q update
apt-get -q -y --no-install-recommends install -- "$@"
apt-get clean
rm -rf /var/lib/apt/lists/* /usr/sbin/policy-rc.d
rm -f /etc/ssh/ssh_host_*
: > /etc/machine-id
"""


@dataclass(frozen=True)
class Recipe:
    """What an image is made of: a Debian suite, and packages beside those of the base."""

    packages: tuple[str, ...] = ()
    suite: str = SUITE

    @property
    def key(self) -> str:
        """Give the image's name in the cache: the same recipe has the same name."""
        parts = (_RECIPE_VERSION, self.suite, *BASE_PACKAGES, "", *sorted(set(self.packages)))
        return f"{self.suite}-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class Image:
    """A finished image: its layers, the uppermost first, as an overlay wants them."""

    recipe: Recipe
    layers: tuple[Path, ...]


def cache_folder() -> Path:
    """Give the folder that keeps the images: `OPSDECK_LAB_CACHE`, else the system's cache."""
    return Path(os.environ.get("OPSDECK_LAB_CACHE") or "/var/cache/opsdeck-lab")


def base(suite: str = SUITE) -> Image:
    """Give the base image, built first if need be (some two minutes). Raises LabFault or Unavailable."""
    recipe = Recipe(suite=suite)
    with _built(recipe) as folder:
        if folder:
            _bootstrap(suite, folder)
    return Image(recipe, (cache_folder() / recipe.key / "system",))


def image_for(packages: Sequence[str], suite: str = SUITE) -> Image:
    """Give an image with these Debian packages on top of the base, built first if need be. Their services are enabled.

    Raises LabFault when a package cannot be installed.
    """
    below = base(suite)
    if not packages:
        return below
    recipe = Recipe(tuple(sorted(set(packages))), suite)
    with _built(recipe) as folder:
        if folder:
            _install(recipe, below, folder)
    return Image(recipe, (cache_folder() / recipe.key / "system", *below.layers))


def built() -> list[Recipe]:
    """Give the recipes of the images in the cache."""
    found = []
    for note in sorted(cache_folder().glob("*/recipe.json")):
        parts = json.loads(note.read_text())
        found.append(Recipe(tuple(parts["packages"]), parts["suite"]))
    return found


@contextmanager
def _built(recipe: Recipe) -> Iterator[Path | None]:
    """Give a folder to build the image in, or None when it is there; afterwards the folder takes its final name."""
    final = cache_folder() / recipe.key
    if final.is_dir():
        yield None
        return
    with held(cache_folder() / f"{recipe.key}.lock"):
        if final.is_dir():
            yield None
            return
        building = cache_folder() / f".{recipe.key}.building"
        _discard(building)
        building.mkdir(parents=True)
        try:
            yield building
            note = {"suite": recipe.suite, "packages": list(recipe.packages)}
            (building / "recipe.json").write_text(json.dumps(note) + "\n")
            building.rename(final)
        finally:
            if building.exists():
                _discard(building)


def _discard(folder: Path) -> None:
    unmount_under(folder)
    if folder.exists():
        shutil.rmtree(folder)


def _bootstrap(suite: str, folder: Path) -> None:
    system = folder / "system"
    packages = ",".join(BASE_PACKAGES)
    argv = ["debootstrap", "--variant=minbase", f"--include={packages}", suite, str(system)]
    if address := mirror(suite):
        argv.append(address)
    try:
        run(argv, timeout=1200)
    except LabFault as error:
        raise Unavailable(
            f"The base image could not be made: {error.message}",
            hint="check that apt-get works on this machine; OPSDECK_LAB_MIRROR names another mirror",
        ) from error
    with _chrooted(system):
        run(["chroot", system, "sh", "-s"], stdin=_SETTLE)


def _install(recipe: Recipe, below: Image, folder: Path) -> None:
    upper, work, root = folder / "system", folder / "work", folder / "root"
    for each in (upper, work, root):
        each.mkdir()
    mount_overlay(below.layers, upper, work, root)
    with _chrooted(root):
        run(["chroot", root, "sh", "-s", "--", *recipe.packages], stdin=_INSTALL, timeout=1200)
    unmount_under(root)
    shutil.rmtree(work)
    root.rmdir()


def mount_overlay(layers: Sequence[Path], upper: Path, work: Path, root: Path) -> None:
    """Mount `layers` with `upper` on top at `root`."""
    options = f"lowerdir={':'.join(map(str, layers))},upperdir={upper},workdir={work}"
    run(["mount", "-t", "overlay", "-o", options, "overlay", root])


@contextmanager
def _chrooted(root: Path) -> Iterator[None]:
    """Make `root` fit to run programs of its own that need the network and apt's settings of this machine."""
    resolver, settings = root / "etc/resolv.conf", root / "etc/apt/apt.conf.d/00machine"
    resolver.unlink(missing_ok=True)
    resolver.write_text(Path("/etc/resolv.conf").read_text())
    wanted = ("Acquire::http", "Acquire::https", "Acquire::Retries")
    said = run(["apt-config", "dump"], check=False).splitlines()
    settings.write_text("".join(f"{line}\n" for line in said if line.startswith(wanted)))
    run(["mount", "-t", "proc", "proc", root / "proc"])
    try:
        yield
    finally:
        run(["umount", "--lazy", root / "proc"], check=False)
        if not settings.read_text():
            settings.unlink()


def mirror(suite: str) -> str | None:
    """Give the mirror that this machine's apt uses for Debian itself, or None to take debootstrap's own."""
    if given := os.environ.get("OPSDECK_LAB_MIRROR"):
        return given
    said = run(["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)"], check=False)
    own = _own_suite()
    for line in said.splitlines():
        parts = line.split()
        if len(parts) == 3 and parts[1] in (suite, own, "stable") and parts[2] == "main" and "security" not in parts[0]:
            return parts[0]
    return None


def _own_suite() -> str:
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("VERSION_CODENAME="):
            return line.partition("=")[2].strip('"')
    return ""
