"""Primary keys of every type: the copy reads each row once, in whatever pieces, and each row has an id of its own."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import pytest
from opsdeck_search_sync import reaching
from opsdeck_search_sync.changes import Chunk, Reader
from opsdeck_search_sync.documents import document_id
from opsdeck_search_sync.sources import mysql, postgres
from opsdeck_search_sync.sources.place import Place

from opsdeck.api import Sensitive

pytestmark = pytest.mark.timeout(120)

POSTGRES = {
    "uuid": ("k uuid", "('00000000-0000-0000-0000-' || lpad(to_hex(g), 12, '0'))::uuid"),
    "text": ("k text", "(ARRAY['b','B','a','ä','🐘','z z','','0','A-1','é'])[g]"),
    "numeric": ("k numeric(20,5)", "g * 1234567890.12345 - 5000000000"),
    "moment": ("k timestamptz", "'2024-01-01 00:00:00.000001+00'::timestamptz + g * interval '1 microsecond'"),
    "date": ("k date", "'2024-02-25'::date + g"),
    "bytes": ("k bytea", "decode(lpad(to_hex(g * 25), 4, '0'), 'hex')"),
    "mood": ("k mood", "(enum_range(NULL::mood))[g]"),
    "real": ("k double precision", "g / 3.0"),
    "inet": ("k inet", "('192.0.2.' || g)::inet"),
    "two": ("k int, l text", "g % 3, 'x-' || g"),
    "numbers": ("k int[]", "ARRAY[g % 3, g]"),
}
MYSQL = {
    "text": ("k varchar(20)", "ELT(g, 'b', 'C', 'a', 'ß', '🐬', 'z z', '', '0', 'A-1', 'é')"),
    "case": ("k varchar(20) COLLATE utf8mb4_bin", "ELT(g, 'b', 'B', 'a', 'A', '🐬', 'z z', '', '0', 'A-1', 'é')"),
    "latin": ("k varchar(20) CHARACTER SET latin1", "ELT(g, 'b', 'C', 'a', 'ß', 'ü', 'z z', '', '0', 'A-1', 'é')"),
    "fixed": ("k binary(16)", "UNHEX(LPAD(HEX(g * 25), 32, 'FE'))"),
    "bytes": ("k varbinary(16)", "UNHEX(LPAD(HEX(g * 25), 4, '0'))"),
    "unsigned": ("k bigint unsigned", "18446744073709551600 + g"),
    "numeric": ("k decimal(20,5)", "g * 1234567890.12345 - 5000000000"),
    "moment": ("k datetime(6)", "'2024-01-01 00:00:00.000001' + INTERVAL g MICROSECOND"),
    "stamp": ("k timestamp(3) DEFAULT '2001-01-01'", "'2024-10-27 00:30:00' + INTERVAL g * 1000 SECOND"),
    "date": ("k date", "'2024-02-25' + INTERVAL g DAY"),
    "time": ("k time(2)", "SEC_TO_TIME(g * 10000 - 50000)"),
    "word": ("k enum('z','y','x','w','v','u','t','s','r','q')", "g"),
    "words": ("k set('z','y','x','w')", "g"),
    "bit": ("k bit(12)", "g * 300"),
    "year": ("k year", "2000 + g"),
    "two": ("k int, l varchar(20)", "g % 3, CONCAT('x-', g)"),
    "mixed": ("k enum('b','a'), l varbinary(4)", "1 + g % 2, UNHEX(HEX(g * 25))"),
}
MARIA = {
    "uuid": ("k uuid", "CONCAT('00000000-0000-0000-0000-00000000000', HEX(g - 1))"),
    "timed": ("k uuid", "CONCAT(HEX(11 - g), '232ab00-9414-11ec-b3c8-9f6bdeced84', HEX(g - 1))"),
    "inet": ("k inet6", "CONCAT('2001:db8::', HEX(g))"),
}


async def gathered(reader: Reader, after: tuple[str, ...] | None) -> list[Chunk]:
    """Read all chunks, but not for ever."""
    found: list[Chunk] = []
    async with aclosing(reader.copy(after)) as chunks:
        async for chunk in chunks:
            found.append(chunk)
            assert len(found) < 20, "it goes round in a circle"
    return found


@pytest.mark.parametrize("kind", ["postgres", "mariadb", pytest.param("mysql", marks=pytest.mark.campaign)])
async def test_every_kind_of_key(kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    shop: Any = request.getfixturevalue(f"{kind}_shop")
    for module in (postgres, mysql):
        monkeypatch.setattr(module, "CHUNK_FIRST", 3)
        monkeypatch.setattr(module, "CHUNK_MOST", 3)
    if kind == "postgres":
        shop.sql("CREATE TYPE mood AS ENUM ('z', 'y', 'x', 'w', 'v', 'u', 't', 's', 'r', 'q')")
    if kind == "mysql":
        shop.sql("SET sql_mode = ''")
    for name, (columns, value) in {"postgres": POSTGRES, "mariadb": MYSQL | MARIA, "mysql": MYSQL}[kind].items():
        key = "k, l" if ", l " in columns else "k"
        shop.sql(f"CREATE TABLE t_{name} ({columns}, g int, PRIMARY KEY ({key}))")
        rows = " UNION ALL ".join(f"SELECT {g} AS g" for g in range(1, 11))
        shop.sql(f"INSERT INTO t_{name} SELECT {value}, g FROM ({rows}) AS s")
        await check(shop, name)


async def check(shop: Any, name: str) -> None:
    """Read a table whole, and on from the end of each chunk."""
    login = ("postgres", None) if shop.kind == "postgres" else ("sync", Sensitive("s3cret"))
    place = Place("127.0.0.1", shop.server.port, shop.name, *login)
    reader = reaching.reader(shop.kind, place, f"t_{name}" if shop.kind != "postgres" else f"public.t_{name}", "keys_1")
    try:
        chunks = await gathered(reader, None)
        rows = [row for chunk in chunks for row in chunk.rows]
        assert sorted(row["g"] for row in rows) == list(range(1, 11)), name
        assert len(chunks) >= 4, name
        for number, chunk in enumerate(chunks):
            rest = [row["g"] for later in await gathered(reader, chunk.last) for row in later.rows]
            assert rest == [row["g"] for later in chunks[number + 1 :] for row in later.rows], (name, chunk.last)
        names = [column.name for column in await reader.columns() if column.key]
        assert len({document_id(tuple(row[name] for name in names)) for row in rows}) == 10, name
    finally:
        await reader.close()
