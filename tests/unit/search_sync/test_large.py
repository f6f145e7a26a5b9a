"""A transaction of a gigabyte: it arrives whole, and the node's memory hardly grows."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(1500)]

MEGABYTES = int(os.environ.get("OPSDECK_LARGE_MB", "1000"))
MOST = 150 << 20
"""Bytes that a stream may take."""


def peak(pid: int) -> int:
    """The most memory that a process ever had."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) << 10


@pytest.fixture(params=["postgres", "mariadb", "mysql"])
def shop(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(f"{request.param}_shop")


async def test_a_large_transaction_takes_no_more_memory(bench: Any) -> None:
    bench.shop.put(1)
    await bench.define()
    await bench.act("start", sync="items")
    env = {**os.environ, "OPSDECK_HOME": str(bench.deck.settings.home), "OPSDECK_NODE": "node2"}
    with (bench.deck.settings.home / "log").open("wb") as log:
        worker = subprocess.Popen([Path(sys.executable).parent / "opsdeck", "worker"], env=env, stdout=log, stderr=log)
    try:
        await bench.until(bench.equal, 60)
        bench.shop.put(2)
        await bench.until(bench.equal, 60)
        before = peak(worker.pid)

        def write() -> None:
            bench.shop.sql("BEGIN")
            for start in range(1000, 1000 + MEGABYTES * 1000, 500):
                rows = ", ".join(f"({g}, 't', 1, '{'x' * 1000}')" for g in range(start, start + 500))
                bench.shop.sql(f"INSERT INTO item (id, title, price, note) VALUES {rows}")
            bench.shop.sql("COMMIT")

        await asyncio.to_thread(write)
        rows = MEGABYTES * 1000 + 2

        def there() -> bool:
            time.sleep(3)  # the stand-in counts them one by one
            return bool((bench.meili.get("/indexes/items/stats") or {}).get("numberOfDocuments") == rows)

        await bench.until(there, 1200)
        grown = peak(worker.pid) - before
        print(f"{bench.shop.kind}: {MEGABYTES} MB in one transaction, {grown >> 20} MB more")
        assert grown < MOST
        last = 1000 + MEGABYTES * 1000 - 1
        assert bench.meili.get(f"/indexes/items/documents/{last}")["note"] == "x" * 1000
    finally:
        worker.terminate()
        worker.wait(30)
