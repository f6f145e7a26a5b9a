"""Every type of value: the copy and the stream must give the same document; and what cannot be read is refused."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from opsdeck_search_sync import ledger, looking

pytestmark = pytest.mark.timeout(120)

PG_COLUMNS = {
    "a_bool": ("boolean", "true", True),
    "a_small": ("smallint", "-3", -3),
    "a_big": ("bigint", "9223372036854775807", "9223372036854775807"),
    "a_num": ("numeric", "12345678901234567890.5", "12345678901234567890.5"),
    "a_price": ("numeric(10,2)", "9.90", 9.9),
    "a_nan": ("double precision", "'NaN'", None),
    "a_real": ("real", "1.5", 1.5),
    "a_text": ("text", "'naïve 🐘 \"q\" \\ x'", 'naïve 🐘 "q" \\ x'),
    "a_char": ("char(5)", "'ab'", "ab"),
    "a_date": ("date", "'2024-02-29'", 1709164800),
    "a_stamp": ("timestamp", "'2024-02-29 01:02:03.5'", 1709168523.5),
    "a_zoned": ("timestamptz", "'2024-02-29 01:02:03+02'", 1709161323),
    "a_time": ("time", "'01:00:01'", 3601),
    "a_span": ("interval", "'1 day 02:00:00'", 93600),
    "a_bytes": ("bytea", "'\\x00ff'", "AP8="),
    "a_json": ("jsonb", """'{"a": [1, 2.5, null], "b": 12345678901234567890}'""",
               {"a": [1, 2.5, None], "b": "12345678901234567890"}),
    "a_uuid": ("uuid", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    "a_inet": ("inet", "'192.0.2.1/24'", "192.0.2.1/24"),
    "a_bit": ("bit(1)", "B'1'", True),
    "a_bits": ("bit(8)", "B'00000101'", 5),
    "a_array": ("int[]", "'{{1,2},{3,NULL}}'", [[1, 2], [3, None]]),
    "a_texts": ("text[]", """'{"a,b","c\\"d",NULL,"NULL",""}'""", ["a,b", 'c"d', None, "NULL", ""]),
    "a_point": ("point", "'(13.4,52.5)'", {"lat": 52.5, "lng": 13.4}),
    "a_mood": ("mood", "'it''s ok'", "it's ok"),
    "a_moods": ("mood[]", "'{\"it''s ok\",sad}'", ["it's ok", "sad"]),
    "a_range": ("int4range", "'[1,5)'", "[1,5)"),
    "a_bigs": ("bigint[]", "'{9223372036854775807,1}'", ["9223372036854775807", 1]),
    "a_place": ("macaddr", "'08:00:2b:01:02:03'", "08:00:2b:01:02:03"),
    "a_null": ("text", "NULL", None),
}  # fmt: skip

MARIA_COLUMNS = {
    "a_bool": ("tinyint(1)", "1", True),
    "a_unsigned": ("int unsigned", "4000000000", 4000000000),
    "a_big": ("bigint unsigned", "18446744073709551615", "18446744073709551615"),
    "a_price": ("decimal(10,2)", "9.90", 9.9),
    "a_num": ("decimal(30,1)", "12345678901234567890.5", "12345678901234567890.5"),
    "a_float": ("float", "1.1", 1.1),
    "a_double": ("double", "2.25", 2.25),
    "a_text": ("text", "'naïve 🐬 \"q\"'", 'naïve 🐬 "q"'),
    "a_latin": ("varchar(20) CHARACTER SET latin1", "'café'", "café"),
    "a_date": ("date", "'2024-02-29'", 1709164800),
    "a_stamp": ("datetime(1)", "'2024-02-29 01:02:03.5'", 1709168523.5),
    "a_zoned": ("timestamp NULL", "'2024-02-29 01:02:03'", 1709168523),
    "a_time": ("time", "'01:00:01'", 3601),
    "a_year": ("year", "2024", 2024),
    "a_blob": ("blob", "x'00ff'", "AP8="),
    "a_binary": ("binary(4)", "x'0102'", "AQIAAA=="),
    "a_bit": ("bit(1)", "1", True),
    "a_bits": ("bit(10)", "b'1010101010'", 682),
    "a_enum": ("enum('small','l''arge')", "'l''arge'", "l'arge"),
    "a_set": ("set('x','y','z')", "'z,x'", ["x", "z"]),
    "a_zero": ("date", "'0000-00-00'", None),
    "a_moment": ("datetime", "'0000-00-00 00:00:00'", None),
    "a_place": ("point", "ST_GeomFromText('POINT(13.4 52.5)')", {"lat": 52.5, "lng": 13.4}),
    "a_line": ("geometry", "ST_GeomFromText('LINESTRING(0 1,2 3)')",
               {"type": "LineString", "coordinates": [[0.0, 1.0], [2.0, 3.0]]}),
    "a_area": ("polygon", "ST_GeomFromText('POLYGON((0 0,0 1,1 1,0 0))')",
               {"type": "Polygon", "coordinates": [[[0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]]]}),
    "a_json": ("json", """'{"a": [1, 2.5, null], "é": "x"}'""", {"a": [1, 2.5, None], "é": "x"}),
    "a_null": ("text", "NULL", None),
}  # fmt: skip

ONLY_MARIA = {
    "a_uuid": ("uuid", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    "a_timed": ("uuid", "'c232ab00-9414-11ec-b3c8-9f6bdeced846'", "c232ab00-9414-11ec-b3c8-9f6bdeced846"),
    "a_sorted": ("uuid", "'017f22e2-79b0-7cc3-98c4-dc0c0c07398f'", "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"),
    "a_four": ("inet4", "'192.0.2.7'", "192.0.2.7"),
    "a_six": ("inet6", "'2001:db8::1'", "2001:db8::1"),
}  # fmt: skip

ONLY_MYSQL = {
    "a_earth": ("point SRID 4326", "ST_GeomFromText('POINT(52.5 13.4)', 4326)", {"lat": 52.5, "lng": 13.4}),
    "a_deep": ("json", "JSON_OBJECT('n', 18446744073709551615, 'd', CAST(1.5 AS DECIMAL(3,1)), 't', true,"
               " 'dt', CAST('2024-02-29 01:02:03.5' AS DATETIME(1)), 'ti', CAST('01:02:03' AS TIME))",
               {"n": "18446744073709551615", "d": 1.5, "t": True, "dt": "2024-02-29 01:02:03.500000",
                "ti": "01:02:03.000000"}),
}  # fmt: skip


async def test_copy_and_stream_give_the_same(bench: Any) -> None:
    mine = {"postgres": PG_COLUMNS, "mariadb": ONLY_MARIA, "mysql": ONLY_MYSQL}[bench.shop.kind]
    columns = mine if bench.shop.kind == "postgres" else MARIA_COLUMNS | mine
    if bench.shop.kind == "mysql":
        bench.shop.sql("SET sql_mode = ''")
    if bench.shop.kind == "postgres":
        bench.shop.sql("CREATE TYPE mood AS ENUM ('sad', 'it''s ok')")
    kinds = ", ".join(f"{name} {kind}" for name, (kind, _given, _made) in columns.items())
    given = ", ".join(value for _kind, value, _made in columns.values())
    bench.shop.sql(f"CREATE TABLE kinds (id int PRIMARY KEY, {kinds})")
    bench.shop.sql(f"INSERT INTO kinds VALUES (1, {given})")
    await bench.define(table="kinds")
    await bench.act("start", sync="items")
    bench.run()
    await bench.until(lambda: "1" in bench.meili.documents("items"))
    bench.shop.sql(f"INSERT INTO kinds VALUES (2, {given})")
    await bench.until(lambda: "2" in bench.meili.documents("items"))
    found = bench.meili.documents("items")
    wanted = {name: made for name, (_kind, _given, made) in columns.items()}
    copied, streamed = ({k: v for k, v in found[id_].items() if k != "id"} for id_ in ("1", "2"))
    assert copied == wanted
    assert streamed == wanted
    receipt = await bench.act("check", sync="items")
    assert receipt["equal"] and receipt["rows"] == 2


async def test_a_refused_document_is_put_aside_shown_and_tried_again(bench: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(looking, "SETTLE", (0.3,))
    await bench.define()
    await bench.act("start", sync="items")
    bench.run()
    await bench.until(lambda: bench.meili.get("/indexes/items/stats") is not None)
    bench.meili.fault(refuse=["13"])
    bench.shop.sql("INSERT INTO item (id, title, price) VALUES (12, 'a', 1), (13, 'b', 1), (14, 'c', 1)")
    await bench.until(lambda: set(bench.meili.documents("items")) == {"12", "14"})
    receipt = await bench.act("check", sync="items")
    assert receipt["dead_letters"] == 1 and receipt["different"] == [13]
    bench.meili.fault(refuse=[])
    await bench.act("retry_dead", sync="items")
    await bench.until(bench.equal)
    assert "no dead letters" in await bench.refused("retry_dead", sync="items")


async def test_a_source_that_changed_too_much_stops_the_sync_and_says_so(bench: Any) -> None:
    bench.shop.sql("INSERT INTO item (id, title, price) VALUES (1, 'a', 1)")
    await bench.define()
    await bench.act("start", sync="items")
    bench.run()
    await bench.until(bench.equal)
    if bench.shop.kind == "postgres":
        bench.shop.sql("ALTER TABLE item DROP COLUMN note")
        bench.shop.sql("INSERT INTO item (id, title, price) VALUES (2, 'a', 1)")
    else:
        bench.shop.sql("DROP TABLE item")

    async def problem() -> str:
        return (await ledger.whole(bench.deck.db, "items")).sync.problem

    for _ in range(100):
        if await problem():
            break
        await asyncio.sleep(0.1)
    said = [line.text for one in bench.services() for line in one.log]
    told = await problem()
    assert any(word in told for word in ("note", "dropped", "no table")), said
    assert "1" in bench.meili.documents("items"), "the index stays as it is"
    assert [row.key for row in await bench.deck.incidents.open_now()] == ["search_sync:items:problem"]


async def test_bad_definitions_are_refused_where_they_enter(bench: Any) -> None:
    await bench.define()
    for mapping, word in (
        ({"fields": [{"column": "nope"}]}, "nope"),
        ({"templates": {"t": "{title!r}"}}, "template"),
        ({"fields": [{"column": "title", "name": "x"}, {"column": "note", "name": "x"}]}, "twice"),
        ({"geo": {"lat": "n"}}, "geo"),
        ({"colour": 1}, "colour"),
    ):
        said = await bench.refused(
            "save_sync", name="bad", source="shop", instance="search", table="item", index="bad",
            mapping=json.dumps(mapping),
        )  # fmt: skip
        assert word in said
    twin = {"source": "shop", "instance": "search", "table": "item", "mapping": ""}
    assert "writes to the index" in await bench.refused("save_sync", name="twin", index="items", **twin)
    assert "no table" in await bench.refused("save_sync", name="t", index="t", **(twin | {"table": "missing"}))
    assert "is used by items" in await bench.refused("remove_source", name="shop")
