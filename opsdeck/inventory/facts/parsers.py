"""From the text of a section to values. Pure: no host, no clock.

A parser raises ValueError, IndexError or KeyError for a text that it does not know; the fact is then absent.
"""

from __future__ import annotations

import itertools
import re
import shlex

Value = str | int | float | bool | list[str]
"""What a fact may be: JSON-ready."""

_OS = re.compile(r"^([A-Z_]+)=(.*)$", re.MULTILINE)
_UPGRADE = re.compile(r"^Inst (\S+) (?:\[(\S+)\] )?\((\S+) (.*?)\)", re.MULTILINE)


def line(text: str, number: int = 0) -> str:
    """Give one line, stripped. Raises ValueError when it is empty."""
    value = text.splitlines()[number].strip()
    if not value:
        raise ValueError("an empty line")
    return value[:200]


def os_release(text: str, key: str) -> str:
    """Read a value of os-release(5)."""
    words = shlex.split(dict(_OS.findall(text))[key])
    return line(" ".join(words))


def colon(text: str, number: int = 1) -> str:
    """Give what stands behind the colon in one line of /proc/cpuinfo."""
    return line(text.splitlines()[number].partition(":")[2])


def kilobytes(text: str, key: str) -> int:
    """Read a line of /proc/meminfo; give bytes."""
    match = re.search(rf"^{re.escape(key)}:\s+(\d+) kB", text, re.MULTILINE)
    if match is None:
        raise KeyError(key)
    return int(match[1]) * 1024


def _df(text: str) -> list[list[str]]:
    rows = {}
    for row in text.splitlines():
        fields = row.split(None, 6)
        if len(fields) == 7 and fields[2].isdigit() and fields[3].isdigit():
            rows[fields[6]] = fields
    if not rows:
        raise ValueError("no file system")
    return [rows[mount] for mount in sorted(rows)]


def filesystems(text: str) -> list[str]:
    """Read `df -PTk`; give `mount type size-in-bytes` per file system."""
    return [f"{row[6]} {row[1]} {int(row[2]) * 1024}" for row in _df(text)]


def disk_use(text: str) -> list[str]:
    """Read `df -PTk`; give `mount used-share` per file system, in percent as df counts it."""
    return [f"{row[6]} {row[5]}" for row in _df(text)]


def root_free(text: str) -> int:
    """Read `df -PTk`; give the bytes that are free on `/`."""
    return next(int(row[4]) * 1024 for row in _df(text) if row[6] == "/")


def disks(text: str) -> list[str]:
    """Read `lsblk -P`; give `name size-in-bytes kind model` per disk."""
    found = []
    for row in text.splitlines():
        field = dict(word.partition("=")[::2] for word in shlex.split(row))
        if field.get("TYPE") != "disk":
            continue
        kind = "rotating" if field.get("ROTA") == "1" else "solid"
        found.append(f"{field['NAME']} {int(field['SIZE'])} {kind} {field.get('MODEL', '').strip()}".strip())
    return sorted(found)


def addresses(text: str) -> list[str]:
    """Read `ip -o addr`; give `interface address/prefix`, without addresses that come and go by themselves."""
    rows = (row.split() for row in text.splitlines() if " temporary " not in f" {row} ")
    return sorted(
        f"{row[1].partition('@')[0]} {row[3]}" for row in rows if len(row) > 3 and row[2] in ("inet", "inet6")
    )


def default_route(text: str) -> list[str]:
    """Read `ip -o route show default`; give `gateway interface`, the gateway `-` where there is none."""
    routes = []
    for row in text.splitlines():
        words = row.split()
        field = dict(itertools.pairwise(words))
        routes.append(f"{field.get('via', '-')} {field['dev']}")
    return sorted(set(routes))


def zone(text: str) -> str:
    """Give the time zone from /etc/timezone, else from where /etc/localtime leads."""
    rows = [row.strip() for row in text.splitlines() if row.strip()]
    for row in rows:
        if "zoneinfo/" in row:
            return row.partition("zoneinfo/")[2]
    return rows[0]


def seconds(text: str) -> int:
    """Give the first number as whole seconds."""
    return int(float(text.split(maxsplit=1)[0]))


def failed_units(text: str) -> list[str]:
    """Read `systemctl list-units --failed` behind the word that says that it could be read."""
    rows = text.splitlines()
    if rows[0] != "listed":
        raise ValueError("not listed")
    return sorted(row.split()[0] for row in rows[1:] if row.split())


def upgrades(text: str) -> list[str]:
    """Read `apt-get -s upgrade`; give `package old → new` each."""
    if "apt-get" not in text.splitlines()[0]:
        raise ValueError("no apt")
    return sorted(f"{name} {old or '-'} → {new}" for name, old, new, _ in _UPGRADE.findall(text))


def security_upgrades(text: str) -> int:
    """Read `apt-get -s upgrade`; count what comes from a security archive."""
    if "apt-get" not in text.splitlines()[0]:
        raise ValueError("no apt")
    return sum("security" in source.lower() for _, _, _, source in _UPGRADE.findall(text))


def listening(text: str) -> list[str]:
    """Read `ss -Hltun`; give `protocol address:port`."""
    rows = (row.split() for row in text.splitlines())
    return sorted({f"{row[0]} {row[4]}" for row in rows if len(row) > 4 and row[0] in ("tcp", "udp")})


def shell_milliseconds(text: str) -> int:
    """Give the time between two readings of the clock in nanoseconds, as milliseconds."""
    first, last = (int(row) for row in text.split())
    if last < first:
        raise ValueError("the clock went back")
    return (last - first) // 1_000_000


def yes(text: str) -> bool:
    """Read `yes` or `no`."""
    return {"yes": True, "no": False}[line(text)]


def words(text: str) -> list[str]:
    """Give the lines as they are, sorted."""
    return sorted(row.strip() for row in text.splitlines() if row.strip())
