"""The main job in a real browser: log in, add a host, approve its key, run, watch, cancel, plan, look it up."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from opsdeck.actor import SYSTEM
from opsdeck.secrets.sensitive import Sensitive


def test_a_wrong_password_says_so_and_lets_nobody_in(page: Any, console: Any) -> None:
    page.goto("/hosts")
    assert page.url.endswith("/login?next=%2Fhosts") or "/login?next=/hosts" in page.url
    page.get_by_label("Name").fill("admin")
    page.get_by_label("Password").fill("wrong")
    page.locator("form[action='/login'] button").click()
    page.get_by_role("alert").wait_for()
    page.goto("/")
    assert "/login" in page.url


def test_login_goes_where_the_person_wanted(page: Any, console: Any) -> None:
    page.goto("/jobs")
    page.get_by_label("Name").fill("admin")
    page.get_by_label("Password").fill(console.password)
    page.locator("form[action='/login'] button").click()
    page.wait_for_url(f"{console.url}/jobs")


def test_a_login_link_works_once_and_only_when_pressed(page: Any, console: Any) -> None:
    async def make(deck: Any) -> str:
        return (await deck.accounts.make_login_link("admin", SYSTEM)).reveal()

    link = f"/login/link/{console.do(make)}"
    page.goto(link)
    page.goto(link)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(f"{console.url}/")
    page.locator("details.menu summary").last.click()
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url(re.compile("/login$"))
    page.goto(link)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("alert").wait_for()


def run_command(page: Any, selector: str, command: str) -> None:
    """Fill the form of the command action, look at the plan, run it."""
    page.goto("/actions/core/command")
    page.get_by_label("On which hosts").fill(selector)
    page.get_by_label("Command", exact=False).first.fill(command)
    page.locator("form.card button.main-act").click()
    page.locator("#plan .consent button").click()
    page.wait_for_url(re.compile(r"/jobs/\d+$"))


def test_a_command_on_three_hosts_is_seen_live(admin: Any, console: Any) -> None:
    run_command(admin, "tag:role=edge", "echo hello from $HOME; sleep 1; echo done-here")
    admin.locator("#title .chip.ok").wait_for()
    assert admin.locator("#lines .out", has_text="done-here").count() == 3
    for name in ("web1", "web2", "web3"):
        assert "ok" in admin.locator(f"[data-lane='{name}'] .dot").get_attribute("class")
    admin.locator("[data-lane='web2']").click()
    admin.locator("#lines b", has_text="web2").first.wait_for()
    admin.locator("#lines .out", has_text="done-here").wait_for()
    assert admin.locator("#lines b", has_text="web1").count() == 0
    assert "lane=web2" in admin.url


def test_one_host_that_fails_is_named_and_run_again(admin: Any, console: Any) -> None:
    run_command(admin, "web1,web2", "case $PWD in *web2*) echo broken >&2; exit 3;; esac; echo fine")
    admin.locator("#title .chip.broken", has_text="1 of 2").wait_for()
    admin.locator("#after .incident", has_text="web2").wait_for()
    admin.get_by_role("button", name="jump to first error").click()
    admin.locator("#lines .found").wait_for()
    before = admin.url
    admin.get_by_role("button", name="Run again on failed hosts").click()
    admin.wait_for_url(lambda url: url != before)
    admin.locator("#title .chip.broken").wait_for()
    assert admin.locator("[data-lane]").count() == 0


def test_cancel_ends_the_job_on_the_host(admin: Any, console: Any) -> None:
    run_command(admin, "web3", "echo started; sleep 300")
    admin.locator("#lines .out", has_text="started").wait_for()
    admin.get_by_role("button", name="Cancel").click()
    admin.locator("#title .chip.attention", has_text="cancelled").wait_for()


def test_what_a_host_prints_is_only_text(admin: Any, console: Any) -> None:
    run_command(admin, "web1", r"printf '<script>document.title=1</script><b>x</b>\n\033[31mred\033[0m\n\377\n'")
    admin.locator("#title .chip.ok").wait_for()
    lines = admin.locator("#lines .out")
    lines.nth(2).wait_for()
    assert lines.nth(0).locator("span").inner_text() == "<script>document.title=1</script><b>x</b>"
    assert lines.nth(1).locator("span").inner_text() == "red"
    assert admin.locator("#lines script, #lines span *").count() == 0
    assert "OpsDeck" in admin.title()


def test_a_host_is_added_and_its_key_approved_by_comparing(admin: Any, console: Any) -> None:
    host = console.hosts["web1"]

    async def key(deck: Any) -> None:
        await deck.secrets.set("key-new", Sensitive(host.private_key), kind="ssh-key", actor=SYSTEM)

    console.do(key)
    admin.goto("/hosts/add")
    admin.get_by_label("Name").fill("fresh")
    admin.get_by_label("Address").fill("not an address")
    admin.get_by_role("button", name="Add and ask for its key").click()
    admin.get_by_role("alert").wait_for()
    assert admin.get_by_label("Name").input_value() == "fresh"
    admin.get_by_label("Address").fill(host.address)
    admin.get_by_label("Port").fill(str(host.port))
    admin.get_by_label("User").first.fill(host.user)
    admin.get_by_label("Credential").select_option("key-new")
    admin.get_by_role("button", name="Add and ask for its key").click()
    admin.wait_for_url(re.compile("/hosts/fresh"))
    admin.locator("#keys .mono").first.wait_for()
    admin.get_by_role("button", name="Approve").first.click()
    admin.locator("#keys", has_text="approved by admin").wait_for()
    run_command(admin, "fresh", "true")
    admin.locator("#title .chip.ok").wait_for()
    admin.goto("/hosts/fresh/edit")
    admin.get_by_label("Type fresh to go on.").fill("fresh")
    admin.get_by_role("button", name="Remove").click()
    admin.wait_for_url(f"{console.url}/hosts")
    assert admin.locator("#rows a.name", has_text="fresh").count() == 0


def test_a_schedule_is_previewed_kept_paused_and_removed(admin: Any, console: Any) -> None:
    admin.goto("/schedules/add?_plugin=core&_action=command&_selector=all")
    admin.get_by_label("Name of the schedule").fill("nightly")
    admin.get_by_label("Command", exact=False).first.fill("uptime")
    admin.get_by_label("Cron rule").fill("30 2 * * *")
    admin.get_by_role("button", name="Show the next five times").click()
    assert admin.locator("#preview .slot").first.inner_text().strip() != ""
    admin.locator("#preview .slot").nth(4).wait_for()
    admin.get_by_role("button", name="Keep the schedule").click()
    admin.wait_for_url(f"{console.url}/schedules/nightly")
    admin.get_by_role("button", name="Pause").click()
    admin.locator("#title .chip", has_text="paused").first.wait_for()
    admin.get_by_label("Type nightly to go on.").fill("nightly")
    admin.get_by_role("button", name="Remove").click()
    admin.wait_for_url(f"{console.url}/schedules")


def test_the_audit_shows_it_and_verifies(admin: Any, console: Any) -> None:
    run_command(admin, "web1", "echo for-the-audit")
    admin.locator("#title .chip.ok").wait_for()
    admin.goto("/audit?verb=command.ran")
    admin.locator("#rows td", has_text="for-the-audit").first.wait_for()
    admin.get_by_role("button", name="Verify the chain").click()
    admin.locator("#verdict .notice.ok").wait_for()


def test_a_secret_goes_in_and_never_out(admin: Any, console: Any) -> None:
    admin.goto("/secrets")
    admin.get_by_label("Name").fill("db-root")
    admin.get_by_label("Value").fill("s3cr3t-that-must-not-show")
    admin.get_by_role("button", name="Seal it").click()
    admin.locator("td.strong", has_text="db-root").wait_for()
    assert "s3cr3t-that-must-not-show" not in admin.content()


def test_the_keyboard_is_enough(admin: Any, console: Any) -> None:
    admin.keyboard.press("Control+k")
    admin.get_by_role("combobox").fill("web2")
    admin.locator("#palette li", has_text="web2").first.wait_for()
    admin.keyboard.press("Enter")
    admin.wait_for_url(f"{console.url}/hosts/web2")
    admin.keyboard.press("g")
    admin.keyboard.press("h")
    admin.wait_for_url(f"{console.url}/hosts")
    admin.keyboard.press("/")
    admin.keyboard.type("web3")
    admin.wait_for_url(re.compile("on=web3"))
    admin.locator("#rows a.name", has_text="web1").wait_for(state="detached")
    admin.keyboard.press("Escape")
    admin.keyboard.press("j")
    admin.keyboard.press("Enter")
    admin.wait_for_url(f"{console.url}/hosts/web3")
    admin.keyboard.press("?")
    admin.locator("#key-list[open]").wait_for()


def test_the_overview_moves_by_itself(open_tab: Callable[..., Any], console: Any) -> None:
    with open_tab() as first, open_tab() as second:
        first.goto("/")
        run_command(second, "web1", "echo moves-by-itself")
        number = second.url.rsplit("/", 1)[-1]
        first.locator(f"#lately a[href='/jobs/{number}']").wait_for()
