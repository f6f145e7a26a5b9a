"""The jobs: list, one job live, cancel, retry, the log as a file."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.plugins.htmx import HTMXRequest
from litestar.response import Redirect, ServerSentEvent, ServerSentEventMessage, Stream

from opsdeck.audit.log import Filters
from opsdeck.clock import stamp
from opsdeck.deck import Deck
from opsdeck.errors import Invalid
from opsdeck.jobs import consent
from opsdeck.jobs.follow import Update
from opsdeck.jobs.jobs import AGAIN
from opsdeck.jobs.lines import Line, plain
from opsdeck.jobs.models import Job, State, Step
from opsdeck.manifest import Risk
from opsdeck.pages import page
from opsdeck.plan import Plan
from opsdeck_web import formatting, states
from opsdeck_web.language import _
from opsdeck_web.live import HEADERS, PING
from opsdeck_web.pages.login import asks_code, prove
from opsdeck_web.visitor import Visitor

PAGE = 50
ROWS = 5000
"""Lines that a page keeps; the whole log is a file."""
BATCH = 500
"""Most lines in one event."""


@get("/jobs")
async def show(request: HTMXRequest, deck: NamedDependency[Deck]) -> Response[Any]:
    """List jobs, the newest first."""
    chosen = {name: request.query_params.get(name, "").strip() for name in ("state", "plugin", "host", "actor")}
    state: Any = chosen["state"] or None
    if state == "failed":
        state = [State.FAILED, State.LOST]
    before = request.query_params.get("before", "")
    jobs = await deck.jobs.list(
        state=state,
        plugin=chosen["plugin"] or None,
        host=chosen["host"] or None,
        actor=chosen["actor"] or None,
        before=int(before) if before.isdecimal() else None,
        limit=PAGE,
    )
    return page(
        request,
        "pages/jobs.html",
        "rows",
        jobs=jobs,
        chosen=chosen,
        more=jobs[-1].id if len(jobs) == PAGE else None,
        plugins=list(deck.plugins.manifests),
    )


@get("/jobs/{number:int}")
async def one(
    request: HTMXRequest, deck: NamedDependency[Deck], visitor: NamedDependency[Visitor], number: FromPath[int]
) -> Response[Any]:
    """Show a job: its state, its steps, its log, its receipts, the plan it was shown with."""
    job = await deck.jobs.get(number)
    steps = await deck.jobs.steps(number)
    part = request.query_params.get("part", "")
    last = await deck.jobs.last_line(number)
    action = next(
        (a for m in deck.plugins.ordered() if m.name == job.plugin for a in m.actions if a.name == job.action), None
    )
    again = [step.host for step in steps if step.state in AGAIN]
    audit = await deck.audit.list(Filters(target=f"job:{number}"), limit=1)
    return page(
        request,
        "pages/job.html",
        part if part in {"heading", "head", "after"} else None,
        job=job,
        steps=steps,
        lanes=[lane(step) for step in steps],
        summary=summary(job, steps),
        over=State(job.state).final,
        plan=Plan.from_dict(job.plan) if job.plan else None,
        last=last,
        failed=again,
        retryable=action is not None and visitor.may_act,
        words={
            "all": consent.expected(action, job.hosts) or "" if action else "",
            "failed": consent.expected(action, again) or "" if action else "",
        },
        prove=action is not None and action.risk is Risk.DESTROY and not visitor.stepped_up,
        ask_code=asks_code(visitor),
        receipts=[
            (step.host, json.dumps(step.receipt, ensure_ascii=False, indent=2)) for step in steps if step.receipt
        ],
        receipt=json.dumps(job.receipt, ensure_ascii=False, indent=2) if job.receipt else "",
        params=[(key, _text(value)) for key, value in job.params.items() if value not in (None, "", [], False)],
        audit=audit[0].seq if audit else None,
    )


def _text(value: Any) -> str:
    return ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)


def lane(step: Step) -> dict[str, Any]:
    """Give a step as the lane list shows it, as data."""
    dot, word = states.job(step.state)
    note = step.note or (word if step.error else "")
    if not note and step.started and step.finished:
        note = formatting.duration(step.finished - step.started)
    return {"host": step.host, "dot": dot, "word": word, "note": note or word, "error": step.error}


def summary(job: Job, steps: tuple[Step, ...]) -> tuple[str, str]:
    """Give the job's state in a phrase with its dot: `failed on 1 of 3`."""
    dot, word = states.job(job.state)
    bad = sum(step.state in (State.FAILED, State.LOST) for step in steps)
    if State(job.state).final and bad and len(steps) > 1:
        return dot, _("failed on %(bad)s of %(all)s") % {"bad": bad, "all": len(steps)}
    if job.state == State.RUNNING and job.cancel_requested:
        return "attention", _("being cancelled")
    if job.state == State.RUNNING and len(steps) > 1:
        done = sum(State(step.state).final for step in steps)
        return dot, _("running, %(done)s of %(all)s done") % {"done": done, "all": len(steps)}
    return dot, word


@get("/jobs/{number:int}/stream", media_type="text/event-stream")
async def stream(request: HTMXRequest, deck: NamedDependency[Deck], number: FromPath[int]) -> ServerSentEvent:
    """Follow a job: batches of lines with ids to resume from, states of steps, the end."""
    await deck.jobs.get(number)
    text = str(request.headers.get("last-event-id") or request.query_params.get("after") or "0")
    after = int(text) if text.isdecimal() else 0
    host = request.query_params.get("host") or None
    return ServerSentEvent(events(deck, number, after, host), headers=HEADERS)


async def events(deck: Deck, number: int, after: int, host: str | None) -> AsyncIterator[ServerSentEventMessage]:
    """Give a job's news as events.

    A reader that is further behind than a page holds is told how many lines were left out and gets the newest; so a
    slow page costs neither memory here nor there.
    """
    yield ServerSentEventMessage(comment="ready", retry=1000)
    source = None
    task: asyncio.Task[Update] | None = None
    try:
        while True:
            if task is None and host is None and (newest := await deck.jobs.last_line(number)) - after > ROWS:
                yield ServerSentEventMessage(event="gap", data=json.dumps(newest - after - ROWS))
                after = newest - ROWS
                if source is not None:
                    await source.aclose()
                    source = None
            source = source or deck.jobs.follow(number, after)
            task = task or asyncio.ensure_future(anext(source))
            done, _pending = await asyncio.wait({task}, timeout=PING)
            if not done:
                yield ServerSentEventMessage(comment="ping")
                continue
            try:
                update = task.result()
            except StopAsyncIteration:
                break
            finally:
                task = None
            after = max(after, update.last)
            for message in messages(update, host):
                yield message
                await asyncio.sleep(0)
    finally:
        if task is not None:
            task.cancel()
        if source is not None:
            await source.aclose()
    yield ServerSentEventMessage(event="done", data="over")


def messages(update: Update, host: str | None) -> Iterator[ServerSentEventMessage]:
    """Give the events of one update, one at a time, so that the loop breathes between them."""
    lines = [line for line in update.lines if host is None or line.host == host]
    for start in range(0, len(lines), BATCH):
        batch = lines[start : start + BATCH]
        yield ServerSentEventMessage(event="lines", id=str(batch[-1].number), data=packed(batch))
    if update.steps:
        data = [
            lane(Step(job_id=0, host=step.host, state=step.state, note=step.note, error=step.error,
                      started=step.started, finished=step.finished))
            for step in update.steps
        ]  # fmt: skip
        yield ServerSentEventMessage(event="steps", data=json.dumps(data, ensure_ascii=False))
    yield ServerSentEventMessage(event="job", data=json.dumps(update.job.state))


def packed(lines: list[Line]) -> str:
    """Give lines as one JSON text, without control sequences of terminals; the page shows the rest as text."""
    rows = [[line.number, line.ms, line.host, line.stream, plain(line.text)] for line in lines]
    return json.dumps(rows, ensure_ascii=False, separators=(",", ":"))


@get("/jobs/{number:int}/first-error")
async def first_error(deck: NamedDependency[Deck], number: FromPath[int]) -> dict[str, int]:
    """Give the number of the first line that says that something is wrong; 0 when none does."""
    await deck.jobs.get(number)
    first_err = after = 0
    while lines := await deck.jobs.log(number, after=after, limit=5000):
        for line in lines:
            if line.stream == "bad":
                return {"line": line.number}
            if line.stream == "err" and not first_err:
                first_err = line.number
        after = lines[-1].number
    return {"line": first_err}


@get("/jobs/{number:int}/lines")
async def lines_after(request: HTMXRequest, deck: NamedDependency[Deck], number: FromPath[int]) -> list[list[Any]]:
    """Give a page of lines after one, for a place that the live window does not hold."""
    text = request.query_params.get("after", "0")
    found = await deck.jobs.log(number, after=int(text) if text.isdecimal() else 0, limit=BATCH)
    return [[line.number, line.ms, line.host, line.stream, plain(line.text)] for line in found]


@get("/jobs/{number:int}/log.txt", media_type="text/plain")
async def download(request: HTMXRequest, deck: NamedDependency[Deck], number: FromPath[int]) -> Stream:
    """Give the whole log as text."""
    job = await deck.jobs.get(number)
    host = request.query_params.get("host") or None

    async def text() -> AsyncIterator[str]:
        after = 0
        while lines := await deck.jobs.log(number, after=after, host=host, limit=2000):
            yield "".join(
                f"{line.at:%Y-%m-%dT%H:%M:%S.%fZ} {line.host or '-'} {line.stream} {line.text}\n" for line in lines
            )
            after = lines[-1].number

    name = f"job-{number}-{stamp(job.created)}.log"
    return Stream(
        text(),
        media_type="text/plain; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


@post("/jobs/{number:int}/cancel")
async def cancel(
    deck: NamedDependency[Deck], visitor: NamedDependency[Visitor], number: FromPath[int]
) -> Response[Any]:
    """Ask for a job's end."""
    try:
        await deck.jobs.cancel(number, visitor.actor)
    except Invalid as fault:
        if fault.field != "job":
            raise  # otherwise it ended by itself meanwhile, which its page shows
    return Redirect(f"/jobs/{number}", status_code=303)


@post("/jobs/{number:int}/retry")
async def retry(
    request: HTMXRequest, deck: NamedDependency[Deck], visitor: NamedDependency[Visitor], number: FromPath[int]
) -> Response[Any]:
    """Run a job again with the same parameters, on all its hosts or on the failed ones."""
    sent = await request.form()
    if sent.get("_proof") or sent.get("_code"):
        visitor = await prove(deck, visitor, sent)
    confirm = str(sent.get("_confirm") or "") or None
    job = await deck.jobs.retry(number, visitor.actor, failed_only=sent.get("which") == "failed", confirm=confirm)
    return Redirect(f"/jobs/{job.id}", status_code=303)


routes = [show, one, stream, first_error, lines_after, download, cancel, retry]
