"""The pages of the CDN plugin: they answer, stay within their frame, and lead to the actions' forms."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from opsdeck_cdn import book, checkup
from opsdeck_cdn.models import TrafficRow

from opsdeck.actor import SYSTEM
from opsdeck.clock import utcnow
from opsdeck.jobs.jobs import Submission

PAGES = (
    "/p/cdn/sites",
    "/p/cdn/sites/shop",
    "/p/cdn/edges",
    "/p/cdn/edges/web1",
    "/p/cdn/purge",
    "/actions/cdn/site",
    "/actions/cdn/edge?host=web1",
    "/actions/cdn/drain?host=web1",
    "/actions/cdn/check",
    "/actions/cdn/deploy",
)
LOOKS = {
    "wide-light": {"viewport": {"width": 1360, "height": 880}, "color_scheme": "light"},
    "narrow-dark-zh": {
        "viewport": {"width": 360, "height": 740},
        "color_scheme": "dark",
        "locale": "zh-CN",
        "has_touch": True,
    },
}


@pytest.fixture(scope="module")
def modelled(console: Any) -> Any:
    """A console with a site, edges, a name server and a purge that is owed."""

    async def make(deck: Any) -> None:
        for action, params in (
            (
                "site",
                {"name": "shop", "names": ["www.shop.test", "shop.test"], "origins": ["https://origin.shop.test"]},
            ),
            ("edge", {"host": "web1", "v4": "192.0.2.1", "latitude": 52.4, "longitude": 4.9}),
            ("edge", {"host": "web2", "v4": "192.0.2.2", "latitude": 37.3, "longitude": -121.9}),
            ("nameserver", {"host": "web3", "address": "192.0.2.3"}),
            ("setup", {"zone": "cdn.shop.test"}),
        ):
            job = await deck.jobs.run(Submission("cdn", action, params), SYSTEM)
            assert job.state == "succeeded", job.error
        hour = utcnow().replace(minute=0, second=0, microsecond=0)
        async with deck.db.write() as session:
            for back in range(12):
                for cache, status, count in (("HIT", 2, 300 - back * 9), ("MISS", 2, 40 + back), ("DYNAMIC", 5, 3)):
                    session.add(
                        TrafficRow(
                            site="shop", edge="web1", hour=hour - timedelta(hours=back), cache=cache, status=status,
                            requests=count, bytes=count * 9000,
                        )
                    )  # fmt: skip
        await book.owe(deck.db, [book.Debt("web1", "shop", "url", "www.shop.test/a.css")])

    console.do(make)
    return console


@pytest.mark.parametrize("look", LOOKS)
def test_every_page_stays_within_its_frame(modelled: Any, open_tab: Callable[..., Any], look: str) -> None:
    pictures = os.environ.get("OPSDECK_PICTURES")
    with open_tab(**LOOKS[look]) as page:
        for path in PAGES:
            response = page.goto(path)
            assert response.status == 200, path
            if pictures:
                name = re.sub(r"[^a-z0-9]+", "-", path.strip("/"))
                page.screenshot(path=str(Path(pictures) / f"{look}_{name}.png"), full_page=True)
            wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, f"{path} is {wide} px too wide in {look}"


def test_what_is_wrong_stands_on_the_pages(modelled: Any, admin: Any) -> None:
    async def find(deck: Any) -> None:
        hint = "stop nginx there, or give it another port; an edge needs 80 and 443"
        await checkup.keep(deck.db, "web1", [checkup.Fault("edge web1", "broken", "port 80 is taken by nginx.", hint)])
        text = "ns1.cdn.shop.test stands there with 192.0.2.99, and is 192.0.2.3."
        await checkup.keep(
            deck.db, checkup.ZONE, [checkup.Fault("delegation of cdn.shop.test", "broken", text, "mend it")]
        )

    modelled.do(find)
    admin.goto("/p/cdn/edges/web1")
    assert admin.locator(".notice.broken", has_text="port 80 is taken by nginx.").count() == 1
    admin.goto("/p/cdn/edges")
    assert admin.locator(".notice.broken", has_text="stands there with 192.0.2.99").count() == 1


def test_a_site_is_added_through_its_form(modelled: Any, admin: Any) -> None:
    page = admin
    page.goto("/p/cdn/sites")
    assert page.locator("tr[data-row]", has_text="shop").count() == 1
    page.locator("a.chip", has_text="Add a site").click()
    page.locator("[name=name]").fill("blog")
    page.locator("[name=names]").fill("blog.shop.test")
    page.locator("[name=origins]").fill("http://192.0.2.9")
    page.locator("main button.main-act").first.click()
    page.locator("text=http://192.0.2.9:80").first.wait_for()
    page.locator(".consent button").click()
    page.wait_for_url(re.compile("/jobs/"))
    page.locator("text=site blog added").wait_for()
    page.goto("/p/cdn/sites/blog")
    assert page.locator("main", has_text="blog.shop.test").count() == 1


def test_an_unknown_site_is_said_to_be_unknown(modelled: Any, admin: Any) -> None:
    assert admin.goto("/p/cdn/sites/nothere").status == 404


def test_curves_have_a_scale_and_narrow_rows_their_columns_names(modelled: Any, open_tab: Callable[..., Any]) -> None:
    with open_tab(**LOOKS["narrow-dark-zh"]) as page:
        page.goto("/p/cdn/sites/shop")
        requests, share = (page.locator("figure.chart").nth(place).inner_text() for place in (0, 1))
        # The fullest hour has 300 hits, 40 misses and 3 dynamic answers; its curve touches the upper edge.
        assert requests.split("\n") == ["每小时请求数", "343", "24 小时前", "现在"]
        assert "100" in share
        heights = page.locator("figure.chart polyline").first.get_attribute("points").split()
        assert min(float(point.split(",")[1]) for point in heights) == 1.0
        page.goto("/p/cdn/edges")
        cell = page.locator("td[data-column='在 DNS 中']").first
        assert cell.evaluate("cell => getComputedStyle(cell, '::before').content") == '"在 DNS 中 "'
