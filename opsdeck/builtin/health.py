"""What the health page and `opsdeck doctor` say of the hosts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from opsdeck.manifest import Finding

if TYPE_CHECKING:
    from opsdeck.inventory.models import Host

NAMED = 5
"""How many hosts a finding names; the rest are counted."""

_WORDS = (
    ("key_changed", "broken", "show another key than the pinned one", "`opsdeck host show NAME` compares both keys"),
    ("refused", "broken", "refuse the login", "check user and credential with `opsdeck host check NAME`"),
    ("unreachable", "attention", "cannot be reached", "`opsdeck host check NAME` says where it stops"),
    ("untrusted", "attention", "wait for their key to be approved", "`opsdeck host approve-key NAME`"),
)


def findings(hosts: Sequence[Host]) -> tuple[Finding, ...]:
    """Say how the hosts were at the last contact: a finding for each kind of trouble, or one that all is well."""
    found = []
    for reach, state, words, hint in _WORDS:
        names = [host.name for host in hosts if host.reach == reach]
        if names:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            found.append(Finding("hosts", state, f"{', '.join(names[:NAMED])}{more} {words}.", hint))
    if not hosts:
        return (Finding("hosts", "ok", "none yet", "`opsdeck host add NAME --address ADDRESS`"),)
    return tuple(found) or (Finding("hosts", "ok", f"{len(hosts)}, none in trouble"),)
