"""What the next backup is, what a restore needs, what may go."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opsdeck_backup import chains, take
from opsdeck_backup.chains import Rules
from opsdeck_backup.manifests import Manifest, Planned, Result

from opsdeck.errors import NotFound, Refused

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
RULES = Rules(full_hours=168, chain_length=24)
SAME = {"identity": "1/7.9", "server": "10.11.19-MariaDB", "tool": "mariadb-backup 10.11.19-MariaDB", "lsn": 10_000}
KEY = ("age1me",)


def name(at: datetime, salt: int = 0) -> str:
    return f"{at:%Y%m%dT%H%M%SZ}-{salt:08x}"


def manifest(at: datetime, parent: Manifest | None = None, *, salt: int = 0, lsn: int = 500, **planned) -> Manifest:
    text = f"backup_type = x\nfrom_lsn = {parent.lsn('to_lsn') if parent else 0}\nto_lsn = {lsn}\n"
    return Manifest(
        planned=Planned(
            id=name(at, salt), target="shop", chain=parent.planned.chain if parent else name(at, salt),
            parent=parent.id if parent else "", number=parent.planned.number + 1 if parent else 0,
            kind="incremental" if parent else "full", engine="mariadb", host="db", data="/var/lib/mysql",
            object=f"data/{name(at, salt)}.xb.zst.age",
            **{key: SAME[key] for key in ("server", "tool", "identity")} | {"recipients": KEY} | planned,
        ),
        result=Result(
            started=at, finished=at, raw=1000, stored=100, sha256="0" * 64, config_sha256="0" * 64,
            checkpoints=base64.b64encode(text.encode()).decode(), checkpoints_name="xtrabackup_checkpoints", info="",
        ),
    )  # fmt: skip


def chain_of(length: int, start: datetime = NOW - timedelta(hours=30)) -> list[Manifest]:
    found: list[Manifest] = []
    for number in range(length):
        found.append(manifest(start + timedelta(hours=number), found[-1] if found else None, salt=number))
    return found


def decide(found: list[Manifest], rules: Rules = RULES, now: datetime = NOW, **changed) -> chains.Next:
    return chains.decide(chains.build(found), rules, now=now, **{**SAME, "recipients": KEY, **changed})


def test_increments_follow_on_the_last_link_whatever_the_order_they_are_read_in():
    links = chain_of(4)
    following = decide(links[::-1])
    assert following.parent == links[-1]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"identity": "1/8.9"}, "data folder"),
        ({"server": "10.11.20-MariaDB"}, "server was"),
        ({"tool": "mariadb-backup 10.11.20-MariaDB"}, "tool was"),
        ({"lsn": 499}, "log is at 499"),
        ({"recipients": ("age1me", "age1safe")}, "recipients"),
        ({"changed": {chain_of(3)[1].id}}, "was changed"),
        ({"now": NOW + timedelta(days=8)}, "older than"),
        ({"now": NOW - timedelta(days=8)}, "clock stands before"),
        ({"rules": Rules(full_hours=168, chain_length=2)}, "2 increments"),
    ],
)
def test_a_break_begins_a_new_chain_and_says_why(changed, why):
    following = decide(chain_of(3), **changed)
    assert following.parent is None
    assert why in following.reason


def test_equal_positions_do_not_make_a_parent():
    full = manifest(NOW - timedelta(hours=3), lsn=500)
    one = manifest(NOW - timedelta(hours=2), full, salt=1, lsn=500)
    two = manifest(NOW - timedelta(hours=1), one, salt=2, lsn=500)
    (chain,) = chains.build([full, one, two])
    assert chain.links == (full, one, two)
    (gap,) = chains.build([full, two])
    assert (gap.links, gap.broken) == ((full,), (two,))


def test_a_missing_middle_link_refuses_what_comes_after_and_begins_anew():
    links = chain_of(4)
    left = [links[0], links[1], links[3]]
    built = chains.build(left)
    assert chains.path_to(built, "latest") == (links[0], links[1])
    with pytest.raises(Refused, match="a backup before it is missing") as caught:
        chains.path_to(built, links[3].id)
    assert links[1].id in str(caught.value)
    assert "gap" in decide(left).reason


def test_a_chain_without_its_full_backup_restores_nothing():
    links = chain_of(3)
    built = chains.build(links[1:])
    with pytest.raises(NotFound):
        chains.path_to(built, "latest")
    assert "full backup" in decide(links[1:]).reason


def test_with_no_rule_nothing_goes():
    found = [chain_of(1, NOW - timedelta(days=age))[0] for age in range(1, 40)]
    assert all(one.keep for one in chains.judge(chains.build(found), RULES, now=NOW))


def test_the_rules_keep_the_newest_of_each_period_and_their_whole_chains():
    found = [link for age in range(60, 0, -2) for link in chain_of(3, NOW - timedelta(days=age))]
    rules = Rules(168, 24, keep_daily=4, keep_weekly=3, keep_chains=2)
    verdicts = chains.judge(chains.build(found), rules, now=NOW)
    kept = [one.chain for one in verdicts if one.keep]
    assert kept[-1].id == found[-3].id
    assert 4 <= len(kept) <= 4 + 3
    assert all(len(chain.links) == 3 for chain in kept)


def test_what_is_from_the_future_is_never_removed():
    found = [*chain_of(1, NOW + timedelta(days=400)), *chain_of(1, NOW - timedelta(days=90))]
    rules = Rules(168, 24, keep_daily=1, keep_chains=1)
    verdicts = {one.chain.id: one for one in chains.judge(chains.build(found), rules, now=NOW)}
    assert verdicts[found[0].id].keep


@given(
    st.lists(st.tuples(st.integers(0, 2000), st.integers(1, 4)), min_size=1, max_size=25),
    st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.integers(1, 4),
)  # fmt: skip
def test_no_rule_ever_removes_the_newest_chains_or_part_of_one(plan, hourly, daily, weekly, monthly, least):
    found: dict[str, Manifest] = {}
    for age, length in plan:
        for link in chain_of(length, NOW - timedelta(hours=age + 5)):
            found.setdefault(link.id, link)
    built = chains.build(found.values())
    verdicts = chains.judge(built, Rules(168, 24, hourly, daily, weekly, monthly, least), now=NOW)
    whole = [chain.id for chain in built if chain.links]
    kept = {one.chain.id for one in verdicts if one.keep}
    assert set(whole[-least:]) <= kept
    assert len(verdicts) == len(built)
    assert chains.newest(built) is None or chains.newest(built).planned.chain in kept


def test_names_never_go_back_with_the_clock():
    last = name(NOW)
    assert take.next_id(last, NOW - timedelta(days=3)) > last
    assert take.next_id(last, NOW + timedelta(seconds=5))[:16] == f"{NOW + timedelta(seconds=5):%Y%m%dT%H%M%SZ}"


def test_parts_fit_however_large_the_database_is():
    for used in (1, 48 << 10, 5 << 20):
        assert take.part_size(used) * 10_000 > used
