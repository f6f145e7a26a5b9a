"""Consent that grows with what can go wrong: the same at every door.

A look asks nothing. A change on a few hosts asks nothing more. A change on many hosts, or anything that destroys, asks
the person to type the number of hosts (or the one host's name); what destroys also asks who they are once more.
A schedule's consent was given when it was made: nobody is there to type.
"""

from __future__ import annotations

from collections.abc import Sequence

from opsdeck.actor import Actor, Door
from opsdeck.errors import Refused
from opsdeck.manifest import Action, Risk

MANY = 5
"""A change on more hosts than this asks for their number."""


class ConsentNeeded(Refused):
    """The person must type `expected` first."""

    def __init__(self, message: str, expected: str) -> None:
        super().__init__(message, field="confirm", hint=f"confirm with {expected!r}")
        self.expected = expected


def expected(action: Action, hosts: Sequence[str]) -> str | None:
    """Give what must be typed before `action` runs on `hosts`; None when nothing must."""
    if action.risk is Risk.READ or (action.risk is Risk.CHANGE and len(hosts) <= MANY):
        return None
    if len(hosts) == 1:
        return hosts[0]
    return str(len(hosts)) if hosts else action.name


def check(action: Action, hosts: Sequence[str], confirm: str | None, actor: Actor) -> None:
    """Raise `ConsentNeeded` when the right word was not typed."""
    word = expected(action, hosts)
    if word is None or actor.door in (Door.SCHEDULE, Door.SYSTEM):
        return
    if confirm is None or confirm.strip() != word:
        what = "would destroy" if action.risk is Risk.DESTROY else "would change"
        where = f"{len(hosts)} hosts" if len(hosts) != 1 else hosts[0]
        raise ConsentNeeded(f"{action.title} {what} {where if hosts else 'things'} and needs your consent.", word)
