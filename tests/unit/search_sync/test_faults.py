"""Links that break, servers that forget, Meilisearch at its worst: nothing is lost, and what cannot go on says why."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from opsdeck_search_sync import lane, ledger, stream, watching
from opsdeck_search_sync.models import Reading
from opsdeck_search_sync.sources import binlog, mysql, pglink, pgstream

pytestmark = pytest.mark.timeout(180)

STREAMS = {"postgres": b"START_REPLICATION", "mariadb": b"binlog_checksum", "mysql": b"binlog_checksum"}
"""Words that only the connection says which reads the log."""


ONE = pytest.mark.parametrize(
    "shop",
    ["mariadb", *(pytest.param(kind, marks=pytest.mark.campaign) for kind in ("postgres", "mysql"))],
    indirect=True,
)
"""What does not depend on the kind of source: one kind in each run, the others in a campaign."""


class Proxy:
    """A way to a database whose links can be cut, or go silent without an end."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._links: list[Link] = []
        self.port = 0

    async def start(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._to)
        link = Link(writer, back)
        self._links.append(link)
        await asyncio.gather(link.pass_on(reader, back, note=True), link.pass_on(there, writer, note=False))

    def cut(self) -> None:
        """End every link at once."""
        for link in self._links:
            link.close()
        self._links.clear()

    def freeze(self, word: bytes = b"") -> int:
        """Let links that said a word pass nothing any more, and not end; tell how many."""
        chosen = [link for link in self._links if word in link.said and not link.frozen]
        for link in chosen:
            link.frozen = True
        return len(chosen)


class Link:
    """One connection and the one behind it."""

    def __init__(self, *writers: asyncio.StreamWriter) -> None:
        self._writers = writers
        self.frozen, self.said = False, b""

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, note: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if note and len(self.said) < 4096:
                    self.said += data
                if not self.frozen:
                    writer.write(data)
                    await writer.drain()
        if not self.frozen:
            self.close()

    def close(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


@pytest.fixture
async def proxy(shop: Any) -> AsyncIterator[Proxy]:
    made = Proxy(shop.server.port)
    server = await made.start()
    yield made
    server.close()
    made.cut()


async def follows(bench: Any, port: int = 0, **more: Any) -> None:
    """Have a sync of the table `item` that follows."""
    bench.shop.sql("INSERT INTO item (id, title, price) VALUES (1, 'one', 1)")
    await bench.define(**more)
    if port:
        login = {"user": "postgres"} if bench.shop.kind == "postgres" else {"user": "sync", "secret": "db"}
        login |= {"tls": "off"}  # the proxy looks for words
        await bench.act("save_source", name="shop", kind=bench.shop.kind, port=port, database=bench.shop.name, **login)
    await bench.act("start", sync="items")
    bench.run()
    await bench.until(bench.equal)
    bench.shop.sql("UPDATE item SET note = 'followed'")
    await bench.until(bench.equal)


async def add(bench: Any, *numbers: int) -> None:
    for number in numbers:
        await asyncio.to_thread(
            bench.shop.sql, f"INSERT INTO item (id, title, price) VALUES ({number}, 'row {number}', 1)"
        )


async def problem(bench: Any, name: str = "items") -> tuple[str, str]:
    """Wait until a sync stands still; give why, and what to do."""
    for _ in range(300):
        sync = (await ledger.whole(bench.deck.db, name)).sync
        if sync.problem:
            return sync.problem, sync.hint
        await asyncio.sleep(0.1)
    raise AssertionError([line.text for one in bench.services() for line in one.log])


async def incident(bench: Any, key: str, *, there: bool) -> None:
    for _ in range(200):
        if any(row.key == f"search_sync:items:{key}" for row in await bench.deck.incidents.open_now()) == there:
            return
        await asyncio.sleep(0.1)
    raise AssertionError((key, there))


@ONE
async def test_links_that_are_cut_cost_no_row(bench: Any, proxy: Proxy) -> None:
    await follows(bench, proxy.port)
    for number in range(10, 16):
        await add(bench, number)
        proxy.cut()
        await add(bench, number + 100)
    await bench.until(bench.equal)


@pytest.mark.parametrize(
    "shop",
    ["postgres", *(pytest.param(kind, marks=pytest.mark.campaign) for kind in ("mariadb", "mysql"))],
    indirect=True,
)
async def test_a_link_that_is_half_open_is_noticed_told_and_left(bench: Any, proxy: Proxy, monkeypatch: Any) -> None:
    monkeypatch.setattr(stream, "READING", 0.3)
    monkeypatch.setattr(watching, "GRACE", 0.5)
    for module in (pgstream, binlog):
        monkeypatch.setattr(module, "SILENCE", 4.0)
    monkeypatch.setattr(binlog, "HEARTBEAT", 1.0)
    await follows(bench, proxy.port, alarm_seconds=1)
    assert proxy.freeze(STREAMS[bench.shop.kind]) >= 1
    await add(bench, 2)
    await incident(bench, "silent", there=True)
    await bench.until(bench.equal)
    await incident(bench, "silent", there=False)


@pytest.mark.campaign
async def test_when_every_link_is_half_open_each_wait_ends(bench: Any, proxy: Proxy, monkeypatch: Any) -> None:
    for module, name in ((pglink, "QUICK"), (mysql, "QUICK"), (pgstream, "SILENCE"), (binlog, "SILENCE")):
        monkeypatch.setattr(module, name, 2.0)
    monkeypatch.setattr(binlog, "HEARTBEAT", 0.5)
    await follows(bench, proxy.port)
    assert proxy.freeze(), "every link; new ones pass"
    await add(bench, 3)
    await bench.until(bench.equal, 60)


@ONE
async def test_meilisearch_away_slow_and_full_for_a_while(bench: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(stream, "READING", 0.3)
    await follows(bench, alarm_seconds=1)
    bench.meili.fault(hold=True)
    await add(bench, 2)
    await incident(bench, "behind", there=True)
    bench.meili.fault(hold=False, delay=0.2)
    await add(bench, 3, 4, 5)
    bench.meili.fault(full=True)
    await add(bench, 6)
    bench.meili.kill()
    await add(bench, 7, 8)
    bench.meili.start()
    await bench.until(bench.equal)
    await incident(bench, "behind", there=False)
    bench.meili.fault(fail_batches=3, fail_code="no_space_left_on_device")
    await add(bench, 9, 10, 11)
    await bench.until(bench.equal)
    assert not await ledger.dead(bench.deck.db, "items")


@ONE
async def test_when_every_document_is_refused_the_sync_stops(bench: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(lane, "MOST_DEAD", 5)
    await follows(bench)
    bench.meili.fault(fail_batches=100_000, fail_code="invalid_document_id")
    await add(bench, *range(10, 18))
    told, hint = await problem(bench)
    assert "more than 5 documents were refused" in told and "dead letters" in hint
    assert len(await ledger.dead(bench.deck.db, "items")) == 5
    bench.meili.fault(reset=True)
    await bench.act("rebuild", sync="items")
    await bench.until(bench.equal)


@ONE
async def test_idling_longer_than_the_server_allows_ends_nothing(bench: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(stream, "READING", 0.5)
    if bench.shop.kind == "postgres":
        bench.shop.sql(f"ALTER DATABASE {bench.shop.name} SET idle_session_timeout = '1s'")
    else:
        bench.shop.sql("SET GLOBAL wait_timeout = 1")
    try:
        await follows(bench)
        monkeypatch.setattr(stream, "READING", 60.0)
        await asyncio.sleep(2.5)
        monkeypatch.setattr(stream, "READING", 0.5)
        await add(bench, 2)
        await bench.until(bench.equal)
        await asyncio.sleep(1)
        (service,) = bench.services()
        assert (service.crashes, service.phase) == (0, "running")
    finally:
        if bench.shop.kind != "postgres":
            bench.shop.sql("SET GLOBAL wait_timeout = 28800")


async def test_a_source_that_forgot_its_log_asks_for_a_rebuild_which_mends_it(bench: Any) -> None:
    await follows(bench)
    await bench.act("pause", sync="items")
    await bench.until(lambda: not bench.services())
    await add(bench, 2)
    if bench.shop.kind == "postgres":
        await bench.until(lambda: not bench.shop.sql("SELECT 1 FROM pg_replication_slots WHERE active"))
        bench.shop.sql("SELECT pg_drop_replication_slot('opsdeck_items_1')")
    else:
        bench.shop.sql("FLUSH BINARY LOGS")
        await add(bench, 3)

        def purged() -> bool:  # a file that somebody still reads stays
            bench.shop.sql(f"PURGE BINARY LOGS TO '{bench.shop.sql('SHOW BINARY LOGS')[-1][0]}'")
            return len(bench.shop.sql("SHOW BINARY LOGS")) == 1

        await bench.until(purged)
    await bench.act("resume", sync="items")
    told, hint = await problem(bench)
    assert ("slot" in told or "position" in told or "purged" in told) and "rebuild" in hint
    assert list(bench.meili.documents("items")) == ["1"], "the index stays as it is"
    await incident(bench, "problem", there=True)
    await bench.act("rebuild", sync="items")
    await bench.until(bench.equal)
    await incident(bench, "problem", there=False)


@ONE
async def test_two_syncs_of_one_source_do_not_disturb_each_other(bench: Any) -> None:
    bench.shop.sql("CREATE TABLE other (id bigint PRIMARY KEY, title text, price numeric(10,2), note text, n int)")
    bench.shop.sql("CREATE TABLE unlisted (id bigint PRIMARY KEY)")
    await follows(bench)
    await bench.define("others", table="other")
    await bench.act("start", sync="others")
    await bench.until(lambda: bench.meili.get("/indexes/others/stats") is not None)
    (before,) = [one.since for one in bench.services() if one.key == "others"]
    await bench.act("rebuild", sync="items")
    begin, end = ("BEGIN", "COMMIT") if bench.shop.kind == "postgres" else ("START TRANSACTION", "COMMIT")
    for number in range(30):
        for text in (
            begin, f"INSERT INTO unlisted VALUES ({number})", f"INSERT INTO other (id, title) VALUES ({number}, 'x')",
            f"INSERT INTO item (id, title, price) VALUES ({100 + number}, 'y', 1)", end,
        ):  # fmt: skip
            await asyncio.to_thread(bench.shop.sql, text)
    count = "SELECT count(*) FROM other"
    await bench.until(lambda: len(bench.meili.documents("others")) == bench.shop.sql(count)[0][0] == 30)
    await bench.until(lambda: bench.meili.get("/indexes/items__b2/stats") is not None and bench.equal())
    (neighbour,) = [one for one in bench.services() if one.key == "others"]
    assert (neighbour.since, neighbour.crashes, neighbour.phase) == (before, 0, "running")
    whole = await ledger.whole(bench.deck.db, "others")
    assert [one.number for one in whole.generations] == [1]
    since = whole.sync.created - timedelta(minutes=1)
    for _ in range(100):  # the counts are written down with the next checkpoint
        written = sum(row.written for row in await ledger.minutes(bench.deck.db, "others", since))
        if written >= 30:
            break
        await asyncio.sleep(0.1)
    assert written == 30


class TestPostgres:
    """What only PostgreSQL can do to us."""

    @pytest.fixture
    def shop(self, postgres_shop: Any) -> Any:
        return postgres_shop

    async def test_an_idle_table_beside_a_busy_one_keeps_no_log(self, bench: Any, monkeypatch: Any) -> None:
        monkeypatch.setattr(stream, "READING", 0.3)
        monkeypatch.setattr(lane, "KEEP_IDLE", 0.5)
        bench.shop.sql("CREATE TABLE busy (id serial, text text)")
        await follows(bench)
        for _ in range(4):
            await asyncio.to_thread(
                bench.shop.sql,
                "INSERT INTO busy (text) SELECT repeat(md5(g::text), 60) FROM generate_series(1, 3000) g",
            )
        kept = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn) < 500000 FROM pg_replication_slots"
        kept += " WHERE slot_name = 'opsdeck_items_1'"
        await bench.until(lambda: bench.shop.sql(kept) == [(True,)])

    async def test_a_long_text_that_did_not_change_stays(self, bench: Any) -> None:
        await follows(bench)
        await bench.define("labels", table="item", mapping={"templates": {"label": "{title}: {note}"}})
        await bench.act("start", sync="labels")
        long = "string_agg(md5(g::text), '')"
        bench.shop.sql(f"UPDATE item SET note = (SELECT {long} FROM generate_series(1, 4000) g) WHERE id = 1")
        await bench.until(lambda: len((bench.meili.documents("labels").get("1") or {}).get("label") or "") > 100_000)
        bench.shop.sql("UPDATE item SET n = n + 1 WHERE id = 1")
        await bench.until(bench.equal)
        assert len(bench.meili.documents("items")["1"]["note"]) == 128_000
        told, hint = await problem(bench, "labels")
        assert "unchanged value of" in told and "REPLICA IDENTITY FULL" in hint
        bench.shop.sql("ALTER TABLE item REPLICA IDENTITY FULL")
        await bench.act("rebuild", sync="labels")
        await bench.until(lambda: bench.meili.documents("labels")["1"]["n"] == 1)
        bench.shop.sql("UPDATE item SET n = n + 1 WHERE id = 1")
        await bench.until(lambda: bench.meili.documents("labels")["1"]["n"] == 2)
        assert len(bench.meili.documents("labels")["1"]["label"]) > 100_000

    async def test_the_sources_disk_comes_first(self, bench: Any, monkeypatch: Any) -> None:
        monkeypatch.setattr(stream, "READING", 0.3)
        bench.shop.sql("CREATE TABLE busy (id serial, text text)")
        await follows(bench, limit_mb=64)
        bench.meili.fault(hold=True)
        await add(bench, 2)
        fill = "INSERT INTO busy (text) SELECT repeat(md5(g::text), 60) FROM generate_series(1, 20000) g"
        bench.shop.sql("ALTER TABLE busy ALTER text SET STORAGE PLAIN")
        await asyncio.to_thread(bench.shop.sql, fill)
        await incident(bench, "grown", there=True)
        await asyncio.to_thread(bench.shop.sql, fill)
        told, hint = await problem(bench)
        assert "more than 64 MB" in told and "rebuild" in hint
        await bench.until(lambda: not bench.shop.sql("SELECT 1 FROM pg_replication_slots WHERE NOT temporary"))
        bench.meili.fault(hold=False)
        await bench.act("rebuild", sync="items")
        await bench.until(bench.equal)


class TestMariadb:
    """What only a binary log can hold."""

    @pytest.fixture
    def shop(self, mariadb_shop: Any) -> Any:
        return mariadb_shop

    @pytest.mark.parametrize(
        ("spoil", "mend", "fix"),
        [
            ("SET SESSION binlog_row_image = 'MINIMAL'", "SET SESSION binlog_row_image = 'FULL'", "row_image = 'FULL'"),
            pytest.param(
                "SET GLOBAL binlog_row_metadata = 'NO_LOG'",
                "SET GLOBAL binlog_row_metadata = 'FULL'",
                "ata = 'FULL'",
                marks=pytest.mark.campaign,
            ),
            pytest.param(
                "SET GLOBAL log_bin_compress = ON",
                "SET GLOBAL log_bin_compress = OFF",
                "log_bin_compress = OFF",
                marks=pytest.mark.campaign,
            ),
        ],
    )
    async def test_a_log_that_lacks_something_is_refused_with_the_fix(
        self, bench: Any, spoil: str, mend: str, fix: str
    ) -> None:
        await follows(bench)
        bench.shop.sql(spoil)
        bench.shop.sql("UPDATE item SET n = 2, note = repeat('long ', 200)")
        bench.shop.sql(mend)
        told, hint = await problem(bench)
        assert fix in hint, (told, hint)
        assert bench.meili.documents("items")["1"]["n"] == 0, "the index stays as it is"
        await bench.act("rebuild", sync="items")
        await bench.until(bench.equal)

    async def test_settings_that_would_lose_rows_are_found_before_the_start(self, bench: Any) -> None:
        for text, fix in (
            ("SET GLOBAL binlog_row_image = 'MINIMAL'", "SET GLOBAL binlog_row_image = 'FULL'"),
            ("SET GLOBAL binlog_row_metadata = 'NO_LOG'", "SET GLOBAL binlog_row_metadata = 'FULL'"),
            ("SET GLOBAL log_bin_compress = ON", "SET GLOBAL log_bin_compress = 'OFF'"),
        ):
            name, value = text.removeprefix("SET GLOBAL ").split(" = ")
            bench.shop.sql(text)
            try:
                receipt = await bench.define()
                (found,) = [one for one in receipt["findings"] if one["stop"]]
                assert fix in found["sql"] and name in found["text"]
                assert name in await bench.refused("start", sync="items")
            finally:
                bench.shop.sql(f"SET GLOBAL {name} = {'OFF' if value == 'ON' else repr('FULL')}")


@ONE
async def test_readings_say_how_it_stands(bench: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(stream, "READING", 0.2)
    await follows(bench)

    async def reading() -> Reading:
        async with bench.deck.db.read() as session:
            row = await session.get(Reading, "items")
            assert row is not None
            return row

    for _ in range(200):
        row = await reading()
        if (row.state, row.in_flight, row.behind_seconds) == ("working", 0, 0.0):
            break
        await asyncio.sleep(0.1)
    assert row.behind_seconds == 0.0 and row.state == "working"
    bench.meili.fault(hold=True)
    await add(bench, 2)
    for _ in range(100):
        if ((await reading()).behind_seconds or 0) > 0.5:
            break
        await asyncio.sleep(0.1)
    row = await reading()
    assert row.in_flight == 1 and (row.behind_seconds or 0) > 0.5
    bench.meili.fault(hold=False)
    await bench.until(bench.equal)
