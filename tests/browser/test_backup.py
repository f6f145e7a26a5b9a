"""The pages of backups: targets, chains, proofs; wide and narrow, light and dark, English and Chinese."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from opsdeck_backup.catalogue import item_of
from opsdeck_backup.manifests import Manifest, Planned, Result
from opsdeck_backup.models import Item, Proof, Target

from opsdeck.clock import stamp, utcnow

WIDE = {"width": 1360, "height": 880}
NARROW = {"width": 360, "height": 740}
LOOKS = {
    "wide-light": {"viewport": WIDE, "color_scheme": "light"},
    "narrow-dark": {"viewport": NARROW, "color_scheme": "dark", "has_touch": True},
    "wide-dark-zh": {"viewport": WIDE, "color_scheme": "dark", "locale": "zh-CN"},
    "narrow-light-zh": {"viewport": NARROW, "color_scheme": "light", "locale": "zh-CN", "has_touch": True},
}
GONE = "20261101T000000Z-0000000a"
PLACES = ("/p/backup/", "/p/backup/shop", "/p/backup/wiki")
BROADER = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


def manifests() -> list[Manifest]:
    """Give two chains of a target."""
    found: list[Manifest] = []
    now = utcnow()
    for hours, size in ((50, 2_400_000_000), (26, 2_500_000_000), (25, 9_000_000), (24, 800_000), (1, 14_000_000)):
        at = now - timedelta(hours=hours)
        parent = found[-1] if found and hours < 26 else None
        name = f"{stamp(at)}-{hours:08x}"
        text = f"from_lsn = {hours}\nto_lsn = {hours + 1000}\n"
        planned = Planned(
            id=name, target="shop", chain=parent.planned.chain if parent else name, parent=parent.id if parent else "",
            kind="incremental" if parent else "full", reason="the full backup is older than 24 h", engine="mariadb",
            server="10.11.19-MariaDB", tool="x", identity="1", data="/var/lib/mysql", host="web1",
            recipients=("age1x",),
            object=f"data/{name}.xb.zst.age",
        )  # fmt: skip
        result = Result(
            started=at, finished=at + timedelta(minutes=4), raw=size * 3, stored=size, sha256="0" * 64,
            config_sha256="0" * 64, checkpoints=base64.b64encode(text.encode()).decode(),
            checkpoints_name="xtrabackup_checkpoints", info="",
        )  # fmt: skip
        found.append(Manifest(planned=planned, result=result))
    return found


@pytest.fixture(scope="module")
def kept(console: Any) -> Any:
    """A console with a target in good order and one that was never backed up."""
    links = manifests()

    async def fill(deck: Any) -> None:
        async with deck.db.write() as session:
            for row in (
                Target(name="shop", host="web1", remote="store:backups", store_secret="s3", recipients=["age1x"],
                       keep_daily=7),
                Target(name="wiki", host="web2", remote="store:backups", store_secret="s3", recipients=["age1x"],
                       created=utcnow() - timedelta(days=2)),
                Target(name="cluster", host="web1", kind="kubernetes", chart="bitnami-mysql", engine="mysql",
                       namespace="shop", workload="db-mysql", remote="store:backups", store_secret="s3",
                       recipients=["age1x"]),
            ):  # fmt: skip
                await session.merge(row)
            for link in links:
                await session.merge(item_of(link))
            failed = Item(
                id=f"{stamp(utcnow())}-ffffffff", target="shop", chain=links[-1].planned.chain, kind="incremental",
                state="failed", started=utcnow(), error="the stream broke: store (1)",
            )  # fmt: skip
            gone = Item(
                id=GONE, target="wiki", chain=GONE, kind="full", state="missing", started=utcnow() - timedelta(days=3),
                error="its data is gone from the store",
            )  # fmt: skip
            for item in (failed, gone):
                await session.merge(item)
            session.add(
                Proof(
                    target="shop",
                    item=links[-1].id,
                    depth="server",
                    host="web2",
                    ok=True,
                    seconds=214.0,
                    detail={"raw": 7_500_000_000},
                )
            )

    console.do(fill)
    return links


@pytest.mark.parametrize("look", LOOKS)
def test_every_page_fits_and_speaks(kept: Any, open_tab: Callable[..., Any], look: str) -> None:
    pictures = os.environ.get("OPSDECK_PICTURES")
    with open_tab(**LOOKS[look]) as page:
        for path in (
            "/p/backup/",
            "/p/backup/shop",
            "/p/backup/wiki",
            "/p/backup/cluster",
            "/p/backup/cluster/sidecar",
            "/actions/backup/target",
            "/actions/backup/restore?target=shop",
            "/p/backup/shop/restore",
            "/p/backup/shop/keep",
        ):
            answer = page.goto(path)
            assert answer.status == 200, path
            assert page.evaluate(BROADER) <= 0, f"{path} is broader than the window"
            if path.endswith("sidecar"):
                assert "emptyDir" in page.inner_text("main")
            elif look.endswith("zh") and path in PLACES:
                assert "最新备份" in page.inner_text("main")
                words = re.findall(
                    r"\b(Newest backup|Back up now|Restores in|proven|may go)\b", page.inner_text("main")
                )
                assert not words, words
            if pictures:
                name = re.sub(r"[^a-z]+", "-", path).strip("-")
                page.screenshot(path=str(Path(pictures) / f"backup-{name}-{look}.png"), full_page=True)


def test_the_list_says_what_is_wrong_and_leads_to_the_chain(kept: Any, admin: Any) -> None:
    admin.goto("/p/backup/")
    assert "No good backup" in admin.inner_text("tr:has-text('wiki')")
    admin.get_by_role("link", name="shop", exact=True).click()
    admin.wait_for_url("**/p/backup/shop")
    text = admin.inner_text("main")
    for link in kept:
        assert link.id in text
    assert "the stream broke: store (1)" in text
    admin.locator(f"a[href='/p/backup/shop/restore?backup={kept[2].id}']").click()
    admin.wait_for_url("**/restore?backup=*")
    assert admin.locator("select[name=backup]").input_value() == kept[2].id


def test_the_wizard_says_what_it_takes_and_asks_for_consent_only_after_a_look(kept: Any, admin: Any) -> None:
    admin.goto("/p/backup/shop/restore")
    assert "web1, where it ran" in admin.inner_text("select[name=onto]")
    assert admin.locator("input[name=unit]").input_value() == "", "MySQL's is another than MariaDB's"
    newest = admin.inner_text("#about")
    with admin.expect_response("**/p/backup/shop/restore?backup=*"):
        admin.select_option("select[name=backup]", kept[0].id)
    admin.wait_for_function("before => document.querySelector('#about').innerText !== before", arg=newest)
    assert "2.4" in admin.inner_text("#about") or "2.2" in admin.inner_text("#about")
    assert admin.locator("input[name=_confirm]").count() == 0
    admin.get_by_role("button", name="Check, and show what would happen").click()
    admin.wait_for_selector("#plan :text('onto'), #plan .notice, #plan [role=alert]")


def test_what_is_kept_is_said_with_the_reason_and_a_store_that_is_away_is_named(kept: Any, admin: Any) -> None:
    admin.goto("/p/backup/shop/keep")
    for link in (kept[0], kept[1]):
        assert link.planned.chain in admin.inner_text("main")
    assert "stays:" in admin.inner_text("main")
    admin.wait_for_selector("#orphans .notice, #orphans [role=alert], #orphans :text('no secret')")


def test_what_is_damaged_leads_to_the_action_that_removes_what_is_left(kept: Any, admin: Any) -> None:
    admin.goto("/p/backup/wiki")
    assert "its data is gone from the store" in admin.inner_text(f"li:has-text('{GONE}')")
    admin.get_by_role("link", name="Remove what is left of it").click()
    admin.wait_for_url("**/actions/backup/clean?*")
    assert admin.locator("input[name=damaged]").is_checked()


def test_an_unknown_target_is_an_honest_404(admin: Any) -> None:
    answer = admin.goto("/p/backup/nothing")
    assert answer.status == 404


def test_a_target_in_kubernetes_leads_to_its_sidecar_and_its_own_restore(kept: Any, admin: Any) -> None:
    admin.goto("/p/backup/cluster")
    assert "shop/db-mysql" in admin.inner_text("main")
    admin.get_by_role("link", name="Sidecar").click()
    admin.wait_for_url("**/p/backup/cluster/sidecar")
    text = admin.inner_text("main")
    assert "percona-xtrabackup" in text
    assert "extraVolumes" in text
    admin.goto("/actions/backup/restore_pod?target=cluster&into=cluster")
    assert admin.locator("input[name=into]").input_value() == "cluster"
    assert admin.goto("/p/backup/shop/sidecar").status == 403
