"""A control group of its own for each lab host: systemd inside must not share its tree with another systemd."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path


def make(name: str) -> list[Path]:
    """Make the groups called `name` in the hierarchies that systemd uses, below this process's own; give them."""
    groups = _groups(name)
    for group in groups:
        group.mkdir(exist_ok=True)
    return groups


def existing(prefix: str) -> list[Path]:
    """Give the groups whose name begins with `prefix`."""
    return [each for group in _groups(prefix) for each in sorted(group.parent.glob(f"{prefix}*")) if each.is_dir()]


def remove(prefix: str, *, within: float = 0.0) -> None:
    """Remove the groups whose name begins with `prefix`; those that still hold a process after `within` s stay.

    A process that was killed holds its group until the kernel is done with it.
    """
    end = time.monotonic() + within
    while True:
        _try_to_remove(prefix)
        if not existing(prefix) or time.monotonic() >= end:
            return
        time.sleep(0.05)


def _try_to_remove(prefix: str) -> None:
    for group in existing(prefix):
        for folder in sorted((each for each in group.rglob("*") if each.is_dir()), reverse=True):
            with contextlib.suppress(OSError):
                folder.rmdir()
        with contextlib.suppress(OSError):
            group.rmdir()


def _groups(name: str) -> list[Path]:
    """Place `name` in the hierarchy named systemd (cgroup v1) and in the unified one (v2), where they are mounted.

    Source: cgroups(7), the fields of /proc/PID/cgroup and /proc/PID/mountinfo.
    """
    own = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own[controllers] = path
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        fields, (kind, _, options) = before.split(), after.split(" ", 2)
        if kind == "cgroup2" and "" in own:
            path = own[""]
        elif kind == "cgroup" and "name=systemd" in options.split(",") and "name=systemd" in own:
            path = own["name=systemd"]
        else:
            continue
        inside = path.removeprefix(fields[3]).strip("/")
        found.append(Path(fields[4], inside, name))
    return found
