"""Where a person decides about trust, in a real browser: a changed host key, a second factor, an act that destroys."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pyotp
from opsdeck_web.identity import STEP_UP_FIELD
from sqlmodel import select

from opsdeck.accounts.models import WebSession
from opsdeck.actor import SYSTEM, Role
from opsdeck.clock import utcnow
from opsdeck.jobs.jobs import Submission
from opsdeck.secrets.sensitive import Sensitive


def test_a_changed_host_key_shows_both_and_runs_nothing_until_a_person_decides(admin: Any, console: Any) -> None:
    host = console.hosts["web3"]

    async def change(deck: Any) -> list[str]:
        pinned = [row.fingerprint for row in await deck.host_keys.list("web3") if row.state == "pinned"]
        await host.change_host_key()
        await host.drop()
        contact = await deck.host_keys.contact("web3", SYSTEM)
        return [*pinned, *contact.fingerprints]

    before, after = console.do(change)
    admin.goto("/")
    admin.locator("#needs", has_text="web3 shows another host key").wait_for()
    admin.goto("/actions/core/command?_selector=web3")
    admin.get_by_label("Command", exact=False).first.fill("touch ran-anyway")
    admin.locator("form.card button.main-act").click()
    admin.locator("#plan .consent button").click()
    admin.wait_for_url(re.compile(r"/jobs/\d+$"))
    admin.locator("#title .chip.broken").wait_for()
    assert not list(host.folder.rglob("ran-anyway"))
    admin.goto("/hosts/web3#keys")
    shown = admin.locator("#keys .fingerprints")
    assert before in shown.inner_text()
    assert after in shown.inner_text()
    admin.get_by_role("button", name="Approve").first.click()
    admin.locator("#keys", has_text="approved by admin").wait_for()
    assert before not in admin.locator("#keys").inner_text()
    admin.goto("/")
    admin.locator("#needs").wait_for()
    assert admin.locator("#needs", has_text="web3 shows another host key").count() == 0


def test_what_destroys_asks_for_its_word_and_for_the_password_once_more(admin: Any, console: Any) -> None:
    async def prepare(deck: Any) -> None:
        site = {"name": "doomed", "names": ["doomed.test"], "origins": ["https://origin.doomed.test"]}
        job = await deck.jobs.run(Submission("cdn", "site", site), SYSTEM)
        assert job.state == "succeeded", job.error
        async with deck.db.write() as session:
            for row in (await session.exec(select(WebSession))).all():
                past = (utcnow() - timedelta(minutes=1)).isoformat()
                row.data = json.dumps(json.loads(row.data or b"{}") | {STEP_UP_FIELD: past}).encode()
                session.add(row)

    async def jobs(deck: Any) -> list[str]:
        return [job.state for job in await deck.jobs.list() if job.action == "remove_site"]

    console.do(prepare)
    admin.goto("/actions/cdn/remove_site")
    admin.locator("form.card [name=name]").fill("doomed")
    admin.locator("form.card button.main-act").click()
    consent = admin.locator("#plan .consent")
    for word, password in (("remove_site", "not the password"), ("yes", console.password)):
        consent.get_by_label("Type remove_site to go on.").fill(word)
        consent.locator("input[type=password]").fill(password)
        consent.locator("button").click()
        admin.get_by_role("alert").first.wait_for()
        assert console.do(jobs) == []
    consent.get_by_label("Type remove_site to go on.").fill("remove_site")
    consent.locator("button").click()
    admin.wait_for_url(re.compile(r"/jobs/\d+$"))
    admin.locator("#title .chip.ok").wait_for()
    assert console.do(jobs) == ["succeeded"]


def test_a_second_factor_is_set_up_and_asked_for_at_login(open_tab: Callable[..., Any], console: Any) -> None:
    async def person(deck: Any) -> None:
        await deck.accounts.create("second", Sensitive(console.password), Role.OPERATOR, SYSTEM)

    console.do(person)
    with open_tab(logged_in=False) as page:
        page.goto("/login?next=/account")
        page.get_by_label("Name").fill("second")
        page.get_by_label("Password").fill(console.password)
        page.locator("form[action='/login'] button").click()
        page.wait_for_url(f"{console.url}/account")
        page.get_by_role("button", name="Set it up").click()
        page.locator("img.qr").wait_for()
        totp = pyotp.TOTP(page.locator("form[action='/account/totp'] code").inner_text())
        page.get_by_label("Code of your authenticator").fill(totp.now())
        page.get_by_role("button", name="Turn it on").click()
        page.get_by_role("button", name="Turn it off").wait_for()
    with open_tab(logged_in=False) as page:
        page.goto("/login")
        page.get_by_label("Name").fill("second")
        page.get_by_label("Password").fill(console.password)
        page.locator("form[action='/login'] button").click()
        page.get_by_label("Code", exact=False).last.fill("000000")
        page.locator("form[action='/login'] button").click()
        page.get_by_role("alert").wait_for()
        assert "/login" in page.url
        page.get_by_label("Password").fill(console.password)
        page.get_by_label("Code", exact=False).last.fill(totp.at(utcnow() + timedelta(seconds=30)))
        page.locator("form[action='/login'] button").click()
        page.wait_for_url(f"{console.url}/")
