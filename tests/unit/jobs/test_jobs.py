"""The way through, end to end, on hosts to play with."""

import asyncio
import json
from datetime import timedelta

import pytest
from sqlmodel import select, update

from opsdeck.accounts.permissions import StepUpNeeded
from opsdeck.actor import Actor, Door, Role
from opsdeck.audit.models import AuditEntry
from opsdeck.clock import utcnow
from opsdeck.errors import Invalid, NotFound, Refused
from opsdeck.jobs import holds
from opsdeck.jobs.consent import ConsentNeeded
from opsdeck.jobs.engine import served
from opsdeck.jobs.jobs import Submission
from opsdeck.jobs.models import Job, Lease
from opsdeck.jobs.params import InvalidParams
from opsdeck.jobs.schedules import ScheduleIn
from opsdeck.secrets.sensitive import Sensitive


async def audited(deck, verb):
    async with deck.db.read() as session:
        rows = (await session.exec(select(AuditEntry).where(AuditEntry.verb == verb).order_by(AuditEntry.seq))).all()
    return [(row.target, json.loads(row.body)["detail"]) for row in rows]


def sh(command, selector="all", action="sh", **more):
    return Submission("test", action, {"command": command}, selector, **more)


async def test_a_job_runs_on_its_hosts_and_leaves_its_proof(deck, boss):
    seen = []
    job = await deck.jobs.run(sh("echo out; echo err >&2"), boss, seen.append)
    assert (job.state, job.error) == ("succeeded", "")
    steps = await deck.jobs.steps(job.id)
    assert [(step.host, step.state, step.exit_status, step.receipt, step.remote) for step in steps] == [
        (name, "succeeded", 0, {"bytes": 4}, None) for name in ("h1", "h2", "h3")
    ]
    lines = await deck.jobs.log(job.id)
    assert [line.number for line in lines] == list(range(1, 10))
    assert {(line.stream, line.text) for line in lines if line.host == "h2"} == {
        ("cmd", "echo out; echo err >&2"),
        ("out", "out"),
        ("err", "err"),
    }
    assert tuple(line for update in seen for line in update.lines) == lines
    assert seen[-1].job.state == "succeeded"
    assert await deck.jobs.log(job.id, after=3, limit=2) == lines[3:5]
    assert await deck.jobs.log(job.id, host="h2") == tuple(line for line in lines if line.host == "h2")


async def test_a_script_with_a_title_is_shown_by_it_and_audited_whole(deck, boss, hosts):
    job = await deck.jobs.run(Submission("test", "titled", {"command": "echo x", "title": "doing it"}, "h1"), boss)
    lines = [(line.stream, line.text) for line in await deck.jobs.log(job.id)]
    assert lines == [("info", "doing it"), ("out", "x")] * 2
    assert ["echo x" in detail["command"] for _, detail in await audited(deck, "command.ran")] == [True, True]


async def test_every_command_is_in_the_audit_trail_with_words_key_and_end(deck, boss, hosts):
    job = await deck.jobs.run(sh("exit 3", "h1"), boss)
    assert job.state == "failed"
    ((target, detail),) = await audited(deck, "command.ran")
    assert target == "host:h1"
    assert detail["command"] == "sh -c 'exit 3' sh"
    assert (detail["by"], detail["exit_status"], detail["user"]) == (f"job:{job.id}", 3, hosts["h1"].user)
    assert detail["host_key"].startswith("SHA256:")
    ((_, made),) = await audited(deck, "job.submitted")
    assert made["params"] == {"command": "exit 3", "sudo": False}
    ((_, over),) = await audited(deck, "job.finished")
    assert (over["state"], over["hosts"]) == ("failed", {"failed": 1})
    assert (await deck.audit.verify()).bad is None


async def test_a_queued_job_is_taken_by_the_engine_and_can_be_followed(deck, boss):
    async with served(deck.jobs.engine):
        job = await deck.jobs.submit(sh("for i in 1 2 3; do echo line $i; done", "h1"), boss)
        assert job.state == "queued"
        updates = [update async for update in deck.jobs.follow(job.id)]
    assert updates[-1].job.state == "succeeded"
    texts = [line.text for update in updates for line in update.lines if line.stream == "out"]
    assert texts == ["line 1", "line 2", "line 3"]
    assert [step.state for update in updates for step in update.steps][-1] == "succeeded"


async def test_a_job_is_followed_from_another_process_by_its_rows(deck, boss, open_deck):
    async with open_deck("other") as other, served(deck.jobs.engine):
        job = await deck.jobs.submit(sh("echo here; sleep 0.7; echo there", "h2"), boss)
        updates = [update async for update in other.jobs.follow(job.id)]
    assert [line.text for update in updates for line in update.lines][1:] == ["here", "there"]
    assert updates[-1].job.state == "succeeded"


@pytest.mark.parametrize(
    ("submission", "error", "field"),
    [
        (Submission("nobody", "sh", {}, "all"), NotFound, "plugin"),
        (Submission("test", "nothing", {}, "all"), NotFound, "action"),
        (Submission("test", "sh", {}, "all"), InvalidParams, "command"),
        (Submission("test", "sh", {"command": "true", "sudo": "perhaps"}, "all"), InvalidParams, "sudo"),
        (Submission("test", "sh", {"command": "true", "comand": "x"}, "all"), InvalidParams, "comand"),
        (Submission("test", "sh", {"command": "true"}, ""), Invalid, "selector"),
        (Submission("test", "sh", {"command": "true"}, "h1", timeout=-1), Invalid, "timeout"),
    ],
)
async def test_what_is_wrong_is_said_before_anything_is_done(deck, boss, submission, error, field):
    with pytest.raises(error) as caught:
        await deck.jobs.submit(submission, boss)
    assert caught.value.field == field
    assert await deck.jobs.list() == ()


async def test_an_unknown_host_is_named_and_nothing_runs(deck, boss):
    with pytest.raises(NotFound) as caught:
        await deck.jobs.submit(sh("true", "h1,h9"), boss)
    assert "h9" in str(caught.value)
    assert await deck.jobs.list() == ()


async def test_a_role_that_may_not_is_refused(deck):
    viewer = Actor("eve", Role.VIEWER, Door.WEB)
    with pytest.raises(Refused):
        await deck.jobs.submit(sh("true"), viewer)
    assert (await deck.jobs.run(sh("true", action="look"), viewer)).state == "succeeded"


async def test_consent_grows_with_what_can_go_wrong(deck, boss):
    with pytest.raises(ConsentNeeded) as caught:
        await deck.jobs.submit(sh("true", "all", "wipe"), boss)
    assert caught.value.expected == "3"
    with pytest.raises(ConsentNeeded) as caught:
        await deck.jobs.submit(sh("true", "h2", "wipe", confirm="h1"), boss)
    assert caught.value.expected == "h2"
    with pytest.raises(StepUpNeeded):
        await deck.jobs.submit(sh("true", "h2", "wipe", confirm="h2"), Actor("amy", Role.ADMIN, Door.WEB))
    assert (await deck.jobs.run(sh("true", "h2", "wipe", confirm="h2"), boss)).state == "succeeded"


async def test_a_plan_changes_nothing_and_is_audited(deck, boss, hosts):
    (hosts["h1"].home / "motd").write_text("hello")
    plan = await deck.jobs.plan(sh("hello", "h1,h2"), boss)
    assert [(change.host, change.before, change.after) for change in plan.changes] == [("h2", "", "hello")]
    assert {target for target, _ in await audited(deck, "command.ran")} == {"host:h1", "host:h2"}
    assert await deck.jobs.list() == ()
    with pytest.raises(Invalid, match="beforehand"):
        await deck.jobs.plan(sh("x", action="look"), boss)


async def test_one_failing_host_fails_the_job_and_not_the_others(deck, boss):
    job = await deck.jobs.run(sh('case "$(pwd)" in */h2/*) echo oops >&2; exit 7;; esac'), boss)
    steps = {step.host: step for step in await deck.jobs.steps(job.id)}
    assert [steps[name].state for name in ("h1", "h2", "h3")] == ["succeeded", "failed", "succeeded"]
    assert (steps["h2"].exit_status, steps["h2"].fault) == (7, "CommandFailed")
    assert steps["h2"].error == "the command ended with exit status 7: oops"
    assert (job.state, job.error) == ("failed", "1 of 3 hosts failed: h2")


async def test_after_too_many_failures_the_rest_is_not_started(deck, boss):
    job = await deck.jobs.run(sh("exit 1", action="carefully"), boss)
    states = [(step.state, step.note) for step in await deck.jobs.steps(job.id)]
    assert states == [("failed", ""), *[("skipped", "not started: one failed before")] * 2]
    assert job.state == "failed"


async def test_an_action_that_leads_its_own_steps(deck, boss):
    job = await deck.jobs.run(Submission("test", "whole", {}, "all"), boss)
    steps = await deck.jobs.steps(job.id)
    assert [(step.state, step.note) for step in steps] == [
        ("succeeded", ""),
        ("skipped", "does not need it"),
        ("succeeded", ""),
    ]
    assert job.receipt == {"failed": 0}
    assert await deck.leases.list() == ()


async def test_an_action_on_the_console_opens_steps_where_it_finds_out_that_it_must(deck, boss):
    job = await deck.jobs.run(Submission("test", "console"), boss)
    assert (job.state, job.receipt, job.hosts) == ("succeeded", {"ok": True, "failed": 0}, [])
    steps = [(step.host, step.state) for step in await deck.jobs.steps(job.id)]
    assert steps == [("h1", "succeeded"), ("h2", "succeeded"), ("h3", "succeeded")]


async def test_the_plan_of_an_action_on_the_console_looks_at_the_hosts_it_names(deck, boss):
    shown = await deck.jobs.plan(Submission("test", "console"), boss)
    assert sorted((change.host, change.target) for change in shown.changes) == [("h1", "seen"), ("h3", "seen")]


async def test_what_a_job_touches_is_touched_by_no_other(deck, boss, open_deck, until):
    async with open_deck("other") as other:
        first = asyncio.create_task(deck.jobs.run(sh("sleep 1", "h1", "alone"), boss))
        await until(deck.leases.list)
        refused = await other.jobs.run(sh("true", "all", "alone"), boss)
        assert (refused.state, refused.fault) == ("failed", "Conflict")
        assert "box:h1 is held by job:1 (Alone) on deck" in refused.error
        assert (await other.jobs.run(sh("true", "h2", "alone"), boss)).state == "succeeded"
        assert (await first).state == "succeeded"
    assert await deck.leases.list() == ()


async def held(deck):
    return {row.name: row.held_by for row in await deck.schedules.list() if row.held_by}


async def test_schedules_are_held_for_the_block_and_no_longer_than_the_job_lives(deck, boss, open_deck, until):
    for name, action, command in (("mine", "sh", "mine"), ("theirs", "sh", "theirs"), ("other", "look", "mine")):
        given = ScheduleIn(
            name=name, plugin="test", action=action, params={"command": command}, selector="h1", every_seconds=3600
        )
        await deck.schedules.add(given, boss)
    holding = {"plugin": "test", "action": "holding"}
    first = asyncio.create_task(deck.jobs.run(Submission(**holding, params={"command": "sleep 60"}), boss))
    await until(lambda: held(deck))
    assert await held(deck) == {"mine": "job 1: a test"}
    refused = await deck.jobs.run(Submission(**holding, params={"command": "true"}), boss)
    assert "held by job 1: a test" in refused.error
    await deck.jobs.cancel(1, boss)
    assert (await first).state == "cancelled"
    assert await held(deck) == {}
    job = await deck.jobs.run(Submission(**holding, params={"command": "true"}), boss)
    assert (job.receipt, await held(deck)) == ({"held": ["mine"]}, {})
    lost = await deck.jobs.submit(Submission(**holding, params={"command": "true"}), boss)
    async with open_deck("dead") as dead:
        await dead.jobs.engine.claim()
        async with dead.db.write() as session:
            await holds.take(session, lost.id, "a test", lambda _row: True)
    over = update(Job).where(Job.id == lost.id).values(lease_until=utcnow() - timedelta(seconds=1))
    async with deck.db.write() as session:
        await session.exec(over)
    assert len(await held(deck)) == 3
    await deck.jobs.recover()
    assert ((await deck.jobs.get(lost.id)).state, await held(deck)) == ("lost", {})


async def test_a_stolen_lease_ends_the_job_that_had_it(deck, boss, monkeypatch, until):
    monkeypatch.setattr("opsdeck.jobs.leases.BEAT", 0.1)
    running = asyncio.create_task(deck.jobs.run(sh("sleep 60", "h1", "alone"), boss))
    await until(deck.leases.list)
    before = await deck.leases.steal("box:h1", boss)
    assert before.holder == "job:1"
    job = await running
    assert (job.state, job.fault) == ("failed", "lease")
    assert "box:h1 was lost" in job.error
    ((target, detail),) = await audited(deck, "lease.stolen")
    assert (target, detail["holder"]) == ("lease:box:h1", "job:1")
    async with deck.db.read() as session:
        assert (await session.get(Lease, "box:h1")).fence == 2


async def test_secrets_never_reach_the_log_and_are_audited_once(deck, boss):
    await deck.secrets.set("db", Sensitive("correct horse"), kind="text", actor=boss)
    job = await deck.jobs.run(Submission("test", "reveal", {"name": "db", "times": 3}, "h1,h2"), boss)
    assert job.state == "succeeded"
    text = "\n".join(line.text for line in await deck.jobs.log(job.id))
    assert "correct" not in text
    assert "••••" in text
    revealed = [detail for target, detail in await audited(deck, "secret.revealed") if target == "secret:db"]
    assert len(revealed) == 1
    async with deck.db.read() as session:
        bodies = (await session.exec(select(AuditEntry.body))).all()
    assert not any("correct horse" in body for body in bodies)


async def test_a_job_removes_a_secret_that_nothing_refers_to(deck, boss):
    await deck.secrets.set("made", Sensitive("correct horse"), kind="text", actor=boss)
    job = await deck.jobs.run(Submission("test", "forget", {"name": "made"}), boss)
    assert job.state == "succeeded"
    assert "made" not in await deck.secrets.names()
    assert [target for target, _detail in await audited(deck, "secret.removed")] == ["secret:made"]
    credential = (await deck.inventory.get("h1")).credential
    job = await deck.jobs.run(Submission("test", "forget", {"name": credential}), boss)
    assert job.state == "failed"
    assert "in use by host h1" in job.error
    assert credential in await deck.secrets.names()


async def test_a_retry_repeats_the_frozen_parameters_on_what_failed(deck, boss, hosts):
    command = "test -e ok || { echo missing; exit 1; }"
    (hosts["h1"].home / "ok").touch()
    job = await deck.jobs.run(sh(command), boss)
    (hosts["h2"].home / "ok").touch()
    async with served(deck.jobs.engine):
        again = await deck.jobs.retry(job.id, boss, failed_only=True)
        assert (again.hosts, again.params, again.retry_of) == (["h2", "h3"], job.params, job.id)
        again = await deck.jobs.ended(again.id)
    assert [(step.host, step.state) for step in await deck.jobs.steps(again.id)] == [
        ("h2", "succeeded"),
        ("h3", "failed"),
    ]
    with pytest.raises(Invalid, match="no host"):
        good = await deck.jobs.run(sh("true"), boss)
        await deck.jobs.retry(good.id, boss, failed_only=True)


async def test_the_list_is_filtered_and_paged(deck, boss):
    for command in ("true", "false", "true"):
        await deck.jobs.run(sh(command, "h1"), boss)
    await deck.jobs.run(sh("true", "h2"), boss)
    assert [job.id for job in await deck.jobs.list()] == [4, 3, 2, 1]
    assert [job.id for job in await deck.jobs.list(state="failed")] == [2]
    assert [job.id for job in await deck.jobs.list(host="h2")] == [4]
    assert [job.id for job in await deck.jobs.list(before=3, limit=1)] == [2]
