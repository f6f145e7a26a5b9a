"""The template for a plugin: built as a wheel, installed on its own, and run against a real host."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

import opsdeck
from opsdeck.actor import SYSTEM
from opsdeck.deck import Deck
from opsdeck.inventory.models import Host, HostKey
from opsdeck.lab.inprocess import PlayHosts
from opsdeck.plugins import Plugins
from opsdeck.secrets.sensitive import Sensitive
from opsdeck.settings import Settings

TEMPLATE = Path(opsdeck.__file__).parents[1] / "docs" / "template" / "opsdeck-plugin-hello"

Command = Callable[..., Awaitable[str]]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel and install it into a folder of its own; give that folder."""
    folder = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")],
        cwd=TEMPLATE,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = (folder / "dist").glob("*.whl")
    place = folder / "installed"
    python = getattr(sys, "_base_executable", sys.executable)
    pip = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(place), str(wheel)]
    done = subprocess.run(pip, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture
async def opsdeck_command(installed: Path, tmp_path: Path, play_hosts: PlayHosts) -> AsyncIterator[Command]:
    """Give the real command on a data folder that knows the play hosts, with the plugin installed."""
    home = tmp_path / "home"
    env = os.environ | {"PYTHONPATH": str(installed), "OPSDECK_HOME": str(home)}

    async def call(*words: str, code: int = 0) -> str:
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("opsdeck")),
            *words,
            env=env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == code, (out + err).decode()
        return out.decode()

    await call("init", "--yes")
    async with Deck.open(Settings(home=home), plugins=Plugins()) as deck:
        await deck.secrets.set("play", Sensitive(play_hosts.private_key), kind="ssh-key", actor=SYSTEM)
        async with deck.db.write() as session:
            for one in play_hosts:
                row = Host(name=one.name, address=one.address, port=one.port, user=one.user, credential="play")
                session.add(row)
                await session.flush()
                key = {"algorithm": one.host_key.split()[0], "public": one.host_key, "fingerprint": "x"}
                session.add(HostKey(host_id=row.id, state="pinned", **key))
    yield call


async def test_the_template_runs_as_a_strangers_plugin(opsdeck_command: Command, play_hosts: PlayHosts) -> None:
    listed = {one["name"]: one for one in json.loads(await opsdeck_command("plugin", "list", "--json"))}
    assert [action["name"] for action in listed["hello"]["actions"]] == ["greet"]
    words = ("plugin", "run", "hello", "greet", "--on", "all", "--text", "good morning", "--json")
    plan = json.loads(await opsdeck_command(*words, "--plan"))
    assert [change["verb"] for change in plan["changes"]] == ["create"] * 3
    assert not any((Path(host.home) / "hello.txt").exists() for host in play_hosts)
    done = json.loads(await opsdeck_command(*words))
    assert {step["state"] for step in done["steps"]} == {"succeeded"}
    assert {(Path(host.home) / "hello.txt").read_text() for host in play_hosts} == {"good morning\n"}
    assert json.loads(await opsdeck_command(*words, "--plan"))["changes"] == []
    assert await opsdeck_command("hello") == "hello\n"
    doctor = await opsdeck_command("doctor", "--json")
    assert "3 hosts have one" in doctor
    await opsdeck_command("plugin", "run", "hello", "greet", "--on", "all", "--text", "", code=2)


async def test_a_schedule_takes_it_like_any_other(opsdeck_command: Command) -> None:
    words = ("--every", "1h", "hello", "greet", "--text", "again", "--on", "web1", "--json")
    made = json.loads(await opsdeck_command("schedule", "add", "greetings", *words))
    assert made["params"] == {"text": "again"}


def test_the_template_imports_the_public_surface_only() -> None:
    for file in TEMPLATE.rglob("*.py"):
        imported = re.findall(r"^\s*(?:from|import) (opsdeck[.\w]*)", file.read_text(), re.MULTILINE)
        assert {name for name in imported if not name.startswith("opsdeck_hello")} <= {"opsdeck.api"}, file
