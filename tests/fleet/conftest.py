"""The fleet: real hosts for the whole session, put right again after each test."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest

from opsdeck.errors import Unavailable
from opsdeck.lab.fleet import Fleet, HostSpec, missing

HOSTS = (HostSpec("web1"), HostSpec("web2"), HostSpec("small1", disk_mb=96))


@pytest.fixture(scope="session")
def lab(pytestconfig: pytest.Config, absent: Any) -> Iterator[Fleet]:
    """The fleet of this checkout, with the hosts of `HOSTS`; a test may bring up more. Gone when the session ends."""
    if reasons := missing():
        no_rights = any(reason.startswith(("not root", "no right", "this is")) for reason in reasons)
        absent(f"real lab hosts cannot run here: {'; '.join(reasons)}", installable=not no_rights)
    fleet = Fleet("test-" + hashlib.sha256(str(pytestconfig.rootpath).encode()).hexdigest()[:8])
    fleet.down()
    try:
        fleet.up(HOSTS)
    except Unavailable as error:
        absent(str(error))
    yield fleet
    fleet.down()


@pytest.fixture
def fleet(lab: Fleet) -> Iterator[Fleet]:
    """The session's fleet, every host up and reachable; what a test cut, filled or killed is mended after it."""
    yield lab
    for host in lab.hosts():
        host.restore()
        host.start()
