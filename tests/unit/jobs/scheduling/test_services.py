"""Services are started, stopped, leased and restarted, and one that misbehaves stops nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import types
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from opsdeck.actor import SYSTEM
from opsdeck.api import API, Action, Manifest, Risk, Service, Targets, hookimpl
from opsdeck.errors import NotFound
from opsdeck.jobs.attendance import KEPT_LINES, attendance
from opsdeck.jobs.services import Pace, Services
from opsdeck.secrets.sensitive import Sensitive

FAST = Pace(ask=0.02, answer=0.2, stop=0.2, elsewhere=0.05, first=0.01, longest=0.05, healthy=30.0)


class Tool:
    """A service that a test steers: which keys, and what each run does."""

    def __init__(self, name: str, keys: Any = ("",)) -> None:
        self.name = name
        self.keys = keys
        self.running: set[str] = set()
        self.starts: list[str] = []
        self.body: Callable[[Any], Any] | None = None

    async def instances(self, _run: Any) -> Any:
        return self.keys() if callable(self.keys) else self.keys

    async def run(self, run: Any) -> None:
        self.starts.append(run.key)
        self.running.add(run.key)
        try:
            if self.body is not None:
                await self.body(run)
            else:
                await asyncio.sleep(3600)
        finally:
            self.running.discard(run.key)

    def service(self) -> Service:
        return Service(self.name, self.name.title(), self.run, self.instances)


def bring(deck: Any, *tools: Tool, name: str = "svc") -> None:
    async def look(run: Any, _params: Any) -> None:
        run.log("looked")

    action = Action("look", "Look", "", risk=Risk.READ, targets=Targets.CONSOLE, run=look)
    manifest = Manifest(name, "1", API, name, services=tuple(tool.service() for tool in tools), actions=(action,))
    module = types.ModuleType(name)

    @hookimpl
    def opsdeck_manifest() -> Manifest:
        return manifest

    module.opsdeck_manifest = opsdeck_manifest  # type: ignore[attr-defined]
    deck.plugins.add(name, module)
    assert not deck.plugins.faults


@contextlib.asynccontextmanager
async def serving(deck: Any, pace: Pace = FAST) -> AsyncIterator[Services]:
    stop = asyncio.Event()
    services = Services(deck, pace=pace)
    task = asyncio.create_task(services.serve(stop))
    try:
        yield services
    finally:
        stop.set()
        await asyncio.wait_for(task, 10)


async def test_instances_follow_the_plugins_rows(deck: Any, until: Any) -> None:
    tool = Tool("sync", ["a", "b"])
    bring(deck, tool)
    async with serving(deck) as services:
        await until(lambda: tool.running == {"a", "b"})
        held = {lease.name: lease.holder for lease in await deck.leases.list()}
        assert held == {"service:svc/sync/a": "service:svc/sync/a", "service:svc/sync/b": "service:svc/sync/b"}
        tool.keys = ["b", "c"]
        await until(lambda: tool.running == {"b", "c"})
        assert tool.starts == ["a", "b", "c"]
        assert {(one.key, one.phase) for one in services.status()} == {("b", "running"), ("c", "running")}
    assert tool.running == set()
    assert await deck.leases.list() == ()


async def test_whoever_serves_ends_what_he_began(deck: Any, until: Any) -> None:
    tool = Tool("sync")
    bring(deck, tool)
    async with serving(deck) as services:
        await until(lambda: tool.running == {""})
        stop = asyncio.Event()
        again = asyncio.create_task(services.serve(stop))
        await until(lambda: [one.phase for one in services.status()] == ["elsewhere"])
        stop.set()
        await asyncio.wait_for(again, 10)
        assert tool.running == {""}
    assert tool.running == set()


async def test_one_that_falls_over_is_started_again_and_told_once(deck: Any, until: Any) -> None:
    tool = Tool("sync")

    async def body(_run: Any) -> None:
        if len(tool.starts) < 6:
            raise ValueError("broken")
        await asyncio.sleep(3600)

    tool.body = body
    bring(deck, tool)
    async with serving(deck, Pace(ask=0.02, first=0.01, longest=0.02, healthy=0.3)) as services:
        await until(lambda: len(tool.starts) == 6)
        (incident,) = await deck.incidents.open_now()
        assert (incident.key, incident.plugin, incident.count) == ("service:svc/sync", "svc", 1)
        assert "ValueError: broken" in incident.detail
        (status,) = services.status()
        assert status.crashes == 5
        assert any("fell over" in said.text for said in status.log)

        async def well() -> bool:
            return await deck.incidents.open_now() == ()

        await until(well)
        assert services.status()[0].crashes == 0


@pytest.mark.parametrize("kind", ["raise", "exit", "interrupt", "cancel", "end", "hang", "text", "many"])
async def test_one_that_misbehaves_stops_nobody_else(deck: Any, until: Any, kind: str) -> None:
    bad, good = Tool("bad"), Tool("good", ["x"])

    async def body(_run: Any) -> None:
        if kind == "raise":
            raise RuntimeError("no")
        if kind == "exit":
            sys.exit(3)
        if kind == "interrupt":
            raise KeyboardInterrupt
        if kind == "cancel":
            raise asyncio.CancelledError

    bad.body = body
    if kind == "hang":

        async def forever(_run: Any) -> Any:
            await asyncio.sleep(3600)

        bad.instances = forever  # type: ignore[method-assign]
    elif kind == "text":
        bad.keys = "abc"
    elif kind == "many":
        bad.keys = [str(number) for number in range(1001)]
    bring(deck, bad)
    bring(deck, good, name="other")
    async with serving(deck) as services:
        await until(lambda: good.running == {"x"})
        if kind in ("hang", "text", "many"):

            async def told() -> bool:
                return [one.key for one in await deck.incidents.open_now()] == ["service:svc/bad"]

            await until(told)
            assert bad.starts == []
            assert any(one.key is None and one.error for one in services.status())
        else:
            await until(lambda: len(bad.starts) >= 3)
        assert good.starts == ["x"]


async def test_what_runs_goes_on_while_its_plugin_cannot_say(deck: Any, until: Any) -> None:
    tool = Tool("sync", ["a"])
    bring(deck, tool)

    def broken() -> Any:
        raise RuntimeError("its rows are locked")

    async with serving(deck) as services:
        await until(lambda: tool.running == {"a"})
        tool.keys = broken
        await until(lambda: any(one.key is None for one in services.status()))
        assert tool.running == {"a"}
        tool.keys = ["a"]
        await until(lambda: all(one.key is not None for one in services.status()))
        assert tool.starts == ["a"]


async def test_an_instance_runs_on_one_node_and_moves(deck: Any, open_deck: Any, until: Any) -> None:
    here, there = Tool("sync"), Tool("sync")
    bring(deck, here)
    async with open_deck("deck2") as other:
        bring(other, there)
        async with serving(deck):
            await until(lambda: here.running == {""})
            async with serving(other) as services:
                await until(lambda: any(one.phase == "elsewhere" for one in services.status()))
                assert "on deck" in services.status()[0].error
                assert there.starts == []
        async with serving(other):
            await until(lambda: there.running == {""})


async def test_a_lease_that_is_taken_away_ends_the_work(deck: Any, until: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("opsdeck.jobs.leases.BEAT", 0.05)
    tool = Tool("sync")
    fences = []

    async def body(run: Any) -> None:
        fences.append(run.fence)
        await asyncio.sleep(3600)

    tool.body = body
    bring(deck, tool)
    async with serving(deck):
        await until(lambda: len(fences) == 1)
        await deck.leases.steal("service:svc/sync", SYSTEM)
        await until(lambda: len(fences) == 2)
        assert fences[1] > fences[0]


async def test_one_that_does_not_stop_is_named_and_not_doubled(deck: Any, until: Any) -> None:
    tool = Tool("sync", ["a"])
    let_go = asyncio.Event()

    async def body(_run: Any) -> None:
        while not let_go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await let_go.wait()

    tool.body = body
    bring(deck, tool)
    async with serving(deck) as services:
        await until(lambda: tool.running == {"a"})
        tool.keys = []
        await until(lambda: [one.phase for one in services.status()] == ["stuck"])
        tool.keys = ["a"]
        await asyncio.sleep(0.1)
        assert tool.starts == ["a"]
        tool.keys = []
        let_go.set()
        await until(lambda: services.status() == ())


async def test_what_a_service_is_given(deck: Any, hosts: Any, until: Any) -> None:
    await deck.secrets.set("word", Sensitive("correct horse battery"), actor=SYSTEM)
    tool = Tool("sync")
    seen: dict[str, Any] = {}

    async def body(run: Any) -> None:
        async with run.on("h1") as host:
            seen["out"] = (await host.run(["echo", "hi"])).stdout
        with pytest.raises(NotFound):
            async with run.on("h9"):
                pass
        secret = await run.secret("word")
        await run.secret("word")
        run.log(f"the word is {secret.reveal()}")
        run.log("x\n" * (KEPT_LINES + 10))
        run.log(f"again {secret.reveal()}")
        seen["job"] = await run.submit("look", {})
        await run.open_incident("svc-broken", f"it said {secret.reveal()}")
        seen["run"] = run
        await asyncio.sleep(3600)

    tool.body = body
    bring(deck, tool)
    async with serving(deck) as services:
        await until(lambda: "run" in seen)
        (status,) = services.status()
    assert seen["out"] == b"hi\n"
    job = await deck.jobs.get(seen["job"])
    assert (job.plugin, job.action, job.actor) == ("svc", "look", "service:svc/sync")
    assert len(status.log) == KEPT_LINES
    assert status.log[-1].text == "again ••••"
    assert not hasattr(seen["run"], "deck")
    (incident,) = await deck.incidents.open_now()
    assert (incident.title, incident.plugin) == ("it said ••••", "svc")
    entries = await deck.audit.list()
    mine = [entry.verb for entry in entries if entry.actor == "service:svc/sync"]
    assert mine.count("command.ran") == 1
    assert len([entry for entry in entries if entry.verb == "secret.revealed" and entry.target == "secret:word"]) == 1


async def test_the_cores_own_services_have_the_deck(deck: Any) -> None:
    assert attendance(deck, "core", "samples").deck is deck  # type: ignore[attr-defined]


async def test_a_host_that_moved_is_reached_at_its_new_place(deck: Any, hosts: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("opsdeck.jobs.attendance.ENDPOINT_SECONDS", 0.0)
    run = attendance(deck, "svc", "sync")
    first = await run._endpoint("h1")
    assert await run._endpoint("h1") is first
    async with deck.db.write() as session:
        from sqlmodel import select

        from opsdeck.inventory.models import Host

        (await session.exec(select(Host).where(Host.name == "h1"))).one().port = hosts[1].port
    assert (await run._endpoint("h1")).port == hosts[1].port


async def test_times_in_the_log_are_aware(deck: Any) -> None:
    run = attendance(deck, "svc", "sync")
    assert run.home == deck.settings.home
    run.log("x")
    assert run.diary.said[0].at.tzinfo is UTC
    assert run.diary.said[0].at <= datetime.now(UTC)
