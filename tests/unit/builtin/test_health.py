"""What is said of the hosts as a whole."""

from __future__ import annotations

import pytest

from opsdeck.builtin import health
from opsdeck.inventory.models import Host


def hosts(**reach):
    return [Host(name=name, address="192.0.2.1", reach=state) for name, state in reach.items()]


def test_all_is_well():
    (finding,) = health.findings(hosts(a="ok", b="unknown"))
    assert (finding.state, finding.text) == ("ok", "2, none in trouble")
    (finding,) = health.findings([])
    assert "host add" in finding.hint


@pytest.mark.parametrize(
    ("reach", "state"),
    [("key_changed", "broken"), ("refused", "broken"), ("unreachable", "attention"), ("untrusted", "attention")],
)
def test_trouble_is_named_once_for_each_kind(reach, state):
    (finding,) = health.findings(hosts(**{f"h{n}": reach for n in range(7)}, fine="ok"))
    assert finding.state == state
    assert finding.text.endswith(" h0, h1, h2, h3, h4 and 2 more")
    assert finding.hint


async def test_the_hook_is_asked(deck, core):
    told = await core.gather("opsdeck_health", deck=deck)
    assert [finding.text for finding in told["core"]] == ["2, none in trouble"]
    assert not core.faults
