"""The parts of the shell that run anywhere: what passes a stream on, and what checks the end of one."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from opsdeck_backup import bring, look

if shutil.which("perl") is None:
    pytest.skip("no perl on this machine", allow_module_level=True)


def passed(folder: Path, given: bytes, *words: str, rest: str = "cat") -> subprocess.CompletedProcess[bytes]:
    """Send bytes through `pass`, then to another program."""
    script = f'set -u; cd "$1"; shift; {{ pass "$@"; echo $? >rc; }} | {rest}\n'
    return subprocess.run(
        ["sh", "-c", look.shell("pass") + script, "sh", str(folder), *words],
        input=given,
        capture_output=True,
        timeout=60,
    )


@pytest.mark.parametrize("size", [0, 1, 14, 15, 16, 65_537, 3_000_000])
def test_a_stream_passes_unchanged_and_is_counted_with_its_tail_and_a_copy(tmp_path: Path, size: int) -> None:
    given = os.urandom(size)
    done = passed(tmp_path, given, "told", "15", "", "copy")
    assert (done.stdout, (tmp_path / "copy").read_bytes()) == (given, given)
    assert (tmp_path / "told").read_text().split(" ") == [str(size), given[-15:].hex() + "\n"]
    assert (tmp_path / "rc").read_text() == "0\n"


def test_the_tail_is_whole_however_small_the_pieces_come(tmp_path: Path) -> None:
    script = '( for each in a b c d e f; do printf "$each"; sleep 0.02; done ) | pass told 4 ""'
    done = subprocess.run(["sh", "-c", look.shell("pass") + script], cwd=tmp_path, capture_output=True, timeout=60)
    assert (done.stdout, (tmp_path / "told").read_text()) == (b"abcdef", f"6 {b'cdef'.hex()}\n")


def test_a_reader_that_goes_ends_it_with_a_fault_and_without_a_count(tmp_path: Path) -> None:
    passed(tmp_path, os.urandom(5_000_000), "told", "0", "", rest="head -c 10")
    assert (tmp_path / "rc").read_text() != "0\n"
    assert not (tmp_path / "told").exists()


def test_a_copy_that_cannot_be_written_is_a_fault(tmp_path: Path) -> None:
    done = passed(tmp_path, b"x", "told", "0", "", "there/is/none")
    assert (tmp_path / "rc").read_text() != "0\n"
    assert b"there/is/none" in done.stderr


@pytest.mark.parametrize(
    ("said", "took"),
    [
        (b"x\ntook 1.5 0.2\n", (1.5, 0.2)),
        (b"took 1.5 0.2\nmore\n", (0.0, 0.0)),
        (b"", (0.0, 0.0)),
        (b"\xff", (0.0, 0.0)),
    ],
)
def test_what_a_restore_took_is_read_from_its_last_line(said: bytes, took: tuple[float, float]) -> None:
    assert bring._took(said) == took
