"""`opsdeck host` as a person types it, in a process of its own, against hosts to play with."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from opsdeck.cli import frame, main
from opsdeck.lab.inprocess import PlayHosts
from opsdeck.ssh.hostkeys import OfferedKey

DATA = Path(__file__).parent / "data/import"


@dataclass
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Awaitable[Ran]]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder that was set up once; tests get copies."""
    home = tmp_path_factory.mktemp("template") / "home"
    environment = {**os.environ, "OPSDECK_HOME": str(home)}
    program = [sys.executable, "-c", "from opsdeck.cli import main; main()", "init", "--yes"]
    subprocess.run(program, env=environment, check=True, capture_output=True, timeout=60)
    return home


@pytest.fixture
def home(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data folder of the test's own, and this process pointed to it."""
    shutil.copytree(template, tmp_path / "home")
    for name in [name for name in os.environ if name.startswith("OPSDECK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OPSDECK_HOME", str(tmp_path / "home"))
    frame.settings.cache_clear()
    frame.plugins.cache_clear()
    yield tmp_path / "home"
    frame.settings.cache_clear()
    frame.plugins.cache_clear()


@pytest.fixture
def here(home: Path) -> Callable[..., Ran]:
    """Run a command in this process: quick, for what needs no host."""

    def run(*words: str) -> Ran:
        done = CliRunner().invoke(main, list(words))
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Ran(done.exit_code, done.stdout, done.stderr)

    return run


@pytest.fixture
async def cli(home: Path) -> Run:
    environment = {**os.environ, "OPSDECK_HOME": str(home)}

    async def run(*words: str, stdin: str = "") -> Ran:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "from opsdeck.cli import main; main()",
            *words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
        )
        out, err = await asyncio.wait_for(process.communicate(stdin.encode()), 60)
        return Ran(process.returncode or 0, out.decode(), err.decode())

    return run


async def add(cli: Run, hosts: PlayHosts, name: str, *more: str) -> Ran:
    host = hosts[name]
    place = ("--address", host.address, "--port", str(host.port), "--user", host.user, "--credential", "play")
    return await cli("host", "add", name, *place, *more)


@pytest.fixture
async def with_key(cli: Run, play_hosts: PlayHosts) -> Run:
    done = await cli("secret", "set", "play", "--kind", "ssh-key", stdin=play_hosts.private_key)
    assert done.code == 0, done.err
    return cli


async def test_from_first_contact_to_facts(with_key: Run, play_hosts: PlayHosts) -> None:
    cli = with_key
    fingerprint = OfferedKey.of(play_hosts["web1"].host_key).fingerprint
    added = await add(cli, play_hosts, "web1", "--tag", "role=web", "--quota", "1TB")
    assert added.code == 0
    assert fingerprint in added.err
    assert "approve-key web1" in added.err
    refused = await cli("host", "check", "web1")
    assert refused.code == 4
    assert fingerprint in refused.err
    assert (await cli("host", "approve-key", "web1")).code == 4
    wrong = await cli("host", "approve-key", "web1", "SHA256:wrong", "--json")
    assert wrong.code == 3
    assert json.loads(wrong.err)["host"] == "web1"
    approved = await cli("host", "approve-key", "web1", fingerprint)
    assert (approved.code, approved.err) == (0, "")
    checked = await cli("host", "check", "web1", "--disk", "100", "--json")
    assert checked.code == 0
    assert checked.json["steps"][0]["receipt"]["findings"]
    gathered = await cli("host", "facts", "web1", "--json")
    assert len(gathered.json["hosts"]["web1"]["facts"]) >= 20
    assert gathered.json["job"]["steps"][0]["state"] == "succeeded"
    shown = await cli("host", "show", "web1")
    assert fingerprint in shown.out
    assert "ok" in shown.out
    diff = await cli("host", "facts", "web1", "--diff", "1d", "--json")
    assert diff.json["hosts"] == {"web1": []}
    exported = await cli("host", "known-hosts")
    assert exported.out.endswith(play_hosts["web1"].host_key + "\n")


async def test_a_key_given_beforehand_needs_no_question(with_key: Run, play_hosts: PlayHosts, tmp_path: Path) -> None:
    file = tmp_path / "web1.pub"
    file.write_text(play_hosts["web1"].host_key + " comment\n")
    assert (await add(with_key, play_hosts, "web1", "--host-key", str(file))).code == 0
    assert (await add(with_key, play_hosts, "web2", "--host-key", play_hosts["web2"].host_key)).code == 0
    added = await add(with_key, play_hosts, "web3", "--approve", "--json")
    assert added.json["contact"]["trusted"] is True
    checked = await with_key("host", "check", "--disk", "100")
    assert checked.code == 0, checked.err
    assert (await add(with_key, play_hosts, "web1")).code == 4
    bad = await with_key("host", "add", "x", "--address", "y", "--host-key", "ssh-ed25519 nonsense")
    assert bad.code == 2
    listed = await with_key("host", "list", "--json")
    assert [(host["name"], host["reach"]) for host in listed.json] == [("web1", "ok"), ("web2", "ok"), ("web3", "ok")]


async def test_a_changed_key_shows_both_fingerprints(with_key: Run, play_hosts: PlayHosts) -> None:
    await add(with_key, play_hosts, "web1", "--approve")
    old = OfferedKey.of(play_hosts["web1"].host_key).fingerprint
    new = OfferedKey.of(await play_hosts["web1"].change_host_key()).fingerprint
    checked = await with_key("host", "check", "web1")
    assert checked.code == 4
    assert old in checked.err
    assert new in checked.err
    shown = await with_key("host", "approve-key", "web1")
    assert shown.code == 4
    assert old in shown.err
    assert new in shown.err
    assert "ANOTHER" in shown.err
    assert (await with_key("host", "approve-key", "web1", "--all")).code == 0
    assert (await with_key("host", "check", "web1", "--disk", "100")).code == 0


def test_add_edit_list_remove_without_contact(here: Callable[..., Ran]) -> None:
    added = here("host", "add", "Gate", "--address", "192.0.2.1", "--no-contact", "--tag", "a", "--tag", "b=c")
    assert (added.code, added.out) == (0, "Added gate (root@192.0.2.1:22).\n")
    here("host", "add", "inner", "--address", "192.0.2.2", "--jump", "gate", "--no-contact")
    edited = here("host", "edit", "gate", "--untag", "a", "--tag", "x=y", "--region", "fra", "--price", "5 EUR/year")
    assert (edited.code, edited.err) == (0, "")
    listed = here("host", "list", "tag:x", "--json")
    (host,) = listed.json
    assert host["tags"] == {"b": "c", "x": "y"}
    assert (host["price"], host["currency"], host["price_period"], host["region"]) == (5.0, "EUR", "year", "fra")
    assert "gate" in (here("host", "list")).out
    kept = here("host", "rm", "gate", "--yes")
    assert kept.code == 4
    assert "inner" in kept.err
    assert (here("host", "rm", "gate")).code == 2
    assert (here("host", "edit", "inner", "--jump", "")).code == 0
    assert (here("host", "rm", "gate", "--yes")).out == "Removed gate.\n"
    assert [host["name"] for host in (here("host", "list", "--json")).json] == ["inner"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("add", "all", "--address", "x"), 2, "name:"),
        (("add", "a"), 2, "address"),
        (("add", "a", "--address", "b c"), 2, "address"),
        (("add", "a", "--address", "x", "--port", "99999"), 2, "port"),
        (("add", "a", "--address", "x", "--credential", "none"), 2, "opsdeck secret set none"),
        (("add", "a", "--address", "x", "--jump", "nowhere"), 2, "nowhere"),
        (("add", "a", "--address", "x", "--tag", "b=c=d"), 2, "tags"),
        (("show", "nobody"), 3, "nobody"),
        (("edit", "nobody", "--region", "x"), 3, "nobody"),
        (("list", "a b"), 2, "selector"),
        (("list", "nobody"), 3, "nobody"),
        (("check",), 3, "opsdeck host add"),
        (("facts", "--diff", "someday"), 2, "moment"),
        (("import", "/none"), 3, "/none"),
        (("known-hosts", "--import", "/none"), 3, "/none"),
    ],
)
def test_what_is_wrong_is_said_once_with_a_code(
    here: Callable[..., Ran], words: tuple[str, ...], code: int, said: str
) -> None:
    ran = here("host", *words)
    assert ran.code == code, ran
    assert said in ran.err
    assert "Traceback" not in ran.err
    if code != 2 or "Error:" in ran.err:
        assert ran.err.count("Error:") == 1


def test_import_shows_then_does(here: Callable[..., Ran]) -> None:
    shown = here("host", "import", str(DATA / "hosts.csv"), "--dry-run")
    assert shown.code == 0
    assert "Would add web1: root@192.0.2.1:22 (line 2)" in shown.out
    assert (here("host", "list", "--json")).json == []
    done = here("host", "import", str(DATA / "hosts.csv"), "--json")
    assert done.json["applied"] is True
    assert done.json["format"] == "csv"
    again = here("host", "import", str(DATA / "hosts.csv"), "--json")
    assert again.json["same"] == ["web1", "web2"]
    changed = here("host", "import", str(DATA / "hosts.list.yaml"))
    assert "Changed web1" in changed.out
    assert "(line 1)" in changed.out
    bad = here("host", "import", str(DATA / "hosts.bad.csv"))
    assert bad.code == 2
    assert "hosts.bad.csv:4" in bad.err
    assert len((here("host", "list", "--json")).json) == 2
