"""`opsdeck init`, `doctor`, `migrate`: a first start, a second one, and every way it can be broken."""

from __future__ import annotations

import json
import re
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

Run = Callable[..., Result]


def states(result: Result) -> dict[str, str]:
    return {finding["subject"]: finding["state"] for finding in json.loads(result.stdout)}


def test_init_makes_everything_for_its_owner_only(run: Run, home: Path) -> None:
    result = run("init", "--yes", "--admin", "root")
    assert result.exit_code == 0, result.output
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    for name in ("master.key", "opsdeck.db"):
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o600
    password = re.search(r"Password of root, shown this once: (\S+)", result.stdout)
    assert password
    assert password[1] not in (home / "opsdeck.db").read_bytes().decode("latin-1")


def test_init_again_changes_nothing(run: Run, deck: Path) -> None:
    before = (deck / "master.key").read_bytes()
    result = run("init", "--yes", "--admin", "other", "--json")
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert all("already" in text for text in told["steps"].values()), told
    assert "password" not in told
    assert (deck / "master.key").read_bytes() == before
    assert [person["name"] for person in json.loads(run("user", "list", "--json").stdout)] == ["admin"]


def test_init_takes_the_password_from_a_pipe(run: Run, home: Path) -> None:
    result = run("init", typed="a rather long password\n")
    assert result.exit_code == 0, result.output
    assert "a rather long password" not in result.output


def test_a_cut_short_init_goes_on(run: Run, home: Path) -> None:
    result = run("init", typed="short\n")
    assert result.exit_code == 2
    assert "12 to 1024" in result.stderr
    assert (home / "master.key").exists()
    assert run("init", "--yes").exit_code == 0


def test_init_never_makes_a_new_key_for_an_old_database(run: Run, deck: Path) -> None:
    (deck / "master.key").unlink()
    result = run("init", "--yes")
    assert result.exit_code == 1
    assert "was sealed under it" in result.stderr
    assert "put the key back" in result.stderr
    assert not (deck / "master.key").exists()


def test_init_where_it_cannot(run: Run, home: Path) -> None:
    home.write_text("a file")
    result = run("init", "--yes")
    assert result.exit_code == 1
    assert str(home) in result.stderr
    assert "OPSDECK_HOME" in result.stderr


@pytest.mark.parametrize("command", [("secret", "list"), ("user", "list"), ("audit", "verify"), ("token", "list")])
def test_without_init_the_next_step_is_named(run: Run, home: Path, command: tuple[str, ...]) -> None:
    result = run(*command)
    assert result.exit_code == 1
    assert "opsdeck init" in result.stderr
    assert "Traceback" not in result.output
    assert not home.exists(), "nothing is made on the way"


def test_without_a_database_the_next_step_is_named(run: Run, deck: Path) -> None:
    for name in ("opsdeck.db", "opsdeck.db-wal", "opsdeck.db-shm"):
        (deck / name).unlink(missing_ok=True)
    result = run("secret", "list")
    assert result.exit_code == 1
    assert "opsdeck init" in result.stderr


def test_doctor_on_a_healthy_deck(run: Run, deck: Path) -> None:
    result = run("doctor", "--json")
    found = states(result)
    assert result.exit_code == 0, result.output
    assert {"data folder", "disk", "clock", "database", "migrations", "master key", "secrets", "audit trail"} <= set(
        found
    )
    assert "broken" not in found.values()


def drop_audit(deck: Path) -> None:
    with sqlite3.connect(deck / "opsdeck.db") as connection:
        connection.execute("DROP TRIGGER core_audit_no_update")
        connection.execute("UPDATE core_audit SET actor = 'eve'")


def break_secret(deck: Path) -> None:
    with sqlite3.connect(deck / "opsdeck.db") as connection:
        connection.execute("UPDATE core_secret SET blob = zeroblob(40)")


def scribble(deck: Path) -> None:
    with sqlite3.connect(deck / "opsdeck.db") as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    (deck / "opsdeck.db").write_bytes(b"scribble" * 2000)


@pytest.mark.parametrize(
    ("break_it", "subject", "hint"),
    [
        (lambda deck: (deck / "master.key").unlink(), "master key", "put it back"),
        (lambda deck: (deck / "master.key").chmod(0o644), "master key", "chmod 600"),
        (lambda deck: (deck / "master.key").write_text("opsdeck-master-1 " + "A" * 43 + "=\n"), "secrets", "right key"),
        (lambda deck: (deck / "opsdeck.db").unlink(), "database", "opsdeck init"),
        (scribble, "database", "backup"),
        (drop_audit, "audit trail", "who wrote"),
        (break_secret, "secrets", "set it again"),
        (
            lambda deck: (deck / "audit.heads").write_text('{"head": "9:' + "0" * 64 + '"}\n'),
            "audit trail",
            "who wrote",
        ),
    ],
)
def test_doctor_names_what_is_broken(run: Run, deck: Path, break_it: Any, subject: str, hint: str) -> None:
    run("secret", "set", "a", typed="hunter22")
    break_it(deck)
    result = run("doctor", "--json")
    assert result.exit_code == 1
    assert states(result)[subject] == "broken"
    assert any(hint in finding["hint"] for finding in json.loads(result.stdout) if finding["state"] == "broken")
    plain = run("doctor")
    assert plain.exit_code == 1
    assert f"broken     {subject}" in plain.stdout


def test_doctor_tells_what_needs_attention(run: Run, deck: Path) -> None:
    deck.chmod(0o755)
    result = run("doctor", "--json")
    assert result.exit_code == 0
    assert states(result)["data folder"] == "attention"


def test_migrate(run: Run, deck: Path) -> None:
    assert run("migrate").stdout.strip() == "the tables are up to date"
    with sqlite3.connect(deck / "opsdeck.db") as connection:
        connection.execute("UPDATE core_alembic SET version_num = '0099'")
    result = run("migrate")
    assert result.exit_code == 1
    assert "newer OpsDeck" in result.stderr


def test_errors_as_json(home: Path) -> None:
    opsdeck = Path(sys.executable).with_name("opsdeck")
    result = subprocess.run([opsdeck, "secret", "list", "--json"], capture_output=True, text=True)
    assert result.returncode == 1
    told = json.loads(result.stderr)
    assert told["error"] == "Unavailable"
    assert told["file"] == str(home / "master.key")
