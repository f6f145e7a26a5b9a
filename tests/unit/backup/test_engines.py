"""What is asked of mariadb-backup, and which versions go together."""

from __future__ import annotations

from dataclasses import replace

import pytest
from opsdeck_backup import look
from opsdeck_backup.engines import Order, Server, engine
from opsdeck_backup.engines.mariadb import release

from opsdeck.errors import NotFound, Refused, Unavailable

MARIA = engine("mariadb")
GOOD = Server(
    machine="x86_64", cores=2, lacks=(), rclone="rclone v1.75.2", data="/var/lib/mysql",
    version="10.11.19-MariaDB-0+deb12u1",
    tool="mariadb-backup based on MariaDB server 10.11.19-MariaDB debian-linux-gnu (x86_64)",
    grants=("GRANT ALL PRIVILEGES ON *.* TO `root`@`localhost` IDENTIFIED VIA unix_socket WITH GRANT OPTION",),
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("10.11.19-MariaDB-0+deb12u1", (10, 11, 19)),
        ("mariadb-backup based on MariaDB server 11.8.6-MariaDB debian-linux-gnu (x86_64)", (11, 8, 6)),
        ("mariadbd  Ver 10.11.19-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64 (Debian 12)", (10, 11, 19)),
        ("sh: 1: mariadb-backup: not found", None),
        ("", None),
    ],
)
def test_versions_are_read(text, found):
    assert release(text) == found


def test_what_fits_passes():
    MARIA.gate(GOOD, "db")
    MARIA.gate(replace(GOOD, grants=("GRANT RELOAD, PROCESS, LOCK TABLES, BINLOG MONITOR ON *.* TO `b`@`%`",)), "db")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"tool": "mariadb-backup based on MariaDB server 11.8.6-MariaDB"}, "would not notice"),
        ({"tool": "not found"}, "missing"),
        ({"version": "8.4.3"}, "not MariaDB"),
        ({"version": "10.4.3-MariaDB", "tool": "x 10.4.3-MariaDB"}, "older than 10.5"),
        ({"grants": ("GRANT RELOAD, PROCESS ON *.* TO `b`@`%`",)}, "lacks LOCK TABLES, BINLOG MONITOR"),
        ({"grants": ()}, "lacks RELOAD"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_sent(changed, said):
    with pytest.raises(Refused, match=said):
        MARIA.gate(replace(GOOD, **changed), "db")


def test_the_options_file_is_the_tools_first_word_and_no_secret_is_a_word():
    words = MARIA.backup(Order(incremental=True, parallel=2, throttle=5))
    at = words.index("mariadb-backup")
    assert words[at + 1] == "--defaults-extra-file=@run@/my.cnf"
    assert "--throttle=5" in words
    assert "--incremental-basedir=@run@/base" in words
    assert not any("password" in word for word in words)


def test_increments_are_prepared_in_order_and_without_an_option_that_mariadb_does_not_have():
    commands = MARIA.prepare(["/w/0", "/w/1", "/w/2"], 256, GOOD.tool)
    assert [command[-1] for command in commands] == [
        "--target-dir=/w/0",
        "--incremental-dir=/w/1",
        "--incremental-dir=/w/2",
    ]
    assert not any("apply-log-only" in word for command in commands for word in command)


def test_the_end_marker_names_the_file_of_the_series():
    assert MARIA.marker("10.11.19-MariaDB").endswith(b"xtrabackup_info")
    assert MARIA.marker("11.8.6-MariaDB").endswith(b"mariadb_backup_info")


def test_an_unknown_engine_is_named():
    with pytest.raises(NotFound, match="oracle"):
        engine("oracle")


def test_a_look_that_broke_off_is_no_look():
    with pytest.raises(Unavailable):
        look.parse("db", b"machine x86_64\ncores 2\n")


def test_hostile_output_of_a_host_stays_text():
    seen = look.parse("db", b"cores many\nlsn \xff\xfe\nused -3\nversion <b>1</b>\nend\n")
    assert (seen.cores, seen.lsn, seen.used) == (1, 0, 0)
    assert seen.version == "<b>1</b>"
