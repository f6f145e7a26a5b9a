"""The way through, end to end, on hosts to play with."""

from opsdeck.jobs.jobs import Submission


async def test_a_job_runs_on_its_hosts_and_leaves_its_proof(deck, boss):
    seen = []
    job = await deck.jobs.run(Submission("test", "sh", {"command": "echo out; echo err >&2"}, "all"), boss, seen.append)
    assert (job.state, job.error) == ("succeeded", "")
    steps = await deck.jobs.steps(job.id)
    assert [(step.host, step.state, step.exit_status, step.receipt) for step in steps] == [
        (name, "succeeded", 0, {"bytes": 4}) for name in ("h1", "h2", "h3")
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
