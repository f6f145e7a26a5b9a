"""A job as a terminal shows it: lines of each host as they come, states below, Ctrl-C that ends it on the hosts."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from opsdeck.errors import OpsDeckError, Refused
from opsdeck.jobs.lines import Line, plain
from opsdeck.jobs.models import Job, State

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

    from opsdeck.actor import Actor
    from opsdeck.deck import Deck
    from opsdeck.jobs.follow import Update
    from opsdeck.jobs.ledger import StepState

TAIL = 20
"""Lines of each host that `--json` gives at the end."""

ROWS = 16
"""Most hosts shown one by one below the log; of more, the counts."""

_STYLE = {
    State.QUEUED: "dim",
    State.RUNNING: "cyan",
    State.SUCCEEDED: "green",
    State.FAILED: "red",
    State.CANCELLED: "yellow",
    State.LOST: "red",
    State.SKIPPED: "dim",
}


class Show:
    """Takes the updates of a job and shows them; with `quiet` it only remembers what `--json` will print."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.job: Job | None = None
        self.steps: dict[str, StepState] = {}
        self.tails: dict[str, deque[Line]] = {}
        self._quiet = quiet
        self._console: Console | None = None
        self._live: Live | None = None

    def __call__(self, update: Update) -> None:
        """Take one update."""
        self.job = update.job
        for step in update.steps:
            self.steps[step.host] = step
        for line in update.lines:
            if line.host not in self.tails:
                self.tails[line.host] = deque(maxlen=TAIL)
            self.tails[line.host].append(line)
        if self._quiet:
            return
        if self._live is not None:
            for line in update.lines:
                self._live.console.print(_coloured(line), soft_wrap=True)
            self._live.update(self._below())
        else:
            for line in update.lines:
                click.echo(prefixed(line), err=line.stream != "out")

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Show states below the log while the block runs, when this is a terminal."""
        if self._quiet or not (sys.stdout.isatty() and sys.stderr.isatty()):
            yield
            return
        from rich.console import Console
        from rich.live import Live

        self._console = Console()
        with Live(console=self._console, refresh_per_second=8, transient=True) as self._live:
            yield
        self._live = None

    def _below(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        if len(self.steps) > ROWS:
            counts: dict[State, int] = {}
            for step in self.steps.values():
                counts[step.state] = counts.get(step.state, 0) + 1
            return Text.assemble(*((f"{count} {state}  ", _STYLE[state]) for state, count in counts.items()))
        table = Table.grid(padding=(0, 2))
        for step in self.steps.values():
            table.add_row(
                Text(step.host), Text(step.state, style=_STYLE[step.state]), Text(plain(step.note), style="dim")
            )
        return table

    def result(self, job: Job) -> dict[str, Any]:
        """Give the whole job as JSON-ready data: its row, its steps, the last lines of each."""
        return {"job": job_data(job), "steps": [step_data(step, self.tails) for step in self.steps.values()]}


def prefixed(line: Line) -> str:
    """Give a line for a plain terminal or a pipe: host first, nothing in it that a terminal would obey."""
    mark = {"cmd": "$ ", "bad": "! "}.get(line.stream, "")
    return f"{line.host or '-'} | {mark}{plain(line.text)}"


def _coloured(line: Line) -> Any:
    from rich.text import Text

    style = {"cmd": "dim", "bad": "red", "err": "yellow", "good": "green", "info": "dim"}.get(line.stream, "")
    return Text.assemble((f"{line.host or '-'} | ", "bold"), (prefixed(line).split(" | ", 1)[1], style))


def job_data(job: Job) -> dict[str, Any]:
    """Give a job's row as JSON-ready data, without what only the engine needs."""
    hidden = {"lease_until", "fence", "log_bytes", "plan", "role"}
    return {name: value for name, value in job.model_dump().items() if name not in hidden}


def step_data(step: StepState, tails: dict[str, deque[Line]]) -> dict[str, Any]:
    """Give a step as JSON-ready data."""
    names = ("host", "state", "exit_status", "note", "error", "fault", "receipt", "started", "finished")
    lines = [{"stream": line.stream, "text": line.text} for line in tails.get(step.host, ())]
    return {name: getattr(step, name) for name in names} | {"tail": lines}


def exit_code(job: Job, steps: Sequence[Any]) -> int:
    """Give 0 when all succeeded, 4 when all that failed was refused (permission, host key, lease), else 1."""
    if job.state == State.SUCCEEDED:
        return 0
    failed = {step.fault for step in steps if step.state == State.FAILED} or {job.fault}
    return 4 if job.state == State.FAILED and failed <= _refusals() else 1


def _refusals() -> set[str]:
    from opsdeck.ssh import errors as _  # noqa: F401 - its refusals count as well

    def below(kind: type[OpsDeckError]) -> set[str]:
        return {kind.__name__}.union(*(below(each) for each in kind.__subclasses__()))

    return below(Refused)


def summary(job: Job, steps: Sequence[Any]) -> str:
    """Give the closing words: the state, how many hosts, and one line for each that did not succeed."""
    counts: dict[str, int] = {}
    for step in steps:
        counts[step.state] = counts.get(step.state, 0) + 1
    told = ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "no hosts"
    lines = [f"Job {job.id} {job.state}: {told}."]
    if job.error and len(steps) != 1:
        lines.append(plain(job.error))
    for step in steps:
        if step.state not in (State.SUCCEEDED, State.SKIPPED) or step.note:
            reason = "; ".join(part for part in (plain(step.error), plain(step.note)) if part)
            lines.append(f"  {step.host}: {step.state}" + (f": {reason}" if reason else ""))
    return "\n".join(lines)


async def interruptible(
    deck: Deck, actor: Actor, show: Show, work: Callable[[], Awaitable[Job]], *, ends: bool = True
) -> Job:
    """Do `work`; the first Ctrl-C (or SIGTERM) cancels the job on its hosts, the second leaves at once.

    With `ends` false (somebody else's job is followed) the first one only leaves.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work())
    asked: list[asyncio.Task[Any]] = []

    def interrupt() -> None:
        if not ends or asked or show.job is None or show.job.id is None:
            task.cancel()
            return
        click.echo("Cancelling on the hosts; Ctrl-C again leaves without waiting.", err=True)
        asked.append(asyncio.ensure_future(deck.jobs.cancel(show.job.id, actor)))

    caught = (signal.SIGINT, signal.SIGTERM)
    for number in caught:
        loop.add_signal_handler(number, interrupt)
    try:
        return await task
    except asyncio.CancelledError:
        if show.job is not None and ends:
            click.echo(f"Left. Look again with `opsdeck job show {show.job.id}`.", err=True)
        raise click.exceptions.Exit(130) from None
    finally:
        for number in caught:
            loop.remove_signal_handler(number)
        await asyncio.gather(*asked, return_exceptions=True)
