"""A console with a target on a store in a folder: everything but the database host is real."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import opsdeck_backup.plugin
import pytest
from opsdeck_backup import keys
from opsdeck_backup.manifests import Manifest, Planned, Result

from opsdeck.actor import Actor, Door, Role
from opsdeck.builtin import plugin as core_plugin
from opsdeck.clock import stamp
from opsdeck.db import Database
from opsdeck.db.migrate import upgrade
from opsdeck.deck import Deck
from opsdeck.inventory.models import Host
from opsdeck.jobs.jobs import Submission
from opsdeck.plugins import Plugins
from opsdeck.secrets.keyring import Keyring
from opsdeck.secrets.sensitive import Sensitive
from opsdeck.settings import Settings

BOSS = Actor("boss@cli", Role.ADMIN, Door.CLI, stepped_up=True)
SHOP = {"name": "shop", "host": "db", "remote": "store:backups", "store_secret": "s3", "key_secret": "key"}


@dataclass
class Shelf:
    """A deck, and the folder that is its store."""

    deck: Deck
    folder: Path

    async def run(self, action: str, **params: Any) -> Any:
        """Run an action to its end; give its job."""
        return await self.deck.jobs.run(Submission("backup", action, params, confirm=action), BOSS)

    async def good(self, action: str, **params: Any) -> dict[str, Any]:
        """Run an action that must succeed; give its receipt."""
        job = await self.run(action, **params)
        assert job.state == "succeeded", (job.error, [step.error for step in await self.deck.jobs.steps(job.id)])
        return dict(job.receipt)

    async def plan(self, action: str, **params: Any) -> Any:
        """Ask an action for its plan."""
        return await self.deck.jobs.plan(Submission("backup", action, params, confirm=action), BOSS)

    def put(self, at: datetime, parent: Manifest | None = None, *, salt: int = 0) -> Manifest:
        """Put a backup into the store, as a host would."""
        name = f"{stamp(at)}-{salt:08x}"
        data = f"data of {name}".encode() * 10
        text = base64.b64encode(b"from_lsn = 1\nto_lsn = 2\n").decode()
        planned = Planned(
            id=name,
            target="shop",
            chain=parent.planned.chain if parent else name,
            parent=parent.id if parent else "",
            kind="incremental" if parent else "full",
            engine="mariadb",
            server="10.11.19-MariaDB",
            tool="x",
            identity="1",
            data="/var/lib/mysql",
            host="db",
            object=f"data/{name}.xb.zst.age",
            recipients=("age1x",),
        )
        result = Result(
            started=at,
            finished=at,
            raw=1000,
            stored=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            config_sha256="0" * 64,
            checkpoints=text,
            checkpoints_name="xtrabackup_checkpoints",
            info="",
        )
        manifest = Manifest(planned=planned, result=result)
        for path, content in (
            (planned.object, data),
            (f"{planned.object}.config", b"config"),
            (f"manifests/{name}.json", manifest.model_dump_json().encode()),
        ):
            file = self.folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        return manifest

    def names(self, pattern: str = "**/*") -> list[str]:
        """Give what lies in the store."""
        return sorted(str(file.relative_to(self.folder)) for file in self.folder.glob(pattern) if file.is_file())


@pytest.fixture
async def shelf(tmp_path: Path) -> AsyncIterator[Shelf]:
    """A target `shop` on an empty store."""
    plugins = Plugins()
    plugins.add("core", core_plugin)
    plugins.add("backup", opsdeck_backup.plugin)
    settings = Settings(home=tmp_path / "deck")
    settings.home.mkdir(mode=0o700)
    Keyring.create(settings.key_file)
    database = Database(settings.url)
    await upgrade(database, plugins)
    await database.close()
    store = tmp_path / "store"
    (store / "backups").mkdir(parents=True)
    async with Deck.open(settings, plugins=plugins, kind="server") as deck:
        config = Sensitive(f"[store]\ntype = alias\nremote = {store}\n")
        await deck.secrets.set("s3", config, kind="rclone-config", actor=BOSS)
        await deck.secrets.set("key", keys.new_identity()[0], kind="age-identity", actor=BOSS)
        async with deck.db.write() as session:
            session.add(Host(name="db", address="192.0.2.1"))
        made = Shelf(deck, store / "backups" / "shop")
        await made.good("target", **SHOP)
        yield made
