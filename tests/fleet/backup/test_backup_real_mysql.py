"""What is asked of MySQL itself, asked of a real one (Debian's sid): the look, the rights, the accounts, the drill.

XtraBackup is in no registry of Debian's, so copying is not part of it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from opsdeck_backup import look
from opsdeck_backup.engines import engine
from opsdeck_backup.engines.engine import RUN

from opsdeck.errors import Refused
from opsdeck.lab.fleet.images import cache_folder

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(900)]
MYSQL = engine("mysql")
TOOL = "xtrabackup version 9.7.2-2 based on MySQL server 9.7.2 Linux (x86_64) (revision id: 0)"
NOTED = """[mysqld]
innodb_checksum_algorithm=crc32
innodb_log_checksums=1
innodb_data_file_path=ibdata1:12M:autoextend
innodb_page_size=16384
innodb_undo_directory=./
innodb_undo_tablespaces=2
server_id=1
innodb_redo_log_encrypt=OFF
innodb_undo_log_encrypt=OFF
plugin_load=
server_uuid=5c3a2f0e-0000-11f0-9b5e-0242ac120002
master_key_id=0
"""


class System:
    """A system with MySQL in it, entered by chroot."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.server: subprocess.Popen[bytes] | None = None

    def run(self, *words: str, given: str = "", check: bool = True) -> str:
        done = subprocess.run(
            ["chroot", str(self.root), *words], input=given.encode(), capture_output=True, timeout=300, check=False
        )
        assert not check or done.returncode == 0, (words[:3], done.stdout[-800:], done.stderr[-800:])
        return done.stdout.decode("utf-8", "replace")

    def script(self, text: str, *words: str, given: str = "", check: bool = True) -> str:
        return self.run("sh", "-c", text, "sh", *words, given=given, check=check)

    def sql(self, text: str) -> str:
        return self.run("mysql", "-N", "-B", given=text).strip()

    def start(self) -> None:
        words = ["mysqld", "--user=mysql", "--skip-networking", "--mysqlx=OFF", "--innodb-buffer-pool-size=64M"]
        self.server = subprocess.Popen(
            ["chroot", str(self.root), *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(600):
            if "1" in self.run("mysql", "-N", "-e", "SELECT 1", check=False):
                return
            assert self.server.poll() is None, "mysqld did not start"
            time.sleep(0.1)
        raise AssertionError("mysqld does not answer")

    def stop(self) -> None:
        if self.server is not None:
            self.server.terminate()
            self.server.wait(60)
            self.server = None


@pytest.fixture(scope="module")
def mysql(absent: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A server with some data and an account that may back up; its system is made once, which takes some minutes."""
    if os.geteuid() != 0 or not shutil.which("debootstrap"):
        absent("MySQL needs root and debootstrap to make its system", installable=False)
    below = cache_folder() / "mysql-sid-client"
    if not below.is_dir():
        building = below.with_suffix(".building")
        shutil.rmtree(building, ignore_errors=True)
        words = ["--variant=minbase", "--include=mysql-server-core,mysql-client-core,openssl", "sid", str(building)]
        done = subprocess.run(["debootstrap", *words], capture_output=True, text=True, check=False)
        if done.returncode:
            absent(f"MySQL could not be had: {done.stdout[-300:]}", installable=False)
        building.rename(below)
    place = tmp_path_factory.mktemp("mysql")
    for name in ("upper", "work", "root"):
        (place / name).mkdir()
    options = f"lowerdir={below},upperdir={place / 'upper'},workdir={place / 'work'}"
    root = place / "root"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(root)], check=True)
    for what in ("proc", "dev"):
        subprocess.run(["mount", "--rbind", f"/{what}", str(root / what)], check=True)
        subprocess.run(["mount", "--make-rslave", str(root / what)], check=True)
    system = System(root)
    try:
        system.script(
            "id mysql >/dev/null 2>&1 || useradd --system mysql; mkdir -p /var/run/mysqld /var/lib/mysql-files; "
            "rm -rf /var/lib/mysql; install -d -o mysql -g mysql /var/lib/mysql; chown mysql /var/run/mysqld; "
            "mysqld --initialize-insecure --user=mysql --datadir=/var/lib/mysql"
        )
        system.start()
        rights = ", ".join(MYSQL.grants)
        system.sql(
            "CREATE DATABASE shop; CREATE TABLE shop.orders (id INT PRIMARY KEY AUTO_INCREMENT, note TEXT); "
            "INSERT INTO shop.orders (note) VALUES ('a'), ('b'), ('c'); "
            "CREATE USER opsdeck@localhost IDENTIFIED BY 'pass-word'; "
            "CREATE USER weak@localhost IDENTIFIED BY 'pass-word'"
        )
        system.sql(f"GRANT {rights} ON *.* TO opsdeck@localhost")
        yield system
    finally:
        system.stop()
        for what in ("proc", "dev"):
            subprocess.run(["umount", "--recursive", "--lazy", str(root / what)], check=False)
        subprocess.run(["umount", "--lazy", str(root)], check=False)


def seen(system: System, login: str) -> Any:
    words = (MYSQL.tool, MYSQL.client, "rclone", MYSQL.server, MYSQL.facts)
    return look.parse("db", system.script(look.shell("probe"), *words, given=login).encode())


def test_the_look_reads_a_real_mysql(mysql):
    found = seen(mysql, "[client]\nuser=opsdeck\npassword=pass-word\n")
    assert found.fault == ""
    assert found.version.startswith("9.")
    assert MYSQL.fits(found.version, found.program)
    assert (found.data, len(found.id), found.lsn > 0, found.used > 10) == ("/var/lib/mysql", 36, True, True)
    assert found.birth
    before = found.lsn
    mysql.sql("INSERT INTO shop.orders (note) SELECT note FROM shop.orders")
    assert seen(mysql, "[client]\nuser=opsdeck\npassword=pass-word\n").lsn > before
    ready = replace(found, tool=TOOL.replace("9.7.2", ".".join(found.version.split(".")[:3])))
    MYSQL.gate(ready, "db")
    MYSQL.gate(replace(ready, grants=seen(mysql, "[client]\nuser=root\n").grants), "db")
    with pytest.raises(Refused, match="lacks BACKUP_ADMIN"):
        MYSQL.gate(replace(ready, grants=seen(mysql, "[client]\nuser=weak\npassword=pass-word\n").grants), "db")
    assert "Access denied" in seen(mysql, "[client]\nuser=nobody\n").fault


def test_the_accounts_come_back_from_what_was_kept(mysql):
    mysql.run("sh", "-c", "printf '[client]\\nuser=root\\n' >/tmp/my.cnf")
    words = [word.replace(RUN, "/tmp") for word in MYSQL.accounts()]
    kept = mysql.run(*words)
    assert "CREATE USER `opsdeck`@`localhost`" in kept
    mysql.sql("DROP USER opsdeck@localhost")
    own = [line for line in kept.splitlines() if "opsdeck" in line]
    mysql.sql("\n".join(own))
    assert "BACKUP_ADMIN" in mysql.sql("SHOW GRANTS FOR opsdeck@localhost")
    assert mysql.run("mysql", "-uopsdeck", "-ppass-word", "-N", "-e", "SELECT 7").strip() == "7"


def test_a_drill_starts_a_real_mysql_on_what_the_tool_leaves(mysql):
    count = mysql.sql("SELECT COUNT(*) FROM shop.orders")
    mysql.stop()
    mysql.run("cp", "-a", "/var/lib/mysql", "/var/lib/drill")
    mysql.run("sh", "-c", "cat >/var/lib/drill/backup-my.cnf", given=NOTED)
    words = ("/var/lib/drill", "mysql", "96", MYSQL.server, MYSQL.client)
    # What a restore keeps on a claim that is all data: a hidden folder whose files have other names.
    mysql.script(
        'cd /var/lib/drill && mkdir -p "$1/shop" && cp shop/orders.ibd "$1/shop/orders.ibd.kept"', ".opsdeck-before-x"
    )
    unseen = "SELECT COUNT(*) = 0 FROM information_schema.schemata WHERE schema_name LIKE '%opsdeck%'"
    said = mysql.script(look.shell("check", "drill"), *words, "SELECT COUNT(*) FROM shop.orders", unseen)
    assert "sound" in said
    assert f"answered {count}" in said
    mysql.run("sh", "-c", "dd if=/dev/urandom of=/var/lib/drill/shop/orders.ibd bs=16384 seek=3 count=2 conv=notrunc")
    assert "sound" not in mysql.script(look.shell("check", "drill"), *words, check=False)
    mysql.start()
