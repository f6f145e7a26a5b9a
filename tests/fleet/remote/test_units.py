"""Units, boots and rollouts on real hosts."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from opsdeck.errors import NotFound
from opsdeck.remote import boots, units
from opsdeck.remote.deploy import Rollout
from opsdeck.remote.errors import ProbeFailed
from opsdeck.remote.units import Act, Unit
from opsdeck.ssh.command import Script

SLEEP = b"[Service]\nExecStart=/bin/sleep 1000\n[Install]\nWantedBy=multi-user.target\n"


async def test_a_restart_is_proven(reach):
    host = reach("web1", "ops")
    state = await units.act(host, Act.RESTART, "ssh", settle=0.5)
    assert (state.name, state.active) == ("ssh.service", "active")
    with pytest.raises(NotFound, match=r"no unit nothere\.service"):
        await units.act(host, Act.RESTART, "nothere")


@pytest.mark.parametrize(
    ("service", "words"),
    [
        (b"ExecStart=/bin/sh -c 'echo I cannot start; exit 3'", "I cannot start"),
        (b"ExecStart=/bin/sh -c 'sleep 0.4; echo died later; exit 1'", "died later"),
        (b"ExecStart=/bin/sh -c 'echo again and again; exit 1'\nRestart=always\nRestartSec=50ms", "again and again"),
        (b"Type=notify\nTimeoutStartSec=1\nExecStart=/bin/sleep 100", "timeout"),
        (b"ExecStart=/no/such/program", "No such file"),
    ],
)
async def test_a_unit_that_does_not_stay_up_fails_with_its_journal(reach, fleet, service, words):
    host = reach("web1")
    try:
        with pytest.raises(ProbeFailed, match=words) as caught:
            await units.ensure(host, Unit("sick", b"[Service]\n" + service + b"\n", enabled=None))
        assert "web1" in str(caught.value)
        assert "journalctl -u sick.service" in str(caught.value)
        (state,) = await units.look(host, ["sick"])
        assert not state.known, "its file was put back, so there is none"
    finally:
        fleet.host("web1").execute(["systemctl", "reset-failed"], check=False)


@pytest.mark.parametrize(
    ("service", "words"),
    [
        (b"ExecStart=/bin/sh -c 'echo I cannot start; exit 3'", "I cannot start"),
        (b"ExecStart=/no/such/program", "No such file"),
    ],
)
async def test_words_of_a_program_that_is_gone_before_the_journal_heard_them_are_shown(reach, fleet, service, words):
    journal = ["systemctl", "kill", "--kill-whom=main", "systemd-journald"]
    fleet.host("web1").execute([*journal, "--signal=STOP"])
    later = asyncio.get_running_loop().call_later(4, lambda: fleet.host("web1").execute([*journal, "--signal=CONT"]))
    try:
        with pytest.raises(ProbeFailed, match=words):
            await units.ensure(reach("web1"), Unit("sick", b"[Service]\n" + service + b"\n", enabled=None))
    finally:
        later.cancel()
        fleet.host("web1").execute([*journal, "--signal=CONT"])
        fleet.host("web1").execute(["systemctl", "reset-failed"], check=False)


async def test_a_new_version_that_fails_leaves_the_old_one_running(reach, fleet):
    host = reach("web1", "ops")
    good = Unit("steady", SLEEP)
    state = await units.ensure(host, good, settle=0.3)
    assert (state.active, state.enabled) == ("active", True)
    assert await units.plan(host, good) == ()
    with pytest.raises(ProbeFailed):
        await units.ensure(
            host, Unit("steady", b"[Service]\nExecStart=/bin/false\n[Install]\nWantedBy=multi-user.target\n")
        )
    (state,) = await units.look(host, ["steady"])
    assert state.active == "active"
    assert await units.plan(host, good) == ()
    await units.ensure(host, Unit("steady", enabled=False, active=False))
    (state,) = await units.look(host, ["steady"])
    assert (state.active, state.enabled) == ("inactive", False)


async def test_a_reboot_is_another_boot_with_its_services_up(reach):
    host = reach("web2", "ops")
    before = await boots.look(host)
    told = []
    after, seconds = await boots.reboot(host, limit=90, tell=told.append)
    assert after.identity != before.identity
    assert after.system in ("running", "degraded")
    assert 0 < seconds < 90
    assert told[0] == "told to reboot"


async def test_a_host_that_does_not_come_back_is_said_within_the_bound(reach, fleet):
    host, lab = reach("web2"), fleet.host("web2")

    def tell(text):
        if text == "told to reboot":
            lab.cut()

    with pytest.raises(ProbeFailed, match="not back in time") as caught:
        await boots.reboot(host, limit=4, tell=tell)
    assert caught.value.host == "web2"


async def test_a_host_that_never_goes_down_is_no_reboot(reach, monkeypatch):
    host = reach("web2")
    monkeypatch.setattr(boots, "reboot_script", lambda: Script("true"))
    with pytest.raises(ProbeFailed, match="still runs the boot from before"):
        await boots.reboot(host, limit=2.5)


class Fleetwide:
    """The part of a `JobRun` that a rollout uses, over real hosts, in order."""

    def __init__(self, steps):
        self.steps, self.outcome, self.said = steps, {}, []

    def skip(self, host, note):
        self.outcome[host] = note

    def log(self, text, stream="info"):
        self.said.append(text)

    async def each(self, work, hosts=None, *, parallel=32, stop_after=None):
        failed = 0
        for name in hosts:
            if stop_after and failed >= stop_after:
                self.outcome[name] = "skipped"
                continue
            try:
                self.outcome[name] = await work(self.steps[name])
            except ProbeFailed as fault:
                failed, self.outcome[name] = failed + 1, str(fault)
        return failed


@pytest.mark.parametrize("bad", [b"[Service]\nExecStart=/bin/false\n", None])
async def test_a_rollout_stops_at_the_first_that_fails_and_puts_it_back(reach, bad):
    names = ["web1", "web2"]
    steps = {name: reach(name) for name in names}
    for step in steps.values():
        await units.ensure(step, Unit("rolled", SLEEP), settle=0)
    job = Fleetwide(steps)

    async def work(step):
        await units.ensure(step, Unit("rolled", bad or SLEEP.replace(b"1000", b"2000")), settle=0.3)

    async def probe(step):
        if step.host.name == "web1" and bad is None:
            raise ProbeFailed("the page says 500.", host="web1")

    async def put_back(step):
        with contextlib.suppress(ProbeFailed):
            await units.ensure(step, Unit("rolled", SLEEP), settle=0)

    assert await Rollout(work, probe, put_back).run(job, names) == 1
    assert job.outcome["web2"] == "not started: web1 failed first"
    assert "put back" in steps["web1"].said
    for name in names:
        assert await units.plan(steps[name], Unit("rolled", SLEEP)) == ()
