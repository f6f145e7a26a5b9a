"""A write that is given up, sent again, and arrives once more after newer ones: the old content must not stay."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pytest
from opsdeck_search_sync import pulse, reaching
from opsdeck_search_sync.doubts import Doubts
from opsdeck_search_sync.lane import beside
from opsdeck_search_sync.meilisearch import Meilisearch
from opsdeck_search_sync.pipeline import Limits, Op, Pipeline, Verb

from opsdeck.api import Refused, Unavailable

pytestmark = pytest.mark.timeout(120)


class SlowProxy:
    """A proxy that takes a whole request, keeps it back for as long as it likes, and delivers it after all."""

    def __init__(self, url: str) -> None:
        self.to = urlsplit(url)
        self.url = ""
        self.hold = False
        self.held = 0
        self.late: set[asyncio.Task[bytes]] = set()
        self.release = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
                body = await reader.readexactly(int(fields.get(b"content-length", b"0")))
                head = head.replace(b"keep-alive", b"close")
                if self.hold and head.startswith(b"POST") and b"/documents" in head.split(b"\r\n")[0]:
                    self.hold, self.held = False, self.held + 1
                    self.late.add(asyncio.create_task(self.deliver(head + body)))
                    await reader.read()
                    return
                writer.write(await self.through(head + body))
                await writer.drain()
                writer.close()
                return
        writer.close()

    async def through(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(self.to.hostname, self.to.port)
        writer.write(request)
        answer = await reader.read()
        writer.close()
        return answer

    async def deliver(self, request: bytes) -> bytes:
        await self.release.wait()
        return await self.through(request)

    async def arrive(self) -> None:
        self.release.set()
        for answer in await asyncio.gather(*self.late):
            assert b" 202 " in answer.split(b"\r\n")[0]


@pytest.fixture
def shop(postgres_shop: Any) -> Any:
    return postgres_shop


@pytest.fixture
async def slow(bench: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SlowProxy]:
    """A sync that follows through a slow proxy, whose client gives a request up after a second."""
    monkeypatch.setattr(reaching, "Meilisearch", partial(Meilisearch, timeout=1.0))
    made = SlowProxy(bench.meili.url)
    async with await asyncio.start_server(made.serve, "127.0.0.1", 0) as listening:
        made.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        bench.shop.put(1, 2)
        await bench.define()
        await bench.act("save_instance", name="search", url=made.url)
        await bench.act("start", sync="items")
        bench.run()
        await bench.until(bench.equal)
        yield made
        await bench.halt()


def said(bench: Any) -> str:
    return " ".join(line.text for one in bench.services() for line in one.log)


async def test_a_request_that_timed_out_and_comes_later(bench: Any, slow: SlowProxy) -> None:
    slow.hold = True
    bench.shop.sql("UPDATE item SET title = 'old' WHERE id = 1")
    await bench.until(lambda: slow.held and bench.equal())
    bench.shop.sql("UPDATE item SET title = 'new' WHERE id = 1")
    await bench.until(bench.equal)
    await slow.arrive()
    await bench.until(lambda: "came late" in said(bench))
    await bench.until(bench.equal)


async def test_a_request_of_a_process_that_is_gone(bench: Any, slow: SlowProxy) -> None:
    slow.hold = True
    bench.shop.sql("UPDATE item SET title = 'old' WHERE id = 1")
    await bench.until(lambda: slow.held)
    await bench.halt()
    bench.shop.sql("UPDATE item SET title = 'new' WHERE id = 1")
    bench.run()
    await bench.until(bench.equal)
    await slow.arrive()
    await bench.until(lambda: "came late" in said(bench))
    await bench.until(bench.equal)


async def test_the_checkpoint_stays_before_what_nobody_answered(bench: Any, slow: SlowProxy) -> None:
    position = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'opsdeck_items_1'"
    slow.hold = True
    bench.shop.sql("UPDATE item SET title = 'old' WHERE id = 1")
    await bench.until(lambda: slow.held and bench.equal())
    await asyncio.sleep(1.5)  # what was confirmed before that is told within a second
    before = bench.shop.sql(position)
    for number in range(6):
        bench.shop.sql(f"UPDATE item SET title = 'new {number}' WHERE id = 2")
        await asyncio.sleep(0.5)
    await bench.until(bench.equal)
    assert bench.shop.sql(position) == before


async def test_what_came_before_the_second_try_is_no_harm(client: Meilisearch, meili: Any) -> None:
    await client.done(await client.create("it", "id"))
    doubts = Doubts(client, "it", "items:1")
    doubts.begin(await client.newest_task())
    mark = doubts.mark()
    doubts.given_up(mark, 60)
    await client.documents("it", [b'{"id": 1, "v": 1}'], merge=False, mark=mark)
    again = await client.documents("it", [b'{"id": 1, "v": 1}'], merge=False, mark=doubts.mark())
    doubts.wrote(again)
    assert await doubts.look() is None and not doubts.open
    assert doubts.open is False


async def test_other_peoples_tasks_are_none_of_ours(client: Meilisearch, meili: Any) -> None:
    await client.done(await client.create("it", "id"))
    doubts = Doubts(client, "it", "items:1")
    doubts.begin(await client.newest_task())
    doubts.earlier(60)
    doubts.wrote(await client.documents("it", [b'{"id": 1}'], merge=False, mark=doubts.mark()))
    await client.documents("it", [b'{"id": 2}'], merge=False, mark="somebody")
    await client.documents("it", [b'{"id": 2}'], merge=False, mark="items2:1:abcd:1")
    assert await doubts.look() is None
    uid = await client.documents("it", [b'{"id": 1}'], merge=False, mark="items:1:other:9")
    doubts._looked = 0.0
    assert await doubts.look() == uid


async def test_a_meilisearch_that_cannot_mark_its_tasks_is_refused(client: Meilisearch, meili: Any) -> None:
    for version, old in (("1.25.3", True), ("0.30.1", True), ("1.26.0", False), ("2.0.0-rc.1", False)):
        meili.fault(version=version)
        if old:
            with pytest.raises(Refused, match="too old"):
                await client.version()
        else:
            assert await client.version() == version


async def test_a_process_that_stood_still_writes_nothing_more(
    client: Meilisearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.done(await client.create("it", "id"))
    beating = pulse.Pulse()
    doubts = Doubts(client, "it", "items:1", beating)
    written: Pipeline[int] = Pipeline(
        client, "it", on_mark=nothing, on_dead=nothing, doubts=doubts, limits=Limits(patience=0.2)
    )
    newest = await client.newest_task()
    now = pulse._now
    monkeypatch.setattr(pulse, "_now", lambda: now() + 3600)

    async def work() -> None:
        await written.put([(1, Op(Verb.REPLACE, {"id": 1}))], 1)
        await written.drain()

    with pytest.raises(Unavailable, match="stood still"):
        await beside(work, written.run)
    assert await client.newest_task() == newest
    with pytest.raises(Unavailable, match="stood still"):
        beating.check()


async def nothing(*_given: Any) -> None:
    """Hear of a mark."""
