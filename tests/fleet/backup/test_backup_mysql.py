"""MySQL through XtraBackup: the whole way with a strict stand-in for each line, and with the real one where it is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from opsdeck.lab.fleet import LabHost

STANDINS = Path(__file__).resolve().parents[2] / "standins"
MYSQL = {
    "name": "store", "host": "bk-db", "remote": "store:backups", "store_secret": "s3", "key_secret": "key",
    "engine": "mysql",
}  # fmt: skip
LINES = {"8.0": ("8.0.42", "8.0.35-36", "pxb-80"), "8.4": ("8.4.6", "8.4.0-7", "pxb-84-lts"),
         "9.7": ("9.7.2", "9.7.2-2", "pxb-97-lts")}  # fmt: skip


def sql(host: LabHost, text: str) -> str:
    return host.execute(["mariadb", "-N", "-B"], stdin=text, timeout=120).strip()


def put(host: LabHost, path: str, text: str, mode: str = "755") -> None:
    host.execute(["sh", "-c", 'mkdir -p "${1%/*}" && cat >"$1" && chmod "$2" "$1"', "sh", path, mode], stdin=text)


def package(host: LabHost, line: str, tool: str, repository: str) -> None:
    """Make a package of the stand-in in a repository of the host, which its `percona-release` can make known to apt."""
    name = f"percona-xtrabackup-{line.replace('.', '')}"
    build = f"/srv/{repository}/{name}"
    text = (STANDINS / "xtrabackup.sh").read_text().replace("@version@", tool)
    put(host, f"{build}/usr/bin/xtrabackup", text)
    put(host, f"{build}/usr/bin/xbstream", '#!/bin/sh\nexec mbstream "$@"\n')
    put(
        host,
        f"{build}/DEBIAN/control",
        f"Package: {name}\nVersion: {tool}-1\nArchitecture: all\nMaintainer: nobody <n@example.org>\nDescription: x\n",
        "644",
    )
    put(
        host,
        "/usr/bin/percona-release",
        '#!/bin/sh\n[ "$1" = enable ] && [ "$3" = release ] && [ -d "/srv/$2" ] || exit 1\n'
        'echo "deb [trusted=yes] file:/srv/$2 ./" >/etc/apt/sources.list.d/percona.list\n',
    )
    host.execute(
        ["sh", "-ec", 'cd "$1"; dpkg-deb -b "$2" >/dev/null; { cat "$2/DEBIAN/control"; '
         'echo "Filename: ./$2.deb"; echo "Size: $(stat -c %s "$2.deb")"; '
         'echo "SHA256: $(sha256sum <"$2.deb" | cut -c1-64)"; } >Packages; rm -rf "$2"',
         "sh", f"/srv/{repository}", name]
    )  # fmt: skip


@pytest.fixture
def mysql(databases: tuple[LabHost, LabHost], request: pytest.FixtureRequest) -> Iterator[str]:
    """Both hosts with a server that calls itself MySQL, and a vendor's repository with the tool of its line."""
    server, tool, repository = LINES[request.param]
    for host in databases:
        for path in ("/usr/local/bin/mysql", "/usr/local/sbin/mysqld"):
            put(host, path, (STANDINS / "mysql.sh").read_text().replace("@version@", server))
        package(host, request.param, tool, repository)
    yield request.param
    for host in databases:
        host.execute(
            ["sh", "-c", "apt-get -qq -y purge 'percona-xtrabackup*' >/dev/null 2>&1; rm -rf /usr/local/bin/mysql "
             "/usr/local/sbin/mysqld /usr/bin/percona-release /etc/apt/sources.list.d/percona.list /srv/pxb-*"]
        )  # fmt: skip


@pytest.mark.parametrize(
    "mysql",
    ["8.4", pytest.param("8.0", marks=pytest.mark.campaign), pytest.param("9.7", marks=pytest.mark.campaign)],
    indirect=True,
)
async def test_a_chain_of_mysql_is_taken_and_restored_in_its_lines_words(world: Any, mysql: str) -> None:
    await world.good("target", **MYSQL)
    first = await world.good("run", target="store")
    assert first["kind"] == "full"
    installed = world.db.execute(["dpkg-query", "-W", "-f", "${Package}\n", "percona-xtrabackup-*"]).split()
    assert installed == [f"percona-xtrabackup-{mysql.replace('.', '')}"]
    for _ in range(2):
        sql(world.db, "INSERT INTO shop.orders (note) VALUES ('later')")
        assert (await world.good("run", target="store"))["kind"] == "incremental"
    before = sql(world.db, "CHECKSUM TABLE shop.orders")
    drill = await world.good("drill", target="store", host="bk-spare")
    assert drill["tables"] > 10
    told = await world.good("restore", target="store", onto="bk-spare", unit="mariadb")
    assert told["links"] == 3
    assert sql(world.spare, "CHECKSUM TABLE shop.orders") == before


@pytest.mark.parametrize("mysql", ["8.4"], indirect=True)
async def test_a_tool_of_another_line_or_an_unknown_vendor_is_refused(world: Any, mysql: str) -> None:
    await world.good("target", **MYSQL)
    world.db.execute(["rm", "/usr/bin/percona-release"])
    assert "apt there does not know percona-xtrabackup-84" in await world.bad("run", target="store")
    put(world.db, "/usr/local/bin/mysql", (STANDINS / "mysql.sh").read_text().replace("@version@", "8.3.0"))
    assert "percona-xtrabackup-83" in await world.bad("run", target="store")
    put(world.db, "/usr/local/bin/mysql", (STANDINS / "mysql.sh").read_text().replace("@version@", "10.11.6-MariaDB"))
    assert "no xtrabackup is known" in await world.bad("run", target="store")
    assert world.s3.files("store/**/*") == []


SEED = """set -eu
mkdir -p /root/seed/backups && cd /root/seed
for name in base inc-2026-07-30_02:00:00 inc-2026-07-31_02:00:00; do
  if [ "$name" = base ]; then
    xtrabackup --backup --compress=zstd --target-dir=./backups/base
  else
    mariadb -e "INSERT INTO shop.orders (note) VALUES ('$name')"
    xtrabackup --backup --compress=zstd --target-dir="./backups/$name" --incremental-basedir="./backups/$last"
  fi
  last=$name
done >/root/seed/log 2>&1
mkdir backups/inc-2026-08-01_02:00:00 && cp backups/base/ibdata1.zst backups/inc-2026-08-01_02:00:00/
cp /etc/mysql/my.cnf backups/
"""


@pytest.mark.parametrize("mysql", ["8.4"], indirect=True)
async def test_a_chain_of_plain_folders_is_taken_over_proven_and_restored(world: Any, mysql: str) -> None:
    await world.good("target", **MYSQL)
    name = f"percona-xtrabackup-{mysql.replace('.', '')}"
    for host in (world.db, world.spare):
        host.execute(["sh", "-ec", 'dpkg -i /srv/pxb-*/"$1.deb" >/dev/null', "sh", name])
    world.db.execute(["sh", "-c", SEED], timeout=120)
    before = sql(world.db, "CHECKSUM TABLE shop.orders")
    theirs = world.s3.folder / "backups" / "prod"
    shutil.copytree(world.db.root / "root/seed/backups", theirs)
    world.db.execute(["rm", "-rf", "/root/seed"])
    world.s3.stop()  # it remembers what its folder held
    world.s3.start()
    whole = sorted(str(file.relative_to(theirs)) for file in theirs.rglob("*"))

    told = await world.good("adopt", target="store", folder="store:backups/prod")
    assert len(told["backups"]) == 3
    assert told["left"] == {"inc-2026-08-01_02:00:00": "it has no checkpoints: it was broken off"}
    assert (await world.good("adopt", target="store", folder="store:backups/prod"))["backups"] == told["backups"]
    listed = await world.good("refresh", target="store")
    assert (listed["backups"], listed["damaged"]) == (3, {})
    back = await world.good("restore", target="store", onto="bk-spare", unit="mariadb")
    assert (back["links"], back["backup"]) == (3, told["backups"][-1])
    assert sql(world.spare, "CHECKSUM TABLE shop.orders") == before

    ours = await world.good("run", target="store")
    assert (ours["kind"], "made by another" in ours["reason"]) == ("full", True)
    assert (await world.good("prune", target="store"))["removed"] == []
    assert sorted(str(file.relative_to(theirs)) for file in theirs.rglob("*")) == whole
    file = theirs / "inc-2026-07-30_02:00:00" / "ibdata1.delta.zst"
    text = bytearray(file.read_bytes())
    text[len(text) // 2] ^= 1
    file.write_bytes(text)
    said = await world.bad("drill", target="store", backup=told["backups"][-1], host="bk-spare", depth="read")
    assert "was changed since it was taken over" in said


REAL = os.environ.get("OPSDECK_PERCONA_DEBS", "")


@pytest.mark.campaign
@pytest.mark.skipif(
    not REAL, reason="no Percona XtraBackup: OPSDECK_PERCONA_DEBS names a folder of its and MySQL's .deb"
)
async def test_the_real_xtrabackup_takes_and_restores_a_chain(world: Any) -> None:
    """The way of the first test, with the vendor's own server and tool; both hosts are theirs alone meanwhile."""
    for host in (world.db, world.spare):
        host.execute(
            ["sh", "-ec", "systemctl stop mariadb; mv /var/lib/mysql /var/lib/mysql.maria; mkdir -p /srv/debs"]
        )
        for file in Path(REAL).glob("*.deb"):
            shutil.copy(file, host.root / "srv/debs" / file.name)
        host.execute(["sh", "-ec", "apt-get -q update; apt-get -q -y install /srv/debs/*.deb"], timeout=600)

    def ask(host: LabHost, text: str) -> str:
        return host.execute(["mysql", "-N", "-B"], stdin=text, timeout=120).strip()

    ask(world.db, "CREATE DATABASE shop; CREATE TABLE shop.orders (id INT PRIMARY KEY AUTO_INCREMENT, note TEXT)")
    await world.good("target", **MYSQL)
    for kind in ("full", "incremental", "incremental"):
        ask(world.db, "INSERT INTO shop.orders (note) VALUES ('x')")
        assert (await world.good("run", target="store"))["kind"] == kind
    before = ask(world.db, "CHECKSUM TABLE shop.orders")
    assert (await world.good("drill", target="store", host="bk-spare"))["tables"] > 10
    await world.good("restore", target="store", onto="bk-spare")
    assert ask(world.spare, "CHECKSUM TABLE shop.orders") == before
