"""`opsdeck search-sync` against a real MariaDB: the config.yml of who used meilisync, and the daily commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from opsdeck.accounts import passwords
from opsdeck.cli import frame, main

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("OPSDECK_HOME", str(tmp_path / "deck"))
    monkeypatch.setattr(passwords, "MEMORY_KIB", 32)
    monkeypatch.setattr(passwords, "ROUNDS", 1)
    for cached in (frame.settings, frame.plugins):
        cached.cache_clear()
    assert CliRunner().invoke(main, ["init", "--yes"]).exit_code == 0
    yield tmp_path / "deck"
    for cached in (frame.settings, frame.plugins):
        cached.cache_clear()


@pytest.fixture
def run(home: Path) -> Callable[..., Result]:
    def call(*words: str) -> Result:
        return CliRunner().invoke(main, ["search-sync", *words])

    return call


@pytest.fixture
def config(mariadb_shop: Any, meili: Any, tmp_path: Path) -> Path:
    """A config.yml of meilisync for a real database and the Meilisearch under test."""
    mariadb_shop.sql("CREATE TABLE tag (id int PRIMARY KEY, word text)")
    mariadb_shop.sql("INSERT INTO item (id, title, price) VALUES (1, 'one', 1), (2, 'two', 2)")
    mariadb_shop.sql("INSERT INTO tag VALUES (7, 'seven')")
    file = tmp_path / "config.yml"
    given = {
        "progress": {"type": "file"},
        "source": {"type": "mysql", "host": "127.0.0.1", "port": mariadb_shop.server.port, "user": "sync",
                   "password": "s3cret", "database": mariadb_shop.name, "server_id": 1},
        "meilisearch": {"api_url": meili.url, "api_key": None, "insert_size": 500, "insert_interval": 1},
        "sync": [{"table": "item", "index": "items", "full": True, "fields": {"id": None, "title": "name"}},
                 {"table": "tag"}],
    }  # fmt: skip
    file.write_text(yaml.safe_dump(given))
    return file


def test_a_dry_run_names_every_field_and_makes_nothing(run: Any, config: Path) -> None:
    told = run("import", str(config), "--dry-run")
    assert told.exit_code == 0, told.output
    for word in ("source.server_id", "left out", "meilisearch.insert_size", "sync[0].fields"):
        assert word in told.output
    assert "s3cret" not in told.output
    assert json.loads(run("list", "--json").output) == []
    data = json.loads(run("import", str(config), "--dry-run", "--json").output)
    assert [sync["name"] for sync in data["syncs"]] == ["items", "tag"] and "s3cret" not in str(data)


def test_a_file_with_a_field_that_cannot_be_taken_makes_nothing(run: Any, config: Path) -> None:
    config.write_text(config.read_text() + "fields_mapping: {}\n")
    told = run("import", str(config))
    assert told.exit_code == 4 and "fields_mapping: meilisync knows no such field" in told.output
    assert json.loads(run("list", "--json").output) == []
    assert run("import", str(config.parent / "away.yml")).exit_code == 3


def test_a_wrong_password_is_told_by_the_server_and_no_sync_is_made(run: Any, config: Path) -> None:
    config.write_text(config.read_text().replace("s3cret", "another"))
    told = run("import", str(config))
    assert told.exit_code == 4 and "check user and password" in told.output and "another" not in told.output
    assert json.loads(run("list", "--json").output) == []


def test_start_with_a_config_copies_and_follows(
    run: Any, config: Path, home: Path, mariadb_shop: Any, meili: Any
) -> None:
    told = run("start", "--config", str(config))
    assert told.exit_code == 0, told.output
    again = run("start", "--config", str(config))
    assert again.exit_code == 0, again.output
    rows = {row["name"]: row for row in json.loads(run("list", "--json").output)}
    assert set(rows) == {"items", "tag"}
    with (home / "log").open("wb") as log:
        worker = subprocess.Popen(
            [Path(sys.executable).parent / "opsdeck", "worker"], env=os.environ, stdout=log, stderr=log
        )
    try:
        one, two = {"id": 1, "name": "one"}, {"id": 2, "name": "two"}
        until(lambda: meili.documents("items") == {"1": one, "2": two}, home)
        until(lambda: meili.documents("tag") == {"7": {"id": 7, "word": "seven"}}, home)
        mariadb_shop.sql("UPDATE item SET title = 'uno' WHERE id = 1")
        until(lambda: meili.documents("items") == {"1": {"id": 1, "name": "uno"}, "2": two}, home)
        until(lambda: "follows" in run("list").output, home)
        assert run("check", "-t", "item", "tag").exit_code == 0
        assert run("pause", "tag").exit_code == 0
        shown = json.loads(run("show", "tag", "--json").output)
        assert shown["word"] == "paused" and shown["problem"] == ""
        assert run("swap-back", "items").exit_code == 4, "nothing was rebuilt yet"
    finally:
        worker.terminate()
        worker.wait(20)


def until(what: Callable[[], bool], home: Path) -> None:
    deadline = time.monotonic() + 40
    while not what():
        assert time.monotonic() < deadline, (home / "log").read_text()[-2000:]
        time.sleep(0.1)


def test_what_is_not_there_is_named(run: Any) -> None:
    for words in (("show", "away"), ("check", "away"), ("refresh", "-t", "away"), ("start",), ("pause", "away")):
        told = run(*words)
        assert told.exit_code != 0 and told.output, words
    assert "no sync reads a table 'away'" in run("refresh", "-t", "away").output
    assert "search-sync import" in run("list").output


def test_the_group_is_light() -> None:
    code = (
        "import sys, opsdeck_search_sync.commands, opsdeck_search_sync.plugin;"
        "print([name for name in ('yaml', 'litestar', 'pymysqlreplication', 'psycopg', 'opsdeck_search_sync.models')"
        " if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
