"""Plugins as they are found on disk, and what one that misbehaves does to the others: nothing."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import textwrap
import uuid
from pathlib import Path
from typing import Any

import click
import pytest

from opsdeck import api, plugins
from opsdeck.errors import NotFound
from opsdeck.events import Bus, HostChanged
from opsdeck.inventory.models import Host
from opsdeck.manifest import Finding, HostCard
from opsdeck.notify.fanout import Fanout
from opsdeck.plugins import Plugins

GOOD = """
from opsdeck.api import API, Finding, HostCard, Manifest, hookimpl
import click

heard = []

@hookimpl
def opsdeck_manifest():
    return Manifest({name!r}, "1.0", API, __name__, title="Good")

@hookimpl
def opsdeck_commands(cli):
    @cli.command({name!r})
    def command():
        click.echo("hello from {name}")

@hookimpl
async def opsdeck_health(deck):
    return [Finding({name!r}, "ok", f"well, says {{deck}}")]

@hookimpl
async def opsdeck_host_cards(deck, host):
    return (HostCard("Card", "ok", (("host", host.name),)),)

@hookimpl
def opsdeck_on_event(event):
    heard.append(event)
"""

MANIFEST = """
from opsdeck.api import API, Manifest, hookimpl
import asyncio, sys, time

@hookimpl
def opsdeck_manifest():
    return Manifest({name!r}, "1.0", API, __name__)
"""


class Shelf:
    """A folder of installed distributions, under an entry point group of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.group = f"opsdeck.test.{uuid.uuid4().hex}"

    def put(self, name: str, code: str, *, module: str | None = None) -> None:
        module = module or f"plug_{name}_{uuid.uuid4().hex[:8]}"
        for mark, text in (("{name!r}", repr(name)), ("{name}", name), ("{{", "{"), ("}}", "}")):
            code = code.replace(mark, text)
        (self.folder / f"{module}.py").write_text(textwrap.dedent(code))
        info = self.folder / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{self.group}]\n{name} = {module}\n")

    def load(self, **given: Any) -> Plugins:
        found = Plugins(trace=given.pop("trace", False))
        found.load(group=self.group, **given)
        return found


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(plugins, "LOAD_SECONDS", 0.5)
    monkeypatch.setattr(plugins, "CALL_SECONDS", 0.5)
    return Shelf(tmp_path)


def faults(found: Plugins, name: str) -> str:
    return "; ".join(str(fault) for fault in found.faults if fault.plugin == name)


# One test for each hook: what it gives to whom.


def test_opsdeck_manifest(shelf: Shelf) -> None:
    shelf.put("good", GOOD)
    found = shelf.load()
    assert not found.faults
    assert found.manifests["good"].title == "Good"


def test_opsdeck_commands(shelf: Shelf) -> None:
    shelf.put("good", GOOD)
    cli = click.Group()
    shelf.load().call("opsdeck_commands", cli=cli)
    from click.testing import CliRunner

    assert CliRunner().invoke(cli, ["good"]).output == "hello from good\n"


async def test_opsdeck_health(shelf: Shelf) -> None:
    shelf.put("good", GOOD)
    answers = await shelf.load().gather("opsdeck_health", deck="the deck")
    assert answers == {"good": (Finding("good", "ok", "well, says the deck"),)}


async def test_opsdeck_host_cards(shelf: Shelf) -> None:
    shelf.put("good", GOOD)
    answers = await shelf.load().gather("opsdeck_host_cards", deck=None, host=Host(name="web1", address="x", user="y"))
    assert answers == {"good": (HostCard("Card", "ok", (("host", "web1"),)),)}


def test_opsdeck_on_event(shelf: Shelf) -> None:
    shelf.put("good", GOOD, module="plug_listens")
    found = shelf.load()
    bus = Bus()
    fanout = Fanout(found, bus)
    event = HostChanged(host="web1", what="added")
    bus.publish(event)
    fanout.close()
    import plug_listens  # type: ignore[import-not-found]

    assert plug_listens.heard == [event]


# A plugin that is bad is left out, named, and stops nobody else.

BAD = {
    "raises at import": ("raise RuntimeError('at import')", "RuntimeError: at import"),
    "exits at import": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "interrupts at import": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "hangs at import": ("import time; time.sleep(5)", "did not answer within 0.5 s"),
    "is no Python": ("def (", "SyntaxError"),
    "lacks a library": ("import nothing_of_this_name", "ModuleNotFoundError"),
    "raises in its manifest": (MANIFEST.replace("return", "raise ValueError('no')\n    return"), "ValueError: no"),
    "exits in its manifest": (MANIFEST.replace("return", "sys.exit(4)\n    return"), "SystemExit: 4"),
    "hangs in its manifest": (MANIFEST.replace("return", "time.sleep(5)\n    return"), "did not answer within 0.5 s"),
    "gives no manifest": (MANIFEST.replace("return", "return 5\n    return"), "gave no Manifest"),
    "has no manifest": ("x = 1", "it has no opsdeck_manifest"),
    "speaks another API": (MANIFEST.replace("API, __name__", "99, __name__"), "it speaks plugin API 99, this core 1"),
    "has another name": (MANIFEST.replace("Manifest({name!r}", "Manifest('other'"), "its manifest calls it other"),
    "has a bad name": (MANIFEST.replace("Manifest({name!r}", "Manifest('No Good'"), "small letters, digits and _"),
    "misspells a hook": (
        MANIFEST + "\n@hookimpl\nasync def opsdeck_helth(deck):\n    return ()\n",
        "opsdeck_helth is no hook; did it mean opsdeck_health?",
    ),
    "asks for what a hook does not give": (
        MANIFEST + "\n@hookimpl\nasync def opsdeck_health(deck, moon):\n    return ()\n",
        "moon",
    ),
    "has a table of another": (
        """
        from opsdeck.api import API, Manifest, hookimpl
        class Model: __tablename__ = "core_host"
        @hookimpl
        def opsdeck_manifest():
            return Manifest({name!r}, "1.0", API, __name__, models=(Model,))
        """,
        "table 'core_host' must begin with bad_",
    ),
    "has an action twice": (
        """
        from opsdeck.api import API, Action, Manifest, hookimpl
        async def step(run, params): pass
        action = Action("do", "Do", "", step=step)
        @hookimpl
        def opsdeck_manifest():
            return Manifest({name!r}, "1.0", API, __name__, actions=(action, action))
        """,
        "action do is there twice",
    ),
    "has a service twice": (
        """
        from opsdeck.api import API, Manifest, Service, hookimpl
        async def run(run): pass
        service = Service("sync", "Sync", run, run)
        @hookimpl
        def opsdeck_manifest():
            return Manifest({name!r}, "1.0", API, __name__, services=(service, service))
        """,
        "service sync is there twice",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_plugin_is_left_out_by_name(shelf: Shelf, case: str) -> None:
    code, words = BAD[case]
    shelf.put("bad", code)
    shelf.put("good", GOOD)
    shelf.put("zebra", GOOD)
    found = shelf.load()
    assert set(found.manifests) == {"good", "zebra"}
    assert words in faults(found, "bad"), faults(found, "bad")
    assert {fault.plugin for fault in found.faults} == {"bad"}
    with pytest.raises(NotFound, match="is not loaded"):
        found.action("bad", "do")
    assert set(found.call("opsdeck_manifest")) == {"good", "zebra"}


def test_a_disabled_plugin_is_not_even_imported(shelf: Shelf) -> None:
    shelf.put("bad", "raise RuntimeError('imported')")
    shelf.put("good", GOOD)
    found = shelf.load(disabled=["bad"])
    assert set(found.manifests) == {"good"}
    assert found.faults == []


def test_two_under_one_name_are_told(shelf: Shelf) -> None:
    shelf.put("good", GOOD, module="plug_one")
    shelf.put("good", GOOD, module="plug_two")
    found = shelf.load()
    assert len(found.manifests) == 1
    assert "two are installed under this name" in faults(found, "good")


def test_a_second_of_a_name_does_not_push_out_the_first(shelf: Shelf) -> None:
    shelf.put("good", GOOD)
    found = shelf.load()
    first = found.manifests["good"]
    found.add("good", object())
    assert found.manifests["good"] is first
    assert set(found.call("opsdeck_manifest")) == {"good"}
    assert "loaded already" in faults(found, "good")


def imported(name: str) -> bool:
    return any(module.startswith(f"plug_{name}_") for module in sys.modules)


def test_a_found_plugin_is_imported_when_it_is_needed(shelf: Shelf) -> None:
    shelf.put("lazy1", GOOD)
    shelf.put("lazy2", MANIFEST)
    shelf.put("lazy3", MANIFEST + "from os.path import *\n")
    found = Plugins()
    found.find(group=shelf.group)
    assert not imported("lazy")
    assert found.manifest("nobody") is None
    assert set(found.callers("opsdeck_on_event")) == {"lazy1"}
    assert not imported("lazy2")
    assert imported("lazy3"), "a star may bring a hook without naming it"
    assert found.manifest("lazy2") is found.manifests["lazy2"]
    assert list(found.manifests) == ["lazy1", "lazy2", "lazy3"]


def test_a_found_plugin_that_fails_is_reported_when_it_is_needed(shelf: Shelf) -> None:
    shelf.put("bad", "raise RuntimeError('imported')")
    shelf.put("core", GOOD)
    found = Plugins()
    found.find(group=shelf.group)
    assert set(found.callers("opsdeck_health")) == {"core"}
    with pytest.raises(NotFound, match=r"is not loaded: RuntimeError: imported"):
        found.action("bad", "do")
    found = Plugins()
    found.find(group=shelf.group)
    assert [fault.plugin for fault in found.faults] == ["bad"]


def test_the_core_comes_first(shelf: Shelf) -> None:
    shelf.put("cdn", GOOD)
    shelf.put("core", GOOD)
    assert list(shelf.load().manifests) == ["core", "cdn"]


def test_tables_come_after_those_they_need(shelf: Shelf) -> None:
    for name, after in (("a", "z"), ("z", "m"), ("m", "a")):
        shelf.put(name, MANIFEST.replace("__name__)", f"__name__, after=({after!r}, 'gone'))"))
    assert sorted(manifest.name for manifest in shelf.load().ordered()) == ["a", "m", "z"]
    shelf.group += "x"
    shelf.put("b", MANIFEST.replace("__name__)", "__name__, after=('y',))"))
    shelf.put("y", MANIFEST)
    assert [manifest.name for manifest in shelf.load().ordered()] == ["y", "b"]


HOOK_FAULTS = {
    "raise ValueError('no')": "ValueError: no",
    "sys.exit(3)": "SystemExit: 3",
    "raise KeyboardInterrupt": "KeyboardInterrupt",
    "raise asyncio.CancelledError": "it cancelled itself",
    "await asyncio.sleep(9)": "did not answer within 0.3 s",
    "return 5": "TypeError",
    "return ['text']": "gave a str where a Finding belongs",
}


@pytest.mark.parametrize("line", HOOK_FAULTS)
async def test_an_async_hook_that_misbehaves_is_named(shelf: Shelf, line: str) -> None:
    shelf.put("bad", MANIFEST + f"\n@hookimpl\nasync def opsdeck_health(deck):\n    {line}\n")
    shelf.put("good", GOOD)
    found = shelf.load()
    answers = await found.gather("opsdeck_health", seconds=0.3, deck=None)
    assert set(answers) == {"good"}
    assert HOOK_FAULTS[line] in faults(found, "bad")


async def test_a_hook_that_should_be_async_and_is_not_is_named(shelf: Shelf) -> None:
    shelf.put("bad", MANIFEST + "\n@hookimpl\ndef opsdeck_health(deck):\n    return ()\n")
    found = shelf.load()
    assert await found.gather("opsdeck_health", deck=None) == {}
    assert "opsdeck_health" in faults(found, "bad")


async def test_cancelling_who_asks_goes_through(shelf: Shelf) -> None:
    shelf.put("slow", MANIFEST + "\n@hookimpl\nasync def opsdeck_health(deck):\n    await asyncio.sleep(9)\n")
    task = asyncio.create_task(shelf.load().gather("opsdeck_health", deck=None))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("line", ["raise ValueError('no')", "sys.exit(3)", "time.sleep(5)"])
def test_a_plain_hook_that_misbehaves_is_named(shelf: Shelf, line: str) -> None:
    shelf.put("bad", MANIFEST + f"\n@hookimpl\ndef opsdeck_commands(cli):\n    {line}\n")
    shelf.put("good", GOOD)
    found = shelf.load()
    cli = click.Group()
    found.call("opsdeck_commands", cli=cli)
    assert list(cli.commands) == ["good"]
    assert "opsdeck_commands" in faults(found, "bad")


def test_faults_in_ever_new_words_fill_nothing(shelf: Shelf) -> None:
    found = shelf.load()
    for number in range(1000):
        found.report("bad", "somewhere", f"fault {number}")
    found.report("other", "somewhere", "one")
    assert len(found.faults) == plugins.FAULTS + 1


def test_the_trace_shows_each_hook_call(shelf: Shelf, capsys: pytest.CaptureFixture[str]) -> None:
    shelf.put("good", GOOD)
    shelf.load(trace=True).call("opsdeck_commands", cli=click.Group())
    assert capsys.readouterr().err.splitlines() == ["hook opsdeck_manifest → good", "hook opsdeck_commands → good"]
    shelf.load().call("opsdeck_commands", cli=click.Group())
    assert capsys.readouterr().err == ""


def test_an_unknown_action_names_what_there_is() -> None:
    found = Plugins()
    found.load()
    with pytest.raises(NotFound) as fault:
        found.action("core", "nothing")
    assert "command" in str(fault.value.hint)
    with pytest.raises(NotFound, match="no plugin is called 'gone'"):
        found.action("gone", "nothing")


def test_the_command_works_beside_a_bad_plugin(tmp_path: Path) -> None:
    """The real command in a process of its own, with a plugin that exits at import and one that hangs."""
    shelf = Shelf(tmp_path)
    shelf.group = plugins.GROUP
    shelf.put("exits", "import sys; sys.exit(7)")
    shelf.put("fine", GOOD)
    command = str(Path(sys.executable).with_name("opsdeck"))
    env = os.environ | {"PYTHONPATH": str(tmp_path), "OPSDECK_HOME": str(tmp_path / "home")}
    listed = subprocess.run([command, "plugin", "list", "--json"], env=env, capture_output=True, text=True, timeout=60)
    assert listed.returncode == 0, listed.stderr
    assert "fine" in {plugin["name"] for plugin in json.loads(listed.stdout)}
    told = subprocess.run([command, "plugin", "list"], env=env, capture_output=True, text=True, timeout=60)
    assert "plugin exits: SystemExit: 7" in told.stderr
    hello = subprocess.run([command, "fine"], env=env, capture_output=True, text=True, timeout=60)
    assert hello.stdout == "hello from fine\n"


class Odd:
    """A module whose every attribute is trouble."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"no {name}")

    def __dir__(self) -> list[str]:
        sys.exit(9)


def test_an_object_that_cannot_even_be_looked_at_is_named() -> None:
    found = Plugins()
    found.add("odd", Odd())
    assert found.manifests == {}
    assert "SystemExit" in faults(found, "odd")
    assert "did not answer" not in faults(found, "odd")


def test_the_public_surface_names_each_thing_once() -> None:
    homes = api._HOME
    assert api.__all__ == sorted(homes)
    for name in homes:
        assert getattr(api, name) is not None
    with pytest.raises(AttributeError, match=r"opsdeck\.api has no 'Nothing'"):
        _ = api.Nothing  # type: ignore[attr-defined]


def test_help_asks_no_plugin_what_it_is_made_of() -> None:
    """So that `opsdeck --help` stays quick with any number of plugins."""
    tool = Path(sys.executable).parent / "opsdeck"
    said = subprocess.run(
        [sys.executable, "-X", "importtime", tool, "--help"], capture_output=True, text=True, check=True
    ).stderr
    imported = {line.rpartition("|")[2].strip() for line in said.splitlines()}
    assert "opsdeck.plugins" in imported
    assert not imported & {"sqlalchemy", "asyncssh", "litestar", "opsdeck_backup.targets", "opsdeck_vpn.models"}
