"""The tiny script of one poll, and what its output says. Pure.

Sources: proc(5) for /proc/stat, /proc/loadavg, /proc/meminfo, /proc/net/dev, /proc/net/route and ipv6_route.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from opsdeck.errors import OpsDeckError
from opsdeck.ssh.command import Script

SECONDS = 15.0

_TEXT = """\
exec 2>/dev/null </dev/null
LC_ALL=C PATH=$PATH:/usr/sbin:/sbin; export LC_ALL PATH
cd /proc && read -r boot < sys/kernel/random/boot_id && read -r cpu < stat && read -r load < loadavg
printf '\\n%s\\n%s\\n%s\\n%s\\n' "$1" "$boot" "$cpu" "$load"
sed -n '/^Mem\\|^Buffers\\|^Cached/p' meminfo
printf '%s df\\n' "$1"; timeout 5 df -Pk / | head -c 4096
printf '%s route\\n' "$1"; head -c 65536 net/route
printf '%s route6\\n' "$1"; grep -E '^0{32} 00 ' net/ipv6_route | head -c 65536
printf '%s dev\\n' "$1"; head -c 262144 net/dev
printf '%s end\\n' "$1"
"""
_FULL_ROUTE = "00000000"


class Unreadable(OpsDeckError):
    """A host answered a poll with something that is no answer."""


@dataclass(frozen=True)
class Counters:
    """What one poll read. Sizes in bytes; `cpu_*` in ticks since boot; `received` and `sent` since boot.

    `interfaces` are those whose bytes are counted: the ways out, or all but the loopback when there is none.
    """

    boot_id: str
    cpu_busy: int
    cpu_total: int
    load1: float
    memory_used: int
    memory_total: int
    disk_used: int
    disk_total: int
    received: int
    sent: int
    interfaces: tuple[str, ...]


def new_mark() -> str:
    """Give a mark that no host can guess."""
    return f"opsdeck-{secrets.token_hex(8)}"


def script(mark: str) -> Script:
    """Give the script of one poll."""
    return Script(text=_TEXT, args=(mark,), timeout=SECONDS)


def read(output: bytes, mark: str, *, host: str) -> Counters:
    """Make counters of the script's output. Raises `Unreadable` when a part is missing or makes no sense."""
    text = output.decode("utf-8", "backslashreplace")
    _, found, body = text.partition(f"\n{mark}\n")
    parts = {name: rows for name, rows in (_part(piece) for piece in f"head\n{body}".split(f"{mark} "))}
    if not found or "end" not in parts:
        raise Unreadable("its answer to a poll was cut short.", host=host, hint="look at it with `opsdeck host check`")
    try:
        return _counters(parts)
    except (ValueError, IndexError, KeyError) as fault:
        raise Unreadable(
            f"its answer to a poll makes no sense ({type(fault).__name__}).",
            host=host,
            hint="see that /proc is mounted there and that it runs Linux",
        ) from fault


def _part(piece: str) -> tuple[str, list[str]]:
    name, _, rows = piece.partition("\n")
    return name, rows.splitlines()


def _counters(parts: dict[str, list[str]]) -> Counters:
    boot, cpu, load, *memory = parts["head"]
    ticks = [int(word) for word in cpu.removeprefix("cpu").split()[:8]]
    idle = ticks[3] + (ticks[4] if len(ticks) > 4 else 0)
    sizes = {name: int(rest.split()[0]) * 1024 for name, _, rest in (row.partition(":") for row in memory)}
    free = sizes.get("MemAvailable", sizes["MemFree"] + sizes.get("Buffers", 0) + sizes.get("Cached", 0))
    disk = next((row.split() for row in parts.get("df", [])[1:] if row.split()), None)
    interfaces = _ways_out(parts)
    devices = _devices(parts["dev"])
    counted = [devices[name] for name in interfaces if name in devices]
    if not counted:
        interfaces = tuple(sorted(name for name in devices if name != "lo"))
        counted = [devices[name] for name in interfaces]
    return Counters(
        boot_id=boot.strip()[:64],
        cpu_busy=sum(ticks) - idle,
        cpu_total=sum(ticks),
        load1=float(load.split()[0]),
        memory_used=max(0, sizes["MemTotal"] - free),
        memory_total=sizes["MemTotal"],
        disk_used=int(disk[2]) * 1024 if disk else 0,
        disk_total=(int(disk[2]) + int(disk[3])) * 1024 if disk else 0,
        received=sum(pair[0] for pair in counted),
        sent=sum(pair[1] for pair in counted),
        interfaces=interfaces,
    )


def _ways_out(parts: dict[str, list[str]]) -> tuple[str, ...]:
    four = (row.split() for row in parts.get("route", [])[1:])
    six = (row.split() for row in parts.get("route6", []))
    names = {row[0] for row in four if len(row) > 7 and row[1] == _FULL_ROUTE and row[7] == _FULL_ROUTE}
    names |= {row[9] for row in six if len(row) > 9}
    return tuple(sorted(names - {"lo"}))


def _devices(rows: list[str]) -> dict[str, tuple[int, int]]:
    found = {}
    for row in rows:
        name, colon, numbers = row.rpartition(":")
        fields = numbers.split()
        if colon and len(fields) >= 16:
            found[name.strip()] = (int(fields[0]), int(fields[8]))
    if not found:
        raise ValueError("no network device")
    return found
