"""Facts, checks and samples of real systemd hosts, and what they say of hosts that are not well."""

from __future__ import annotations

from typing import Any

from opsdeck.actor import Actor, Door, Role
from opsdeck.builtin.sampler import Sampler
from opsdeck.deck import Deck
from opsdeck.forms import checked
from opsdeck.inventory.forms import HostPatch
from opsdeck.jobs.jobs import Submission
from opsdeck.secrets.sensitive import Sensitive

BOSS = Actor("boss@cli", Role.ADMIN, Door.CLI, stepped_up=True)


async def run(deck: Deck, action: str, on: str = "all") -> Any:
    job = await deck.jobs.run(Submission("core", action, {}, on), BOSS)
    assert job.id
    return job, {step.host: step for step in await deck.jobs.steps(job.id)}


async def test_facts_of_a_systemd_host(deck, fleet):
    job, steps = await run(deck, "facts")
    assert job.state == "succeeded", [step.error for step in steps.values()]
    page = await deck.facts.latest("web1")
    facts = page.facts
    assert len(facts) >= 30
    assert facts["os_id"] == "debian"
    assert facts["sudo"] == "nopasswd"
    assert facts["login_user"] == "ops"
    assert facts["hostname"] == "web1"
    assert facts["systemd"].isdigit()
    assert any(fleet.host("web1").address in address for address in facts["addresses"])
    assert "tcp 0.0.0.0:22" in facts["listening"]
    assert abs(facts["clock_skew"]) < 2
    other = (await deck.facts.latest("web2")).facts
    assert (other["sudo"], other["login_user"]) == ("password", "opspw")


async def test_what_changed_is_told(deck, fleet):
    await run(deck, "facts", "web1")
    host = fleet.host("web1")
    unit = "[Service]\nExecStart=/bin/false\n"
    host.execute(["sh", "-c", 'printf "%s" "$1" > /run/systemd/system/sick.service', "sh", unit])
    host.execute(["systemctl", "daemon-reload"])
    host.execute(["systemctl", "start", "sick"], check=False)
    try:
        job, steps = await run(deck, "facts", "web1")
        assert steps["web1"].receipt["changed"] >= 1
        page, before = (await deck.facts.history("web1"))[:2]
        assert "sick.service" in page.facts["failed_units"]
        assert "sick.service" not in before.facts["failed_units"]
        job, steps = await run(deck, "check", "web1")
        units = [item for item in steps["web1"].receipt["findings"] if item["subject"] == "units"]
        assert (job.state, units[0]["state"]) == ("succeeded", "attention")
        assert "sick.service" in units[0]["text"]
    finally:
        host.execute(["systemctl", "reset-failed"], check=False)


async def test_a_check_becomes_root_in_both_ways_and_tells_a_wrong_password(deck):
    job, steps = await run(deck, "check")
    assert job.state == "succeeded", [step.error for step in steps.values()]
    for step in steps.values():
        assert {"subject": "sudo", "state": "ok", "text": "becomes root"} in step.receipt["findings"]
    await deck.secrets.set("sudo", Sensitive("certainly wrong"), kind="password", actor=BOSS)
    job, steps = await run(deck, "check")
    assert (steps["web1"].state, steps["web2"].state) == ("succeeded", "failed")
    assert "sudo" in steps["web2"].error


async def test_samples_count_traffic_and_see_a_host_that_was_cut_off(deck, fleet):
    sampler = Sampler(deck, 60)

    async def poll() -> None:
        for target in list(sampler.targets.values()):
            outcome = await sampler.poll(target)
            target.misses = 0 if outcome.fault is None else target.misses + 1
            sampler._outcomes.append(outcome)
        await sampler.flush()

    await sampler.refresh()
    await poll()
    endpoint = sampler.targets["web1"].endpoint
    await deck.ssh.put(endpoint, b"x" * 3_000_000, "/tmp/sampled")
    await poll()
    month = (await deck.samples.month([await deck.inventory.get("web1")]))["web1"]
    assert 3_000_000 < month.received < 6_000_000
    assert (await deck.samples.latest())["web1"].disk_total > 0
    deck.ssh.drop("web2")
    fleet.host("web2").cut()
    await poll()
    await poll()
    assert (await deck.inventory.get("web2")).reach == "unreachable"
    assert [incident.key for incident in await deck.incidents.open_now()] == ["unreachable:web2"]
    fleet.host("web2").mend()
    await deck.inventory.edit("web2", checked(HostPatch, {"region": "here"}), BOSS)
    for _ in range(20):
        await poll()
        if (await deck.inventory.get("web2")).reach == "ok":
            break
    assert await deck.incidents.open_now() == ()
