"""MySQL and Percona Server with Percona XtraBackup: 8.0, 8.4 and 9.x.

Options, their names by version, packages, rights and exit statuses: Percona's documentation of XtraBackup 8.0, 8.4 and
9.7 (option reference, release notes, "Server version and backup version comparison"). The real program was not run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from opsdeck.api import Refused
from opsdeck_backup.engines.engine import RUN, Order, Server, Tool, check_grants

_OPTIONS = f"--defaults-extra-file={RUN}/my.cnf"
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:-(?:rc)?(\d+))?")
_OURS = re.compile(r"xtrabackup version (\S+)")
_ACCOUNTS = """set -u
ask() { mysql "$1" -N -B -r; }
accounts=$(ask "$1" <<'SQL'
SELECT CONCAT('SHOW CREATE USER ', QUOTE(user), '@', QUOTE(host), ';
SHOW GRANTS FOR ', QUOTE(user), '@', QUOTE(host), ';')
FROM mysql.user WHERE user NOT IN ('mysql.sys', 'mysql.session', 'mysql.infoschema')
SQL
) || exit 1
printf 'SET print_identified_with_as_hex = ON;\\n%s\\n' "$accounts" | ask "$1" | sed 's/$/;/'
"""

Version = tuple[int, int, int, int]


def release(text: str) -> Version | None:
    """Read a version: of the server (`8.4.6`, `8.0.42-33`) or of what the tool says of itself; None for neither."""
    if "MariaDB" in text:
        return None
    ours = _OURS.search(text)
    found = _VERSION.match(ours[1]) if ours else _VERSION.search(text)
    return (int(found[1]), int(found[2]), int(found[3]), int(found[4] or 0)) if found else None


@dataclass(frozen=True)
class Spelling:
    """How a version of the tool spells what its neighbours spell otherwise, and what it alone can do."""

    redo_only: str = "--apply-log-only"
    base: str = "--incremental-basedir"
    delta: str = "--incremental-dir"
    lock: str = "--lock-ddl=ON"
    checks_tables: bool = False
    """Whether the preparation can check every index of every InnoDB table."""


_FIRST = Spelling(lock="--lock-ddl")
_LTS = Spelling()
_CHECKED = replace(_LTS, checks_tables=True)
_RENAMED = Spelling(
    "--apply-redo-only", "--backup-incremental-base", "--prepare-incremental-from-dir", checks_tables=True
)
SPELLINGS: tuple[tuple[Version, Spelling], ...] = (
    ((8, 0, 0, 0), _FIRST),
    ((8, 1, 0, 0), _LTS),
    ((8, 4, 0, 6), _CHECKED),
    ((9, 0, 0, 0), _LTS),
    ((9, 7, 0, 0), _CHECKED),
    ((9, 7, 2, 2), _RENAMED),
)
"""From which version on which spelling holds."""


def spelling(tool: str) -> Spelling:
    """Give the spelling of the tool. Raises `Refused` for one that is not known."""
    version = release(tool)
    known = [spelt for since, spelt in SPELLINGS if version and since <= version]
    if not known or version is None or version[0] > 9:
        raise Refused(
            f"the xtrabackup there ({tool.strip() or 'none'}) is not one that is known.", hint="install 8.0, 8.4 or 9.x"
        )
    return known[-1]


class XtraBackup:
    """Implements `Engine`."""

    name = "mysql"
    tool = "xtrabackup"
    client = "mysql"
    server = "mysqld"
    extractor = "xbstream"
    user = "mysql"
    unit = "mysql"
    facts = "SELECT VERSION(), @@datadir, @@server_uuid"
    server_packages: tuple[str, ...] = ()
    grants: tuple[str, ...] = ("BACKUP_ADMIN", "PROCESS", "RELOAD", "LOCK TABLES", "REPLICATION CLIENT")

    def tool_for(self, version: str) -> Tool:
        """Give the package of the server's own line and the name of Percona's repository that has it."""
        running = release(version)
        if running is None or running[:2] < (8, 0) or running[0] > 9:
            raise Refused(
                f"no xtrabackup is known for a server {version or 'that is not there'}.", hint="8.0, 8.4 and 9.x are"
            )
        line = f"{running[0]}{running[1]}"
        repository = {"80": "pxb-80", "84": "pxb-84-lts", "97": "pxb-97-lts"}.get(line, f"pxb-{line[0]}x-innovation")
        return Tool((f"percona-xtrabackup-{line}",), repository)

    def backup(self, order: Order) -> tuple[str, ...]:
        """Give the words that stream a backup. It waits 60 s at most for the lock that keeps tables from changing."""
        spelt = spelling(order.tool)
        words = [
            *(self.tool, _OPTIONS, "--backup", "--stream=xbstream", f"--parallel={order.parallel}"),
            f"--target-dir={RUN}/scratch",
            *(f"--extra-lsndir={RUN}/lsn", "--open-files-limit=1048576", "--check-privileges", "--strict"),
            *("--no-version-check", spelt.lock, "--lock-ddl-timeout=60"),
        ]
        if order.throttle:
            words.append(f"--throttle={order.throttle}")
        if order.incremental:
            words.append(f"{spelt.base}={RUN}/base")
        return tuple(words)

    def accounts(self) -> tuple[str, ...]:
        """Give the words that print the accounts as SQL."""
        return ("sh", "-c", _ACCOUNTS, "accounts", _OPTIONS)

    def prepare(self, folders: Sequence[str], memory: int, tool: str) -> Sequence[tuple[str, ...]]:
        """Give one command for each link that applies its log only, and a last one that rolls back what never ended.

        Rolling back before the last increment would make the later ones unusable.
        """
        spelt = spelling(tool)
        base = (self.tool, "--prepare", f"--use-memory={memory}M", f"--target-dir={folders[0]}")
        last = (*base, "--check-tables") if spelt.checks_tables else base
        deltas = [(*base, spelt.redo_only, f"{spelt.delta}={folder}") for folder in folders[1:]]
        return [(*base, spelt.redo_only), *deltas, last]

    def place(self, folder: str, data: str) -> tuple[str, ...]:
        """Give the words that move a prepared copy into a data folder, which may hold what is its mount's own."""
        words = (self.tool, "--move-back", f"--target-dir={folder}", f"--datadir={data}")
        return (*words, "--force-non-empty-directories")

    def marker(self, version: str) -> bytes:
        """Give the chunk that ends a complete stream: the end of its last file, `xtrabackup_info`."""
        path = b"xtrabackup_info"
        return b"XBSTCK01\x00E" + len(path).to_bytes(4, "little") + path

    def gate(self, server: Server, host: str) -> None:
        """Raise `Refused` unless the tool is of the server's own line and the login may do what a backup needs."""
        tool, running = release(server.tool), release(server.version)
        if running is None:
            raise Refused(f"the server is {server.version or 'unknown'}, not MySQL.", host=host, field="engine")
        if running < (8, 0, 20, 0):
            raise Refused(f"MySQL {server.version} is older than 8.0.20.", host=host, hint="upgrade the server first")
        if tool is None or not _OURS.search(server.tool) or not _covers(tool, running):
            have = ".".join(map(str, tool[:3])) if tool and _OURS.search(server.tool) else "missing"
            raise Refused(
                f"xtrabackup is {have} and the server {server.version}: the backup might not restore.",
                host=host,
                hint=f"install {' '.join(self.tool_for(server.version).packages)}, as new as the server",
            )
        check_grants(server, self.grants, host)

    def fits(self, made: str, here: str) -> bool:
        """Tell whether `here`, a server or what a tool says of itself, can take over a backup made by a server `made`.

        A server of 8.0 cannot go back to a lower release; from 8.4 on it can, within its line.
        """
        one, other = release(made), release(here)
        if one is None or other is None or one[:2] != other[:2]:
            return False
        if _OURS.search(here):
            return _covers(other, one)
        return one[:2] != (8, 0) or other[:3] >= one[:3]


def _covers(tool: Version, server: Version) -> bool:
    """Tell whether a tool may copy a server: of its line; for 8.0 as new as it, or 8.0.34, which takes later ones."""
    if tool[:2] != server[:2]:
        return False
    return tool[:2] != (8, 0) or tool[2] >= min(server[2], 34)
