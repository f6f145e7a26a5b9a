"""The way in: `./run` says what it can do, and what is missing when it cannot start."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

RUN = Path(__file__).parents[2] / "run"


def call(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([RUN, *words], capture_output=True, text=True, env=os.environ | environment, timeout=60)


def test_without_a_word_it_shows_what_it_can_do() -> None:
    done = call()
    assert done.returncode == 2
    for word in ("demo", "test", "check", "bench", "campaign", "install"):
        assert f"./run {word}" in done.stderr
    assert call("--help").returncode == 0
    assert call("no-such-word").returncode == 2


def test_an_old_or_missing_python_is_named_with_the_next_step() -> None:
    for python in ("/bin/false", "/no/such/python"):
        done = call("install", PYTHON=python)
        assert done.returncode == 1
        assert python in done.stderr
        assert "apt-get install" in done.stderr
