"""`opsdeck serve` as a person starts it: one process, an address, an end that open pages do not hold up."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from opsdeck_web import serve

from opsdeck.errors import Unavailable


def opsdeck(home: Path, *words: str, **more: str) -> list[str]:
    return [sys.executable, "-c", "from opsdeck.cli import main; main()", *words]


def refused(tmp_path: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Start a console that must not come up; give how it ended."""
    words = opsdeck(tmp_path, "serve", "--port", "0")
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_it_prints_its_address_answers_and_ends_with_a_stream_open(tmp_path: Path) -> None:
    environment = os.environ | {"OPSDECK_HOME": str(tmp_path / "home")}
    subprocess.run(opsdeck(tmp_path, "init", "--yes"), env=environment, check=True, capture_output=True, timeout=60)
    process = subprocess.Popen(
        opsdeck(tmp_path, "serve", "--port", "0"),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("OpsDeck listens on http://127.0.0.1:"), process.stderr and process.stderr.read()
        url = line.split()[-1]
        with urllib.request.urlopen(url + "login", timeout=10) as answer:  # noqa: S310 - our own server
            assert b"Log in" in answer.read()
        second = refused(tmp_path, environment)
        assert second.returncode == 4
        assert "runs on" in second.stderr
        with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1].strip("/")))) as held:
            held.sendall(b"GET /login HTTP/1.1\r\nHost: x\r\n")
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.communicate()


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with serve.listen("127.0.0.1", 0) as taken, pytest.raises(Unavailable, match=r"cannot listen on 127\.0\.0\.1"):
        serve.listen("127.0.0.1", taken.getsockname()[1])


def test_without_init_it_says_what_to_do(tmp_path: Path) -> None:
    environment = os.environ | {"OPSDECK_HOME": str(tmp_path / "none")}
    done = refused(tmp_path, environment)
    assert done.returncode != 0
    assert "opsdeck init" in done.stderr
    assert "Traceback" not in done.stderr
