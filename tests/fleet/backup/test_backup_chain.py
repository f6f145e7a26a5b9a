"""A chain from full to increments, restored on another host, proven by a drill."""

from __future__ import annotations

import json


async def test_a_full_and_increments_restore_on_another_host(world):
    first = await world.good("run", target="shop")
    assert first["kind"] == "full"
    world.sql("INSERT INTO shop.orders (note) VALUES ('after the full')")
    second = await world.good("run", target="shop")
    assert second["kind"] == "incremental", second
    world.sql("UPDATE shop.orders SET note = 'changed' WHERE id = 7; DELETE FROM shop.orders WHERE id = 8")
    world.sql("SET NAMES utf8mb4; CREATE TABLE shop.`corrupt 订单 'ü\"``$(id)` (id INT PRIMARY KEY)")
    third = await world.good("run", target="shop")
    assert third["kind"] == "incremental"
    manifests = [json.loads(file.read_text()) for file in world.s3.files("shop/manifests/*.json")]
    assert [one["planned"]["parent"] for one in manifests] == ["", first["backup"], second["backup"]]
    before = world.sql("CHECKSUM TABLE shop.orders; SELECT COUNT(*) FROM shop.orders")
    world.sql("CREATE DATABASE IF NOT EXISTS other", host=world.spare)
    told = await world.good("restore", target="shop", onto="bk-spare")
    assert told["backup"] == third["backup"]
    assert told["links"] == 3
    assert world.sql("CHECKSUM TABLE shop.orders; SELECT COUNT(*) FROM shop.orders", host=world.spare) == before
    assert "other" not in world.sql("SHOW DATABASES", host=world.spare).split()
    assert world.spare.execute(["ls", "-d", f"{told['aside']}/other"]).strip()
    drill = await world.good("drill", target="shop", host="bk-spare")
    assert drill["tables"] > 10
    idle = await world.good("run", target="shop")
    assert idle["kind"] == "incremental"
    assert idle["stored"] <= 1_000_000, "an increment in which nothing happened"
