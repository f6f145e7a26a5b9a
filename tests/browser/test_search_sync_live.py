"""Syncs added, changed and rebuilt in the browser while another follows a table under constant writes."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from databases import a_postgres, a_postgres_shop
from opsdeck_search_sync import ledger, standing
from searches import a_meilisearch

from opsdeck.actor import Actor, Door, Role
from opsdeck.jobs.jobs import Submission

pytestmark = pytest.mark.timeout(240)

ADA = Actor("ada", Role.ADMIN, Door.CLI, stepped_up=True)


@pytest.fixture(scope="module")
def meili(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with a_meilisearch(tmp_path_factory.mktemp("meili")) as server:
        yield server


@pytest.fixture(scope="module")
def shop(absent: Any) -> Iterator[Any]:
    with a_postgres(absent) as server, a_postgres_shop(server) as made:
        yield made


def act(console: Any, action: str, **params: Any) -> dict[str, Any]:
    """Run an action as a job of the console."""

    async def run(deck: Any) -> Any:
        return await deck.jobs.run(Submission("search_sync", action, params, confirm=action), ADA)

    job = console.do(run)
    assert job.state == "succeeded", job.error
    return dict(job.receipt or {})


def until(what: Callable[[], Any], seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


@pytest.fixture
def items(console: Any, shop: Any, meili: Any) -> Iterator[None]:
    """The sync `items`, which follows; everything is removed after the test."""
    shop.sql("TRUNCATE item")
    shop.fill(200)
    meili.empty()
    act(
        console, "save_source", name="shop", kind="postgres", port=shop.server.port, database=shop.name, user="postgres"
    )
    act(console, "save_instance", name="search", url=meili.url)
    act(console, "save_sync", name="items", source="shop", instance="search", table="item", index="items")
    act(console, "start", sync="items")
    until(lambda: meili.documents("items") == shop.rows())
    yield

    async def names(deck: Any) -> tuple[str, ...]:
        return await ledger.names(deck.db, ("running", "paused", "gone"))

    for name in console.do(names):
        act(console, "drop", sync=name)
    until(lambda: console.do(names) == ())
    act(console, "remove_source", name="shop")
    act(console, "remove_instance", name="search")


def status(console: Any, key: str) -> Any:
    async def look(deck: Any) -> Any:
        return next(one for one in deck.services.status() if (one.plugin, one.key) == ("search_sync", key))

    return console.do(look)


def counted(console: Any, name: str) -> int:
    """Documents written and removed so far, as the pages count them."""

    async def look(deck: Any) -> int:
        return sum(row.written + row.removed for row in await standing.last_hour(deck.db, name))

    return int(console.do(look))


def rebuilding(console: Any, name: str) -> bool:
    """Tell whether a generation is still on its way, as the rows have it."""

    async def look(deck: Any) -> bool:
        return (await ledger.whole(deck.db, name)).building is not None

    return bool(console.do(look))


def submit(page: Any) -> None:
    """Run the action whose form is shown, after a look at what would happen."""
    page.locator("form.card button.main-act").click()
    page.locator("#plan .consent button").click()
    page.wait_for_url(re.compile(r"/jobs/\d+$"))
    page.locator("#title .chip.ok").wait_for()


def test_a_sync_is_added_and_changed_while_its_neighbour_goes_on(
    admin: Any, console: Any, shop: Any, meili: Any, items: None
) -> None:
    until(lambda: counted(console, "items") >= 200)  # the copy's own are written down with the next second
    before, began = counted(console, "items"), status(console, "items").since
    stop, written = threading.Event(), 0

    def write() -> None:
        nonlocal written
        while not stop.wait(0.05):
            shop.sql("UPDATE item SET n = n + 1 WHERE id = %s", written % 200 + 1)
            written += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        mapping = {"fields": [{"column": "id"}, {"column": "title", "name": "name"}]}
        query = {"name": "names", "source": "shop", "instance": "search", "table": "item", "index": "names"}
        admin.goto(f"/actions/search_sync/save_sync?{urlencode(query | {'mapping': json.dumps(mapping)})}")
        admin.locator("form.card button.main-act").click()
        plan = admin.locator("#plan")
        plan.get_by_text("of a real row").first.click()
        assert '"name": "title ' in plan.inner_text(), "documents of real rows, before anything is kept"
        plan.locator(".consent button").click()
        admin.wait_for_url(re.compile(r"/jobs/\d+$"))
        admin.locator("#title .chip.ok").wait_for()
        admin.goto("/p/search_sync/syncs/names")
        admin.locator("header").get_by_role("link", name="Start").click()
        submit(admin)
        until(lambda: set(meili.documents("names")) == set(shop.rows()))
        assert meili.documents("names")["7"] == {"id": 7, "name": "title 7"}

        admin.goto("/p/search_sync/syncs/names")
        admin.get_by_role("link", name="Change").click()
        admin.locator("textarea[name=mapping]").fill(json.dumps(mapping | {"constants": {"kind": "item"}}))
        submit(admin)
        admin.goto("/p/search_sync/syncs/names")
        admin.get_by_text("the index has them after a rebuild").wait_for()
        admin.locator("header").get_by_role("link", name="Rebuild").click()
        submit(admin)
        until(lambda: meili.documents("names").get("7") == {"id": 7, "name": "title 7", "kind": "item"})
        until(lambda: not rebuilding(console, "names"))  # the rows follow the index
        admin.goto("/p/search_sync/syncs/names")
        admin.locator("header").get_by_role("link", name="Swap back").click()
        submit(admin)
        until(lambda: meili.documents("names").get("7") == {"id": 7, "name": "title 7"})
        admin.goto("/p/search_sync/syncs/names")
        admin.get_by_text("as it was then").wait_for()
    finally:
        stop.set()
        writer.join()
    until(lambda: meili.documents("items") == shop.rows())
    neighbour = status(console, "items")
    assert (neighbour.since, neighbour.crashes, neighbour.phase) == (began, 0, "running")
    until(lambda: counted(console, "items") - before <= written and counted(console, "items") > before)
    assert written > 30


def test_a_dead_letter_is_shown_with_its_reason_and_tried_again(
    admin: Any, console: Any, shop: Any, meili: Any, items: None
) -> None:
    if not meili.stand_in:
        pytest.skip("a real Meilisearch takes no faults")
    meili.fault(refuse=["900"])
    shop.put(900, 901)
    until(lambda: "901" in meili.documents("items"))
    admin.goto("/p/search_sync/")
    admin.locator("tr", has_text="items").get_by_text("dead letters").wait_for(timeout=15_000)
    admin.goto("/p/search_sync/syncs/items")
    letter = admin.locator("[data-row]", has_text="invalid_document_id")
    assert "900" in letter.inner_text() and "(injected)" in letter.inner_text()
    meili.fault(refuse=[])
    admin.get_by_role("link", name="Try them again").click()
    submit(admin)
    until(lambda: meili.documents("items") == shop.rows())
    admin.goto("/p/search_sync/syncs/items")
    admin.get_by_text("No document was refused.").wait_for(timeout=15_000)
