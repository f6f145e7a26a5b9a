"""MariaDB and mariadb-backup, 10.5 to 11.8.

Options and file names: mariadb.com's documentation of mariadb-backup; that it has no version check, no
`--apply-log-only`, and takes `--defaults-extra-file` only as the first word, was tried on 10.11.19 and 11.8.6.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from opsdeck.api import Refused
from opsdeck_backup.engines.engine import RUN, Order, Server, Tool, check_grants

_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")
_OPTIONS = f"--defaults-extra-file={RUN}/my.cnf"


def release(text: str) -> tuple[int, int, int] | None:
    """Read `10.11.19-MariaDB-0+deb12u1`, or the line that a tool says of itself; None when it has none."""
    found = re.search(r"(\d+\.\d+\.\d+)-MariaDB", text) or re.match(r"(\d+\.\d+\.\d+)", text)
    parts = _VERSION.match(found[1]) if found else None
    return (int(parts[1]), int(parts[2]), int(parts[3])) if parts else None


class MariaDB:
    """Implements `Engine`."""

    name = "mariadb"
    tool = "mariadb-backup"
    client = "mariadb"
    server = "mariadbd"
    extractor = "mbstream"
    user = "mysql"
    unit = "mariadb"
    facts = "SELECT VERSION(), @@datadir, @@server_id"
    server_packages: tuple[str, ...] = ("mariadb-server",)
    grants: tuple[str, ...] = ("RELOAD", "PROCESS", "LOCK TABLES", "BINLOG MONITOR")

    def tool_for(self, version: str) -> Tool:
        """Give Debian's package: it is of the series of Debian's server."""
        return Tool(("mariadb-backup",))

    def backup(self, order: Order) -> tuple[str, ...]:
        """Give the words that stream a backup. Queries are never killed: it gives up waiting for a lock after 60 s."""
        words = [
            *(self.tool, _OPTIONS, "--backup", "--stream=mbstream", f"--parallel={order.parallel}"),
            f"--target-dir={RUN}/scratch",
            *(f"--extra-lsndir={RUN}/lsn", "--open-files-limit=1048576", "--ftwrl-wait-timeout=60"),
            "--innodb-log-checkpoint-now",
        ]
        if order.throttle:
            words.append(f"--throttle={order.throttle}")
        if order.incremental:
            words.append(f"--incremental-basedir={RUN}/base")
        return tuple(words)

    def accounts(self) -> tuple[str, ...]:
        """Give the words that print the accounts as SQL."""
        return ("mariadb-dump", _OPTIONS, "--system=users")

    def prepare(self, folders: Sequence[str], memory: int, tool: str) -> Sequence[tuple[str, ...]]:
        """Give one command for the full backup and one for each increment, in order."""
        base = (self.tool, "--prepare", f"--use-memory={memory}M", f"--target-dir={folders[0]}")
        return [base, *((*base, f"--incremental-dir={folder}") for folder in folders[1:])]

    def place(self, folder: str, data: str) -> tuple[str, ...]:
        """Give the words that move a prepared copy into a data folder, which may hold what is its mount's own."""
        words = (self.tool, "--move-back", f"--target-dir={folder}", f"--datadir={data}")
        return (*words, "--force-non-empty-directories")

    def marker(self, version: str) -> bytes:
        """Give the chunk that ends a complete stream: the end of the last file (measured on 10.11.19).

        The file is `mariadb_backup_info` from 11.1 on.
        """
        path = b"xtrabackup_info" if (release(version) or (0, 0, 0)) < (11, 1, 0) else b"mariadb_backup_info"
        return b"XBSTCK01\x00E" + len(path).to_bytes(4, "little") + path

    def gate(self, server: Server, host: str) -> None:
        """Raise `Refused` unless the tool is of the server's own series and the login may do what a backup needs."""
        tool, running = release(server.tool), release(server.version)
        if running is None or "MariaDB" not in server.version:
            raise Refused(f"the server is {server.version or 'unknown'}, not MariaDB.", host=host, field="engine")
        if running < (10, 5, 0):
            raise Refused(f"MariaDB {server.version} is older than 10.5.", host=host, hint="upgrade the server first")
        if tool is None or tool[:2] != running[:2]:
            have = ".".join(map(str, tool)) if tool else "missing"
            raise Refused(
                f"{self.tool} is {have} and the server {server.version}: the tool would not notice, and the backup "
                "might not restore.",
                host=host,
                hint=f"install the {self.tool} of the server's own series",
            )
        check_grants(server, self.grants, host)

    def fits(self, made: str, here: str) -> bool:
        """Tell whether both are of one series, such as 10.11."""
        one, other = release(made), release(here)
        return one is not None and other is not None and one[:2] == other[:2]
