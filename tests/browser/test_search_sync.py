"""The pages of search sync: the list, one sync, in both languages, on a phone, in the dark."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opsdeck_search_sync.models import (
    DeadLetter,
    Generation,
    Instance,
    Minute,
    Phase,
    Reading,
    Source,
    Sync,
    Wanted,
)
from sqlmodel import delete

from opsdeck.clock import utcnow


@pytest.fixture
def syncs(console: Any) -> Iterator[None]:
    """A sync that was paused with one dead letter while a rebuild is half way."""

    async def make(deck: Any) -> None:
        now = utcnow().replace(second=0, microsecond=0)
        async with deck.db.write() as session:
            session.add(Source(name="shop", kind="postgres", port=5432, database="shop", user="sync"))
            session.add(Instance(name="search", url="http://127.0.0.1:7700"))
            await session.flush()
            session.add(
                Sync(name="items", source="shop", instance="search", table="public.item", index="items",
                     mapping={"id": "id"}, wanted=Wanted.PAUSED)
            )  # fmt: skip
            await session.flush()
            session.add(Generation(sync="items", number=1, phase=Phase.LIVE, mapping={"id": "other"}, position="0/1"))
            session.add(
                Generation(sync="items", number=2, phase=Phase.COPYING, shadow="items__b2", copied=1500, estimate=3000)
            )
            session.add(Reading(sync="items", behind_seconds=1.5, behind_bytes=2048, retained_bytes=4096, in_flight=7))
            session.add(Minute(sync="items", minute=now, written=120, removed=3))
            session.add(
                DeadLetter(sync="items", generation=1, document="13", verb="replace", code="invalid_document_id",
                           reason="<b>not</b> an id")
            )  # fmt: skip

    async def remove(deck: Any) -> None:
        async with deck.db.write() as session:
            for table in (DeadLetter, Minute, Reading, Generation, Sync, Instance, Source):
                await session.exec(delete(table))

    console.do(make)
    yield
    console.do(remove)


def test_the_first_page_teaches_the_first_step(admin: Any) -> None:
    admin.goto("/p/search_sync/")
    admin.get_by_role("link", name="Add a source").first.click()
    admin.wait_for_url("**/actions/search_sync/save_source")
    assert admin.locator("select[name=kind] option").all_inner_texts() == ["postgres", "mariadb", "mysql", "mongodb"]


def test_the_list_leads_to_a_sync(admin: Any, syncs: None) -> None:
    admin.goto("/p/search_sync/")
    row = admin.locator("tr", has_text="items")
    assert "paused" in row.inner_text() and "1.5 s" in row.inner_text()
    row.get_by_role("link", name="items").click()
    admin.wait_for_url("**/p/search_sync/syncs/items")
    text = admin.locator("#content").inner_text()
    for said in ("1,500 of about 3,000 rows", "<b>not</b> an id", "120 written, 3 removed", "after a rebuild"):
        assert said in text
    admin.locator("header").get_by_role("link", name="Resume").click()
    admin.wait_for_url("**/actions/search_sync/resume?sync=items")
    assert admin.locator("input[name=sync]").input_value() == "items"


@pytest.mark.parametrize("path", ["/p/search_sync/", "/p/search_sync/syncs/items"])
def test_on_a_phone_in_the_dark_in_chinese(open_tab: Any, syncs: None, path: str, tmp_path: Any) -> None:
    with open_tab(viewport={"width": 360, "height": 760}, color_scheme="dark", locale="zh-CN") as page:
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert "已暂停" in page.locator("body").inner_text()
        page.screenshot(path=tmp_path / "page.png", full_page=True)
