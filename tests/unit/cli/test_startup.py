"""What a command may import, and how the console script ends. No clocks: what is imported decides how long it takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPORT = """
import atexit, sys
atexit.register(lambda: print("loaded:", *sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr))
from opsdeck.cli import enter
sys.argv[0] = "opsdeck"
enter()
"""


SHELVED = "backup,cdn,search_sync,vpn"
"""Plugins whose own tables come along when they are asked for their commands or named in a list."""


def loaded(home: Path, *words: str) -> set[str]:
    shelved = SHELVED if words[0] == "--help" or words[:2] == ("plugin", "list") else ""
    done = subprocess.run(
        [sys.executable, "-c", REPORT, *words],
        env=os.environ | {"OPSDECK_HOME": str(home), "OPSDECK_DISABLED_PLUGINS": shelved},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stderr.rpartition("loaded:")[2].split())


HEAVY = {"sqlmodel", "sqlalchemy", "alembic", "asyncssh", "litestar", "uvicorn", "rich", "jinja2"}


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        (["--help"], set()),
        (["plugin", "run", "core", "command", "--help"], set()),
        (["plugin", "list", "--json"], set()),
        (["job", "list", "--json"], {"sqlmodel", "sqlalchemy"}),
        (["host", "list", "--json"], {"sqlmodel", "sqlalchemy"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_imports_only_what_it_uses(deck: Path, words: list[str], allowed: set[str]) -> None:
    found = loaded(deck, *words)
    assert "opsdeck" in found
    assert found & HEAVY == allowed


ENTER = "import sys; from opsdeck import cli; from opsdeck.cli import enter; "


def end(code: str, **given: object) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", ENTER + code, "--version"]
    env = os.environ | {"PYTHONUNBUFFERED": ""}
    return subprocess.run(
        argv, env=env, stderr=subprocess.PIPE, text=True, check=False, **{"stdout": subprocess.PIPE} | given
    )  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [("None", 0, ""), ("0", 0, ""), ("4", 4, ""), ("130", 130, ""), ("'no way'", 1, "no way\n")],
)
def test_the_process_ends_with_the_commands_code(status: str, code: int, said: str) -> None:
    done = end(f"cli.main = lambda: sys.exit({status}); enter()")
    assert (done.returncode, done.stderr) == (code, said)


def test_what_was_registered_for_the_end_is_done_and_all_is_written() -> None:
    done = end("import atexit; atexit.register(print, 'bye'); print('x' * 100000); enter()")
    assert done.returncode == 0
    assert done.stdout.startswith("x" * 100000)
    assert done.stdout.endswith("bye\n")


def test_an_unknown_fault_is_shown_whole() -> None:
    done = end("cli.main = lambda: 1 / 0; enter()")
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


def test_output_that_cannot_be_written_is_no_success() -> None:
    with Path("/dev/full").open("w") as full:
        done = end("cli.main = lambda: (print('lost'), sys.exit(0)); enter()", stdout=full)
    assert done.returncode == 120
