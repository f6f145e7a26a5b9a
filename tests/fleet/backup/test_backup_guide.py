"""The guide of the README word by word: from nothing to a proof, from a lost server to a running one."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import opsdeck_backup
import pytest

from opsdeck.lab.fleet import HostSpec

pytestmark = pytest.mark.campaign
README = Path(str(opsdeck_backup.__file__)).parents[1] / "README.md"


def guide(heading: str) -> list[list[str]]:
    """Give the commands of a part of the README, in order."""
    part = README.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    found = re.findall(r"`(opsdeck [^`]+)`|^ +(opsdeck (?:[^\n]*\\\n)*[^\n]*)$", part, re.MULTILINE)
    return [shlex.split((inline or block).replace("\\\n", " ")) for inline, block in found]


class Shell:
    """A person's terminal: a folder, and a console of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self._env = os.environ | {
            "OPSDECK_HOME": str(folder / "deck"),
            "OPSDECK_DISABLED_PLUGINS": "cdn,vpn,search_sync,web",
        }

    async def run(self, words: list[str], given: str = "") -> str:
        """Run a command as it stands; give what it printed."""
        program = str(Path(sys.executable).with_name("opsdeck"))
        process = await asyncio.create_subprocess_exec(
            program, *words[1:], cwd=self.folder, env=self._env, stdin=-1, stdout=-1, stderr=-1
        )
        out, err = await process.communicate(given.encode())
        assert process.returncode == 0, f"{shlex.join(words)}: {err.decode()}{out.decode()}"
        return out.decode()

    async def install(self, *hosts: tuple[str, Any]) -> None:
        """Do what comes before the guide: the console, and hosts in its inventory."""
        await self.run(["opsdeck", "init", "--yes"])
        await self.run(["opsdeck", "secret", "set", "lab", "--kind", "ssh-key"], hosts[0][1].private_key.read_text())
        for name, host in hosts:
            await self.add(name, host)

    async def add(self, name: str, host: Any) -> None:
        """Add a host."""
        words = ["opsdeck", "host", "add", name, "--address", host.address, "--user", "root", "--credential", "lab"]
        await self.run([*words, "--host-key", host.host_key])


@pytest.mark.timeout(900)
async def test_the_guide_leads_from_nothing_to_a_proof_and_from_a_lost_server_to_a_running_one(world, lab, tmp_path):
    first, second = guide("From nothing to a first proven backup"), guide("From a lost server to a running one")
    assert [words[1:3] for words in first][:2] == [["backup", "key"], ["secret", "set"]]
    assert len(first) == 7
    assert len(second) == 4
    me = Shell(tmp_path / "me")
    await me.install(("db1", world.db), ("spare1", world.spare))
    (me.folder / "rclone.conf").write_text(world.s3.config)
    safe = ""
    for words in first:
        said = await me.run(words)
        safe = said if words[1:3] == ["backup", "key"] else safe
    before = world.sql("CHECKSUM TABLE shop.orders")
    (target,) = json.loads(await me.run(["opsdeck", "backup", "targets", "--json"]))
    assert (target["state"], target["backups"], target["wrong"]) == ("ok", 1, "")
    lab.up([HostSpec("bk-new")])
    await me.add("db2", lab.host("bk-new"))
    world.db.kill()
    try:
        look, restore, again, key = second
        assert "MiB needed" in await me.run(look)
        await me.run(restore)
        assert world.sql("CHECKSUM TABLE shop.orders", host=lab.host("bk-new")) == before
        await me.run(again)
        await me.run(first[3])
        listed = json.loads(await me.run(["opsdeck", "backup", "list", "shop", "--json"]))
        assert [item["kind"] for item in listed] == ["full", "full"]
        other = Shell(tmp_path / "other")
        await other.install(("db2", lab.host("bk-new")))
        (other.folder / "rclone.conf").write_text(world.s3.config)
        (other.folder / "key").write_text(safe)
        await other.run(first[1])
        await other.run(["key" if word == "…" else word for word in key])
        await other.run(again)
        assert json.loads(await other.run(["opsdeck", "backup", "list", "shop", "--json"])) != []
        await other.run(["opsdeck", "plugin", "run", "backup", "drill", "--target", "shop"])
    finally:
        world.db.start()
