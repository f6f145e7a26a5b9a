"""The processes of a play host: started in a session of their own, found again and ended with the host.

A command may leave its session (`setsid`, `nohup`, a double fork) and live on when its channel is gone, as on a real
host. So each process carries a mark in its environment; what carries the mark, shares a session with one that does, or
descends from one, belongs to the host.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

MARK = "OPSDECK_PLAY_HOST"

_PROC = Path("/proc")


def start(
    argv: Sequence[str],
    *,
    cwd: Path,
    env: dict[str, str],
    terminal: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start `argv` as the leader of a new session, on pipes or with the file descriptor `terminal` as its terminal.

    Raises OSError when it cannot be started.
    """
    if terminal is not None:
        argv = ("setsid", "--ctty", *argv)
    stream = subprocess.PIPE if terminal is None else terminal
    return subprocess.Popen(
        argv, stdin=stream, stdout=stream, stderr=stream, cwd=cwd, env=env, bufsize=0, start_new_session=True
    )


async def wait(child: subprocess.Popen[bytes]) -> int:
    """Wait for `child` without holding the loop; give its return code (negative: ended by that signal)."""
    loop = asyncio.get_running_loop()
    try:
        handle = os.pidfd_open(child.pid)
    except OSError:  # forbidden in some containers; ask now and then instead
        while (code := child.poll()) is None:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.02)
        return code
    ended = asyncio.Event()
    loop.add_reader(handle, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)
    return child.wait()


def end_marked(mark: str) -> int:
    """Kill every process that belongs to a host marked `mark` (or to one whose mark begins with `mark/`).

    Looks again until none is left (for about a second at most), since a process may fork while it is looked for.
    Gives the number of processes that were found.
    """
    killed: set[int] = set()
    for _ in range(100):
        found = belonging(mark)
        if not found:
            break
        for pid in found:
            kill(pid)
        killed |= found
        time.sleep(0.01)
    return len(killed)


def kill(pid: int) -> None:
    """Kill a process; one that has gone, or is not ours, is left."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def below(parent: int) -> set[int]:
    """Give the live processes that descend from `parent`."""
    table = _table()
    return _with_descendants({parent}, table) - {parent}


def belonging(mark: str) -> set[int]:
    """Give the live processes that belong to a host marked `mark`, or to one whose mark begins with `mark/`."""
    exact, prefix = f"{MARK}={mark}".encode(), f"{MARK}={mark}/".encode()
    table = _table()
    marked: set[int] = set()
    for pid in table:
        try:
            environ = (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # another user's: reached by its session or its parent below
        if any(item == exact or item.startswith(prefix) for item in environ):
            marked.add(pid)
    marked.discard(os.getpid())
    outside = os.getsid(0)
    known = {table[pid][1] for pid in marked} - {outside}
    marked |= {pid for pid, (_, number) in table.items() if number in known}
    return _with_descendants(marked, table)


def _with_descendants(pids: set[int], table: dict[int, tuple[int, int]]) -> set[int]:
    found = set(pids)
    while more := {pid for pid, (parent, _) in table.items() if parent in found} - found:
        found |= more
    return found


def _table() -> dict[int, tuple[int, int]]:
    """Give the parent and the session of every live process. Source: proc(5), /proc/PID/stat."""
    found = {}
    for folder in _PROC.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            state, parent, _, number = (folder / "stat").read_bytes().rpartition(b")")[2].split()[:4]
        except (OSError, ValueError):
            continue
        if state not in (b"Z", b"X"):
            found[int(folder.name)] = (int(parent), int(number))
    return found
