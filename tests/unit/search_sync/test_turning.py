"""Going back to what was searched before a rebuild, and forward again, whoever dies between."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from opsdeck_search_sync import actions, ledger
from opsdeck_search_sync.models import Generation, Phase
from sqlmodel import select

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def shop(one_shop: Any) -> Any:
    """What is tested here does not depend on the kind of source."""
    return one_shop


async def test_back_and_forward_again(bench: Any) -> None:
    bench.shop.sql("INSERT INTO item (id, title, price) VALUES (1, 'one', 1)")
    await bench.define()
    await bench.act("start", sync="items")
    bench.run()
    await bench.until(bench.equal)
    assert "keeps no earlier content" in await bench.refused("swap_back", sync="items")
    old = bench.meili.documents("items")
    await bench.define(mapping={"fields": [{"column": "id"}, {"column": "title", "name": "name"}]})
    await bench.act("rebuild", sync="items")
    await bench.until(lambda: bench.meili.documents("items") == {"1": {"id": 1, "name": "one"}})
    await settled(bench, turned=False)

    await bench.act("swap_back", sync="items")
    await bench.until(lambda: bench.meili.documents("items") == old)
    await settled(bench, turned=True)
    bench.shop.sql("INSERT INTO item (id, title, price) VALUES (2, 'two', 1)")
    await asyncio.sleep(0.7)
    assert bench.meili.documents("items") == old, "what is shown is not written to"
    await bench.halt()
    bench.run()
    await asyncio.sleep(0.7)
    assert bench.meili.documents("items") == old, "a restarted node leaves it so"

    await bench.act("swap_back", sync="items")
    newest = {"1": {"id": 1, "name": "one"}, "2": {"id": 2, "name": "two"}}
    await bench.until(lambda: bench.meili.documents("items") == newest)
    await settled(bench, turned=False)


async def test_a_rebuild_ends_the_going_back(bench: Any) -> None:
    bench.shop.sql("INSERT INTO item (id, title, price) VALUES (1, 'one', 1)")
    await bench.define()
    await bench.act("start", sync="items")
    bench.run()
    await bench.until(bench.equal)
    bench.shop.sql("UPDATE item SET title = 'uno'")
    await bench.until(bench.equal)
    await bench.act("rebuild", sync="items")
    await bench.until(lambda: bench.meili.get("/indexes/items__b2/stats") is not None and bench.equal())
    await settled(bench, turned=False, generation=2)
    await bench.act("swap_back", sync="items")
    await settled(bench, turned=True, generation=2)
    bench.shop.sql("UPDATE item SET title = 'eins'")
    await bench.act("rebuild", sync="items")
    await bench.until(bench.equal)
    await settled(bench, turned=False, generation=3)
    assert bench.meili.documents("items__b3")["1"]["title"] == "uno", "what was shown before is kept"
    assert bench.meili.get("/indexes/items__b2/stats") is None


async def test_a_rebuild_keeps_what_somebody_set_in_the_index(bench: Any) -> None:
    bench.shop.sql("INSERT INTO item (id, title, price) VALUES (1, 'one', 1)")
    await bench.define(settings='{"sortableAttributes": ["price"]}')
    await bench.act("start", sync="items")
    bench.run()
    await bench.until(bench.equal)
    from opsdeck_search_sync.meilisearch import Meilisearch

    async with Meilisearch(bench.meili.url) as client:
        await client.done(await client.settings("items", {"synonyms": {"one": ["uno"]}, "sortableAttributes": ["n"]}))
    await bench.act("rebuild", sync="items")
    await settled(bench, turned=False, generation=2)
    found = bench.meili.get("/indexes/items/settings")
    assert found["synonyms"] == {"one": ["uno"]}, "set by hand, and kept"
    assert found["sortableAttributes"] == ["price"], "named in the sync, which counts"


async def test_a_rebuild_waits_for_a_swap_that_is_being_written_down(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def phase(now: Phase) -> None:
        async with bench.deck.db.write() as session:
            (row,) = (await session.exec(select(Generation))).all()
            row.phase = now

    await bench.define()
    await bench.act("start", sync="items")
    await phase(Phase.SWAPPING)
    monkeypatch.setattr(actions, "SWAPPING", 0.3)
    assert "swapping right now" in await bench.refused("rebuild", sync="items")
    assert "swapping right now" in await bench.refused("swap_back", sync="items")
    monkeypatch.undo()
    asking = asyncio.create_task(bench.act("rebuild", sync="items"))
    await asyncio.sleep(0.5)
    await phase(Phase.LIVE)
    assert (await asking)["generation"] == 2


async def settled(bench: Any, *, turned: bool, generation: int = 2) -> None:
    """Wait until the rows say so too."""
    for _ in range(200):
        live = (await ledger.whole(bench.deck.db, "items")).live
        if live is not None and (live.turned, live.number, live.swap_after) == (turned, generation, None):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(live)
