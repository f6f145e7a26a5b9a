"""The actions `facts` and `check`, through real jobs on hosts to play with."""

from __future__ import annotations

from typing import Any

import pytest

from opsdeck.actor import Actor, Door, Role
from opsdeck.builtin.hostcheck import judge
from opsdeck.deck import Deck
from opsdeck.jobs.jobs import Submission
from opsdeck.lab.inprocess import PlayHosts

VIEWER = Actor("vi", Role.VIEWER, Door.WEB)


async def run(deck: Deck, action: str, on: str = "all", **params: Any) -> tuple[Any, dict[str, Any]]:
    job = await deck.jobs.run(Submission("core", action, params, on), VIEWER)
    assert job.id is not None
    return job, {step.host: step for step in await deck.jobs.steps(job.id)}


async def lines(deck: Deck, job: Any) -> str:
    return "\n".join(line.text for line in await deck.jobs.log(job.id, limit=1000))


async def test_facts_are_gathered_stored_and_receipted(deck: Deck, pinned: PlayHosts) -> None:
    job, steps = await run(deck, "facts", "web1,web2")
    assert job.state == "succeeded"
    receipt = steps["web1"].receipt
    assert receipt["facts"] >= 20
    assert (receipt["changed"], receipt["whole"]) == (0, True)
    page = await deck.facts.latest("web1")
    assert page is not None
    assert len(page.facts) == receipt["facts"]
    assert await deck.facts.latest("web3") is None
    async with deck.db.write() as session:
        page.facts = {**page.facts, "kernel": "0.1", "tun": None}
        page.digest = "other"
        session.add(page)
    job, steps = await run(deck, "facts", "web1")
    assert steps["web1"].receipt["changed"] >= 1
    assert "Kernel: 0.1 →" in await lines(deck, job)
    assert len(await deck.facts.history("web1")) == 2


async def test_facts_through_a_talkative_login(deck: Deck, pinned: PlayHosts) -> None:
    pinned["web1"].behaviour.login_output = b"Welcome \xff\xfe to <script>alert(1)</script>\n" * 100
    job, steps = await run(deck, "facts", "web1")
    assert job.state == "succeeded"
    assert steps["web1"].receipt["facts"] >= 20


async def test_facts_from_one_dead_host_of_three(deck: Deck, pinned: PlayHosts) -> None:
    await pinned["web2"].stop()
    job, steps = await run(deck, "facts")
    assert job.state == "failed"
    assert {name: step.state for name, step in steps.items()} == {
        "web1": "succeeded",
        "web2": "failed",
        "web3": "succeeded",
    }
    assert set(await deck.facts.latest_of(["web1", "web2", "web3"])) == {"web1", "web3"}


async def test_a_check_says_what_it_saw_and_notes_the_reach(deck: Deck, pinned: PlayHosts) -> None:
    job, steps = await run(deck, "check", "web1", disk=100)
    assert job.state == "succeeded", await lines(deck, job)
    subjects = [finding["subject"] for finding in steps["web1"].receipt["findings"]]
    assert subjects[:2] == ["login", "clock"]
    assert (await deck.inventory.get("web1")).reach == "ok"
    await pinned["web1"].stop()
    job, steps = await run(deck, "check", "web1")
    assert job.state == "failed"
    assert (await deck.inventory.get("web1")).reach == "unreachable"


async def test_a_check_meets_a_changed_key_and_a_refused_login(deck: Deck, pinned: PlayHosts) -> None:
    await pinned["web1"].change_host_key()
    pinned["web2"].behaviour.refuse_keys = True
    job, steps = await run(deck, "check")
    assert job.state == "failed"
    assert "changed" in steps["web1"].error
    reaches = {host.name: host.reach for host in await deck.inventory.list()}
    assert reaches == {"web1": "key_changed", "web2": "refused", "web3": "ok"}


async def test_a_check_of_a_host_whose_login_is_no_shell(deck: Deck, pinned: PlayHosts) -> None:
    pinned["web1"].behaviour.shell = ("/bin/false",)
    job, steps = await run(deck, "check", "web1")
    assert job.state == "failed"
    assert steps["web1"].error


def states(**facts: Any) -> dict[str, str]:
    return {finding.subject: finding.state for finding in judge(facts)}


@pytest.mark.parametrize(
    ("skew", "state"),
    [(0.0, "ok"), (1.9, "ok"), (-5.0, "attention"), (59.0, "attention"), (61.0, "broken"), (-3600, "broken")],
)
def test_what_a_clock_means(skew: float, state: str) -> None:
    assert states(clock_skew=skew)["clock"] == state


@pytest.mark.parametrize(
    ("use", "state"),
    [
        (["/ 23%"], "ok"),
        (["/ 23%", "/srv/with space 91%"], "attention"),
        (["/ 98%"], "broken"),
        (["/proc -", "/ 5%"], "ok"),
        ([], "ok"),
    ],
)
def test_what_disks_mean(use: list[str], state: str) -> None:
    assert states(disk_use=use)["disk"] == state


def test_what_units_mean() -> None:
    assert states() == {"systemd": "ok"}
    assert states(systemd="252", failed_units=[]) == {"units": "ok"}
    assert states(systemd="252", failed_units=["nginx.service"]) == {"units": "attention"}
