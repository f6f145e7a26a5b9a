from __future__ import annotations

import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from opsdeck.actor import SYSTEM
from opsdeck.db import Database
from opsdeck.errors import Invalid, NotFound
from opsdeck.inventory.facts import sections
from opsdeck.inventory.facts.book import KEEP, FactBook, compare
from opsdeck.inventory.facts.catalogue import BY_NAME, CATALOGUE, CLOCK_SKEW, Reading, read, skew
from opsdeck.inventory.facts.since import since
from opsdeck.inventory.forms import HostIn
from opsdeck.inventory.hosts import Inventory

MARK = "opsdeck-test"
CASES = sorted((Path(__file__).parent / "data/facts").glob("*.yaml"))


def answer(**parts: str | bytes) -> bytes:
    """Make the output of a host that has these sections and no other."""
    pieces = [
        f"\n{MARK} {name}\n".encode() + (text if isinstance(text, bytes) else text.encode())
        for name, text in parts.items()
    ]
    return b"".join(pieces) + f"\n{MARK} done\n".encode()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_a_section_as_hosts_give_it(case: Path) -> None:
    data = yaml.safe_load(case.read_text())
    text = bytes.fromhex(data["hex"]) if "hex" in data else data["text"]
    reading = read(answer(**{data["section"]: text}), MARK)
    for name, value in data["expect"].items():
        assert reading.facts.get(name) == value, (name, reading.faults)
    assert set(reading.faults) == set(data.get("faults", []))
    assert {BY_NAME[name].section for name in reading.facts} <= {data["section"]}


def test_every_section_but_the_clock_is_a_fact_and_has_a_case() -> None:
    read_from = {fact.section for fact in CATALOGUE}
    assert read_from | {"clock", "end"} == set(sections.SECTIONS)
    assert len(CATALOGUE) >= 20
    assert len(BY_NAME) == len(CATALOGUE) + 1


def test_this_machine_answers_with_at_least_twenty_facts() -> None:
    mark = sections.new_mark()
    script = sections.script(mark, {name: text for name, text in sections.SECTIONS.items() if name != "upgrades"})
    sent = time.time()
    done = subprocess.run(["sh", "-c", script.text, "sh", *script.args], capture_output=True, timeout=60)
    reading = read(done.stdout, mark, sent=sent, received=time.time())
    assert done.stderr == b""
    assert reading.whole
    assert len(reading.facts) >= 20
    assert reading.facts[CLOCK_SKEW] == 0.0
    assert not reading.faults.keys() - {"cpu_model", "product", "system_state"}


def test_a_banner_and_a_false_mark_are_none_of_ours() -> None:
    noise = b"Welcome!\nLast login: today\n opsdeck-test os\nID=banner\n"
    reading = read(noise + answer(os="ID=debian"), MARK)
    assert reading.facts == {"os_id": "debian"}


def test_a_host_without_systemd_or_apt_has_all_other_facts() -> None:
    reading = read(answer(uname="h\n6.1\nx86_64\nv", systemd="", failed="", upgrades="", sudo="missing"), MARK)
    assert reading.facts == {"hostname": "h", "kernel": "6.1", "machine": "x86_64", "sudo": "missing"}
    assert not reading.faults


def test_an_answer_that_was_cut_is_not_whole() -> None:
    output = answer(sudo="root", uname="h\n6.1\nx86_64\nv")
    reading = read(output[: output.index(b"6.1")], MARK)
    assert not reading.whole
    assert reading.facts["sudo"] == "root"
    assert read(b"", MARK) == Reading({}, {}, False)


def test_huge_output_is_bounded_on_the_host() -> None:
    script = sections.script(MARK, {"os": "yes ID=x", "sudo": "echo root"})
    done = subprocess.run(["sh", "-c", script.text, "sh", *script.args], capture_output=True, timeout=30)
    assert len(done.stdout) < sections.SECTION_BYTES + 500
    assert read(done.stdout, MARK).facts["sudo"] == "root"


@given(st.binary(max_size=300))
def test_any_bytes_are_read_without_an_exception(noise: bytes) -> None:
    read(noise, MARK, sent=1.0, received=2.0)
    read(answer(**{name: noise for name in sections.SECTIONS}), MARK, sent=1.0, received=2.0)


@pytest.mark.parametrize(
    ("first", "last", "sent", "received", "expected"),
    [
        (100.01, 100.05, 100.0, 100.1, 0.0),
        (160.0, 160.1, 100.0, 100.2, 59.95),
        (40.0, 40.1, 100.0, 100.2, -60.05),
        (100.3, 102.0, 100.0, 103.0, 0.0),
        (100.0, 100.0, 100.0, 100.0, 0.0),
    ],
)
def test_clock_skew(first: float, last: float, sent: float, received: float, expected: float) -> None:
    assert skew(first, last, sent, received) == pytest.approx(expected)


def test_a_clock_that_is_off_is_a_fact() -> None:
    reading = read(answer(clock="1000.5", end="1000.6"), MARK, sent=880.0, received=880.2)
    assert reading.facts[CLOCK_SKEW] == pytest.approx(120.45)
    assert read(answer(clock="1000N"), MARK, sent=1, received=2).faults[CLOCK_SKEW]


async def test_history_and_what_changed(inventory: Inventory, db: Database) -> None:
    await inventory.add(HostIn(name="a", address="x"), SYSTEM)
    book = FactBook(db)
    monday = datetime(2026, 11, 16, tzinfo=UTC)
    old = Reading({"kernel": "6.1.0-1", "uptime": 5, "listening": ["tcp 0.0.0.0:22"], "sudo": "root"})
    again = Reading({"kernel": "6.1.0-1", "uptime": 999, "listening": ["tcp 0.0.0.0:22"], "sudo": "root"})
    new = Reading({"kernel": "6.1.0-2", "uptime": 3, "listening": ["tcp 0.0.0.0:22", "tcp 0.0.0.0:80"], "tun": True})
    assert await book.latest("a") is None
    assert len(await book.store("a", old, at=monday)) == 3
    assert await book.store("a", again, at=monday + timedelta(days=1)) == ()
    assert len(await book.history("a")) == 1
    latest = await book.latest("a")
    assert latest is not None
    assert (latest.taken, latest.confirmed, latest.facts["uptime"]) == (monday, monday + timedelta(days=1), 999)
    changes = await book.store("a", new, at=monday + timedelta(days=2))
    assert [change.name for change in changes] == ["kernel", "listening", "sudo", "tun"]
    assert (changes[1].new, changes[1].gone, changes[1].title) == (("tcp 0.0.0.0:80",), (), "Listening")
    assert (changes[2].before, changes[2].after) == ("root", None)
    assert await book.changes("a", monday + timedelta(days=1)) == changes
    assert await book.changes("a", monday - timedelta(days=9)) == changes
    assert await book.changes("a", monday + timedelta(days=2)) == ()
    assert await book.changes("a", monday, monday + timedelta(days=1)) == ()
    assert set(await book.latest_of(["a"])) == {"a"}
    await book.prune(monday + KEEP + timedelta(days=3))
    assert len(await book.history("a")) == 1
    for work in (book.store("b", new), book.latest("b"), book.changes("b", monday), book.history("b")):
        with pytest.raises(NotFound):
            await work


def test_a_list_that_came_or_went() -> None:
    (change,) = compare({}, {"listening": ["a"]})
    assert (change.new, change.gone) == (("a",), ())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-20", "2026-11-20T00:00:00+00:00"),
        ("2026-11-20T14:00+02:00", "2026-11-20T12:00:00+00:00"),
        ("3d", "2026-11-20T12:30:00+00:00"),
        ("90 min ago", "2026-11-23T11:00:00+00:00"),
        ("yesterday", "2026-11-22T00:00:00+00:00"),
        ("Tuesday", "2026-11-17T00:00:00+00:00"),
        ("mon", "2026-11-16T00:00:00+00:00"),
    ],
)
def test_moments(text: str, expected: str) -> None:
    now = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)
    assert since(text, now) == datetime.fromisoformat(expected)


@pytest.mark.parametrize("text", ["", "mo", "soon", "3 lorries", "2026-13-01"])
def test_no_moments(text: str) -> None:
    with pytest.raises(Invalid) as fault:
        since(text, datetime(2026, 11, 23, tzinfo=UTC))
    assert fault.value.field == "since"


def test_the_script_is_plain_posix_sh() -> None:
    script = sections.script(MARK)
    for shell in ("dash", "sh"):
        done = subprocess.run([shell, "-n", "-c", script.text], capture_output=True, timeout=10)
        assert done.stderr == b""
