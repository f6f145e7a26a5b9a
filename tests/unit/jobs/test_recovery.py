"""A console that is killed in the middle: what it ran is taken up again or closed, and never begun twice."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
from sqlmodel import update

from opsdeck.clock import utcnow
from opsdeck.deck import Deck
from opsdeck.jobs import leases, retention
from opsdeck.jobs.engine import served
from opsdeck.jobs.jobs import Submission
from opsdeck.jobs.models import Job, LogChunk
from opsdeck.plugins import Plugins
from opsdeck.settings import Settings

OPSDECK = [sys.executable, "-c", "from opsdeck.cli import main; main()"]


def running(mark):
    """Tell whether a process of this machine has `mark` among its arguments."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (folder / "cmdline").read_bytes().split(b"\0"):
                return True
    return False


@pytest.fixture
def tell():
    """Give a number of seconds that no other process sleeps."""
    return f"5{time.time_ns() % 10**8:08d}"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Look for dead nodes more often than in earnest."""
    monkeypatch.setattr("opsdeck.jobs.engine.BEAT", 0.2)


@contextlib.asynccontextmanager
async def console(home, *words):
    """Start a console of its own that runs an action; it is killed at the end, if it was not before."""
    process = await asyncio.create_subprocess_exec(
        *OPSDECK, "plugin", "run", "core", *words, env={**os.environ, "OPSDECK_HOME": str(home)}, stdout=-3, stderr=-3
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def another(home, node="other"):
    """Open the data folder with the built-in plugin, as a server started later would."""
    plugins = Plugins()
    plugins.load({"web"})
    async with Deck.open(Settings(home=home, node=node), plugins=plugins, kind="server") as deck:
        yield deck


async def time_passes(deck, job_id=1):
    """Let the lease of a dead node's job be over."""
    async with deck.db.write() as session:
        await session.exec(update(Job).where(Job.id == job_id).values(lease_until=utcnow() - timedelta(minutes=1)))


async def said(deck, text, job_id=1):
    with contextlib.suppress(Exception):
        return any(line.text == text for line in await deck.jobs.log(job_id))


async def test_a_detached_command_is_attached_again_and_runs_once(deck, boss, home, until, hosts):
    script = "echo begun; echo x >> count; i=0; while [ $i -lt 300 ]; do [ -e go ] && break; sleep 0.1; done; echo over"
    async with console(home, "command", "--command", script, "--detach", "--on", "h1,h2") as process:
        await until(lambda: said(deck, "begun"))
        process.send_signal(signal.SIGKILL)
        await process.wait()
    assert (await deck.jobs.get(1)).state == "running"
    async with another(home) as other, served(other.jobs.engine):
        await time_passes(other)
        await until(lambda: said(other, "looking for main again, which was begun before"))
        for name in ("h1", "h2"):
            (hosts[name].home / "go").touch()
        job = await other.jobs.ended(1, 30)
    assert (job.state, job.fence, job.node) == ("succeeded", 2, "other")
    lines = await deck.jobs.log(1)
    for name in ("h1", "h2"):
        assert [line.text for line in lines if line.host == name and line.stream == "out"] == ["begun", "over"]
        assert (hosts[name].home / "count").read_text() == "x\n"


async def test_a_plain_command_is_ended_on_the_host_and_the_job_is_lost(deck, boss, home, until, tell):
    async with console(home, "command", "--command", f"sleep {tell}", "--on", "h1") as process:
        await until(lambda: running(tell))

        async def recorded():
            return any(step.remote for step in await deck.jobs.steps(1))

        await until(recorded)
        process.send_signal(signal.SIGKILL)
        await process.wait()
    await asyncio.sleep(0.3)
    async with another(home) as other:
        assert await other.jobs.recover() == 0
        await time_passes(other)
        assert "is gone since" in other.jobs.trouble(await other.jobs.get(1))
        assert await other.jobs.recover() == 1
        job = await other.jobs.get(1)
        (step,) = await other.jobs.steps(1)
    assert (job.state, job.fault) == ("lost", "NodeLost")
    assert (step.state, step.note, step.remote) == ("lost", "ended on the host", None)
    assert not running(tell)


async def test_a_lost_job_lets_go_of_what_it_held(deck, boss, open_deck):
    job = await deck.jobs.submit(Submission("test", "sh", {"command": "true"}, "h1"), boss)
    async with open_deck("dead") as dead:
        await dead.leases.acquire(["box:h1"], f"job:{job.id}", "Sh")
        await dead.jobs.engine.claim()
    await time_passes(deck, job.id)
    assert await deck.jobs.recover() == 1
    assert await deck.leases.list() == ()
    assert (await deck.jobs.get(job.id)).state == "lost"


async def test_only_one_of_two_nodes_takes_up_a_job(deck, boss, open_deck):
    job = await deck.jobs.submit(Submission("test", "detached", {"command": "echo x >> ran; sleep 0.3"}, "h1"), boss)
    async with open_deck("dead") as dead:
        await dead.jobs.engine.claim()
    await time_passes(deck, job.id)
    async with open_deck("one") as one, open_deck("two") as two:
        assert sorted(await asyncio.gather(one.jobs.recover(), two.jobs.recover())) == [0, 1]
    job = await deck.jobs.get(job.id)
    assert (job.state, job.fence) == ("succeeded", 2)


async def test_a_node_that_stops_leaves_what_can_be_resumed_and_ends_the_rest(open_deck, deck, boss, until, tell):
    async with open_deck("one") as one:
        task = asyncio.create_task(one.jobs.serve(stop := asyncio.Event()))
        await deck.jobs.submit(Submission("test", "detached", {"command": "echo a; sleep 3; echo z"}, "h1"), boss)
        await deck.jobs.submit(Submission("test", "sh", {"command": f"sleep {tell}"}, "h2"), boss)
        await until(lambda: said(deck, "a", 1))
        await until(lambda: running(tell))
        assert [node.name for node in await deck.jobs.nodes()] == ["one"]
        stop.set()
        await task
    assert (await deck.jobs.get(2)).state == "cancelled"
    assert not running(tell)
    assert await deck.jobs.nodes() == ()
    assert await deck.jobs.recover() == 1
    assert (await deck.jobs.get(1)).state == "succeeded"
    assert [line.text for line in await deck.jobs.log(1) if line.stream == "out"] == ["a", "z"]


async def test_history_is_kept_within_days_and_budget_and_running_rows_are_never_touched(deck, boss):
    sh = Submission("test", "sh", {"command": "head -c 3000 /dev/zero | tr '\\0' x"}, "h1")
    for _ in range(4):
        await deck.jobs.run(sh, boss)
    waiting = await deck.jobs.submit(sh, boss)
    long_ago = utcnow() - timedelta(days=100)
    async with deck.db.write() as session:
        await session.exec(update(Job).where(Job.id == 1).values(finished=long_ago))
        await session.exec(update(Job).where(Job.id == 2).values(finished=utcnow() - timedelta(days=1)))
        await session.exec(update(Job).where(Job.id == waiting.id).values(finished=long_ago, log_bytes=99 << 20))
        session.add(LogChunk(job_id=waiting.id, first=1, count=0, lines="[]"))
    pruned = await retention.prune(deck.db, days=90, megabytes=99)
    assert (pruned.jobs, pruned.logs) == (1, 3)
    assert [job.id for job in await deck.jobs.list()] == [5, 4, 3, 2]
    assert await deck.jobs.log(3) == ()
    assert [step.state for step in await deck.jobs.steps(3)] == ["succeeded"]
    assert (await deck.jobs.get(waiting.id)).log_bytes == 99 << 20


async def test_a_fence_never_shrinks(deck):
    fences = []
    for _ in range(3):
        grants = await deck.leases.acquire(["thing"], "job:1")
        fences.append(grants[0].fence)
        await deck.leases.release(grants)
    assert fences == [1, 2, 3]
    assert leases.TTL > 2 * leases.BEAT
