"""Positions by GTID: MariaDB's newest number per domain, MySQL's sets of ranges per server."""

from __future__ import annotations

NOTHING = "00000000-0000-0000-0000-000000000000:1"
"""A set of MySQL that has no transaction of any server: the library takes an empty one for "from now on"."""


def tagged(position: str) -> bool:
    """Tell whether a set of MySQL has tags, as `server:tag:1-5`."""
    return any(not part[:1].isdigit() for one in position.split(",") for part in one.strip().split(":")[1:])


def _maria(position: str) -> dict[str, tuple[str, int]]:
    found = {}
    for part in position.split(","):
        if part.strip():
            domain, server, sequence = part.strip().split("-")
            found[domain] = (server, int(sequence))
    return found


def maria_covers(position: str, goal: str) -> bool:
    """Tell whether a position of MariaDB is at `goal` or beyond, in each of its domains."""
    ours = _maria(position)
    return all(domain in ours and ours[domain][1] >= number for domain, (_server, number) in _maria(goal).items())


def _mysql(position: str) -> dict[str, list[tuple[int, int]]]:
    found: dict[str, list[tuple[int, int]]] = {}
    for part in position.replace("\n", "").split(","):
        if part.strip():
            source, *ranges = part.strip().split(":")
            for one in ranges:
                first, _, last = one.partition("-")
                found.setdefault(source, []).append((int(first), int(last or first)))
    return {source: _joined(ranges) for source, ranges in found.items()}


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    made: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if made and first <= made[-1][1] + 1:
            made[-1] = (made[-1][0], max(made[-1][1], last))
        else:
            made.append((first, last))
    return made


def mysql_covers(position: str, goal: str) -> bool:
    """Tell whether a set of transactions of MySQL holds all of `goal`."""
    ours = _mysql(position)
    return all(
        any(first <= low and high <= last for first, last in ours.get(source, []))
        for source, ranges in _mysql(goal).items()
        for low, high in ranges
    )


def advanced(position: str, gtid: str, *, maria: bool) -> str:
    """Add a transaction to a position."""
    if maria:
        ours = _maria(position) | _maria(gtid)
        return ",".join(f"{domain}-{server}-{number}" for domain, (server, number) in sorted(ours.items()))
    known = _mysql(position)
    for source, ranges in _mysql(gtid).items():
        known[source] = _joined([*known.get(source, []), *ranges])
    return ",".join(
        source + "".join(f":{first}-{last}" if last > first else f":{first}" for first, last in ranges)
        for source, ranges in sorted(known.items())
    )
