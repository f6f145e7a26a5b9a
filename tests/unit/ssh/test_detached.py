"""Commands that outlive the link and the console."""

from __future__ import annotations

import asyncio
import ctypes
import os

import pytest

from opsdeck.errors import Conflict, Invalid, NotFound, Unavailable
from opsdeck.ssh.command import Command, Script, Stream
from opsdeck.ssh.detached import Phase
from opsdeck.ssh.errors import CommandFailed, LinkLost, Unreachable
from opsdeck.ssh.pool import Pool


async def test_started_followed_and_forgotten(pool, hosts):
    endpoint = hosts["web1"].endpoint()
    script = Script(
        text='echo "$1 $X"; cat; echo err >&2; exit 7', args=("a 'b'",), env={"X": "y"}, stdin=b"secret in\n"
    )
    told = await pool.detach(endpoint, "job-1", script)
    assert not told.existed
    assert told.group is not None
    taken = bytearray()
    done = await pool.attach(endpoint, "job-1", on_output=lambda stream, data: taken.extend(data))
    assert (done.exit_status, done.stdout) == (7, b"a 'b' y\nsecret in\nerr\n")
    assert bytes(taken) == done.stdout
    state = await pool.detached_state(endpoint, "job-1")
    assert (state.phase, state.exit_status, state.log_size) == (Phase.ENDED, 7, len(taken))
    assert (await pool.attach(endpoint, "job-1", offset=8)).stdout == b"secret in\nerr\n"
    await pool.forget(endpoint, "job-1")
    assert (await pool.detached_state(endpoint, "job-1")).phase is Phase.ABSENT
    with pytest.raises(NotFound):
        await pool.attach(endpoint, "job-1")


async def test_it_is_started_once_however_often_asked(pool, hosts, tmp_path):
    endpoint = hosts["web1"].endpoint()
    script = Script(text=f"echo x >>{tmp_path}/count; sleep 1")
    told = await asyncio.gather(*(pool.detach(endpoint, "once", script) for _ in range(5)))
    assert sum(not one.existed for one in told) >= 1
    assert len({one.group for one in told}) == 1
    await pool.attach(endpoint, "once")
    assert (await pool.detach(endpoint, "once", script)).existed
    assert (tmp_path / "count").read_text() == "x\n"


async def test_it_outlives_the_pool_and_is_found_again(hosts):
    endpoint = hosts["web1"].endpoint()
    first = Pool()
    await first.detach(endpoint, "long", Script(text="for i in 1 2 3 4 5 6; do echo $i; sleep 0.2; done"))
    await hosts["web1"].drop()
    await first.close()
    second = Pool()
    assert (await second.detached_state(endpoint, "long")).phase is Phase.RUNNING
    done = await second.attach(endpoint, "long")
    assert (done.exit_status, done.stdout) == (0, b"1\n2\n3\n4\n5\n6\n")
    await second.close()


async def test_following_goes_on_where_the_link_broke(pool, hosts):
    host = hosts["web1"]
    endpoint = host.endpoint()
    await pool.detach(endpoint, "broken", Script(text="for i in $(seq 1 30); do echo line $i; sleep 0.05; done"))
    taken = bytearray()
    dropped = 0

    async def take(stream: Stream, data: bytes) -> None:
        nonlocal dropped
        taken.extend(data)
        if taken.count(b"\n") >= 8 * (dropped + 1) and dropped < 2:
            dropped += 1
            asyncio.get_running_loop().call_soon(lambda: asyncio.ensure_future(host.drop()))

    done = await pool.attach(endpoint, "broken", on_output=take)
    assert dropped == 2
    assert done.stdout == bytes(taken) == b"".join(b"line %d\n" % number for number in range(1, 31))


async def test_a_host_that_stays_away_ends_the_following(pool, hosts):
    endpoint = hosts["web1"].endpoint()
    await pool.detach(endpoint, "away", Command(("sleep", "60")))
    following = asyncio.ensure_future(pool.attach(endpoint, "away", patience=1.0))
    await asyncio.sleep(0.5)
    await hosts["web1"].leave()
    with pytest.raises((LinkLost, Unreachable)):
        async with asyncio.timeout(15):
            await following


async def test_stopping_ends_all_of_it_and_keeps_the_log(pool, hosts):
    endpoint = hosts["web1"].endpoint()
    await pool.detach(endpoint, "stop-me", Script(text='trap "" TERM; echo begun; sleep 300 & sleep 300'))
    with pytest.raises(Conflict):
        await pool.forget(endpoint, "stop-me")
    assert await pool.stop_detached(endpoint, "stop-me")
    done = await pool.attach(endpoint, "stop-me")
    assert (done.exit_status, done.stdout[:6]) == (137, b"begun\n")
    await pool.forget(endpoint, "stop-me")
    with pytest.raises(NotFound):
        await pool.stop_detached(endpoint, "stop-me")


async def test_cancelling_the_following_leaves_it_running(pool, hosts):
    endpoint = hosts["web1"].endpoint()
    await pool.detach(endpoint, "left", Command(("sleep", "60")))
    following = asyncio.ensure_future(pool.attach(endpoint, "left"))
    await asyncio.sleep(0.4)
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following
    assert (await pool.detached_state(endpoint, "left")).phase is Phase.RUNNING
    assert await pool.stop_detached(endpoint, "left")


async def test_its_time_limit_holds_with_nobody_there(pool, hosts):
    endpoint = hosts["web1"].endpoint()
    await pool.detach(endpoint, "limited", Command(("sleep", "300"), timeout=0.6, kill_after=20))
    await hosts["web1"].drop()
    async with asyncio.timeout(20):
        while (state := await pool.detached_state(endpoint, "limited")).phase is not Phase.ENDED:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert state.exit_status == 124


async def test_a_killed_keeper_is_told_as_lost(pool, hosts):
    endpoint = hosts["web1"].endpoint()
    told = await pool.detach(endpoint, "orphan", Command(("sleep", "300")))
    keeper = (await pool.get(endpoint, f"{told.folder}/keeper")).split()[0].decode()
    (await pool.run(endpoint, Script(text='kill -KILL "$1"', args=(keeper,)))).check("web1")
    assert (await pool.detached_state(endpoint, "orphan")).phase is Phase.LOST
    with pytest.raises(LinkLost, match="keeper"):
        await pool.attach(endpoint, "orphan")
    assert await pool.stop_detached(endpoint, "orphan")


async def test_its_end_is_seen_where_nobody_reaps_its_keeper(pool, hosts):
    prctl, subreaper = ctypes.CDLL(None, use_errno=True).prctl, 36  # PR_SET_CHILD_SUBREAPER, prctl(2)
    assert prctl(subreaper, 1, 0, 0, 0) == 0
    try:
        endpoint = hosts["web1"].endpoint()
        told = await pool.detach(endpoint, "unreaped", Script(text="sleep 1; echo done"))
        async with asyncio.timeout(20):
            done = await pool.attach(endpoint, "unreaped")
        assert (done.exit_status, done.stdout) == (0, b"done\n")
        keeper = int((await pool.get(endpoint, f"{told.folder}/keeper")).split()[0])
        assert os.waitpid(keeper, os.WNOHANG)[0] == keeper  # noqa: ASYNC222 - it does not wait
    finally:
        prctl(subreaper, 0, 0, 0, 0)


async def test_its_last_words_and_its_end_are_known_on_a_full_disk(pool, hosts, small_disk):
    endpoint = hosts["web1"].endpoint()
    (hosts["web1"].home / ".local").symlink_to(small_disk)
    fill = 'cat /dev/zero >"$1" 2>/dev/null; echo "it is full"; exit 3'
    await pool.detach(endpoint, "full", Script(text=fill, args=(f"{small_disk}/fill",)))
    done = await pool.attach(endpoint, "full")
    assert (done.exit_status, done.stdout) == (3, b"it is full\n")


async def test_a_start_that_cannot_be_made_is_told(pool, hosts):
    endpoint = hosts["web1"].endpoint()
    (hosts["web1"].home / ".local").write_text("in the way")
    with pytest.raises(CommandFailed):
        await pool.detach(endpoint, "never", Command(("true",)))


@pytest.mark.parametrize("unit", ["", "../x", "-x", "a b", "a/b", "x" * 101])
async def test_a_bad_name_is_told(pool, hosts, unit):
    with pytest.raises(Invalid):
        await pool.detach(hosts["web1"].endpoint(), unit, Command(("true",)))


async def test_the_log_and_the_place_are_the_users_own(pool, hosts):
    endpoint = hosts["web1"].endpoint()
    told = await pool.detach(endpoint, "private", Command(("true",)))
    await pool.attach(endpoint, "private")
    done = await pool.run(endpoint, Command(("stat", "-c", "%a", told.folder, f"{told.folder}/log")))
    assert done.stdout.split() == [b"700", b"600"]
    left = await pool.run(endpoint, Command(("find", "/dev/shm", "-name", ".opsdeck*")))
    assert left.stdout == b""


async def test_closing_the_pool_ends_the_following(hosts):
    endpoint = hosts["web1"].endpoint()
    pool = Pool(close_timeout=0.3)
    await pool.detach(endpoint, "closing", Command(("sleep", "60")))
    following = asyncio.ensure_future(pool.attach(endpoint, "closing"))
    await asyncio.sleep(0.4)
    await pool.close()
    async with asyncio.timeout(10):
        with pytest.raises(Unavailable):
            await following
