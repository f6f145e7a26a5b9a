"""The fleet: real hosts for the whole session, put right again after each test."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from opsdeck.actor import SYSTEM
from opsdeck.builtin import plugin
from opsdeck.db.migrate import upgrade_at
from opsdeck.deck import Deck
from opsdeck.errors import Unavailable
from opsdeck.forms import checked
from opsdeck.inventory.forms import HostIn
from opsdeck.lab.fleet import Fleet, HostSpec, missing
from opsdeck.plugins import Plugins
from opsdeck.secrets.keyring import Keyring
from opsdeck.secrets.sensitive import Sensitive
from opsdeck.settings import Settings

HOSTS = (HostSpec("web1"), HostSpec("web2"), HostSpec("small1", disk_mb=96))


@pytest.fixture(scope="session")
def lab(pytestconfig: pytest.Config, absent: Any) -> Iterator[Fleet]:
    """The fleet of this checkout, with the hosts of `HOSTS`; a test may bring up more. Gone when the session ends."""
    if reasons := missing():
        no_rights = any(reason.startswith(("not root", "no right", "this is")) for reason in reasons)
        absent(f"real lab hosts cannot run here: {'; '.join(reasons)}", installable=not no_rights)
    whose = f"{pytestconfig.rootpath} {os.environ.get('PYTEST_XDIST_WORKER', '')}"
    fleet = Fleet("test-" + hashlib.sha256(whose.encode()).hexdigest()[:8])
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


@pytest.fixture
async def deck(tmp_path: Path, fleet: Fleet) -> AsyncIterator[Deck]:
    """A deck that knows web1 (as ops, sudo without password) and web2 (as opspw, sudo with one), pinned."""
    core = Plugins()
    core.add("core", plugin)
    settings = Settings(home=tmp_path / "deck")
    settings.home.mkdir(mode=0o700)
    Keyring.create(settings.key_file)
    await upgrade_at(settings.url, core)
    async with Deck.open(settings, plugins=core, kind="server") as deck:
        one = fleet.host("web1")
        await deck.secrets.set("lab", Sensitive(one.private_key.read_text()), kind="ssh-key", actor=SYSTEM)
        await deck.secrets.set("sudo", Sensitive(one.password), kind="password", actor=SYSTEM)
        for name, user, more in (
            ("web1", "ops", {"sudo": "nopasswd"}),
            ("web2", "opspw", {"sudo": "password", "sudo_secret": "sudo"}),
        ):
            lab = fleet.host(name)
            form = {"name": name, "address": lab.address, "user": user, "credential": "lab"} | more
            await deck.inventory.add(checked(HostIn, form), SYSTEM)
            await deck.host_keys.pin(name, lab.host_key, SYSTEM)
        yield deck
