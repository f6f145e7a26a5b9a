"""A table of a real PostgreSQL and of a real MariaDB, kept in an index from the first copy to the drop."""

from __future__ import annotations

import asyncio
from typing import Any

import pymysql
import pytest
from opsdeck_search_sync import reaching
from opsdeck_search_sync.sources.place import Place

pytestmark = pytest.mark.timeout(120)


async def test_copies_then_follows_every_kind_of_change(bench: Any) -> None:
    bench.shop.fill(2500)
    await bench.define()
    await bench.act("start", sync="items")
    bench.run()
    await bench.until(bench.equal)
    bench.shop.sql(
        "INSERT INTO item (id, title, price, note) VALUES (9001, 'a', 1, ''), (9002, 'b', 2, ''), (9003, 'c', 3, '')"
    )
    bench.shop.sql("UPDATE item SET title = concat('new ', id) WHERE id <= 500")
    bench.shop.sql("DELETE FROM item WHERE id BETWEEN 1000 AND 1100")
    bench.shop.sql("UPDATE item SET id = 77777 WHERE id = 1")
    await bench.until(bench.equal)
    found = bench.meili.documents("items")
    assert "1" not in found and found["77777"]["title"] == "new 1"
    bench.shop.sql("TRUNCATE item")
    bench.shop.sql("INSERT INTO item (id, title, price, note) VALUES (5, 'after', 1, '')")
    await bench.until(lambda: list(bench.meili.documents("items")) == ["5"])


async def test_rows_written_during_the_copy_are_there(bench: Any) -> None:
    bench.shop.fill(20000)
    await bench.define()
    await bench.act("start", sync="items")
    bench.run()
    for number in range(60):
        await asyncio.to_thread(
            bench.shop.sql, f"INSERT INTO item (id, title, price, note) VALUES ({-1 - number}, 'w', 2, 'x')"
        )
        await asyncio.to_thread(bench.shop.sql, f"UPDATE item SET n = n + 1 WHERE id = {1 + number * 300}")
        await asyncio.to_thread(bench.shop.sql, f"DELETE FROM item WHERE id = {20000 - number}")
        await asyncio.sleep(0.02)
    await bench.until(bench.equal, 20)


async def test_a_stopped_node_goes_on_where_it_was(bench: Any) -> None:
    await bench.define()
    await bench.act("start", sync="items")
    bench.run()
    bench.shop.sql("INSERT INTO item (id, title, price, note) VALUES (1, 'one', 1, '')")
    await bench.until(bench.equal)
    await bench.halt()
    bench.shop.sql("INSERT INTO item (id, title, price, note) VALUES (2, 'two', 1, '')")
    bench.shop.sql("DELETE FROM item WHERE id = 1")
    bench.run()
    await bench.until(lambda: list(bench.meili.documents("items")) == ["2"])


async def test_pause_resume_and_drop(bench: Any) -> None:
    await bench.define()
    await bench.act("start", sync="items")
    bench.run()
    bench.shop.sql("INSERT INTO item (id, title, price, note) VALUES (1, 'one', 1, '')")
    await bench.until(bench.equal)
    await bench.act("pause", sync="items")
    await bench.until(lambda: not bench.services())
    bench.shop.sql("INSERT INTO item (id, title, price, note) VALUES (2, 'two', 1, '')")
    await asyncio.sleep(0.5)
    assert list(bench.meili.documents("items")) == ["1"]
    await bench.act("resume", sync="items")
    await bench.until(bench.equal)
    await bench.act("drop", sync="items", confirm="drop")
    if bench.shop.kind == "postgres":
        left = "SELECT slot_name FROM pg_replication_slots WHERE slot_name = 'opsdeck_items_1'"
        await bench.until(lambda: not bench.shop.sql(left))
    await bench.until(lambda: not bench.services())
    assert "2" in bench.meili.documents("items"), "the index stays"


async def test_rebuild_with_another_mapping_under_load(bench: Any) -> None:
    bench.shop.fill(2000)
    await bench.define()
    await bench.act("start", sync="items")
    bench.run()
    await bench.until(bench.equal)
    mapping = {
        "fields": [{"column": "id"}, {"column": "title", "name": "name"}, {"column": "n"}],
        "constants": {"kind": "item"},
    }
    await bench.define(mapping=mapping, settings='{"filterableAttributes": ["kind"]}')
    await bench.act("rebuild", sync="items")
    seen = set()
    for number in range(40):
        await asyncio.to_thread(
            bench.shop.sql, f"UPDATE item SET n = n + 1, title = 'v{number}' WHERE id % 50 = {number % 50}"
        )
        await asyncio.to_thread(
            bench.shop.sql, f"INSERT INTO item (id, title, price, note) VALUES ({10000 + number}, 'new', 1, '')"
        )
        stats = await asyncio.to_thread(bench.meili.get, "/indexes/items/stats")
        seen.add(stats["numberOfDocuments"] >= 2000)
        await asyncio.sleep(0.02)

    def expected() -> dict[str, Any]:
        return {
            id_: {"id": row["id"], "name": row["title"], "n": row["n"], "kind": "item"}
            for id_, row in bench.rows().items()
        }

    await bench.until(lambda: expected() == bench.meili.documents("items"), 60)
    assert seen == {True}, "search never saw a partial index"
    assert bench.meili.get("/indexes/items/settings")["filterableAttributes"] == ["kind"]
    if bench.shop.kind == "postgres":
        slots = "SELECT slot_name FROM pg_replication_slots WHERE database = current_database()"
        await bench.until(lambda: bench.shop.sql(slots) == [("opsdeck_items_2",)])
    assert len(bench.meili.documents("items__b2")) >= 2000, "the old content is kept"


async def test_a_provider_s_role_stands_for_the_right_to_replicate(postgres_shop: Any) -> None:
    where = Place("127.0.0.1", postgres_shop.server.port, postgres_shop.name, "tenant")
    postgres_shop.sql("CREATE ROLE tenant LOGIN")
    postgres_shop.sql("CREATE ROLE rds_replication")

    async def found() -> set[str]:
        reader = reaching.reader("postgres", where, "item", "tenant_1")
        try:
            return {finding.text for finding in await reader.preflight()}
        finally:
            await reader.close()

    try:
        assert "the user may not replicate." in await found()
        postgres_shop.sql("GRANT rds_replication TO tenant")
        assert "the user may not replicate." not in await found()
    finally:
        postgres_shop.sql("DROP ROLE tenant")
        postgres_shop.sql("DROP ROLE rds_replication")


@pytest.mark.parametrize("which", ["", " AND command NOT LIKE 'Binlog Dump%'"], ids=["all links", "all but the log's"])
@pytest.mark.parametrize("shop", ["mariadb", pytest.param("mysql", marks=pytest.mark.campaign)], indirect=True)
async def test_ends_that_are_saved_anew_reach_a_sync_that_runs(bench: Any, which: str) -> None:
    async def save(password: str) -> None:
        await bench.keep("two", password)
        name, server = bench.shop.name, bench.shop.server
        await bench.act(
            "save_source", name="shop", kind=bench.shop.kind, port=server.port, database=name, user="two", secret="two"
        )

    def as_root(text: str) -> None:
        with (
            pymysql.connect(unix_socket=str(bench.shop.server.folder / "sock"), user="root") as root,
            root.cursor() as it,
        ):
            it.execute(text)

    def readers() -> set[str]:
        told = bench.shop.sql("SELECT user FROM information_schema.processlist WHERE command LIKE 'Binlog Dump%'")
        return {user for (user,) in told}

    bench.shop.fill(5)
    await bench.define()
    await bench.act("start", sync="items")
    bench.run()
    await bench.until(bench.equal)
    as_root("DROP USER IF EXISTS two@'%'")
    as_root("CREATE USER two@'%' IDENTIFIED BY 'the first'")
    as_root("GRANT ALL ON *.* TO two@'%'")
    await save("the first")
    await bench.until(lambda: readers() == {"two"})
    as_root("ALTER USER two@'%' IDENTIFIED BY 'the second'")
    for (number,) in bench.shop.sql(f"SELECT id FROM information_schema.processlist WHERE user = 'two'{which}"):
        as_root(f"KILL {number}")
    await bench.until(lambda: any("Access denied" in line.text for one in bench.services() for line in one.log))
    await save("the second")
    bench.shop.put(1001)
    await bench.until(bench.equal)


@pytest.mark.parametrize("shop", ["postgres"], indirect=True)
async def test_a_key_that_was_changed_is_taken_when_the_sync_is_resumed(bench: Any) -> None:
    bench.shop.fill(5)
    await bench.define()
    try:
        bench.meili.rekey("the-first-key-of-all")
        await bench.keep("key", bench.meili.key)
        await bench.act("save_instance", name="search", url=bench.meili.url, secret="key")
        await bench.act("start", sync="items")
        bench.run()
        await bench.until(bench.equal)
        bench.meili.rekey("the-second-key-of-all")
        bench.shop.put(1001)
        await bench.until(
            lambda: any("does not take the key" in line.text for one in bench.services() for line in one.log)
        )
        await bench.keep("key", bench.meili.key)
        await bench.act("resume", sync="items")
        await bench.until(bench.equal)
    finally:
        await bench.halt()
        bench.meili.rekey("")
