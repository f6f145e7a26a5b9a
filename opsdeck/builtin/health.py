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
    (
        "key_changed",
        "broken",
        "another key than the pinned one is shown by",
        "`opsdeck host show NAME` compares both keys",
    ),
    ("refused", "broken", "the login is refused by", "check user and credential with `opsdeck host check NAME`"),
    ("unreachable", "attention", "no way to", "`opsdeck host check NAME` says where it stops"),
    ("untrusted", "attention", "no approved key of", "`opsdeck host approve-key NAME`"),
)


def findings(hosts: Sequence[Host]) -> tuple[Finding, ...]:
    """Say how the hosts were at the last contact: a finding for each kind of trouble, or one that all is well."""
    found = []
    for reach, state, words, hint in _WORDS:
        names = [host.name for host in hosts if host.reach == reach]
        if names:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            found.append(Finding("hosts", state, f"{words} {', '.join(names[:NAMED])}{more}", hint))
    if not hosts:
        return (Finding("hosts", "ok", "none yet", "`opsdeck host add NAME --address ADDRESS`"),)
    return tuple(found) or (Finding("hosts", "ok", f"{len(hosts)}, none in trouble"),)
