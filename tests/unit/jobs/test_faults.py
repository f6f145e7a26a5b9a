"""What goes wrong: each fault ends its own job or step, says which host and what next, and leaves nothing running."""

import asyncio
import contextlib
import os
import sqlite3
import time
from pathlib import Path

import pytest
from sqlmodel import select, update

from opsdeck.clock import utcnow
from opsdeck.errors import Unavailable
from opsdeck.inventory.models import Host
from opsdeck.jobs.engine import served
from opsdeck.jobs.jobs import Submission
from opsdeck.jobs.ledger import Done, JobTaken, Ledger
from opsdeck.jobs.lines import LINE_LIMIT
from opsdeck.jobs.models import Job, State


def sh(command, selector="h1", action="sh", **more):
    return Submission("test", action, {"command": command}, selector, **more)


async def only(deck, job):
    (step,) = await deck.jobs.steps(job.id)
    return step


def processes(mark):
    """Tell which processes of this machine have `mark` among their arguments."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if any(word == mark.encode() for word in words):
                found.append(int(folder.name))
    return found


@pytest.fixture
def tell():
    """Give a number of seconds that no other process sleeps."""
    return f"4{time.time_ns() % 10**8:08d}"


async def test_a_changed_host_key_refuses_that_host_only(deck, boss, hosts):
    await hosts["h2"].change_host_key()
    job = await deck.jobs.run(sh("true", "all"), boss)
    steps = {step.host: step for step in await deck.jobs.steps(job.id)}
    assert [steps[name].state for name in ("h1", "h2", "h3")] == ["succeeded", "failed", "succeeded"]
    assert steps["h2"].fault == "HostKeyChanged"
    assert "Next:" in steps["h2"].error
    (incident,) = await deck.incidents.open_now()
    assert (incident.key, incident.host) == ("host-key:h2", "h2")
    assert (await deck.inventory.get("h2")).reach == "key_changed"


async def test_a_refused_key_names_user_and_secret(deck, boss, hosts):
    hosts["h1"].behaviour.refuse_keys = True
    step = await only(deck, await deck.jobs.run(sh("true"), boss))
    assert (step.state, step.fault) == ("failed", "LoginRefused")
    assert "the secret play" in step.error


async def test_a_host_that_is_gone_is_named_with_the_next_step(deck, boss, hosts):
    await hosts["h1"].stop()
    step = await only(deck, await deck.jobs.run(sh("true"), boss))
    assert (step.state, step.fault) == ("failed", "Unreachable")
    assert "Next:" in step.error


async def test_a_jump_host_that_is_down_is_named(deck, boss, hosts):
    async with deck.db.write() as session:
        await session.exec(update(Host).where(Host.name == "h1").values(jump="h3"))
    await hosts["h3"].stop()
    step = await only(deck, await deck.jobs.run(sh("true"), boss))
    assert step.fault == "Unreachable"
    assert "h3" in step.error


async def test_a_host_gone_in_the_middle_of_a_command_may_have_run_it(deck, boss, hosts, until):
    running = asyncio.create_task(deck.jobs.run(sh("echo begun; sleep 30", "h1,h2"), boss))

    async def begun():
        return any(line.text == "begun" for line in await deck.jobs.log(1, host="h1"))

    await until(begun)
    await hosts["h1"].stop()
    await deck.jobs.cancel(1, boss)
    job = await running
    steps = {step.host: step for step in await deck.jobs.steps(job.id)}
    assert steps["h2"].state == "cancelled"
    assert steps["h1"].state in ("failed", "cancelled")
    if steps["h1"].state == "failed":
        assert steps["h1"].fault == "LinkLost"
    else:
        assert steps["h1"].note == "may still run on the host"


async def test_a_host_that_left_the_inventory_fails_its_step(deck, boss):
    job = await deck.jobs.submit(sh("true", "h1,h2"), boss)
    await deck.inventory.remove("h2", boss)
    async with served(deck.jobs.engine):
        job = await deck.jobs.ended(job.id)
    steps = {step.host: step for step in await deck.jobs.steps(job.id)}
    assert (steps["h1"].state, steps["h2"].state, steps["h2"].fault) == ("succeeded", "failed", "NotFound")


async def test_a_disk_that_is_full_is_what_the_host_says(deck, boss):
    step = await only(deck, await deck.jobs.run(sh("cat /dev/zero > /dev/full"), boss))
    assert step.state == "failed"
    assert "No space left" in step.error


async def test_a_line_of_10_mb_is_cut_and_the_rest_goes_on(deck, boss):
    job = await deck.jobs.run(sh("head -c 10485760 /dev/zero | tr '\\0' x; echo; echo after"), boss)
    assert job.state == "succeeded"
    out = [line.text for line in await deck.jobs.log(job.id) if line.stream == "out"]
    assert out[1] == "after"
    assert out[0].startswith("x" * LINE_LIMIT)
    assert out[0].endswith(f"…[{10485760 - LINE_LIMIT} more bytes of this line were not kept]")
    assert (await deck.jobs.get(job.id)).log_bytes < 2 * LINE_LIMIT


async def test_output_that_is_no_text_is_kept_as_data(deck, boss):
    command = r"printf 'a\377b\n\033[31mred\033[0m <script>alert(1)</script>\n\000nul\n\r\n'"
    job = await deck.jobs.run(sh(command), boss)
    out = [line.text for line in await deck.jobs.log(job.id) if line.stream == "out"]
    assert out == ["a\\xffb", "\x1b[31mred\x1b[0m <script>alert(1)</script>", "\0nul", ""]


async def test_a_cancel_ends_everything_on_the_host_and_proves_it(deck, boss, tell, until):
    running = asyncio.create_task(deck.jobs.run(sh(f"sleep {tell} | sleep {tell} & sleep {tell}", "h1,h2"), boss))
    await until(lambda: len(processes(tell)) == 6)
    await deck.jobs.cancel(1, boss)
    job = await running
    assert processes(tell) == []
    assert (job.state, job.error) == ("cancelled", "cancelled by boss@cli")
    for step in await deck.jobs.steps(job.id):
        assert (step.state, step.note, step.remote) == ("cancelled", "ended on the host", None)


async def test_a_cancel_from_another_process_is_seen(deck, boss, open_deck, tell, until):
    running = asyncio.create_task(deck.jobs.run(sh(f"sleep {tell}"), boss))
    await until(lambda: processes(tell))
    async with open_deck("other") as other:
        asked = await other.jobs.cancel(1, boss)
        assert asked.state == "running"
        assert (await other.jobs.ended(1)).state == "cancelled"
    assert (await running).cancel_by == "boss@cli"
    assert processes(tell) == []


async def test_a_job_that_waits_is_cancelled_at_once(deck, boss):
    job = await deck.jobs.submit(sh("true", "all"), boss)
    assert (await deck.jobs.cancel(job.id, boss)).state == "cancelled"
    assert {step.state for step in await deck.jobs.steps(job.id)} == {"cancelled"}
    async with served(deck.jobs.engine):
        await asyncio.sleep(0.2)
    assert await deck.jobs.log(job.id) == ()


async def test_silence_ends_a_job_and_talking_does_not(deck, boss, tell):
    quiet = await deck.jobs.run(sh(f"echo once; sleep {tell}", silence=0.5), boss)
    assert (quiet.state, quiet.fault) == ("failed", "clock")
    assert "said nothing for 0.5 s" in quiet.error
    assert processes(tell) == []
    talking = await deck.jobs.run(sh("for i in 1 2 3 4 5; do echo $i; sleep 0.3; done", silence=1), boss)
    assert talking.state == "succeeded"


async def test_the_total_clock_is_kept_on_the_host(deck, boss, tell):
    job = await deck.jobs.run(sh(f"while :; do echo x; sleep 0.2; done; sleep {tell}", timeout=1), boss)
    step = await only(deck, job)
    assert (job.state, step.state, step.fault) == ("failed", "failed", "CommandTimeout")
    assert "all its processes are gone" in step.error


@pytest.mark.parametrize(
    ("action", "told"),
    [
        ("leave", "the action tried to end the process (SystemExit); only its own work was ended."),
        ("bad", "the action failed with ValueError: nobody thought of this"),
    ],
)
async def test_an_action_that_misbehaves_ends_its_own_job_only(deck, boss, action, told):
    async with served(deck.jobs.engine):
        bad = await deck.jobs.submit(Submission("test", action, {}, "h1"), boss)
        good = await deck.jobs.submit(sh("sleep 0.2"), boss)
        assert (await deck.jobs.ended(good.id)).state == "succeeded"
        bad = await deck.jobs.ended(bad.id)
    assert (bad.state, bad.error) == ("failed", told)
    assert (await only(deck, bad)).error == told


async def test_an_action_that_hangs_is_ended_by_its_clock(deck, boss):
    job = await deck.jobs.run(Submission("test", "hang", {}, "h1", silence=0.3), boss)
    assert (job.state, job.fault) == ("failed", "clock")


async def test_an_action_that_will_not_stop_is_left_behind(deck, boss, monkeypatch):
    monkeypatch.setattr("opsdeck.jobs.runner.STOP_SECONDS", 0.5)
    job = await deck.jobs.run(Submission("test", "stubborn", {}, "h1", silence=0.3), boss)
    assert job.state == "failed"
    assert "did not stop when told" in job.error


async def test_two_nodes_share_a_queue_and_no_job_runs_twice(deck, boss, open_deck, hosts):
    numbers = [(await deck.jobs.submit(sh(f"echo {n} >> ran", "h1"), boss)).id for n in range(20)]
    async with open_deck("other") as other, served(deck.jobs.engine), served(other.jobs.engine):
        for number in numbers:
            assert (await deck.jobs.ended(number)).state == "succeeded"
    assert sorted(map(int, (hosts["h1"].home / "ran").read_text().split())) == list(range(20))


async def test_a_late_node_changes_nothing(deck, boss, until, tell):
    running = asyncio.create_task(deck.jobs.run(sh(f"sleep {tell}"), boss))
    await until(lambda: processes(tell))
    async with deck.db.write() as session:
        await session.exec(update(Job).values(fence=2, node="another", error="taken"))
    late = await running
    assert (late.state, late.node, late.error, late.fence) == ("running", "another", "taken", 2)
    await until(lambda: not processes(tell))


async def test_a_late_ledger_is_told_so(deck, boss):
    job = await deck.jobs.submit(sh("true"), boss)
    claimed = await deck.jobs.engine.claim()
    assert (claimed.node, claimed.fence) == ("deck", 1)
    for node, fence in (("deck", 0), ("another", 1)):
        ledger = Ledger(deck.db, deck.audit, deck.events, job_id=job.id, node=node, fence=fence, actor=boss, steps=())
        ledger.lines("", "out", ["late"])
        with pytest.raises(JobTaken):
            await ledger.finish(Done(State.SUCCEEDED))
    assert await deck.jobs.log(job.id) == ()
    assert (await deck.jobs.get(job.id)).state == "running"


async def test_a_database_that_is_locked_for_a_while_loses_nothing(deck, boss, home, until):
    running = asyncio.create_task(deck.jobs.run(sh("for i in 1 2 3 4 5 6; do echo $i; sleep 0.2; done"), boss))
    await until(lambda: deck.jobs.log(1))
    other = sqlite3.connect(home / "opsdeck.db", timeout=60, isolation_level=None)
    async with deck.db.engine.connect() as connection:
        await connection.exec_driver_sql("PRAGMA busy_timeout=50")
    other.execute("BEGIN IMMEDIATE")
    await asyncio.sleep(1.5)
    other.execute("COMMIT")
    other.close()
    job = await running
    assert job.state == "succeeded"
    assert [line.text for line in await deck.jobs.log(1) if line.stream == "out"] == list("123456")


async def test_a_database_that_stays_locked_ends_the_work_loudly(deck, boss, home, until, monkeypatch, tell):

    monkeypatch.setattr("opsdeck.jobs.ledger.PATIENCE", 0.3)
    running = asyncio.create_task(deck.jobs.run(sh(f"echo a; while :; do echo b; sleep 0.1; done; sleep {tell}"), boss))
    await until(lambda: deck.jobs.log(1))
    other = sqlite3.connect(home / "opsdeck.db", timeout=60, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="locked"):
        await running
    other.close()
    job = await deck.jobs.get(1)
    assert job.state == "running"
    assert job.lease_until > utcnow().replace(year=2000)


@pytest.mark.skipif(os.getuid() == 0, reason="play hosts of root need no sudo; the fleet tries this")
async def test_wrong_sudo_password(deck, boss, hosts, tmp_path):
    from opsdeck.secrets.sensitive import Sensitive

    await deck.secrets.set("sudo", Sensitive("not the one"), kind="password", actor=boss)
    async with deck.db.write() as session:
        await session.exec(update(Host).where(Host.name == "h1").values(sudo="password", sudo_secret="sudo"))
        assert (await session.exec(select(Host.sudo).where(Host.name == "h1"))).one() == "password"
    job = await deck.jobs.run(Submission("test", "sh", {"command": "true", "sudo": True}, "h1"), boss)
    step = await only(deck, job)
    assert step.state == "failed"
    assert step.fault in ("SudoRefused", "ShellRefused")
    assert "Next:" in step.error
    assert "not the one" not in step.error


async def test_text_that_no_database_takes_is_made_fit(deck, boss):
    job = await deck.jobs.run(Submission("test", "garbage", {}, "h1"), boss)
    (step,) = await deck.jobs.steps(job.id)
    assert (step.state, step.note) == ("failed", "note \\0 \\udc80")
    assert step.error == "the action failed with ValueError: \\0 \\udcff"
    assert (await deck.jobs.log(job.id))[0].text == "nul \0 half \udc80 end"
