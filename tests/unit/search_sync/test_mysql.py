"""What the binary logs of MariaDB and MySQL may hold that is not read, and positions that are easily taken wrong."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from opsdeck_search_sync.changes import LogLost, Put
from opsdeck_search_sync.sources import binlog
from opsdeck_search_sync.sources.mysql import MysqlReader
from opsdeck_search_sync.sources.place import Place

from opsdeck.api import OpsDeckError, Refused, Sensitive

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(params=["mariadb", pytest.param("mysql", marks=pytest.mark.campaign)])
def shop(request: pytest.FixtureRequest) -> Any:
    """Both kinds."""
    return request.getfixturevalue(f"{request.param}_shop")


@pytest.fixture
async def reader(shop: Any) -> AsyncIterator[MysqlReader]:
    place = Place("127.0.0.1", shop.server.port, shop.name, "sync", Sensitive("s3cret"))
    made = MysqlReader(place, "item", shop.name, None, maria=shop.kind == "mariadb")
    yield made
    await made.close()


async def first(reader: MysqlReader, position: str) -> Any:
    """Give the first change after a position."""
    async with asyncio.timeout(20), aclosing(reader.read(position)) as parts:
        async for part in parts:
            if part.changes:
                return part.changes[0]
    raise AssertionError


async def refusal(reader: MysqlReader, position: str) -> OpsDeckError:
    with pytest.raises(OpsDeckError) as caught:
        await first(reader, position)
    assert isinstance(caught.value, Refused), caught.value
    return caught.value


async def test_a_compressed_event_is_named_with_its_fix(shop: Any, reader: MysqlReader) -> None:
    position = await reader.begin()
    if shop.kind == "mysql":
        shop.sql("SET SESSION binlog_transaction_compression = ON")
    else:
        shop.sql("SET GLOBAL log_bin_compress = ON")
    try:
        shop.sql("INSERT INTO item (id, title, price, note) VALUES (1, 't', 1, repeat('x', 5000))")
        fault = await refusal(reader, position)
    finally:
        if shop.kind == "mariadb":
            shop.sql("SET GLOBAL log_bin_compress = OFF")
    assert "compressed" in fault.message and "compress" in str(fault.hint)


async def test_a_row_with_columns_left_out_is_named_with_its_fix(shop: Any, reader: MysqlReader) -> None:
    shop.put(1)
    position = await reader.begin()
    shop.sql("SET SESSION binlog_row_image = MINIMAL")
    shop.sql("UPDATE item SET title = 'new' WHERE id = 1")
    fault = await refusal(reader, position)
    assert "binlog_row_image" in fault.message and "FULL" in str(fault.hint)


async def test_columns_without_names_are_named_with_their_fix(shop: Any, reader: MysqlReader) -> None:
    position = await reader.begin()
    shop.sql("SET GLOBAL binlog_row_metadata = MINIMAL")
    try:
        shop.put(1)
        fault = await refusal(reader, position)
        (finding,) = [one for one in await reader.preflight() if one.stop]
        assert "binlog_row_metadata" in finding.text and "FULL" in finding.sql
    finally:
        shop.sql("SET GLOBAL binlog_row_metadata = FULL")
    assert "binlog_row_metadata" in fault.message


async def test_a_part_of_a_json_value_is_no_row(shop: Any, reader: MysqlReader) -> None:
    if shop.kind != "mysql":
        pytest.skip("only MySQL writes parts of JSON values")
    shop.sql("ALTER TABLE item ADD doc json")
    shop.sql("INSERT INTO item (id, title, price, doc) VALUES (1, 't', 1, JSON_OBJECT('a', repeat('x', 500), 'b', 1))")
    position = await reader.begin()
    shop.sql("SET SESSION binlog_row_value_options = 'PARTIAL_JSON'")
    shop.sql("UPDATE item SET doc = JSON_SET(doc, '$.b', 2) WHERE id = 1")
    fault = await refusal(reader, position)
    assert "JSON" in fault.message and "binlog_row_value_options" in str(fault.hint)


async def test_a_tagged_transaction_is_named(shop: Any, reader: MysqlReader) -> None:
    if shop.kind != "mysql":
        pytest.skip("only MySQL tags transactions")
    position = await reader.begin()
    shop.sql("SET GTID_NEXT = 'AUTOMATIC:shop'")
    shop.put(1)
    shop.sql("SET GTID_NEXT = 'AUTOMATIC'")
    try:
        assert "tagged GTID" in (await refusal(reader, position)).message
        assert "tagged" in " ".join(one.text for one in await reader.preflight() if one.stop)
    finally:
        shop.sql("RESET BINARY LOGS AND GTIDS")
        shop.server.kill(signal.SIGTERM)  # until then it goes on to write as one that knows tags
        shop.server.start()


async def test_a_prepared_transaction_is_never_read_half(shop: Any, reader: MysqlReader) -> None:
    position = await reader.begin()
    insert = "INSERT INTO item (id, title, price) VALUES " + ", ".join(f"({id_}, 't', 1)" for id_ in range(2000))
    for text in ("XA START 'a'", insert, "XA END 'a'", "XA PREPARE 'a'", "XA COMMIT 'a'"):
        shop.sql(text)
    with pytest.raises(OpsDeckError, match="XA"):
        async with asyncio.timeout(20), aclosing(reader.read(position)) as parts:
            async for part in parts:
                assert not part.changes and part.position in {None, position}, "it went into what was not committed"


async def test_what_was_purged_is_lost_and_said(shop: Any, reader: MysqlReader) -> None:
    position = await reader.begin()
    shop.put(1)
    shop.sql("FLUSH BINARY LOGS")
    for _ in range(100):  # a log is kept as long as the server sees a reader in it
        logs = shop.sql("SHOW BINARY LOGS")
        if len(logs) == 1:
            break
        shop.sql(f"PURGE BINARY LOGS TO '{logs[-1][0]}'")
        await asyncio.sleep(0.1)
    with pytest.raises(LogLost):
        await first(reader, position)


async def test_an_empty_position_is_the_beginning_and_not_now(shop: Any, reader: MysqlReader) -> None:
    shop.sql("RESET MASTER" if shop.kind == "mariadb" else "RESET BINARY LOGS AND GTIDS")
    position = await reader.begin()
    assert position == ""
    shop.put(7)
    shop.sql("FLUSH BINARY LOGS")
    change = await first(reader, position)
    assert isinstance(change, Put) and change.row["id"] == 7


async def test_a_server_that_was_set_back_is_not_followed(shop: Any, reader: MysqlReader) -> None:
    shop.put(1)
    position = await reader.begin()
    shop.sql("RESET MASTER" if shop.kind == "mariadb" else "RESET BINARY LOGS AND GTIDS")
    with pytest.raises(LogLost, match="behind us"):
        await first(reader, position)


async def test_silence_is_filled_by_heartbeats(shop: Any, reader: MysqlReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binlog, "SILENCE", 1.0)
    monkeypatch.setattr(binlog, "HEARTBEAT", 0.3)
    position = await reader.begin()
    waiting = asyncio.create_task(first(reader, position))
    await asyncio.sleep(2.2)
    assert not waiting.done(), "an idle server is not a broken link"
    shop.put(1)
    assert (await waiting).row["id"] == 1
