"""The office network in Chromium: every look, and from a profile to a device's address."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opsdeck_vpn import book, tunnels
from opsdeck_vpn.enrol import Wish, enrol
from opsdeck_vpn.models import Fetch, Proof, State

from opsdeck.actor import SYSTEM
from opsdeck.secrets.sensitive import Sensitive

PROFILE = 'client\nremote vpn.corp.test 1194\ncipher BF-CBC\nup "/bin/sh"\nauth-user-pass\n<ca>\nPEM\n</ca>\n'
PAGES = ("/p/vpn/", "/p/vpn/tunnels/office", "/p/vpn/tunnels/second", "/p/vpn/import", "/p/vpn/rules", "/p/vpn/devices")
WIDE = {"width": 1360, "height": 880}
NARROW = {"width": 360, "height": 740}
LOOKS = {
    "wide-light": {"viewport": WIDE, "color_scheme": "light"},
    "narrow-dark": {"viewport": NARROW, "color_scheme": "dark", "has_touch": True},
    "wide-dark-zh": {"viewport": WIDE, "color_scheme": "dark", "locale": "zh-CN"},
    "narrow-light-zh": {"viewport": NARROW, "color_scheme": "light", "locale": "zh-CN", "has_touch": True},
}


@pytest.fixture(scope="module")
def office(console: Any) -> Any:
    """A console with one tunnel that is up and one that waits for a code; neither is dialled."""

    async def live(deck: Any) -> None:
        for name, otp in (("office", "none"), ("second", "ask")):
            wish = Wish(name, "web1", Sensitive(PROFILE), username="alice", password=Sensitive("geheim"), otp=otp)
            await enrol(deck, wish, SYSTEM)
        push = {"route": ["10.78.0.0/255.255.0.0"], "dns": ["10.77.0.1"], "domain": ["corp.test"]}
        await tunnels.set_state(
            deck.db,
            "office",
            State.UP,
            pushed=push,
            latency_ms=12.3,
            local="10.77.0.2",
            received=12 << 20,
            sent=3 << 20,
        )
        await tunnels.set_state(deck.db, "second", State.WAIT_OTP, challenge="Enter your OTP")
        await book.take_over(deck, "office", SYSTEM)
        await book.add_device(deck, "phone", SYSTEM)
        await book.note_fetch(deck, Fetch(device="phone", core="mihomo", source="192.0.2.7", agent="clash-verge/2.4"))
        async with deck.db.write() as session:
            session.add(Proof(tunnel="office", kind="leak", passed=True, text="nothing went out while it was dead"))

    console.do(live)
    return console


@pytest.mark.parametrize("look", LOOKS)
def test_every_page_stays_within_its_frame(office: Any, open_tab: Callable[..., Any], look: str) -> None:
    pictures = os.environ.get("OPSDECK_PICTURES")
    with open_tab(**LOOKS[look]) as page:
        for path in PAGES:
            page.goto(path)
            page.wait_for_load_state("load")
            if pictures:
                name = re.sub(r"[^a-z0-9]+", "-", path.strip("/"))
                page.screenshot(path=str(Path(pictures) / f"{look}_{name}.png"), full_page=True)
            wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, f"{path} is {wide} px too wide in {look}"
            assert page.locator("h1").count() >= 1, path


def test_from_a_profile_to_a_device(office: Any, admin: Any) -> None:
    admin.goto("/p/vpn/import")
    admin.locator("input[name=name]").fill("third")
    admin.locator("select[name=host]").select_option("web2")
    files = {
        "name": "office.ovpn",
        "mimeType": "text/plain",
        "buffer": b"client\nremote vpn.corp.test 1194\nca ca.pem\n",
    }
    other = {"name": "ca.pem", "mimeType": "text/plain", "buffer": b"PEM"}
    admin.locator("input[name=files]").set_input_files([files, other])
    admin.locator("form[enctype] button.main-act").click()
    admin.wait_for_url("**/p/vpn/tunnels/third")
    assert "remote-cert-tls" in admin.locator("main").inner_text()
    admin.goto("/p/vpn/rules")
    admin.locator("textarea[name=rules]").fill("suffix corp.test tunnel:nowhere")
    admin.locator("button.main-act").click()
    admin.locator("text=there is no tunnel 'nowhere'").first.wait_for()
    admin.locator("textarea[name=rules]").fill("suffix corp.test tunnel:third")
    admin.locator("button.main-act").click()
    admin.wait_for_load_state("load")
    admin.goto("/p/vpn/devices")
    admin.locator("input[name=name]").fill("laptop")
    admin.locator("button.main-act").click()
    shown = admin.locator("code").first.inner_text()
    assert shown.endswith("/config.yaml")
    assert admin.locator("img[src^='data:image/png']").count() == 2
    answer = admin.request.get(shown)
    assert answer.status == 200
    assert "DOMAIN-SUFFIX,corp.test,OFFICE-THIRD" in answer.text()


def test_the_form_for_a_code_comes_to_an_open_page_and_goes(office: Any, admin: Any) -> None:
    admin.goto("/p/vpn/tunnels/office")
    form = admin.locator("input[name=code]")
    assert form.count() == 0
    office.do(lambda deck: tunnels.set_state(deck.db, "office", State.WAIT_OTP, challenge="Enter your OTP"))
    form.wait_for()
    office.do(lambda deck: tunnels.set_state(deck.db, "office", State.UP, challenge=""))
    form.wait_for(state="detached")


def test_a_code_is_given_at_the_page(office: Any, admin: Any) -> None:
    admin.goto("/p/vpn/tunnels/second")
    admin.locator("[role=timer]").first.wait_for()
    admin.locator("input[name=code]").fill("123456")
    admin.locator("form[action$='/code'] button").click()
    admin.wait_for_url("**/p/vpn/tunnels/second")
    assert office.do(lambda deck: tunnels.find(deck.db, "second")).code_given is not None
