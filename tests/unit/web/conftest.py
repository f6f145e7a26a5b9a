"""The console over a fresh deck, in the test's own loop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from litestar import Litestar
from litestar.testing import AsyncTestClient
from opsdeck_web.app import make_app

from opsdeck.actor import SYSTEM, Role
from opsdeck.db import Database
from opsdeck.db.migrate import upgrade
from opsdeck.deck import Deck
from opsdeck.plugins import Plugins
from opsdeck.secrets.keyring import Keyring
from opsdeck.secrets.sensitive import Sensitive
from opsdeck.settings import Settings

PASSWORD = "correct horse battery"


@dataclass
class Visit:
    """A client of the console and the deck behind it."""

    client: AsyncTestClient[Litestar]
    deck: Deck

    async def token(self, path: str = "/login") -> str:
        """Load a page and give the token of its forms."""
        text = (await self.client.get(path)).text
        return text.split('name="_csrf_token" value="')[1].split('"')[0]

    async def log_in(self, name: str = "admin") -> None:
        """Log in."""
        form = {"_csrf_token": await self.token(), "name": name, "password": PASSWORD}
        answer = await self.client.post("/login", data=form, follow_redirects=False)
        assert answer.status_code == 303, answer.text

    async def post(self, path: str, **form: str) -> int:
        """Send a form with its token; give the status."""
        form["_csrf_token"] = await self.token("/account")
        return (await self.client.post(path, data=form, follow_redirects=False)).status_code


@pytest.fixture
async def deck(tmp_path: Path) -> AsyncIterator[Deck]:
    settings = Settings(home=tmp_path, node="test")
    plugins = Plugins()
    plugins.load()
    database = Database(settings.url)
    await upgrade(database, plugins)
    await database.close()
    Keyring.create(settings.key_file)
    async with Deck.open(settings, plugins=plugins, kind="server") as opened:
        for role in Role:
            await opened.accounts.create(role.value, Sensitive(PASSWORD), role, SYSTEM)
        yield opened


@pytest.fixture
async def visit(deck: Deck) -> AsyncIterator[Visit]:
    async with AsyncTestClient(make_app(deck), raise_server_exceptions=False) as client:
        yield Visit(client, deck)
