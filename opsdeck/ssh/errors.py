"""What can go wrong between the console and a host, each with the host, and the next step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opsdeck.errors import OpsDeckError, Refused

if TYPE_CHECKING:
    from opsdeck.ssh.command import Completed
    from opsdeck.ssh.hostkeys import OfferedKey


class HostKeyUnknown(Refused):
    """Nothing is pinned for the host yet; `offered` is the key it showed."""

    def __init__(self, host: str, offered: OfferedKey) -> None:
        super().__init__(
            f"no host key is pinned; it shows {offered.algorithm} {offered.fingerprint}.",
            host=host,
            hint="compare the fingerprint with the one on the host's own console, then approve the key.",
        )
        self.offered = offered


class HostKeyChanged(Refused):
    """The host shows another key than the pinned ones: a new machine, or somebody in between."""

    def __init__(self, host: str, pinned: tuple[OfferedKey, ...], offered: OfferedKey) -> None:
        known = ", ".join(f"{key.algorithm} {key.fingerprint}" for key in pinned)
        super().__init__(
            f"the host key changed: pinned {known}, shown {offered.algorithm} {offered.fingerprint}; nothing was sent.",
            host=host,
            hint="find out why it changed; only if the machine was rebuilt, approve the new key.",
        )
        self.pinned = pinned
        self.offered = offered


class LoginRefused(Refused):
    """The host does not accept the credential. `retry_after` seconds pass before it is offered again."""

    def __init__(self, host: str, user: str, credential: str, *, retry_after: float, dialled: bool) -> None:
        what = f"user {user} with the secret {credential}"
        said = f"the login of {what} was refused." if dialled else f"not tried: the login of {what} was just refused."
        super().__init__(
            said,
            host=host,
            hint=f"check user and credential; the same login is tried again after {retry_after:.0f} s at the earliest.",
        )
        self.retry_after = retry_after
        self.dialled = dialled


class SudoRefused(Refused):
    """The command could not become root (or the other user)."""


class Unreachable(OpsDeckError):
    """The host cannot be dialled; `hop` is the machine at which it stopped (the host itself or a jump host)."""

    status = 502

    def __init__(self, message: str, *, host: str, hop: str, hint: str | None = None) -> None:
        super().__init__(message, host=host, hint=hint or "see that the machine is up and its SSH port open to us.")
        self.hop = hop


class LinkLost(OpsDeckError):
    """The connection broke while a command was open; `may_have_run` is False only if it certainly did not start."""

    status = 502

    def __init__(self, host: str, reason: str, *, may_have_run: bool) -> None:
        outcome = "the command may have run" if may_have_run else "the command did not start"
        hint = "look on the host before running it again." if may_have_run else "run it again."
        super().__init__(f"the connection was lost ({reason}); {outcome}.", host=host, hint=hint)
        self.may_have_run = may_have_run


class ShellRefused(OpsDeckError):
    """The account's login shell did not hand over to `sh`, or the host lacks a program every command needs."""

    status = 502


class CommandFailed(OpsDeckError):
    """The command ended, and not with 0."""

    def __init__(self, host: str, completed: Completed) -> None:
        how = f"signal {completed.signal}" if completed.signal else f"exit status {completed.exit_status}"
        last = completed.last_words()
        super().__init__(f"the command ended with {how}{': ' + last if last else '.'}", host=host)
        self.completed = completed


class CommandTimeout(OpsDeckError):
    """The command took too long and was ended; `proved_dead` tells whether its processes are seen to be gone."""

    status = 504

    def __init__(self, host: str, timeout: float, *, proved_dead: bool, completed: Completed | None = None) -> None:
        fate = "all its processes are gone" if proved_dead else "it is not proved that all its processes are gone"
        hint = "give it more time, or find out what it waited for."
        super().__init__(f"the command was ended after {timeout:g} s; {fate}.", host=host, hint=hint)
        self.timeout = timeout
        self.proved_dead = proved_dead
        self.completed = completed


class TransferFailed(OpsDeckError):
    """A file did not arrive whole; the one that was there before is untouched."""


class DiskFull(TransferFailed):
    """No room is left where the file should go."""
