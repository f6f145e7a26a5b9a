"""What all tests share: hosts without root, a real sshd, and an honest account of what was skipped."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NoReturn, Protocol

import hypothesis
import pytest

from opsdeck.lab.inprocess import PlayHosts
from opsdeck.lab.sshd import RealSshd, program

hypothesis.settings.register_profile("opsdeck", deadline=None)
hypothesis.settings.load_profile("opsdeck")
HERE = Path(__file__).parent
GROUPS = ("fleet", "browser", "postgres", "sshd")


class Absent(Protocol):
    """Skips the test for a named reason; or fails it where that would hide something."""

    def __call__(self, reason: str, *, installable: bool = True) -> NoReturn: ...


@pytest.fixture(scope="session")
def absent() -> Absent:
    """How a fixture says that the thing it gives is not here: `absent("there is no sshd here")`.

    As root in CI (`CI`, or `OPSDECK_TEST_STRICT` by hand) a thing that could have been installed must be there.
    """
    strict = os.geteuid() == 0 and bool(os.environ.get("CI") or os.environ.get("OPSDECK_TEST_STRICT"))

    def say(reason: str, *, installable: bool = True) -> NoReturn:
        if strict and installable:
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)

    return say


@pytest.fixture
async def play_hosts(tmp_path: Path) -> AsyncIterator[PlayHosts]:
    """Three hosts served in this process: `web1`, `web2`, `web3`."""
    async with PlayHosts(tmp_path / "hosts") as hosts:
        yield hosts


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of 256 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture
def sshd(tmp_path: Path, absent: Absent) -> Iterator[RealSshd]:
    """A real sshd on loopback with its default limits (MaxSessions 10, MaxStartups 10:30:100)."""
    if not program():
        absent("there is no sshd here (package openssh-server)")
    with RealSshd(tmp_path / "sshd") as server:
        yield server


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests of a group by the fixtures they ask for, and by their folder.

    Run side by side, tests that share hosts stay together, and so do those of a file. The longest begin; the browser
    comes last, since its driver leaves an event loop behind that no other test of that process could use.
    """
    order = ("fleet", "unit", "browser") if config.getoption("dist", "no") != "no" else ("unit", "fleet", "browser")
    items.sort(key=lambda item: order.index(item.path.relative_to(HERE).parts[0]))
    for item in items:
        place = item.path.relative_to(HERE)
        item.add_marker(pytest.mark.xdist_group(str(place if place.parts[0] == "unit" else place.parent)))
        fixtures = set(getattr(item, "fixturenames", ()))
        if {"fleet", "lab"} & fixtures or "fleet" in place.parts:
            item.add_marker(pytest.mark.fleet)
        if "chromium" in fixtures or "browser" in place.parts:
            item.add_marker(pytest.mark.browser)
        if "postgres_server" in fixtures:
            item.add_marker(pytest.mark.postgres)
        if "sshd" in fixtures:
            item.add_marker(pytest.mark.sshd)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name each group of which something was skipped, with the reasons and how many tests."""
    skipped: Counter[tuple[str, str]] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        group = next((name for name in GROUPS if name in report.keywords), "other")
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        skipped[group, reason.removeprefix("Skipped: ")] += 1
    if skipped:
        terminalreporter.section("skipped groups")
        for (group, reason), count in sorted(skipped.items()):
            terminalreporter.write_line(f"{group}: {count} skipped, {reason}")
