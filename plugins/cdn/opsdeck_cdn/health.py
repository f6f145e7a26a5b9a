"""Watching the edges from outside: which ones visitors may be led to, told to the name servers at once.

An edge is down when two looks in a row fail and other edges, asked together with the second, do not see it either. It
is up again after `UP_AFTER` good looks, once it has done the purges it owes. With nobody well, nobody is taken out: the
fault is then more likely here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from opsdeck.api import HostAccess, OpsDeckError, Service, ServiceRun, directories, files, utcnow
from opsdeck_cdn import book, edgehost, naming
from opsdeck_cdn.book import Model
from opsdeck_cdn.probing import NoAnswer, ask
from opsdeck_cdn.render import gdnsd
from opsdeck_cdn.sites import HEALTH_HOST, Edge

EVERY = 0.5
"""Seconds between two rounds."""
PATIENCE = 1.0
"""Seconds that an edge has for its answer."""
UP_AFTER = 3
VOTERS = 2
VOTE_SECONDS = 1.2
WARM_EVERY = 30.0
"""Seconds after which links to the edges are used, so that a vote does not begin with a login."""
RELOAD_EVERY = 3.0
"""Seconds after which the rows are read anew."""
SETTLE_REACH = 5.0
"""Seconds that an edge has to let us in before it is told to settle."""
SETTLE_FIRST = 15.0
SETTLE_MOST = 600.0
"""Seconds between two tries to have an edge settle: twice as many each time, up to these."""
TELL_AGAIN = 60.0
"""Seconds after which a name server that was not reached is told again."""


@dataclass(frozen=True)
class Watch:
    """How an edge does, through its ups and downs. `good` counts the good looks since it went down."""

    state: Literal["up", "down"] = "up"
    good: int = 0

    def after(self, well: bool) -> Watch:
        """Give the watch after one more look, without a change of state."""
        return Watch(self.state, self.good + 1 if well and self.state == "down" else 0)

    @property
    def recovered(self) -> bool:
        """Tell whether it was well for long enough to be up again."""
        return self.state == "down" and self.good >= UP_AFTER


async def look(edge: Edge) -> str:
    """Look at one edge; give "" when it is well, else what is wrong."""
    try:
        front = await ask(edge.v4, HEALTH_HOST, "/edge", timeout=PATIENCE)
    except NoAnswer as fault:
        return fault.message
    if front.status != 200 or not front.body.startswith(edge.host.encode() + b" "):
        return f"it answers {front.status} where it should say who it is."
    return ""


async def vote(voter: HostAccess, edge: Edge) -> bool | None:
    """Ask from another edge; None when that one could not be asked."""
    words = ("perl", "-e", edgehost.shell("ask.pl"), edge.v4, HEALTH_HOST)
    try:
        done = await voter.run(words, check=False, log=False, timeout=VOTE_SECONDS)
    except OpsDeckError:
        return None
    if done.exit_status not in (0, 1):
        return None
    return done.ok


@dataclass(frozen=True)
class Wait:
    """How long an edge is left alone after it was told to settle, which may take a while or fail; longer each time."""

    until: float = 0.0
    seconds: float = SETTLE_FIRST

    def after(self, now: float) -> Wait:
        """Give the wait after one more try."""
        return Wait(now + self.seconds, min(2 * self.seconds, SETTLE_MOST))


class Prober:
    """The rounds of one service instance."""

    def __init__(self, run: ServiceRun) -> None:
        self._run = run
        self._watches: dict[str, Watch] = {}
        self._told: dict[str, bytes] = {}
        self._retry: dict[str, float] = {}
        self._well: set[str] = set()
        self._settling: dict[str, Wait] = {}

    async def forever(self) -> None:
        """Look, judge, tell; until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_warm())
            group.create_task(self._rounds())
            group.create_task(self._collect())

    async def _keep_warm(self) -> None:
        while True:
            model = await book.load(self._run.db)
            await asyncio.gather(*(self._ask_itself(edge) for edge in model.edges if model.rows[edge.host].generation))
            await asyncio.sleep(WARM_EVERY)

    async def _ask_itself(self, edge: Edge) -> None:
        if self._watches.get(edge.host, Watch()).state == "down":
            return
        try:
            async with asyncio.timeout(10), self._run.on(edge.host) as access:
                await vote(access, edge)
        except (OpsDeckError, TimeoutError):
            return  # only a warm link was wanted; whether the edge is well is judged elsewhere

    async def _rounds(self) -> None:
        loop = asyncio.get_running_loop()
        model, read_at = await book.load(self._run.db), loop.time()
        while True:
            begun = loop.time()
            if begun - read_at > RELOAD_EVERY:
                model, read_at = await book.load(self._run.db), begun
            if await self.round(model):
                model, read_at = await book.load(self._run.db), loop.time()
            await self.tell(model)
            await asyncio.sleep(max(0.05, EVERY - (loop.time() - begun)))

    async def round(self, model: Model) -> bool:
        """Look at all edges that serve; tell whether any changed its state."""
        edges = [edge for edge in model.edges if model.rows[edge.host].generation]
        for edge in edges:
            if edge.host not in self._watches:
                state: Literal["up", "down"] = "down" if model.rows[edge.host].health == "down" else "up"
                self._watches[edge.host] = Watch(state)
        seen = dict(zip([edge.host for edge in edges], await asyncio.gather(*map(look, edges)), strict=True))
        for host, text in seen.items():
            self._watches[host] = self._watches[host].after(not text)
        failing = [edge for edge in edges if seen[edge.host] and self._watches[edge.host].state == "up"]
        well = [edge for edge in edges if not seen[edge.host]]
        self._well = {edge.host for edge in well}
        # With nobody well from here, the fault is more likely ours.
        lost = await asyncio.gather(*(self._is_lost(edge, well) for edge in failing)) if well else []
        changed = any(lost)
        for edge, down in zip(failing, lost, strict=False):
            if down:
                await self._set(edge, "down", seen[edge.host])
        for edge in edges:
            if self._watches[edge.host].recovered:
                changed = await self._recover(edge) or changed
        return changed

    async def _recover(self, edge: Edge) -> bool:
        if await book.owed(self._run.db, edge.host):
            return False
        await self._set(edge, "up", "")
        return True

    async def _is_lost(self, edge: Edge, well: Sequence[Edge]) -> bool:
        again, seen_elsewhere = await asyncio.gather(look(edge), self._seen_by(well[:VOTERS], edge))
        if again and seen_elsewhere:
            self._run.log(f"{edge.host} is not seen from here, but by other edges: it stays", "bad")
        return bool(again) and not seen_elsewhere

    async def _seen_by(self, voters: Sequence[Edge], edge: Edge) -> bool:
        async def one(voter: Edge) -> bool | None:
            try:
                async with asyncio.timeout(VOTE_SECONDS), self._run.on(voter.host) as access:
                    return await vote(access, edge)
            except (OpsDeckError, TimeoutError):
                return None

        votes = [voice for voice in await asyncio.gather(*map(one, voters)) if voice is not None]
        return sum(votes) * 2 > len(votes)

    async def _set(self, edge: Edge, state: Literal["up", "down"], text: str) -> None:
        self._watches[edge.host] = Watch(state)
        await book.change_edge(self._run.db, edge.host, health=state, health_text=text[:300], health_at=utcnow())
        key = f"cdn:edge:{edge.host}"
        if state == "down":
            self._run.log(f"{edge.host} is down: {text}", "bad")
            title = f"edge {edge.host} does not serve"
            await self._run.open_incident(key, title, detail=text, host=edge.host)
        else:
            self._run.log(f"{edge.host} is up", "good")
            await self._run.close_incident(key)

    async def _collect(self) -> None:
        """Have edges settle that owe and can be reached, again and again until each has; until cancelled."""
        while True:
            await self.collect()
            await asyncio.sleep(RELOAD_EVERY)

    async def collect(self) -> None:
        """Have every edge settle that owes, answers visitors, and lets us in."""
        owing = await book.overdue(self._run.db)
        self._settling = {host: wait for host, wait in self._settling.items() if host in owing}
        await asyncio.gather(*(self._settle(host) for host in owing & self._well))

    async def _settle(self, host: str) -> None:
        now = asyncio.get_running_loop().time()
        wait = self._settling.get(host, Wait())
        if now < wait.until:
            return
        try:
            async with asyncio.timeout(SETTLE_REACH), self._run.on(host) as access:
                await access.run(("true",), log=False)
        except (OpsDeckError, TimeoutError):
            return  # it is tried again with the next round; that it cannot be reached is told elsewhere
        self._run.log(f"{host} can be reached; it owes purges first")
        self._settling[host] = wait.after(now)
        await self._run.submit("settle", {"host": host})

    async def tell(self, model: Model) -> None:
        """Have every name server know which edges are well."""
        if not model.setup.zone or not naming.nameable(model):
            return
        wanted = naming.states(model)
        data = wanted.data or b""
        now = asyncio.get_running_loop().time()
        late = [
            row.host
            for row in model.servers
            if self._told.get(row.host) != data and now >= self._retry.get(row.host, 0.0)
        ]

        async def one(host: str) -> None:
            try:
                async with asyncio.timeout(10), self._run.on(host) as access:
                    if host not in self._told:
                        (folder,) = await directories.look(access, [gdnsd.STATES_FOLDER])
                        if folder.kind != "folder":
                            self._retry[host] = now + TELL_AGAIN
                            return  # not set up yet: a deploy does that
                    await files.apply(access, [wanted], keep_previous=False)
                self._told[host] = data
                await self._run.close_incident(f"cdn:dns:{host}")
            except (OpsDeckError, TimeoutError) as fault:
                self._retry[host] = now + TELL_AGAIN
                text = str(fault) or "it did not answer in time"
                title = f"name server {host} was not told which edges are well"
                await self._run.open_incident(f"cdn:dns:{host}", title, detail=text, host=host, severity="attention")

        await asyncio.gather(*map(one, late))


async def _run(run: ServiceRun) -> None:
    await Prober(run).forever()


async def _instances(run: ServiceRun) -> Sequence[str]:
    model = await book.load(run.db)
    return ("",) if any(row.generation for row in model.rows.values()) else ()


prober = Service("prober", "Looks at the edges", _run, _instances)
