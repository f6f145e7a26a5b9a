"""The README followed word by word: MariaDB and Meilisearch on a host's loopback, reached over SSH and nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from opsdeck.db import Database
from opsdeck.inventory.models import Host, HostKey
from opsdeck.lab.fleet import Fleet, HostSpec, LabHost
from opsdeck.secrets.sensitive import Sensitive
from opsdeck.settings import Settings

pytestmark = pytest.mark.timeout(240)

ROOT = Path(__file__).parents[3]
README = ROOT / "plugins" / "search_sync" / "README.md"
MARIADB = ("mariadb-server", "mariadb-backup", "zstd", "age")
KEY = "a-master-key-of-sixteen"


def guide() -> Iterator[tuple[str, str]]:
    """The steps of the README: where something is typed, and what; or a file with its content."""
    text = README.read_text()
    text = text[text.index("## From a database on a VPS") : text.index("All of it can be done on the page")]
    file = re.search(r"put this into `([^`]+)`", text)
    assert file is not None
    for kind, body in re.findall(r"```(ini|console)\n(.*?)```", text, re.S):
        lines = [line.strip() for line in body.strip().splitlines()]
        if kind == "ini":
            yield file[1], "\n".join(lines) + "\n"
        for line in lines if kind == "console" else ():
            where, _, typed = line.partition(" ")
            assert where in {"db1#", "$"}, line
            yield where, typed


@pytest.fixture
def host(fleet: Fleet, lab: Fleet) -> LabHost:
    """A VPS with a shop."""
    lab.up([HostSpec("ss-db", MARIADB)])
    host = lab.host("ss-db")
    shop = (
        "CREATE OR REPLACE DATABASE shop; USE shop; CREATE TABLE item (id INT PRIMARY KEY, title VARCHAR(200));"
        " INSERT INTO item SELECT seq, CONCAT('title ', seq) FROM seq_1_to_500; DROP USER IF EXISTS sync@localhost"
    )
    host.execute(["mariadb"], stdin=shop)
    return host


@pytest.fixture
def meili(host: LabHost, tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """A Meilisearch that listens on the host's loopback."""
    words = [sys.executable, ROOT / "tests" / "standins" / "meilisearch.py", "--port", "7700", "--key", KEY]
    with (tmp_path / "meili.log").open("ab") as log:
        process = subprocess.Popen(
            ["ip", "netns", "exec", host.namespace, *words, "--db", tmp_path / "meili.db"], stdout=log, stderr=log
        )

    def ask(path: str) -> Any:
        url = f"http://127.0.0.1:7700{path}"
        return json.loads(host.execute(["curl", "-s", "-H", f"Authorization: Bearer {KEY}", url]) or "null")

    yield ask
    process.kill()
    process.wait()


@pytest.fixture
def console(host: LabHost, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """A console that knows the host as db1; call it to type a command."""
    home = tmp_path / "deck"
    env = os.environ | {"OPSDECK_HOME": str(home), "COLUMNS": "200"}
    program = Path(sys.executable).parent / "opsdeck"

    def typed(words: list[str], given: str = "") -> str:
        done = subprocess.run([program, *words], env=env, input=given, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout + done.stderr

    typed(["init", "--yes"])
    typed(["secret", "set", "lab", "--kind", "ssh-key"], Sensitive(host.private_key.read_text()).reveal())

    async def know() -> None:
        database = Database(Settings(home=home).url)
        async with database.write() as session:
            row = Host(name="db1", address=host.address, user="ops", credential="lab", sudo="nopasswd")
            session.add(row)
            await session.flush()
            pinned = {"algorithm": host.host_key.split()[0], "public": host.host_key, "state": "pinned"}
            session.add(HostKey(host_id=row.id, fingerprint="x", **pinned))
        await database.close()

    asyncio.run(know())
    with (tmp_path / "worker.log").open("ab") as log:
        worker = subprocess.Popen([program, "worker"], env=env, stdout=log, stderr=log)
    yield typed
    worker.terminate()
    worker.wait(30)


def until(what: Callable[[], Any], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)


def test_from_a_database_on_a_vps_to_live_search(host: LabHost, meili: Any, console: Any) -> None:
    secrets = {"shop-db": "choose-your-own", "search-key": KEY}
    said = ""
    for where, text in guide():
        if where == "db1#":
            host.execute(["sh", "-c", text], timeout=90)
        elif where == "$":
            words = shlex.split(text)
            assert words[0] == "opsdeck"
            if words[1:3] == ["search-sync", "check"]:
                until(lambda: (meili("/indexes/items/stats") or {}).get("numberOfDocuments") == 500)
            said = console(words[1:], secrets.get(words[3], "") if words[1:3] == ["secret", "set"] else "")
            if "--plan" in words:
                assert "title " in said and "of a real row" in said
        else:
            host.execute(["tee", where], stdin=text)
    assert "500 rows, 500 documents, 0 of the sample differ" in said
    listening = host.execute(["ss", "-Hltn"])
    assert "0.0.0.0:3306" not in listening, "the database is not to be reached but through the host"
    host.execute(["mariadb", "shop"], stdin="UPDATE item SET title = 'now' WHERE id = 7; DELETE FROM item WHERE id = 8")
    until(lambda: meili("/indexes/items/documents/7").get("title") == "now")
    until(lambda: meili("/indexes/items/documents/8").get("code") == "document_not_found")
    host.cut()
    host.execute(["mariadb", "shop"], stdin="INSERT INTO item VALUES (1000, 'while the link was cut')")
    time.sleep(1)
    host.mend()
    until(lambda: meili("/indexes/items/documents/1000").get("title") == "while the link was cut", 90)
