"""The CLI in this process, with a data folder of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from opsdeck.accounts import passwords
from opsdeck.cli import frame, main

Run = Callable[..., Result]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The place of a data folder that does not exist yet."""
    for name in ("OPSDECK_DATABASE_URL", "OPSDECK_MASTER_KEY_FILE", "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPSDECK_HOME", str(tmp_path / "deck"))
    monkeypatch.setattr(passwords, "MEMORY_KIB", 32)
    monkeypatch.setattr(passwords, "ROUNDS", 1)
    frame.settings.cache_clear()
    frame.plugins.cache_clear()
    yield tmp_path / "deck"
    frame.settings.cache_clear()
    frame.plugins.cache_clear()


@pytest.fixture
def run(home: Path) -> Run:
    """Run `opsdeck ARGUMENTS`, with `typed` on standard input."""

    def call(*arguments: str, typed: str = "") -> Result:
        return CliRunner().invoke(main, list(arguments), input=typed)

    return call


@pytest.fixture
def deck(run: Run, home: Path) -> Path:
    """A data folder made by `opsdeck init --yes`."""
    result = run("init", "--yes")
    assert result.exit_code == 0, result.output
    return home
