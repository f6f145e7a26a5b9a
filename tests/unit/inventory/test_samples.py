from __future__ import annotations

import contextlib
import subprocess
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event
from sqlmodel import select

from opsdeck.actor import SYSTEM
from opsdeck.db import Database
from opsdeck.inventory.forms import HostIn
from opsdeck.inventory.hosts import Inventory
from opsdeck.inventory.models import Host, Sample, Traffic
from opsdeck.inventory.samples import reading
from opsdeck.inventory.samples.book import COARSE, FINE, Polled, SampleBook
from opsdeck.inventory.samples.reading import Counters, Unreadable, read
from opsdeck.inventory.samples.traffic import Seen, between, by_month, cpu_share, moved

MARK = "opsdeck-test"
START = datetime(2026, 11, 20, tzinfo=UTC)
ROUTE = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT"


def answer(
    *,
    cpu: str = "cpu  100 5 50 800 40 1 4 0 7 0",
    memory: str = "MemTotal: 1000 kB\nMemFree: 100 kB\nMemAvailable: 400 kB\nBuffers: 10 kB\nCached: 20 kB",
    route: str = f"{ROUTE}\neth0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n",
    route6: str = "",
    devices: str = "    lo: 7 0 0 0 0 0 0 0 7 0 0 0 0 0 0 0\n  eth0: 1000 1 0 0 0 0 0 0 2000 1 0 0 0 0 0 0\n"
    "   wg0: 5 1 0 0 0 0 0 0 6 1 0 0 0 0 0 0\n",
) -> bytes:
    text = (
        f"\n{MARK}\nboot-1\n{cpu}\n0.42 0.40 0.30 1/200 4711\n{memory}\n"
        f"{MARK} df\nFilesystem 1024-blocks Used Available Capacity Mounted on\n/dev/vda1 1000 300 600 34% /\n"
        f"{MARK} route\n{route}{MARK} route6\n{route6}{MARK} dev\nInter-| Receive\n face |bytes\n{devices}{MARK} end\n"
    )
    return text.encode()


def test_an_answer() -> None:
    counters = read(b"Welcome to web1\n" + answer(), MARK, host="a")
    assert counters == Counters(
        boot_id="boot-1",
        cpu_busy=160,
        cpu_total=1000,
        load1=0.42,
        memory_used=600 * 1024,
        memory_total=1000 * 1024,
        disk_used=300 * 1024,
        disk_total=900 * 1024,
        received=1000,
        sent=2000,
        interfaces=("eth0",),
    )


def test_without_a_way_out_all_but_the_loopback_count() -> None:
    counters = read(answer(route=f"{ROUTE}\n"), MARK, host="a")
    assert (counters.interfaces, counters.received, counters.sent) == (("eth0", "wg0"), 1005, 2006)


def test_the_way_out_of_version_six_counts_once() -> None:
    six = f"{'0' * 32} 00 {'0' * 32} 00 fe80{'0' * 28} 00000400 00000001 00000000 00450003     eth0\n"
    assert read(answer(route6=six), MARK, host="a").received == 1000
    assert read(answer(route=f"{ROUTE}\n", route6=six), MARK, host="a").interfaces == ("eth0",)


def test_an_old_kernel_without_memavailable() -> None:
    memory = "MemTotal: 1000 kB\nMemFree: 100 kB\nBuffers: 10 kB\nCached: 20 kB"
    assert read(answer(memory=memory), MARK, host="a").memory_used == 870 * 1024


@pytest.mark.parametrize(
    "output",
    [
        b"",
        b"command not found",
        answer()[:200],
        answer(cpu="cpu"),
        answer(memory="MemTotal: lots"),
        answer(devices=""),
        answer().replace(b"boot-1\n", b""),
        b"\xff\xfe" * 100,
    ],
)
def test_what_is_no_answer(output: bytes) -> None:
    with pytest.raises(Unreadable) as fault:
        read(output, MARK, host="web1")
    assert fault.value.host == "web1"
    assert fault.value.hint


@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_a_clear_error(noise: bytes) -> None:
    for output in (noise, answer() + noise, answer().replace(b"0.42", noise)):
        with contextlib.suppress(Unreadable):
            read(output, MARK, host="a")


def test_this_machine_answers() -> None:
    mark = reading.new_mark()
    script = reading.script(mark)
    done = subprocess.run(["sh", "-c", script.text, "sh", *script.args], capture_output=True, timeout=30)
    counters = read(done.stdout, mark, host="here")
    assert done.stderr == b""
    assert counters.cpu_total > counters.cpu_busy > 0
    assert 0 < counters.memory_used < counters.memory_total


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (100, 150, 50),
        (100, 100, 0),
        (2**32 - 10, 5, 15),
        (2**32 + 10, 5, 5),
        (2**33, 2**20, 2**20),
        (2**31, 100, 100),
    ],
)
def test_counters_that_fall_have_wrapped_or_were_reset(before: int, after: int, expected: int) -> None:
    assert moved(before, after) == expected


def seen(minutes: float, received: int, sent: int = 0, *, boot: str = "b1", names: str = "eth0") -> Seen:
    at = START + timedelta(minutes=minutes)
    return Seen(at, boot, names, received, sent, cpu_busy=int(minutes * 10), cpu_total=int(minutes * 100))


def test_what_moved_between_two_polls() -> None:
    assert between(None, seen(0, 10**12)) == (0, 0)
    assert between(seen(0, 100, 10), seen(1, 150, 30)) == (50, 20)
    assert between(seen(0, 10**9), seen(5, 700, 7, boot="b2")) == (700, 7)
    assert between(seen(0, 5), seen(1, 10**9, 10**9, names="wg0")) == (0, 0)
    assert between(seen(1, 5), seen(1, 10)) == (0, 0)


def test_the_busy_share() -> None:
    assert cpu_share(None, seen(1, 0)) is None
    assert cpu_share(seen(0, 0), seen(1, 0)) == pytest.approx(0.1)
    assert cpu_share(seen(0, 0), seen(1, 0, boot="b2")) is None
    assert cpu_share(seen(1, 0), seen(1, 0)) is None
    assert cpu_share(seen(2, 0), replace(seen(3, 0), cpu_busy=0)) == 0.0


def test_a_gap_over_the_border_is_shared_out_by_time() -> None:
    since, until = datetime(2026, 10, 31, 18, tzinfo=UTC), datetime(2026, 11, 1, 6, tzinfo=UTC)
    assert list(by_month((1000, 11), since, until, 1)) == [
        (date(2026, 10, 1), 500, 5),
        (date(2026, 11, 1), 500, 6),
    ]
    assert list(by_month((7, 7), until, until + timedelta(minutes=1), 1)) == [(date(2026, 11, 1), 7, 7)]


@given(
    st.integers(0, 10**15),
    st.integers(0, 10**15),
    st.integers(1, 31),
    st.integers(0, 10**9),
    st.integers(1, 400 * 86400),
)
def test_shares_add_up_however_long_the_gap(received: int, sent: int, day: int, begin: int, length: int) -> None:
    since = datetime.fromtimestamp(begin, UTC)
    parts = list(by_month((received, sent), since, since + timedelta(seconds=length), day))
    assert (sum(part[1] for part in parts), sum(part[2] for part in parts)) == (received, sent)
    assert all(part[1] >= 0 and part[2] >= 0 for part in parts)
    assert len({part[0] for part in parts}) == len(parts)


def counters(**given: object) -> Counters:
    parts = {"boot_id": "b1", "cpu_busy": 10, "cpu_total": 100, "load1": 0.5, "memory_used": 1, "memory_total": 2}
    parts |= {"disk_used": 3, "disk_total": 4, "received": 0, "sent": 0, "interfaces": ("eth0",)}
    return Counters(**(parts | given))  # type: ignore[arg-type]


async def a_host(inventory: Inventory, name: str = "a", **given: object) -> Host:
    return await inventory.add(HostIn.model_validate({"name": name, "address": "x"} | given), SYSTEM)


def polled(host: Host, at: datetime, **given: object) -> Polled:
    return Polled(host.id or 0, host.quota_reset_day, at, counters(**given))


async def test_traffic_sums_over_reboots_resets_and_restarts_of_ours(inventory: Inventory, db: Database) -> None:
    host = await a_host(inventory, quota_bytes="10GB", quota_counts="out")
    book = SampleBook(db)
    minute = timedelta(minutes=1)
    await book.store([polled(host, START, received=10**12, sent=10**11)])
    await book.store([polled(host, START + minute, received=10**12 + 500, sent=10**11 + 50)])
    await book.store([polled(host, START + 2 * minute, received=300, sent=30, boot_id="b2")])
    book = SampleBook(db)
    await book.store([polled(host, START + 3 * minute, received=400, sent=40, boot_id="b2")])
    await book.store(
        [
            polled(host, START + 5 * minute, received=410, sent=2, boot_id="b2"),
            polled(host, START + 4 * minute, received=405, sent=41, boot_id="b2"),
        ]
    )
    month = (await book.month([host], START))["a"]
    assert (month.received, month.sent) == (500 + 300 + 100 + 5 + 5, 50 + 30 + 10 + 1 + 2)
    assert (month.used, month.quota, month.share) == (93, 10**10, 93 / 10**10)
    assert (month.begins, month.ends) == (date(2026, 11, 1), date(2026, 12, 1))
    shares = [row.cpu for row in await book.series("a", START, START + 9 * minute)]
    assert len(shares) == 6
    assert (await book.latest())["a"].at == START + 5 * minute
    assert [row.begins for row in await book.months(host)] == [date(2026, 11, 1)]


async def test_late_and_double_answers_change_nothing(inventory: Inventory, db: Database) -> None:
    host = await a_host(inventory)
    book = SampleBook(db)
    await book.store([polled(host, START, received=5), polled(host, START, received=9)])
    await book.store([polled(host, START - timedelta(hours=1), received=99)])
    await book.store([])
    assert [row.received for row in await book.series("a", START - timedelta(days=1), START)] == [5]


async def test_a_host_that_went_harms_no_other(inventory: Inventory, db: Database) -> None:
    here, gone = await a_host(inventory), await a_host(inventory, "b")
    book = SampleBook(db)
    await book.store([polled(here, START, received=1), polled(gone, START, received=1)])
    await inventory.remove("b", SYSTEM)
    at = START + timedelta(minutes=1)
    await book.store([polled(here, at, received=2), polled(gone, at, received=2)])
    assert set(await book.latest()) == {"a"}
    async with db.read() as session:
        assert len((await session.exec(select(Traffic))).all()) == 1


async def test_old_samples_are_thinned_to_means_and_then_dropped(inventory: Inventory, db: Database) -> None:
    host = await a_host(inventory)
    now = START + timedelta(days=100)
    hour = (now - FINE - timedelta(hours=5)).replace(minute=0)
    rows = [
        Sample(host_id=host.id, at=at, load1=load, cpu=cpu, memory_used=10, memory_total=20, disk_used=1, disk_total=2,
               received=1, sent=1)
        for at, load, cpu in [
            (now - COARSE - timedelta(hours=1), 9.0, 0.9),
            (hour + timedelta(minutes=10), 1.0, 0.1),
            (hour + timedelta(minutes=20), 3.0, None),
            (hour + timedelta(minutes=50), 5.0, 0.3),
            (hour + timedelta(minutes=61), 7.0, 0.7),
            (now - timedelta(minutes=2), 2.0, 0.2),
            (now - timedelta(minutes=1), 2.0, 0.2),
        ]
    ]  # fmt: skip
    async with db.write() as session:
        session.add_all(rows)
    book = SampleBook(db)
    assert await book.thin(now) == 3
    assert await book.thin(now) == 0
    left = await book.series("a", START - timedelta(days=365), now)
    assert [(row.at, row.load1) for row in left] == [
        (hour + timedelta(minutes=50), 3.0),
        (hour + timedelta(minutes=61), 7.0),
        (now - timedelta(minutes=2), 2.0),
        (now - timedelta(minutes=1), 2.0),
    ]
    assert left[0].cpu == pytest.approx(0.2)


async def test_a_thousand_answers_are_one_transaction(inventory: Inventory, db: Database) -> None:
    hosts = await inventory.apply([HostIn(name=f"h{number}", address="x") for number in range(1000)], {}, SYSTEM)
    begun: list[str] = []

    event.listen(db.engine.sync_engine, "begin", lambda _: begun.append("begin"))
    book = SampleBook(db)
    await book.store([polled(host, START, received=1) for host in hosts])
    await book.store([polled(host, START + timedelta(minutes=1), received=3) for host in hosts])
    assert len(begun) == 3
    assert {month.received for month in (await book.month(hosts, START)).values()} == {2}
