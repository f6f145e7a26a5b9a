"""The console with the plugin over a fresh deck, and a tunnel that is up, as far as its row says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from litestar import Litestar
from litestar.testing import AsyncTestClient
from opsdeck_vpn import tunnels
from opsdeck_vpn.enrol import Wish, enrol
from opsdeck_vpn.models import State, Tunnel
from opsdeck_web.app import make_app

from opsdeck.actor import SYSTEM, Role
from opsdeck.db import Database
from opsdeck.db.migrate import upgrade
from opsdeck.deck import Deck
from opsdeck.inventory.forms import HostIn
from opsdeck.plugins import Plugins
from opsdeck.secrets.keyring import Keyring
from opsdeck.secrets.sensitive import Sensitive
from opsdeck.settings import Settings

PASSWORD = "correct horse battery"
PROFILE = "client\nremote vpn.corp.test 1194\nremote-cert-tls server\n<ca>\nPEM\n</ca>\n"


@dataclass
class Visit:
    """A client of the console and the deck behind it."""

    client: AsyncTestClient[Litestar]
    deck: Deck

    async def token(self, path: str = "/login") -> str:
        """Load a page and give the token of its forms."""
        return (await self.client.get(path)).text.split('name="_csrf_token" value="')[1].split('"')[0]

    async def log_in(self, name: str = "admin") -> None:
        """Log in."""
        form = {"_csrf_token": await self.token(), "name": name, "password": PASSWORD}
        assert (await self.client.post("/login", data=form, follow_redirects=False)).status_code == 303

    async def post(self, path: str, **form: str) -> tuple[int, str]:
        """Send a form with its token; give the status and the page."""
        form["_csrf_token"] = await self.token("/account")
        answer = await self.client.post(path, data=form, follow_redirects=False)
        return answer.status_code, answer.text


@pytest.fixture
async def deck(tmp_path: Path) -> AsyncIterator[Deck]:
    """A deck with one host."""
    settings = Settings(home=tmp_path, node="test")
    plugins = Plugins()
    plugins.load()
    assert not plugins.faults
    database = Database(settings.url)
    await upgrade(database, plugins)
    await database.close()
    Keyring.create(settings.key_file)
    async with Deck.open(settings, plugins=plugins, kind="server") as opened:
        for role in Role:
            await opened.accounts.create(role.value, Sensitive(PASSWORD), role, SYSTEM)
        await opened.inventory.add(HostIn(name="gw", address="192.0.2.1", credential="agent"), SYSTEM)
        yield opened


@pytest.fixture
async def tunnel(deck: Deck) -> Tunnel:
    """A tunnel whose row says that it is up."""
    await enrol(deck, Wish("office", "gw", Sensitive(PROFILE), listen="192.0.2.1"), SYSTEM)
    push = {"route": ["10.78.0.0/255.255.0.0"], "dns": ["10.77.0.1"], "domain": ["corp.test"]}
    await tunnels.set_state(deck.db, "office", State.UP, wanted=True, pushed=push, latency_ms=3.2, local="10.77.0.2")
    return await tunnels.find(deck.db, "office")


@pytest.fixture
async def visit(deck: Deck) -> AsyncIterator[Visit]:
    """A client of the console."""
    async with AsyncTestClient(make_app(deck), raise_server_exceptions=True) as client:
        yield Visit(client, deck)
