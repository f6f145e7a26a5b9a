"""One host first, then the rest: a change that fails its probe is put back and goes no further."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opsdeck.errors import OpsDeckError

if TYPE_CHECKING:
    from opsdeck.jobs.context import JobRun, StepRun
    from opsdeck.manifest import Receipt


@dataclass(frozen=True)
class Rollout:
    """A change that is proven on one host before the others get it.

    `work` does it on a host and gives the receipt; `probe` looks from outside whether it works and raises when it
    does not; `put_back` restores what was there before. On any fault of `work` or `probe` the host is put back; then
    the fault goes on, and no further host is begun.
    """

    work: Callable[[StepRun], Awaitable[Receipt | None]]
    probe: Callable[[StepRun], Awaitable[Receipt | None]] | None = None
    put_back: Callable[[StepRun], Awaitable[None]] | None = None

    async def on(self, step: StepRun) -> Receipt:
        """Do it on one host: work, probe, and put back when either fails."""
        try:
            receipt = dict(await self.work(step) or {})
            if self.probe is not None:
                receipt["probe"] = await self.probe(step) or {"ok": True}
        except OpsDeckError:
            await self._restore(step)
            raise
        return receipt

    async def _restore(self, step: StepRun) -> None:
        if self.put_back is None:
            return
        step.log("it does not work: putting back what was there", "bad")
        try:
            await self.put_back(step)
        except OpsDeckError as fault:
            # The first fault is the one to show; that the host is left between two states is said beside it.
            step.log(f"not put back: {fault}", "bad")
            step.note("failed, and not put back")
            return
        step.log("put back", "good")
        step.note("put back")

    async def run(self, job: JobRun, hosts: Sequence[str] | None = None, *, parallel: int = 4) -> int:
        """Do it on the first host, then on the others, at most `parallel` at once; give how many failed.

        After the first failure no further host is begun; those left are recorded as skipped.
        """
        names = list(hosts) if hosts is not None else [host.name for host in job.hosts]
        if not names:
            return 0
        first, *others = names
        failed = await job.each(self.on, [first], parallel=1, stop_after=1)
        if failed:
            for name in others:
                job.skip(name, f"not started: {first} failed first")
            return failed
        if others:
            job.log(f"{first} works; going on with {len(others)} more", "good")
            failed = await job.each(self.on, others, parallel=parallel, stop_after=1)
        return failed
