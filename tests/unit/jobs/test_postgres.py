"""The same on PostgreSQL: claims, leases, fences and logs of several nodes."""

import asyncio

import pytest

from opsdeck.errors import Conflict
from opsdeck.jobs.engine import served
from opsdeck.jobs.jobs import Submission
from opsdeck.jobs.ledger import Done, JobTaken, Ledger
from opsdeck.jobs.models import State

pytestmark = pytest.mark.postgres


@pytest.fixture
def database_url(postgres_url):
    """Use a database of its own on the server of the session."""
    return postgres_url


def sh(command, selector="h1", action="sh"):
    return Submission("test", action, {"command": command}, selector)


async def test_a_job_runs_and_its_log_is_kept(deck, boss):
    job = await deck.jobs.run(sh(r"printf 'a\000b\377\n'; echo err >&2; exit 3", "all"), boss)
    assert (job.state, job.error) == ("failed", "3 of 3 hosts failed: h1, h2, h3")
    assert [line.text for line in await deck.jobs.log(job.id, host="h2") if line.stream == "out"] == ["a\0b\\xff"]
    assert {step.exit_status for step in await deck.jobs.steps(job.id)} == {3}
    assert (await deck.audit.verify()).bad is None


async def test_two_nodes_share_a_queue_and_no_job_runs_twice(deck, boss, open_deck, hosts):
    numbers = [(await deck.jobs.submit(sh(f"echo {n} >> ran"), boss)).id for n in range(12)]
    async with open_deck("other") as other, served(deck.jobs.engine), served(other.jobs.engine):
        for number in numbers:
            assert (await deck.jobs.ended(number)).state == "succeeded"
    assert sorted(map(int, (hosts["h1"].home / "ran").read_text().split())) == list(range(12))


async def test_one_of_many_takes_a_lease_and_the_fence_grows(deck, open_deck):
    async with open_deck("other") as other:
        got = await asyncio.gather(
            *(each.leases.acquire(["thing"], f"job:{n}") for n, each in enumerate([deck, other] * 4)),
            return_exceptions=True,
        )
    grants = [each[0] for each in got if not isinstance(each, BaseException)]
    assert [grant.fence for grant in grants] == [1]
    assert all(isinstance(each, Conflict) for each in got if isinstance(each, BaseException))
    await (deck if grants[0].holder in ("job:0", "job:2", "job:4", "job:6") else other).leases.release(grants)
    assert (await deck.leases.acquire(["thing"], "job:9"))[0].fence == 2


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


async def test_text_that_no_database_takes_is_made_fit(deck, boss):
    job = await deck.jobs.run(Submission("test", "garbage", {}, "h1"), boss)
    (step,) = await deck.jobs.steps(job.id)
    assert (step.state, step.note) == ("failed", "note \\0 \\udc80")
    assert step.error == "the action failed with ValueError: \\0 \\udcff"
    assert (await deck.jobs.log(job.id))[0].text == "nul \0 half \udc80 end"
