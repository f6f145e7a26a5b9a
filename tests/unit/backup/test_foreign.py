"""Chains that another made: what is believed of a folder, and that nothing of it is ever removed or followed on."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest
from opsdeck_backup import chains, foreign
from opsdeck_backup.chains import Rules
from opsdeck_backup.manifests import Manifest, Result

from opsdeck.clock import utcnow
from opsdeck.errors import Refused

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
FOLDER = "store:backup/mysql/prod"


def said(kind: str, start: int, end: int, *, version: str = "8.0.34", at: str = "2023-07-31 02:00:00") -> str:
    checkpoints = f"backup_type = {kind}\nfrom_lsn = {start}\nto_lsn = {end}\nlast_lsn = {end}\n"
    info = f"tool_version = 8.0.34-29\nserver_version = {version}\nstart_time = {at}\n"
    return " ".join(base64.b64encode(text.encode()).decode() for text in (checkpoints, info))


def looked(*lines: str, files: dict[str, int] | None = None) -> foreign.Chain:
    there = files or {f"{line.split(' ')[0]}/ibdata1.zst": 100 for line in lines}
    return foreign.order(foreign.parse("\n".join([*lines, "end"]).encode(), there), there)


BASE = f"base {said('full-backuped', 0, 500)}"
ONE = f"inc-2023-07-31_03:00:00 {said('incremental', 500, 500, at='2023-07-31 03:00:00')}"
TWO = f"inc-2023-07-31_04:00:00 {said('incremental', 500, 700, at='2023-07-31 04:00:00')}"


def test_links_are_put_in_order_by_names_and_positions_together():
    chain = looked(TWO, BASE, ONE)
    assert [link.name for link in chain.links] == ["base", "inc-2023-07-31_03:00:00", "inc-2023-07-31_04:00:00"]
    assert chain.left == {}
    plans = foreign.planned("shop", "mysql", FOLDER, chain)
    assert [plan.parent for plan in plans] == ["", plans[0].id, plans[1].id]
    assert plans[0].id.startswith("20230731T020000Z-")
    assert plans == foreign.planned("shop", "mysql", FOLDER, looked(ONE, TWO, BASE)), "the names are the same each time"


@pytest.mark.parametrize(
    ("lines", "name", "why"),
    [
        ((BASE, "inc-2023-07-31_03:00:00 - -"), "inc-2023-07-31_03:00:00", "broken off"),
        ((BASE, f"inc-5 {said('incremental', 900, 950)}"), "inc-5", "begins at 900"),
        ((BASE, f"inc-x {said('incremental', 500, 600, version='')}"), "inc-x", "which server"),
        ((f"base {said('full-prepared', 0, 500)}", ONE), "inc-2023-07-31_03:00:00", "was prepared"),
        ((f"base {said('log-applied', 0, 500)}", ONE), "inc-2023-07-31_03:00:00", "was prepared"),
        ((BASE, f"full2 {said('full-backuped', 0, 800)}"), "base", "several full"),
        ((ONE, TWO), "inc-2023-07-31_03:00:00", "no full backup"),
        ((BASE, f"inc-9 {said('incremental', 500, 600, at='9999-99-99 99:99:99')}"), "inc-9", "when it was taken"),
    ],
)  # fmt: skip
def test_what_does_not_belong_is_left_and_named(lines, name, why):
    chain = looked(*lines)
    assert why in chain.left[name]
    assert name not in [link.name for link in chain.links]


def test_files_of_a_kind_that_is_not_read_are_named():
    chain = looked(BASE, files={"base/ibdata1.qp": 5})
    assert chain.links == ()
    assert "base/ibdata1.qp" in chain.left["base"]


@pytest.mark.parametrize("output", [b"", b"base - -\n", b"\xff\xfe\x00"])
def test_a_look_that_broke_off_is_no_look(output):
    with pytest.raises(Refused, match="broke off"):
        foreign.parse(output, {})


def test_hostile_words_of_a_store_stay_text():
    chain = looked("base !!! ???", "../../etc " + said("full-backuped", 0, 1))
    assert "broken off" in chain.left["base"]


def adopted(target: str = "shop") -> list[Manifest]:
    chain = looked(BASE, ONE)
    return [
        Manifest(
            planned=plan,
            result=Result(
                started=link.began, finished=link.began, raw=600, stored=100, sha256="0" * 64,
                config_sha256=foreign.EMPTY, checkpoints=link.texts[0], checkpoints_name="xtrabackup_checkpoints",
                info=link.texts[1], listed=4,
            ),
        )
        for plan, link in zip(foreign.planned(target, "mariadb", FOLDER, chain), chain.links, strict=True)
    ]  # fmt: skip


def test_no_backup_of_ours_follows_on_it_and_no_rule_removes_it():
    built = chains.build(adopted())
    assert chains.path_to(built, "latest")[-1].planned.foreign == f"{FOLDER}/inc-2023-07-31_03:00:00"
    following = chains.decide(
        built, Rules(168, 24), identity="", server="8.0.34", tool="8.0.34-29", lsn=10**9, recipients=(), now=NOW
    )
    assert (following.parent, following.reason) == (None, f"chain {built[0].id} was made by another")
    (verdict,) = chains.judge(built, Rules(168, 24, keep_daily=1, keep_chains=1), now=NOW)
    assert (verdict.keep, str(verdict.reason)) == (True, "it was made by another")


async def test_it_does_not_count_as_one_of_the_newest_that_are_kept(shelf):
    now = utcnow()
    for age in (9, 8, 1):
        shelf.put(now - timedelta(days=age), salt=age)
    for manifest in adopted():
        (shelf.folder / manifest.planned.object).write_bytes(b"list")
        (shelf.folder / "manifests" / f"{manifest.id}.json").write_text(manifest.model_dump_json())
    rules = {"name": "shop", "host": "db", "remote": "store:backups", "store_secret": "s3", "key_secret": "key"}
    await shelf.good("target", **rules, keep_daily=1, keep_chains=2)
    assert (await shelf.good("refresh", target="shop"))["backups"] == 5
    told = await shelf.good("prune", target="shop")
    assert (len(told["removed"]), told["left"]) == (1, 4)
    assert len(shelf.names("data/*.list")) == 2
    await shelf.good("clean", target="shop", older_hours=0)
    assert len(shelf.names("data/*.list")) == 2
