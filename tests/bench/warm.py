"""Run an action on all hosts again and again in one process, as a running console does: `warm.py command|facts TIMES`.

The first run opens the connections and is not counted. Prints JSON: seconds of wall clock and CPU for each run.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from opsdeck.actor import Actor, Door, Role
from opsdeck.deck import Deck
from opsdeck.jobs.jobs import Submission
from opsdeck.settings import load

WHO = Actor("bench", Role.ADMIN, Door.CLI, stepped_up=True)


async def main() -> None:
    """Measure."""
    figures = []
    async with Deck.open(load()) as deck:
        count = str(len(await deck.inventory.list()))
        params = {"command": "echo ok"} if sys.argv[1] == "command" else {}
        submission = Submission("core", sys.argv[1], params, "all", confirm=count)
        for _ in range(int(sys.argv[2]) + 1):
            wall, cpu = time.perf_counter(), time.process_time()
            job = await deck.jobs.run(submission, WHO)
            assert job.state == "succeeded", job.error
            figures.append({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu})
    print(json.dumps(figures[1:]))


asyncio.run(main())
