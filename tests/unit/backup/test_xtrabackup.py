"""What is asked of each line of XtraBackup, and which versions of it go with which servers."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from opsdeck_backup.engines import Order, Server, engine
from opsdeck_backup.engines.xtrabackup import release

from opsdeck.errors import Refused

MYSQL = engine("mysql")
STANDIN = Path(__file__).resolve().parents[2] / "standins" / "xtrabackup.sh"
TOOLS = {
    version: f"xtrabackup version {version} based on MySQL server {version[:3]} Linux (x86_64) (revision id: 0)"
    for version in ("8.0.28-21", "8.0.33-28", "8.0.35-36", "8.4.0-5", "8.4.0-7", "9.1.0-1", "9.7.1-rc1", "9.7.2-2")
}
GRANTS = ("GRANT BACKUP_ADMIN, PROCESS, RELOAD, LOCK TABLES, REPLICATION CLIENT ON *.* TO `opsdeck`@`localhost`",)
GOOD = Server(
    machine="x86_64", cores=2, lacks=(), rclone="rclone v1.75.2", data="/var/lib/mysql", version="8.4.6",
    tool=TOOLS["8.4.0-7"], grants=GRANTS,
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("8.4.6", (8, 4, 6, 0)),
        ("8.0.42-33", (8, 0, 42, 33)),
        ("/usr/sbin/mysqld  Ver 8.4.6 for Linux on x86_64 (MySQL Community Server - GPL)", (8, 4, 6, 0)),
        (TOOLS["9.7.1-rc1"], (9, 7, 1, 1)),
        (TOOLS["8.0.35-36"], (8, 0, 35, 36)),
        ("10.11.19-MariaDB-0+deb12u1", None),
        ("sh: 1: xtrabackup: not found", None),
        ("", None),
    ],
)
def test_versions_are_read(text, found):
    assert release(text) == found


@pytest.mark.parametrize(
    ("server", "package", "repository"),
    [
        ("8.0.42", "percona-xtrabackup-80", "pxb-80"),
        ("8.4.6-6", "percona-xtrabackup-84", "pxb-84-lts"),
        ("9.1.0", "percona-xtrabackup-91", "pxb-9x-innovation"),
        ("9.7.2", "percona-xtrabackup-97", "pxb-97-lts"),
    ],
)
def test_the_package_is_that_of_the_servers_line(server, package, repository):
    tool = MYSQL.tool_for(server)
    assert (tool.packages, tool.repository) == ((package,), repository)


@pytest.mark.parametrize("server", ["5.7.44", "10.11.19-MariaDB", "", "12.0.1"])
def test_a_server_that_no_tool_fits_is_refused(server):
    with pytest.raises(Refused, match="no xtrabackup is known"):
        MYSQL.tool_for(server)


def test_what_fits_passes():
    MYSQL.gate(GOOD, "db")
    MYSQL.gate(replace(GOOD, version="8.0.42", tool=TOOLS["8.0.35-36"]), "db")
    MYSQL.gate(replace(GOOD, version="9.7.3", tool=TOOLS["9.7.2-2"]), "db")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"tool": TOOLS["8.0.35-36"]}, "xtrabackup is 8.0.35 and the server 8.4.6"),
        ({"tool": "sh: 1: xtrabackup: not found"}, "missing"),
        ({"version": "8.0.36", "tool": TOOLS["8.0.28-21"]}, "xtrabackup is 8.0.28"),
        ({"version": "8.0.34", "tool": TOOLS["8.0.33-28"]}, "xtrabackup is 8.0.33"),
        ({"version": "9.1.0", "tool": TOOLS["9.7.2-2"]}, "xtrabackup is 9.7.2"),
        ({"version": "11.8.6-MariaDB"}, "not MySQL"),
        ({"version": "8.0.11"}, "older than 8.0.20"),
        ({"grants": ("GRANT SELECT ON *.* TO `b`@`%`",)}, "lacks BACKUP_ADMIN, PROCESS"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_sent(changed, said):
    with pytest.raises(Refused, match=said):
        MYSQL.gate(replace(GOOD, **changed), "db")


@pytest.mark.parametrize(
    ("made", "here", "fits"),
    [
        ("8.4.6", "8.4.3", True),
        ("8.4.6", TOOLS["8.4.0-5"], True),
        ("8.4.6", "9.7.2", False),
        ("8.0.42", "8.0.36", False),
        ("8.0.36", "8.0.42", True),
        ("8.0.42", TOOLS["8.0.35-36"], True),
        ("8.0.33", TOOLS["8.0.28-21"], False),
        ("8.4.6", "10.11.19-MariaDB", False),
    ],
)
def test_a_backup_goes_back_within_its_line(made, here, fits):
    assert MYSQL.fits(made, here) is fits


@pytest.mark.parametrize(
    ("tool", "lock", "base", "redo", "delta", "checked"),
    [
        ("8.0.35-36", "--lock-ddl", "--incremental-basedir", "--apply-log-only", "--incremental-dir", False),
        ("8.4.0-5", "--lock-ddl=ON", "--incremental-basedir", "--apply-log-only", "--incremental-dir", False),
        ("8.4.0-7", "--lock-ddl=ON", "--incremental-basedir", "--apply-log-only", "--incremental-dir", True),
        ("9.1.0-1", "--lock-ddl=ON", "--incremental-basedir", "--apply-log-only", "--incremental-dir", False),
        ("9.7.1-rc1", "--lock-ddl=ON", "--incremental-basedir", "--apply-log-only", "--incremental-dir", True),
        ("9.7.2-2", "--lock-ddl=ON", "--backup-incremental-base", "--apply-redo-only",
         "--prepare-incremental-from-dir", True),
    ],
)  # fmt: skip
def test_each_version_is_spoken_to_in_its_own_words(tool, lock, base, redo, delta, checked):
    words = MYSQL.backup(Order(incremental=True, parallel=2, throttle=5, tool=TOOLS[tool]))
    assert words[words.index("xtrabackup") + 1] == "--defaults-extra-file=@run@/my.cnf"
    assert {lock, f"{base}=@run@/base", "--throttle=5"} <= set(words)
    first, second, last = MYSQL.prepare(["/w/0", "/w/1"], 256, TOOLS[tool])
    assert first[-1] == redo
    assert second[-2:] == (redo, f"{delta}=/w/1")
    assert ("--check-tables" in last) is checked
    assert redo not in last


def test_a_single_full_backup_gets_its_last_preparation_too():
    assert len(MYSQL.prepare(["/w/0"], 256, TOOLS["8.4.0-7"])) == 2


@pytest.mark.parametrize(
    "tool", ["", "xtrabackup version 2.4.29 based on MySQL server 5.7.44", "xtrabackup version 10.1.0-1"]
)
def test_a_version_that_is_not_known_is_not_guessed_at(tool):
    with pytest.raises(Refused, match="not one that is known"):
        MYSQL.prepare(["/w/0"], 256, tool)


@pytest.fixture
def standin(tmp_path, request):
    """The stand-in of a version, with a mariadb-backup that only says well done."""
    file = tmp_path / "xtrabackup"
    file.write_text(STANDIN.read_text().replace("@version@", request.param))
    for name, text in (("mariadb-backup", "exit 0"), ("mysql", f"echo {request.param.split('-')[0]}")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)

    def run(*words):
        path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        return subprocess.run(["sh", str(file), *words], capture_output=True, text=True, env=path, timeout=20)

    run.version, run.folder = request.param, tmp_path
    return run


@pytest.mark.parametrize("standin", ["8.0.35-36", "8.4.0-7", "9.7.2-2"], indirect=True)
def test_the_standin_takes_every_word_that_is_asked_of_its_version(standin):
    tool = standin("--version").stdout
    assert release(tool) == release(TOOLS[standin.version])
    for incremental in (False, True):
        words = [word.replace("@run@", str(standin.folder)) for word in MYSQL.backup(Order(incremental, 2, 3, tool))]
        (standin.folder / "base").mkdir(exist_ok=True)
        done = standin(*words[words.index("xtrabackup") + 1 :])
        assert done.returncode == 0, done.stderr
    folders = [str(standin.folder / name) for name in ("a", "b", "c")]
    (standin.folder / "a").mkdir()
    for command in MYSQL.prepare(folders, 100, tool):
        done = standin(*command[1:])
        assert done.returncode == 0, done.stderr
        assert done.stderr.rstrip().endswith("completed OK!")
    assert standin(*MYSQL.prepare(folders, 100, tool)[1][1:]).returncode == 1, "nothing is added to what is prepared"
    assert standin(*MYSQL.place(folders[0], "/x")[1:]).returncode == 0


@pytest.mark.parametrize("standin", ["8.0.35-36", "8.4.0-7", "9.7.2-2"], indirect=True)
def test_the_standin_refuses_what_its_version_does_not_document(standin):
    place = f"--target-dir={standin.folder}/t"
    for words in (
        ("--backup", place, "--innodb-log-checkpoint-now"),
        ("--backup", place, "--defaults-extra-file=/x"),
        ("--backup", "--prepare", place),
        ("--backup",),
        ("--backup", place, "--stream=mbstream"),
    ):
        assert standin(*words).returncode == 255, words
    other = {"8.0": "--check-tables", "8.4": "--apply-redo-only"}.get(standin.version[:3])
    if other:
        assert standin("--prepare", place, other).returncode == 255
    else:
        assert standin("--prepare", place, "--apply-redo-only", f"--incremental-dir={place}").returncode == 255
