"""The upper steps of the ladder of proof: a table that is not sound, an answer that is not right."""

from __future__ import annotations

import asyncio
from typing import Any

SHOP = {"name": "shop", "host": "bk-db", "remote": "store:backups", "store_secret": "s3", "key_secret": "key"}


def sql(host: Any, text: str) -> str:
    return str(host.execute(["mariadb", "-N", "-B"], stdin=text, timeout=120)).strip()


async def test_each_step_of_the_ladder_can_say_no(world: Any) -> None:
    async def broken() -> bool:
        return "backup:shop:proof" in [one.key for one in await world.deck.incidents.open_now()]

    work, left = "/var/lib/opsdeck-backup", "20260101T000000Z-0000000a"
    world.db.execute(
        ["sh", "-ec", f"mkdir -p {work}/{left}.1/0 {work}/{left}.2; touch -d '2 days ago' {work}/{left}.1"]
    )
    await world.good("run", target="shop")
    await world.good("target", **SHOP, questions=["SELECT COUNT(*) FROM shop.orders", "SELECT 0"])
    assert 'the answer to "SELECT 0" is "0"' in await world.bad("drill", target="shop")
    assert await broken()
    assert world.db.execute(["ls", work]).split() == [f"{left}.2"], "what a console that died left, and no more"
    await world.good("target", **SHOP, questions=["SELECT * FROM shop.nothing"])
    assert "the question failed" in await world.bad("drill", target="shop")
    await world.good("target", **SHOP, questions=["SELECT COUNT(*) = 1000 FROM shop.orders"])
    drilling = asyncio.create_task(world.good("drill", target="shop"))
    async with asyncio.timeout(60):
        while not any("drill of shop" in lease.purpose for lease in await world.deck.leases.list()):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await world.good("run", target="shop")  # backups go on meanwhile
    proven = await drilling
    assert (proven["tables"] > 10, await broken()) == (True, False)
    assert {"fetch", "prepare", "check"} <= set(proven)

    # Damage in the source is copied faithfully: only a look at the tables finds it.
    sql(world.db, "USE shop; CREATE TABLE old (id INT PRIMARY KEY, t TEXT) ENGINE=MyISAM; "
                  "INSERT INTO old SELECT seq, REPEAT('x', 200) FROM seq_1_to_500; FLUSH TABLES")  # fmt: skip
    world.db.execute(["dd", "if=/dev/zero", "of=/var/lib/mysql/shop/old.MYI", "bs=1024", "seek=1", "count=4",
                      "conv=notrunc", "status=none"])  # fmt: skip
    await world.good("run", target="shop")
    assert "tables are not sound" in await world.bad("drill", target="shop")
    sql(world.db, "DROP TABLE shop.old")
    world.db.execute(["rmdir", f"{work}/{left}.2"])
