"""DDL on a table while it is followed: what does not matter goes on, what does stops the sync and says why."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from opsdeck_search_sync import ledger

pytestmark = pytest.mark.timeout(180)

MAPPING = {"id": "key", "fields": [{"column": "id"}, {"column": "title"}, {"column": "n"}]}
COLUMNS = "id bigint PRIMARY KEY, title varchar(50), n int, spare int"

HARMLESS = {
    "postgres": (
        "ALTER TABLE {t} ADD COLUMN extra text DEFAULT 'x'",
        "ALTER TABLE {t} DROP COLUMN spare",
        "ALTER TABLE {t} ALTER COLUMN title TYPE varchar(100)",
        "CREATE INDEX ON {t} (title)",
    ),
    "mariadb": (
        "ALTER TABLE {t} ADD COLUMN extra text AFTER id",
        "ALTER TABLE {t} DROP COLUMN spare",
        "ALTER TABLE {t} MODIFY title varchar(100)",
        "CREATE INDEX byname ON {t} (title)",
        "OPTIMIZE TABLE {t}",
    ),
}
HARMLESS["mysql"] = HARMLESS["mariadb"]
HARMFUL = {
    "postgres": {
        "gone": ("ALTER TABLE {t} DROP COLUMN n", "'n'"),
        "renamed_column": ("ALTER TABLE {t} RENAME COLUMN n TO m", "'n'"),
        "retyped": ("ALTER TABLE {t} ALTER COLUMN n TYPE text", "'n' was int4, now text"),
        "rekeyed": ("ALTER TABLE {t} DROP CONSTRAINT {t}_pkey, ADD PRIMARY KEY (n)", "primary key was id, now n"),
        "moved": ("ALTER TABLE {t} RENAME TO {t}_old", "renamed|no table"),
        "dropped": ("DROP TABLE {t}", "dropped|no table"),
    },
    "mariadb": {
        "gone": ("ALTER TABLE {t} DROP COLUMN n", "'n'"),
        "renamed_column": ("ALTER TABLE {t} CHANGE n m int", "'n'"),
        "retyped": ("ALTER TABLE {t} MODIFY n int unsigned", "'n' was int, now int unsigned"),
        "rekeyed": ("ALTER TABLE {t} DROP PRIMARY KEY, ADD PRIMARY KEY (n)", "primary key was id, now n"),
        "moved": ("RENAME TABLE {t} TO {t}_old", "renamed|no table"),
        "dropped": ("DROP TABLE {t}", "dropped|no table"),
        "replaced": ("CREATE OR REPLACE TABLE {t} (" + COLUMNS + ")", "replaced"),
        "parted": ("ALTER TABLE {t} TRUNCATE PARTITION p0", "partition"),
    },
}
HARMFUL["mysql"] = {name: case for name, case in HARMFUL["mariadb"].items() if name != "replaced"}


async def begin(bench: Any, names: list[str]) -> None:
    """Follow a table of each name, all in one go."""
    for name in names:
        parts = " PARTITION BY RANGE (id) (PARTITION p0 VALUES LESS THAN MAXVALUE)" if name == "parted" else ""
        bench.shop.sql(f"CREATE TABLE {name} ({COLUMNS}){parts}")
        bench.shop.sql(f"INSERT INTO {name} (id, title, n) VALUES (1, 'one', 1)")
        await bench.define(name, table=name, mapping=MAPPING)
        await bench.act("start", sync=name)
    bench.run()
    await bench.until(lambda: all(list(bench.meili.documents(name)) == ["1"] for name in names), 60)


async def test_what_does_not_matter_goes_on(bench: Any) -> None:
    await begin(bench, ["calm"])
    for number, text in enumerate(HARMLESS[bench.shop.kind], 2):
        bench.shop.sql(text.format(t="calm"))
        bench.shop.sql(f"INSERT INTO calm (id, title, n) VALUES ({number}, 'row', {number})")
    last = {"key": number, "id": number, "title": "row", "n": number}
    await bench.until(lambda: bench.meili.documents("calm").get(str(number)) == last)
    assert len(bench.meili.documents("calm")) == number
    (service,) = bench.services()
    assert service.crashes == 0


async def test_what_matters_stops_the_sync_and_says_why(bench: Any) -> None:
    cases = HARMFUL[bench.shop.kind]
    await begin(bench, list(cases))
    for name, (text, _said) in cases.items():
        bench.shop.sql(text.format(t=name))
        if name in {"gone", "retyped", "rekeyed", "renamed_column"}:
            column = {"gone": "spare", "renamed_column": "m"}.get(name, "n")
            bench.shop.sql(f"INSERT INTO {name} (id, title, {column}) VALUES (2, 'after', '5')")
        elif name == "moved":
            bench.shop.sql("INSERT INTO moved_old (id, title) VALUES (2, 'after')")
    for name, (_text, said) in cases.items():
        for _ in range(200):
            sync = (await ledger.whole(bench.deck.db, name)).sync
            if sync.problem:
                break
            await asyncio.sleep(0.1)
        assert re.search(said, sync.problem) and sync.hint, (name, sync.problem, sync.hint)
        assert list(bench.meili.documents(name)) == ["1"], "the index stays as it is"
    bench.shop.sql("UPDATE retyped SET title = 'now' WHERE id = 1")
    await bench.act("rebuild", sync="retyped")
    await bench.until(lambda: bench.meili.documents("retyped").get("1", {}).get("title") == "now")

    async def written_down() -> bool:
        return (await ledger.whole(bench.deck.db, "retyped")).building is None

    await bench.until(written_down, 20)  # the rows follow the index
    assert not (await ledger.whole(bench.deck.db, "retyped")).sync.problem
