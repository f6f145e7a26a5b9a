"""MongoDB: every type of `_id` and of value, every kind of event, and each way in which its log can be lost."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from bson import Binary, Code, Decimal128, Int64, MaxKey, ObjectId, Regex, Timestamp
from databases import Mongo, MongoShop
from opsdeck_search_sync import ledger, stream
from opsdeck_search_sync.changes import Head, LoginRefused, LogLost, Part, Put, Removed
from opsdeck_search_sync.documents import document_id
from opsdeck_search_sync.sources import mongodb
from opsdeck_search_sync.sources.mongodb import MongoReader
from opsdeck_search_sync.sources.mongovalues import KEY, key
from pymongo.asynchronous.database import AsyncDatabase

from opsdeck.api import OpsDeckError, Refused, Unavailable

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def shop(mongodb_shop: MongoShop) -> MongoShop:
    return mongodb_shop


@pytest.fixture
async def reader(shop: MongoShop) -> AsyncIterator[MongoReader]:
    made = MongoReader(shop.server.place(shop.name), "item")
    yield made
    await made.close()


@pytest.fixture
def with_options(mongo: Mongo, tmp_path: Path) -> Iterator[Callable[..., MongoShop]]:
    """Starts a stand-in with options of its own."""
    if not mongo.stand_in:
        pytest.skip("a real MongoDB has the options that it has")
    servers: list[Mongo] = []

    def start(**options: str) -> MongoShop:
        servers.append(Mongo(tmp_path, **options))
        servers[-1].start()
        made = MongoShop(servers[-1], "shop")
        made.client[made.name].create_collection("item")
        return made

    yield start
    for server in servers:
        server.kill()


def fail(shop: MongoShop, *commands: str, times: int = 1, **data: Any) -> None:
    """Let the server fail commands, by the means that MongoDB has for it (`enableTestCommands`)."""
    shop.client.admin.command(
        {"configureFailPoint": "failCommand", "mode": {"times": times}, "data": {"failCommands": commands} | data}
    )


def inside(shop: MongoShop, **what: Any) -> None:
    """Do inside the stand-in what no command of a real server does at once."""
    if not shop.server.stand_in:
        pytest.skip("a real MongoDB loses its log in its own time")
    shop.client.admin.command({"_test": 1} | what)


async def changes(reader: MongoReader, position: str, count: int) -> tuple[list[Any], str]:
    """Read until `count` changes came; give them and the position after them."""
    found: list[Any] = []
    async with aclosing(reader.read(position)) as parts:
        async for part in parts:
            found += part.changes
            position = part.position or position
            if len(found) >= count:
                break
    return found, position


async def fault_of(reader: MongoReader, position: str) -> OpsDeckError:
    with pytest.raises(OpsDeckError) as caught:
        async with aclosing(reader.read(position)) as parts, asyncio.timeout(20):
            async for _part in parts:
                pass
    return caught.value


IDS = [
    5, Int64(2**60), -3, 1.5, Decimal128("7.25"), "5", "abc", "x y", "s_5", "5f" * 12, ObjectId("5f" * 12), True, None,
    {"a": 1, "b": 2}, Binary(b"\x00\x01"), datetime(2024, 1, 1, tzinfo=UTC), Timestamp(9, 9),
]  # fmt: skip


async def test_the_copy_finds_ids_of_every_type_and_goes_on_after_any(shop: MongoShop, reader: MongoReader) -> None:
    shop.item.insert_many([{"_id": one, "n": 1} for one in IDS])
    whole = [row for chunk in [one async for one in reader.copy(None)] for row in chunk.rows]
    assert len(whole) == len(IDS)
    mongodb_size = mongodb.CHUNK_FIRST
    try:
        mongodb.CHUNK_FIRST = 1
        first = await anext(aiter(reader.copy(None)))
        rest = [row for chunk in [one async for one in reader.copy(first.last)] for row in chunk.rows]
    finally:
        mongodb.CHUNK_FIRST = mongodb_size
    assert [*first.rows, *rest] == whole
    assert len({document_id((row[KEY],)) for row in whole}) == len(IDS), "each has an id of its own"
    assert await reader.count() == await reader.estimate() == len(IDS)


async def test_the_copy_asks_for_all_that_lies_before_its_position(shop: MongoShop, reader: MongoReader) -> None:
    shop.put(1, 2)
    inside(shop, stale=True)
    try:
        assert [len(chunk.rows) async for chunk in reader.copy(None)] == [2]
    finally:
        inside(shop, stale=False)


def test_one_number_is_one_key() -> None:
    assert key(1) == key(1.0) == key(Int64(1)) == key(Decimal128("1.0")) == 1
    assert key("1") != key(1) and key(True) != key(1) and key(None) != key("null")


async def test_every_kind_of_change(shop: MongoShop, reader: MongoReader) -> None:
    shop.put(1, 2, 3)
    position = await reader.begin()
    shop.item.update_one({"_id": 1}, {"$set": {"title": "new", "deep.er": 1}, "$unset": {"note": ""}})
    shop.item.replace_one({"_id": 2}, {"title": "whole"})
    shop.item.delete_one({"_id": 3})
    shop.item.insert_one({"_id": 4, "list": [1, 2]})
    found, position = await changes(reader, position, 4)
    one = {KEY: 1, "_id": 1, "title": "new", "price": 1.5, "n": 0, "deep": {"er": 1}}
    assert found == [
        Put(one), Put({KEY: 2, "_id": 2, "title": "whole"}), Removed({KEY: 3}), Put({KEY: 4, "_id": 4, "list": [1, 2]}),
    ]  # fmt: skip
    shop.item.update_one({"_id": 4}, {"$set": {"list": []}})
    shop.item.delete_one({"_id": 4})
    found, _ = await changes(reader, position, 1)
    assert found == [Removed({KEY: 4})], "what is gone when it is looked up comes as its removal"


async def test_each_position_is_a_place_to_go_on_from(shop: MongoShop, reader: MongoReader) -> None:
    position = await reader.begin()
    for number in range(12):
        shop.put(number)
        found, position = await changes(reader, position, 1)
        assert [change.row["_id"] for change in found] == [number]
        if number % 4 == 0 and shop.server.stand_in:
            shop.server.kill()
            shop.server.start()
            await reader.close()


async def test_the_position_moves_while_nothing_happens(shop: MongoShop, reader: MongoReader) -> None:
    position = await reader.begin()
    shop.client[f"{shop.name}_other"].item.insert_one({})
    async with aclosing(reader.read(position)) as parts:
        part: Part = await anext(parts)
    assert part.changes == [] and part.position is not None
    assert part.position != position and reader.reached(part.position, position)
    shop.client.drop_database(f"{shop.name}_other")


KINDS = {
    "bool": (True, True), "int": (Int64(-3), -3), "big": (2**60, str(2**60)), "real": (1.5, 1.5),
    "nan": (float("nan"), None), "price": (Decimal128("9.90"), 9.9),
    "exact": (Decimal128("12345678901234567890.5"), "12345678901234567890.5"), "huge": (Decimal128("NaN"), None),
    "text": ('naïve 🐘 "q" \\', 'naïve 🐘 "q" \\'),
    "when": (datetime(2024, 2, 29, 1, 2, 3, 500_000, UTC), 1709168523.5), "rx": (Regex("^a", "i"), "/^a/i"),
    "far": (datetime(1, 1, 1, tzinfo=UTC), -62135596800), "oid": (ObjectId("65e0" * 6), "65e0" * 6),
    "bytes": (b"\x00\xff", "AP8="), "stamp": (Timestamp(5, 1), "5:1"),
    "uuid": (Binary.from_uuid(uuid.UUID(int=7)), str(uuid.UUID(int=7))), "code": (Code("x()"), "x()"),
    "top": (MaxKey(), "MaxKey"),
    "deep": ({"a": [1, {"b": None, "c": ObjectId("65e0" * 6)}]}, {"a": [1, {"b": None, "c": "65e0" * 6}]}),
    "none": (None, None), "empty": ([], []),
}  # fmt: skip


async def test_copy_and_stream_give_the_same(shop: MongoShop, reader: MongoReader) -> None:
    position = await reader.begin()
    shop.item.insert_one({"_id": 1} | {name: given for name, (given, _made) in KINDS.items()})
    (chunk,) = [one async for one in reader.copy(None)]
    (change,), _ = await changes(reader, position, 1)
    wanted = {name: made for name, (_given, made) in KINDS.items()} | {"_id": 1, KEY: 1}
    assert chunk.rows[0] == wanted
    assert change.row == wanted


async def test_only_the_needed_fields_and_null_where_one_is_missing(shop: MongoShop) -> None:
    reader = MongoReader(shop.server.place(shop.name), "item", frozenset({KEY, "n", "nope"}))
    position = await reader.begin()
    shop.put(1)
    (chunk,) = [one async for one in reader.copy(None)]
    (change,), _ = await changes(reader, position, 1)
    assert chunk.rows[0] == change.row == {KEY: 1, "n": 0, "nope": None}
    await reader.close()


async def test_an_event_larger_than_a_document_comes_in_pieces(shop: MongoShop, reader: MongoReader) -> None:
    shop.item.insert_one({"_id": 1, "text": "x"})
    position = await reader.begin()
    shop.item.update_one({"_id": 1}, {"$set": {"text": "y" * 9_000_000}})
    shop.put(2)
    found, _ = await changes(reader, position, 2)
    assert [len(one.row.get("text", "")) for one in found] == [9_000_000, 0]


async def test_an_older_server_cannot_send_it_and_that_is_said(with_options: Callable[..., MongoShop]) -> None:
    shop = with_options(version="4.4.29")
    reader = MongoReader(shop.server.place("shop"), "item")
    shop.item.insert_one({"_id": 1})
    position = await reader.begin()
    shop.item.update_one({"_id": 1}, {"$set": {"text": "y" * 9_000_000}})
    fault = await fault_of(reader, position)
    assert isinstance(fault, Refused) and "10334" in fault.message and "6.0.9" in str(fault.hint)
    await reader.close()


async def test_a_log_that_no_longer_reaches_back_is_lost(shop: MongoShop, reader: MongoReader) -> None:
    position = await reader.begin()
    shop.put(1, 2, 3)
    inside(shop, keep=1)
    fault = await fault_of(reader, position)
    assert isinstance(fault, LogLost) and "286" in fault.message


@pytest.mark.parametrize("code", [286, 280])
async def test_the_servers_word_for_it_while_reading(shop: MongoShop, reader: MongoReader, code: int) -> None:
    position = await reader.begin()
    fail(shop, "getMore", errorCode=code)
    assert isinstance(await fault_of(reader, position), LogLost)


async def test_a_server_that_was_restored_is_not_followed_in_silence(with_options: Callable[..., MongoShop]) -> None:
    shop = with_options(noop="100")
    reader = MongoReader(shop.server.place("shop"), "item")
    shop.put(1)
    position = await reader.begin()
    inside(shop, forget=50)
    fault = await fault_of(reader, position)
    assert isinstance(fault, LogLost) and "behind us" in fault.message
    await reader.close()


@pytest.mark.parametrize("how", ["drop", "rename", "over"])
async def test_a_collection_that_went_stops_the_reading(shop: MongoShop, reader: MongoReader, how: str) -> None:
    shop.put(1)
    position = await reader.begin()
    if how == "drop":
        shop.item.drop()
    elif how == "rename":
        shop.item.rename("away")
    else:
        shop.client[shop.name].fresh.insert_one({"_id": 9})
        shop.client[shop.name].fresh.rename("item", dropTarget=True)
    fault = await fault_of(reader, position)
    assert isinstance(fault, Refused) and "dropped, renamed or replaced" in fault.message


async def test_an_unknown_event_is_fatal_and_named(shop: MongoShop, reader: MongoReader) -> None:
    position = await reader.begin()
    inside(shop, log="reshard", ns=f"{shop.name}.item")
    fault = await fault_of(reader, position)
    assert isinstance(fault, Refused) and "'reshard'" in fault.message


@pytest.mark.parametrize("code", [43, 91, 11600])
async def test_what_passes_is_tried_again_later(shop: MongoShop, reader: MongoReader, code: int) -> None:
    position = await reader.begin()
    fail(shop, "getMore", errorCode=code)
    assert isinstance(await fault_of(reader, position), Unavailable)


async def test_a_link_that_breaks_or_falls_silent_is_noticed(
    shop: MongoShop, reader: MongoReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    position = await reader.begin()
    fail(shop, "getMore", closeConnection=True)
    assert isinstance(await fault_of(reader, position), Unavailable)
    monkeypatch.setattr(mongodb, "SILENCE", 1.0)
    fail(shop, "getMore", blockConnection=True, blockTimeMS=5000)
    fault = await fault_of(reader, position)
    assert isinstance(fault, Unavailable) and "said nothing" in fault.message


async def test_a_cancelling_that_the_driver_drops_is_heeded(
    shop: MongoShop, reader: MongoReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver's `asyncio.wait_for` does this before Python 3.12, when the answer comes in the same moment."""
    answer = AsyncDatabase.command
    dropped = 0

    async def dropping(*given: Any, **more: Any) -> Any:
        nonlocal dropped
        work = asyncio.ensure_future(answer(*given, **more))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            dropped += 1
            return await work

    reading = asyncio.create_task(changes(reader, await reader.begin(), 1))
    monkeypatch.setattr(AsyncDatabase, "command", dropping)
    await asyncio.sleep(0.5)
    reading.cancel()
    await asyncio.wait({reading}, timeout=10)
    assert dropped
    assert reading.cancelled()


async def test_a_wrong_password_is_refused(with_options: Callable[..., MongoShop]) -> None:
    shop = with_options(user="sync", password="s3cret")
    reader = MongoReader(shop.server.place("shop", "wrong"), "item")
    with pytest.raises(LoginRefused, match="18"):
        await reader.identity()
    await reader.close()
    reader = MongoReader(shop.server.place("shop"), "item")
    assert await reader.identity() == "mongodb rs0 shop"
    await reader.close()


async def test_the_preflight_says_what_to_do(shop: MongoShop, reader: MongoReader) -> None:
    assert not [finding for finding in await reader.preflight() if finding.stop]
    fail(shop, "aggregate", errorCode=13)
    (finding,) = [finding for finding in await reader.preflight() if finding.stop]
    assert "grantRolesToUser" in finding.sql
    shop.client[shop.name].command({"create": "seen", "viewOn": "item", "pipeline": []})
    view = MongoReader(shop.server.place(shop.name), "seen")
    assert "view" in next(finding.text for finding in await view.preflight() if finding.stop)
    await view.close()


async def test_a_server_alone_cannot_be_followed(with_options: Callable[..., MongoShop]) -> None:
    shop = with_options(standalone="")
    reader = MongoReader(shop.server.place("shop"), "item")
    (finding,) = [finding for finding in await reader.preflight() if finding.stop]
    assert "replica set" in finding.text and "rs.initiate()" in finding.sql
    with pytest.raises(Refused, match="40573"):
        await reader.begin()
    await reader.close()


async def test_a_mapping_with_no_fields_takes_every_field_of_each_document(bench: Any) -> None:
    bench.shop.item.insert_one({"_id": 1, "title": "a", "_geo": {"lat": 400, "lng": 1}, "away": 1})
    await bench.define(mapping={"leave_out": ["away"], "filter": [{"column": "title", "is": "filled"}]})
    assert "no collection" in await bench.refused(
        "save_sync", name="t", source="shop", instance="search", table="nope", index="t", mapping=""
    )
    await bench.act("start", sync="items")
    bench.run()
    bench.shop.item.insert_many([{"_id": 2, "title": "b", "later": {"x": [1]}}, {"_id": "2", "title": "c"}, {"_id": 9}])
    wanted = {
        "1": {"id": 1, "_id": 1, "title": "a"},
        "2": {"id": 2, "_id": 2, "title": "b", "later": {"x": [1]}},
        "s_2": {"id": "s_2", "_id": "2", "title": "c"},
    }
    await bench.until(lambda: bench.meili.documents("items") == wanted)
    receipt = await bench.act("check", sync="items")
    assert receipt["differences"] == 0


async def test_a_lost_log_stops_the_sync_says_so_and_a_rebuild_mends_it(bench: Any) -> None:
    bench.shop.put(1, 2)
    await bench.define()
    await bench.act("start", sync="items")
    bench.run()
    await bench.until(bench.equal)
    fail(bench.shop, "getMore", errorCode=286)
    for _ in range(100):
        if problem := (await ledger.whole(bench.deck.db, "items")).sync.problem:
            break
        await asyncio.sleep(0.1)
    assert "286" in problem and len(bench.meili.documents("items")) == 2
    bench.shop.put(3)
    await bench.act("rebuild", sync="items")
    await bench.until(bench.equal)
    assert (await ledger.whole(bench.deck.db, "items")).sync.problem == ""


async def test_a_place_that_the_log_may_soon_not_reach_back_to_is_told(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "READING", 0.3)
    seen = MongoReader.head

    async def short(self: MongoReader, position: str) -> Head:
        return replace(await seen(self, position), window_seconds=2)

    monkeypatch.setattr(MongoReader, "head", short)
    bench.shop.put(1)
    await bench.define()
    await bench.act("start", sync="items")
    bench.run()
    await bench.until(bench.equal)

    async def told() -> list[str]:
        return [row.key for row in await bench.deck.incidents.open_now()]

    assert await told() == []
    bench.meili.fault(hold=True)
    bench.shop.put(2)
    for _ in range(100):
        if await told():
            break
        await asyncio.sleep(0.1)
    assert await told() == ["search_sync:items:window"]
    bench.meili.fault(hold=False)
    await bench.until(bench.equal)
    for _ in range(50):
        if not await told():
            break
        await asyncio.sleep(0.1)
    assert await told() == []
