"""Every page, as people may meet it: wide and narrow, light and dark, English and Chinese; nothing breaks out.

`OPSDECK_PICTURES=folder` keeps a picture of each, to be looked at.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opsdeck.actor import SYSTEM
from opsdeck.jobs.jobs import Submission
from opsdeck.jobs.schedules import ScheduleIn

PAGES = (
    "/",
    "/hosts",
    "/hosts/web1",
    "/hosts/add",
    "/hosts/web1/edit",
    "/actions",
    "/actions/core/command",
    "/actions/core/copy",
    "/jobs",
    "/jobs/1",
    "/jobs/2",
    "/schedules",
    "/schedules/facts-hourly",
    "/schedules/add",
    "/schedules/add?_plugin=core&_action=command",
    "/audit",
    "/secrets",
    "/people",
    "/account",
    "/health",
    "/step-up",
    "/nowhere",
)
WIDE = {"width": 1360, "height": 880}
NARROW = {"width": 360, "height": 740}
BROADER = "tables => tables.map(table => table.scrollWidth - table.parentElement.clientWidth).filter(more => more > 0)"
LOOKS = {
    "wide-light": {"viewport": WIDE, "color_scheme": "light"},
    "narrow-dark": {"viewport": NARROW, "color_scheme": "dark", "has_touch": True},
    "wide-dark-zh": {"viewport": WIDE, "color_scheme": "dark", "locale": "zh-CN"},
    "narrow-light-zh": {"viewport": NARROW, "color_scheme": "light", "locale": "zh-CN", "has_touch": True},
}


@pytest.fixture(scope="module")
def lived_in(console: Any) -> Any:
    """A console in which something has happened: jobs that went well and badly, a schedule, an incident, facts."""

    async def live(deck: Any) -> None:
        for selector, command in (
            ("all", "for i in 1 2 3 4 5 6 7 8; do echo line $i from $PWD; done; echo careful >&2"),
            ("all", "case $PWD in *web2*) echo no such thing >&2; exit 3;; esac; echo fine"),
        ):
            await deck.jobs.run(Submission("core", "command", {"command": command}, selector), SYSTEM)
        await deck.jobs.run(Submission("core", "facts", {}, "all"), SYSTEM)
        names = [schedule.name for schedule in await deck.schedules.list()]
        if "facts-hourly" not in names:
            form = ScheduleIn(name="facts-hourly", plugin="core", action="facts", selector="all", every_seconds=3600)
            await deck.schedules.add(form, SYSTEM)
        await deck.incidents.open(
            "unreachable:web3",
            "web3 cannot be reached",
            detail="SSH timed out twice.",
            host="web3",
            severity="attention",
        )

    console.do(live)
    yield console
    console.do(lambda deck: deck.incidents.close("unreachable:web3"))


@pytest.mark.parametrize("look", LOOKS)
def test_every_page_stays_within_its_frame(lived_in: Any, open_tab: Callable[..., Any], look: str) -> None:
    pictures = os.environ.get("OPSDECK_PICTURES")
    with open_tab(**LOOKS[look]) as page:
        for path in PAGES:
            page.goto(path)
            page.wait_for_load_state("load")
            if path.startswith("/jobs/"):
                page.locator("#lines div").first.wait_for()
            if pictures:
                name = re.sub(r"[^a-z0-9]+", "-", path.strip("/")).strip("-") or "overview"
                page.screenshot(path=str(Path(pictures) / f"{look}_{name}.png"), full_page=True)
            wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, f"{path} is {wide} px too wide in {look}"
            assert page.locator("h1").count() >= 1, path
            if path != "/audit":
                broad = page.locator(".table").evaluate_all(BROADER)
                assert broad == [], f"{path}: a table is broader than its card in {look}"


def test_targets_are_large_enough_for_a_thumb(lived_in: Any, open_tab: Callable[..., Any]) -> None:
    small = """nodes => nodes.filter(node => {
        const box = node.getBoundingClientRect();
        return box.width && box.height && box.height < 39 && getComputedStyle(node).display !== 'inline';
    }).map(node => node.outerHTML.slice(0, 120))"""
    with open_tab(viewport=NARROW, has_touch=True) as page:
        for path in PAGES:
            page.goto(path)
            found = page.locator(
                "button:visible, .button:visible, .chip[href]:visible, summary.chip:visible"
            ).evaluate_all(small)
            assert found == [], path


def test_the_chinese_console_speaks_chinese(lived_in: Any, open_tab: Callable[..., Any]) -> None:
    with open_tab(locale="zh-CN") as page:
        page.goto("/")
        assert page.locator("html").get_attribute("lang") == "zh-CN"
        assert page.locator("#fleet-title").inner_text() == "机群"
        page.goto("/actions/core/command")
        assert page.locator("h1").inner_text() == "运行命令"


def test_language_and_colours_are_switched_in_place(console: Any, open_tab: Callable[..., Any]) -> None:
    with open_tab() as page:
        page.goto("/hosts?on=web1")
        page.get_by_role("button", name="切换到简体中文").click()
        page.locator("h1", has_text="主机").wait_for()
        assert "on=web1" in page.url
        page.get_by_role("button", name="Switch to English").click()
        page.locator("h1", has_text="Hosts").wait_for()
        page.locator("details.menu summary").last.click()
        page.get_by_role("button", name="Dark").click()
        page.locator("html[data-theme='dark']").wait_for()
        ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert ground == "rgb(16, 19, 20)"
        page.locator("details.menu summary").last.click()
        page.get_by_role("button", name="As the device").click()
        page.locator("html:not([data-theme])").wait_for()
        for name in ("language", "time_zone"):

            async def reset(deck: Any, name: str = name) -> None:
                from opsdeck.accounts.models import User

                async with deck.db.write() as session:
                    user = await session.get(User, 1)
                    setattr(user, name, "")
                    session.add(user)

            console.do(reset)


def test_a_lost_link_says_so(console: Any, open_tab: Callable[..., Any]) -> None:
    with open_tab() as page:
        page.goto("/")
        page.wait_for_timeout(300)
        page.route("**/live", lambda route: route.abort())
        page.evaluate("document.body.dispatchEvent(new CustomEvent('htmx:sseError', {bubbles: true}))")
        page.locator("#lost:visible").wait_for()
        page.evaluate("document.body.dispatchEvent(new CustomEvent('htmx:sseOpen', {bubbles: true}))")
        page.locator("#lost").wait_for(state="hidden")
