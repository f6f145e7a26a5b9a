"""`opsdeck schedule` from the first word to the row, through the real command."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from opsdeck.cli import frame, main
from opsdeck.deck import Deck
from opsdeck.inventory.models import Host

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Call `opsdeck` on a data folder of its own with the hosts web1 to web7."""
    monkeypatch.setenv("OPSDECK_HOME", str(tmp_path / "home"))
    frame.settings.cache_clear()

    def call(*words: str, ok: bool = True) -> Result:
        result = CliRunner().invoke(main, list(words))
        assert not ok or result.exit_code == 0, result.output
        return result

    call("init", "--yes")

    async def hosts(deck: Deck) -> None:
        async with deck.db.write() as session:
            session.add_all(Host(name=f"web{number}", address="192.0.2.1", user="root") for number in range(1, 8))

    frame.with_deck(hosts)
    return call


def add(run: Run, *words: str, name: str = "nightly", ok: bool = True) -> Any:
    when = () if {"--cron", "--every"} & set(words) else ("--cron", "30 2 * * *", "--tz", "Europe/Berlin")
    return run("schedule", "add", name, *when, *words, ok=ok)


def test_made_shown_listed_and_removed(run: Run) -> None:
    shown = add(run, "core", "command", "--command", "uptime", "--on", "web1", "--json")
    made = json.loads(shown.stdout)
    assert made["params"]["command"] == "uptime"
    assert (made["when"], made["misfire"], made["overlap"]) == ("30 2 * * * Europe/Berlin", "once", "skip")
    assert len(made["next"]) == 5
    assert datetime.fromisoformat(made["next"][0]["local"]).hour == 2
    assert "No server or worker is running" in shown.stderr
    (row,) = json.loads(run("schedule", "list", "--json").stdout)
    assert (row["name"], row["state"], row["actor"].endswith("@cli")) == ("nightly", "planned", True)
    assert "nightly" in run("schedule", "list").stdout
    assert json.loads(run("schedule", "show", "nightly", "--json").stdout)["slots"] == []
    assert "uptime" in run("schedule", "show", "nightly").stdout
    run("schedule", "rm", "nightly", "--yes")
    assert json.loads(run("schedule", "list", "--json").stdout) == []


def test_the_rule_may_stand_before_or_after(run: Run) -> None:
    words = ("core", "command", "--command", "uptime", "--on", "web1")
    run("schedule", "add", "a", "--every", "15m", *words)
    run("schedule", "add", "b", *words, "--every", "15m", "--overlap", "queue")
    run("schedule", "add", "--every", "15m", "c", *words, "--misfire", "each")
    rows = json.loads(run("schedule", "list", "--json").stdout)
    assert [(row["name"], row["when"], row["misfire"], row["overlap"]) for row in rows] == [
        ("a", "every 15m", "once", "skip"),
        ("b", "every 15m", "once", "queue"),
        ("c", "every 15m", "each", "skip"),
    ]


def test_next_of_one_and_of_all(run: Run) -> None:
    add(run, "core", "facts", "--on", "web1")
    add(run, "--every", "1h", "core", "facts", "--on", "web1", name="hourly")
    add(run, "core", "facts", "--on", "web1", "--paused", name="later")
    one = json.loads(run("schedule", "next", "nightly", "-n", "2", "--json").stdout)
    assert (one[0]["schedule"], len(one[0]["next"])) == ("nightly", 2)
    every = json.loads(run("schedule", "next", "--json").stdout)
    assert [row["schedule"] for row in every] == ["hourly", "nightly"]
    assert "02:30 CE" in run("schedule", "next", "nightly").stdout
    assert "is paused" in run("schedule", "next", "later").stderr


def test_pause_resume_and_edit(run: Run) -> None:
    add(run, "core", "command", "--command", "uptime", "--on", "web1")
    assert json.loads(run("schedule", "pause", "nightly", "--json").stdout)["state"] == "paused"
    assert json.loads(run("schedule", "resume", "nightly", "--json").stdout)["state"] == "planned"
    words = ("--every", "6h", "--on", "web2", "--param", "command=df", "--overlap", "allow", "--json")
    changed = json.loads(run("schedule", "edit", "nightly", *words).stdout)
    assert (changed["when"], changed["selector"], changed["overlap"]) == ("every 6h", "web2", "allow")
    assert changed["params"]["command"] == "df"
    back = json.loads(run("schedule", "edit", "nightly", "--cron", "0 9 * * mon", "--json").stdout)
    assert (back["when"], back["params"]["command"]) == ("0 9 * * mon Europe/Berlin", "df")


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("--cron", "61 * * * *", "core", "facts", "--on", "web1"), 2, "is no cron rule"),
        (("--cron", "0 0 30 2 *", "core", "facts", "--on", "web1"), 2, "no day fits"),
        (("--cron", "* * * * *", "--tz", "Mars/Base", "core", "facts", "--on", "web1"), 2, "no time zone"),
        (("--every", "soon", "core", "facts", "--on", "web1"), 2, "is no interval"),
        (("--every", "1s", "core", "facts", "--on", "web1"), 2, "out of bounds"),
        (("--every", "1h", "--cron", "* * * * *", "core", "facts", "--on", "web1"), 2, "exclude each other"),
        (("gone", "facts", "--on", "web1"), 3, "no plugin is called 'gone'"),
        (("core", "gone", "--on", "web1"), 3, "has no action 'gone'"),
        (("core", "facts"), 2, "no hosts were given"),
        (("core", "facts", "--on", "web9"), 3, "web9"),
        (("core", "command", "--on", "web1"), 2, "command"),
        (("core", "command", "--command", "x", "--on", "all"), 4, "needs your consent"),
    ],
)
def test_what_is_wrong_is_said_with_the_right_code(run: Run, words: tuple[str, ...], code: int, text: str) -> None:
    result = add(run, *words, ok=False)
    assert result.exit_code == code, result.output
    assert text in result.stderr
    assert json.loads(run("schedule", "list", "--json").stdout) == []


def test_without_a_rule(run: Run) -> None:
    result = run("schedule", "add", "nightly", "core", "facts", "--on", "web1", ok=False)
    assert (result.exit_code, "say when" in result.stderr) == (2, True)


def test_a_bad_name(run: Run) -> None:
    result = add(run, "core", "facts", "--on", "web1", name="a b", ok=False)
    assert result.exit_code == 2
    assert "name: letters, digits" in result.stderr


def test_a_name_that_is_taken_and_one_that_is_not_there(run: Run) -> None:
    add(run, "core", "facts", "--on", "web1")
    assert add(run, "core", "facts", "--on", "web1", ok=False).exit_code == 4
    for command in ("show", "next", "pause", "resume", "edit"):
        assert run("schedule", command, "other", ok=False).exit_code == 3
    assert run("schedule", "rm", "other", "--yes", ok=False).exit_code == 3


def test_many_hosts_want_consent(run: Run) -> None:
    words = ("core", "command", "--command", "uptime", "--on", "all")
    add(run, *words, "--confirm", "7")
    add(run, *words, "--yes", name="again")


def test_removing_asks(run: Run) -> None:
    add(run, "core", "facts", "--on", "web1")
    assert run("schedule", "rm", "nightly", ok=False).exit_code == 2
    assert len(json.loads(run("schedule", "list", "--json").stdout)) == 1
