"""Which boot a host runs, and taking it to the next one."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opsdeck.errors import OpsDeckError, Refused
from opsdeck.remote.errors import NotDone, ProbeFailed, Unreadable
from opsdeck.remote.sources import shell
from opsdeck.ssh.command import Completed, Script
from opsdeck.ssh.errors import CommandFailed, CommandTimeout, HostKeyChanged, HostKeyUnknown, LinkLost, Unreachable

if TYPE_CHECKING:
    from opsdeck.jobs.context import HostAccess

_LOOK_SECONDS = 20.0
_PAUSE, _PAUSE_MOST = 1.0, 5.0

_REBOOT = r"""
# answered before it begins, so that the link is not cut under the answer; nohup: it must outlive this shell
if [ -d /run/systemd/system ]; then set -- systemctl reboot; else set -- reboot; fi
command -v "$1" >/dev/null || { echo "no $1 here" >&2; exit 127; }
setsid nohup sh -c 'sleep 1; exec "$@"' sh "$@" </dev/null >/dev/null 2>&1 &
"""


@dataclass(frozen=True)
class Boot:
    """One boot of a host. `identity` differs for each; `system` is systemd's own word, `none` without it."""

    identity: str
    system: str
    failed: tuple[str, ...] = ()
    play: bool = False
    """A host to play with, which is a shell on the console's own machine."""

    @property
    def settled(self) -> bool:
        """Tell whether it is done starting."""
        return self.system in ("running", "degraded", "none")


def look_script() -> Script:
    """Build the look."""
    return Script(shell("look_boot"), timeout=_LOOK_SECONDS)


def reboot_script() -> Script:
    """Build what reboots the host a second later."""
    return Script(_REBOOT, sudo=True, timeout=_LOOK_SECONDS)


def parse_look(host: str, done: Completed) -> Boot:
    """Read what the look printed. Raises `Unreadable`."""
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    words = [line.split(" ") for line in lines]
    if not lines or lines[-1] != "end" or len(words[0]) != 3:
        raise Unreadable("the look at its boot broke off.", host=host)
    system = next((word[1] for word in words if word[0] == "system" and len(word) > 1), "")
    return Boot(
        f"{words[0][1]}:{words[0][2]}", system, tuple(word[1] for word in words if word[0] == "failed"), "play" in lines
    )


async def look(host: HostAccess) -> Boot:
    """Look which boot the host runs."""
    return parse_look(host.host.name, await host.run(look_script(), log=False))


async def reboot(
    host: HostAccess, *, limit: float = 600.0, tell: Callable[[str], None] = lambda text: None
) -> tuple[Boot, float]:
    """Reboot and wait until the host is back in another boot and done starting; give that boot and the seconds.

    Raises `ProbeFailed` when it is not back after `limit` s, or has units failed that had not before.
    """
    before = await look(host)
    if before.play:
        raise Refused(
            "it is a host to play with, on the console's own machine; that is not rebooted.", host=host.host.name
        )
    began = time.monotonic()
    # The link may go before the answer is read: whether it reboots is seen by its next boot, not by this.
    with contextlib.suppress(LinkLost, Unreachable):
        done = await host.run(reboot_script(), check=False, log=False)
        if not done.ok:
            raise NotDone(f"it did not take the order to reboot: {done.last_words()}", host=host.host.name)
    tell("told to reboot")
    after = await _next_boot(host, before, began + limit, tell)
    seconds = round(time.monotonic() - began, 1)
    if fresh := [unit for unit in after.failed if unit not in before.failed]:
        raise ProbeFailed(
            f"it is back after {seconds:g} s, but these units failed: {', '.join(fresh)}.",
            host=host.host.name,
            hint=f"journalctl -b -u {fresh[0]}",
        )
    return after, seconds


async def _next_boot(host: HostAccess, before: Boot, end: float, tell: Callable[[str], None]) -> Boot:
    pause, last, gone = _PAUSE, "it still runs the boot from before", False
    while (left := end - time.monotonic()) > 0:
        try:
            async with asyncio.timeout(min(left, 3 * _LOOK_SECONDS)):
                boot = await look(host)
        except (HostKeyChanged, HostKeyUnknown):
            raise
        except (CommandFailed, CommandTimeout, Unreadable) as fault:
            last = fault.message
        except (OpsDeckError, TimeoutError) as fault:
            # Unreachable, links that break, logins refused while it starts: all of it is what a reboot looks like.
            last = fault.message if isinstance(fault, OpsDeckError) else "it does not answer"
            if not gone:
                tell("it is going down")
            gone = True
            pause = min(pause * 1.5, _PAUSE_MOST)
        else:
            if boot.identity != before.identity:
                if boot.settled:
                    return boot
                last, pause = f"it is {boot.system or 'starting'}", _PAUSE
            else:
                last = "it still runs the boot from before"
        await asyncio.sleep(max(0.0, min(pause, end - time.monotonic())))
    raise ProbeFailed(
        f"it is not back in time: {last}.", host=host.host.name, hint="look at its console with the provider"
    )
