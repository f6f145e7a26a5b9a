"""What can go wrong while a host is changed."""

from __future__ import annotations

from opsdeck.errors import OpsDeckError, Refused, Unavailable


class CheckRefused(Refused):
    """The program's own checker refused what was about to be put in place; nothing is changed."""


class ProbeFailed(OpsDeckError):
    """What was changed does not work as it should."""


class NotDone(OpsDeckError):
    """The host did not do it, or did something else."""


class NoSystemd(Unavailable):
    """The host is not run by systemd, so there are no units to work with."""


class Unreadable(OpsDeckError):
    """What the host answered cannot be understood."""
