"""Commands that outlive the link and the console.

On the host, a keeper (a transient systemd unit, or where there is no systemd or no root a detached `sh`) runs the
command in its own session, with output in `log`, group in `group`, exit status in `status`, for that user only. They
lie in `/var/lib/opsdeck/units/UNIT` for root under systemd, else in `~/.local/state/opsdeck/units/UNIT`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from opsdeck.errors import Conflict, Invalid, NotFound
from opsdeck.ssh.command import Completed, Output, ProcessGroup, Script, Started, Stream, Task
from opsdeck.ssh.endpoint import Endpoint
from opsdeck.ssh.errors import CommandFailed, LinkLost, Unreachable
from opsdeck.ssh.program import detached_body
from opsdeck.ssh.transfer import Run

if TYPE_CHECKING:
    from opsdeck.ssh.pool import Pool

_UNIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_PAUSE_FIRST, _PAUSE_MOST = 0.5, 30.0

_PLACE = """u=$1
if [ "$(id -u)" = 0 ] && [ -d /run/systemd/system ]; then d=/var/lib/opsdeck/units
else d=${XDG_STATE_HOME:-$HOME/.local/state}/opsdeck/units; fi
d=$d/$u
"""

# `running` tells whether the keeper lives: its pid, its start and the kernel's boot id must all be those noted.
_RUNNING = """running() { read -r kp ks kb <"$d/keeper" || return 1
read -r b </proc/sys/kernel/random/boot_id; [ "$b" = "$kb" ] || return 1
read -r l <"/proc/$kp/stat" || return 1
set -- ${l##*) }; [ "${20}" = "$ks" ] && [ "$1" != Z ]; } 2>/dev/null
"""

# $1 folder, $2 file with stdin or nothing. `begun` lets one keeper through, whatever was tried how often. `room` is
# given up for the status, and the log has some beyond its end: how a command ended is known on a full disk too.
_KEEPER = """mkdir "$1/begun" 2>/dev/null || exit 0
trap : TERM HUP INT
read -r l </proc/$$/stat; d=$1 i=$2; set -- ${l##*) }; read -r b </proc/sys/kernel/random/boot_id
echo "$$ ${20} $b" >"$d/keeper"
if [ -n "$i" ]; then exec <"$i"; rm -f "$i"; else exec </dev/null; fi
OPSDECK_UNIT=$d; export OPSDECK_UNIT
setsid -w /bin/sh "$d/command" >>"$d/log" 2>&1; r=$?
rm -f "$d/room"; echo "$r" >"$d/status.new"; mv -f "$d/status.new" "$d/status\""""

# $1 unit, $2 the command's text, $3 the keeper's, $4 y if there is a stdin. The keeper lies in a file, since systemd
# reads `$` in the words of a unit its own way (systemd.service(5), "Command lines").
_START = (
    _PLACE
    + """umask 077
command -v setsid >/dev/null || { echo "setsid is missing on this host: install util-linux" >&2; exit 127; }
old=
if [ -d "$d" ]; then old=y; else
  mkdir -p "${d%/*}" || exit 1
  n=$(mktemp -d "${d%/*}/.new.XXXXXXXX") || exit 1
  printf '%s\\n' "$2" >"$n/command" && printf '%s\\n' "$3" >"$n/run" && : >"$n/log" &&
    head -c 16384 /dev/zero >"$n/room" || { rm -rf "$n"; exit 1; }
  fallocate -n -l 65536 "$n/log" 2>/dev/null
  mv -T "$n" "$d" 2>/dev/null || { rm -rf "$n"; [ -d "$d" ] || exit 1; old=y; }
fi
if [ ! -d "$d/begun" ]; then
  i=
  if [ "$4" = y ]; then i=$(mktemp /dev/shm/.opsdeck.XXXXXXXXXX) && cat >"$i" || { rm -f "$i"; exit 1; }; fi
  how=session
  if [ "$(id -u)" = 0 ] && [ -d /run/systemd/system ] && command -v systemd-run >/dev/null; then
    how=systemd
    systemd-run --quiet --collect --unit="opsdeck-$u" --setenv=HOME="$HOME" --setenv=PATH="$PATH" \\
      -p KillMode=mixed -p OOMPolicy=continue /bin/sh "$d/run" "$d" "$i" >&2 || how=
  fi
  if [ "$how" = session ]; then setsid /bin/sh "$d/run" "$d" "$i" </dev/null >/dev/null 2>&1 & fi
  [ -n "$how" ] && echo "$how" >"$d/how"
fi
w=100
while [ ! -s "$d/group" ] && [ ! -s "$d/status" ] && [ "$w" -gt 0 ]; do sleep 0.05; w=$((w - 1)); done
[ -d "$d/begun" ] || { [ -z "$i" ] || rm -f "$i"; echo "the command did not begin" >&2; exit 1; }
echo "${old:-n}"; cat "$d/how" "$d/group" 2>/dev/null; echo "$d\""""
)

_STATE = (
    _PLACE
    + _RUNNING
    + """[ -d "$d" ] || exit 44
if running; then r=y; else r=n; fi
s=; read -r s <"$d/status"; g=; read -r g <"$d/group"; h=; read -r h <"$d/how"
echo "$r"; echo "$s"; echo "$g"; echo "$h"; stat -c %s "$d/log"
exit 0"""
)

# $1 unit, $2 the first byte wanted, counted from 1. `tail --pid` takes a keeper that has ended and that nobody reaps
# (process 1 of many containers) for one that runs; so it watches a child of ours, which ends with the keeper.
_FOLLOW = (
    _PLACE
    + _RUNNING
    + """[ -d "$d" ] || exit 44
if [ ! -s "$d/status" ] && running; then
  while running; do sleep 0.5; done & w=$!
  tail -c +"$2" -s 0.2 --pid="$w" -f "$d/log" & wait "$!"; r=$?
  kill "$w" 2>/dev/null; [ "$r" -le 128 ] || kill -"$((r - 128))" "$$"; exit "$r"
else exec tail -c +"$2" "$d/log"; fi"""
)

_FORGET = (
    _PLACE
    + _RUNNING
    + """[ -d "$d" ] || exit 0
running && exit 16
exec rm -rf "$d\""""
)


class Phase(StrEnum):
    """How a detached command stands. `lost`: no keeper lives, and none noted an end (a reboot, a killed keeper)."""

    RUNNING = "running"
    ENDED = "ended"
    LOST = "lost"
    ABSENT = "absent"


@dataclass(frozen=True)
class Detached:
    """A command on its own: `how` is `systemd` or `session`; `existed` tells that it had been started before."""

    unit: str
    folder: str
    how: str
    group: ProcessGroup | None
    existed: bool


@dataclass(frozen=True)
class DetachedState:
    """What the host knows of a unit. `log_size` in bytes; `exit_status` above 128 means signal number + 128."""

    unit: str
    phase: Phase
    exit_status: int | None = None
    log_size: int = 0
    group: ProcessGroup | None = None
    how: str = ""


async def start(run: Run, endpoint: Endpoint, unit: str, command: Task, on_started: Started | None) -> Detached:
    """Start a command on its own; see `Pool.detach`."""
    _check(unit)
    if command.run_as is not None:
        raise Invalid(
            "a detached command runs as the login or as root.",
            field="run_as",
            hint="use sudo, and runuser as the program.",
        )
    body = detached_body(command)
    script = Script(
        text=_START,
        args=(unit, body, _KEEPER, "y" if command.stdin is not None else "n"),
        stdin=command.stdin,
        sudo=command.sudo,
        env={"LC_ALL": "C"},
    )
    done = await run(endpoint, script)
    if not done.ok:
        raise CommandFailed(endpoint.name, done)
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    group = next((found for line in lines if (found := _group(line, command.sudo)) is not None), None)
    told = Detached(
        unit=unit,
        folder=lines[-1] if lines else "",
        how="systemd" if "systemd" in lines else "session",
        group=group,
        existed=lines[:1] == ["y"],
    )
    if group is not None and on_started is not None:
        await on_started(group)
    return told


async def state(run: Run, endpoint: Endpoint, unit: str, sudo: bool) -> DetachedState:
    """Tell how it stands; see `Pool.detached_state`."""
    _check(unit)
    done = await run(endpoint, Script(text=_STATE, args=(unit,), sudo=sudo))
    if done.exit_status == 44:
        return DetachedState(unit, Phase.ABSENT)
    done.check(endpoint.name)
    running, status, group, how, size = [*done.stdout.decode("utf-8", "replace").split("\n"), "", "", "", "", ""][:5]
    ended = int(status) if status.isdigit() else None
    return DetachedState(
        unit=unit,
        phase=Phase.ENDED if ended is not None else Phase.RUNNING if running == "y" else Phase.LOST,
        exit_status=ended,
        log_size=int(size) if size.isdigit() else 0,
        group=_group(group, sudo),
        how=how,
    )


async def follow(
    run: Run,
    endpoint: Endpoint,
    unit: str,
    *,
    offset: int,
    on_output: Output | None,
    capture_limit: int,
    sudo: bool,
    patience: float,
) -> Completed:
    """Follow the log to its end; see `Pool.attach`."""
    _check(unit)
    if offset < 0:
        raise Invalid("an offset cannot be negative.", field="offset", hint="count bytes from 0.")
    clock = asyncio.get_running_loop().time
    began = contact = clock()
    kept = bytearray()
    position = offset

    async def take(stream: Stream, data: bytes) -> None:
        nonlocal position, contact
        if stream is not Stream.STDOUT:
            return
        contact = clock()
        if (room := capture_limit - len(kept)) > 0:
            kept.extend(data[:room])
        if on_output is not None and (waiting := on_output(stream, data)) is not None:
            await waiting
        position += len(data)

    pause = _PAUSE_FIRST
    while True:
        before = position
        try:
            script = Script(text=_FOLLOW, args=(unit, str(position + 1)), sudo=sudo)
            done = await run(endpoint, script, on_output=take, capture_limit=4096)
            if done.exit_status == 44:
                raise NotFound(
                    f"there is no detached command {unit}.", host=endpoint.name, hint="start it, or look at its job."
                )
            if done.signal is not None:  # as when the host goes down
                raise LinkLost(endpoint.name, f"the following ended with {done.signal}", may_have_run=True)
            done.check(endpoint.name)
            now = await state(run, endpoint, unit, sudo)
        except (LinkLost, Unreachable):
            if clock() - contact > patience:
                raise
        else:
            contact = clock()
            if now.phase is Phase.ENDED and position >= now.log_size:
                break
            if now.phase in (Phase.LOST, Phase.ABSENT):
                raise LinkLost(
                    endpoint.name, "the host was restarted, or the keeper of the command was killed", may_have_run=True
                )
        pause = _PAUSE_FIRST if position > before else min(pause * 2, _PAUSE_MOST)
        await asyncio.sleep(pause * (0.5 + random.random()))  # noqa: S311 - to spread, not to hide
    return Completed(
        exit_status=now.exit_status,
        signal=None,
        stdout=bytes(kept),
        stderr=b"",
        duration=clock() - began,
        truncated=position - offset > len(kept),
    )


async def stop(pool: Pool, endpoint: Endpoint, unit: str, sudo: bool) -> bool:
    """End it; see `Pool.stop_detached`."""
    now = await state(pool.run, endpoint, unit, sudo)
    if now.phase is Phase.ABSENT:
        raise NotFound(f"there is no detached command {unit}.", host=endpoint.name, hint="look at its job.")
    gone = True
    if now.group is not None:
        gone = await pool.kill(endpoint, now.group)
    if now.how == "systemd":
        # What left the group is still in the unit's control group. A unit that is gone already is no fault.
        script = Script(text='systemctl stop "$1"; ! systemctl is-active -q "$1"', args=(f"opsdeck-{unit}",), sudo=sudo)
        with contextlib.suppress(CommandFailed):
            gone = (await pool.run(endpoint, replace(script, timeout=15.0))).ok and gone
    return gone


async def forget(run: Run, endpoint: Endpoint, unit: str, sudo: bool) -> None:
    """Remove what is kept of it; see `Pool.forget`."""
    _check(unit)
    done = await run(endpoint, Script(text=_FORGET, args=(unit,), sudo=sudo))
    if done.exit_status == 16:
        raise Conflict(f"the detached command {unit} still runs.", host=endpoint.name, hint="stop it first.")
    done.check(endpoint.name)


def _group(line: str, sudo: bool) -> ProcessGroup | None:
    match line.split():
        case [pgid, started, boot] if pgid.isdigit() and started.isdigit() and len(boot) == 36:
            return ProcessGroup(int(pgid), int(started), boot, sudo)
    return None


def _check(unit: str) -> None:
    if not _UNIT.fullmatch(unit):
        raise Invalid(
            f"{unit!r} cannot name a detached command.",
            field="unit",
            hint="use letters, digits, dot, dash, underscore.",
        )
