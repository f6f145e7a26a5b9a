"""Running: what comes back, what is held back, and what is ended when nobody wants it any more."""

from __future__ import annotations

import asyncio
import tracemalloc

import pytest

from opsdeck.ssh.command import Command, Completed, ProcessGroup, Script, Stream
from opsdeck.ssh.errors import CommandTimeout, LinkLost, ShellRefused
from opsdeck.ssh.link import Turns
from opsdeck.ssh.pool import Pool

STUBBORN = 'trap "" TERM; sleep 300 & (sleep 300; :) | cat & sleep 300'


class Begun:
    """Takes a process group, and lets a test wait for it."""

    def __init__(self) -> None:
        self.told = asyncio.Event()
        self.group: ProcessGroup | None = None

    async def __call__(self, group: ProcessGroup) -> None:
        self.group = group
        self.told.set()

    async def pgid(self) -> int:
        await asyncio.wait_for(self.told.wait(), 10)
        assert self.group is not None
        return self.group.pgid


async def begin(pool: Pool, endpoint, task) -> tuple[asyncio.Task[Completed], int, ProcessGroup]:
    begun = Begun()
    running = asyncio.ensure_future(pool.run(endpoint, task, on_started=begun))
    pgid = await begun.pgid()
    await asyncio.sleep(0.15)
    assert begun.group is not None
    return running, pgid, begun.group


async def test_both_streams_status_and_stdin(pool, hosts):
    endpoint = hosts["web1"].endpoint()
    done = await pool.run(endpoint, Script(text="cat; echo bad \377 >&2; exit 3", stdin=b"\0\xff in"))
    assert (done.stdout, done.exit_status, done.ok) == (b"\0\xff in", 3, False)
    assert done.stderr.startswith(b"bad")
    done = await pool.run(endpoint, Script(text="kill -KILL $$"))
    assert (done.exit_status, done.signal, done.ok) == (None, "KILL", False)


@pytest.mark.parametrize("noise", [b"", b"Welcome!\n", b"no newline at its end", b"\x1b[2J" + b"x" * 300_000])
async def test_what_a_start_up_file_prints_is_no_output(pool, hosts, noise):
    hosts["web1"].behaviour.login_output = noise
    done = await pool.run(hosts["web1"].endpoint(), Script(text="cat", stdin=b"just this"))
    assert done.stdout == b"just this"


async def test_a_login_shell_that_takes_no_commands_is_told(pool, hosts):
    hosts["web1"].behaviour.shell = ("/bin/sh", "-c", "echo 'This account is currently not available.'; exit 1")
    with pytest.raises(ShellRefused, match="not available") as caught:
        await pool.run(hosts["web1"].endpoint(), Command(("id",)))
    assert caught.value.host == "web1"
    assert caught.value.hint


async def test_a_login_shell_that_hangs_is_not_waited_for_for_ever(hosts, tmp_path):
    hosts["web1"].behaviour.shell = ("/bin/sh", "-c", 'sleep 2; exec /bin/sh "$@"', "sh")
    pool = Pool(start_timeout=0.5)
    with pytest.raises(ShellRefused, match="did not start"):
        await pool.run(hosts["web1"].endpoint(), Command(("touch", str(tmp_path / "ran"))))
    await pool.close()


async def test_missing_setsid_is_told(pool, hosts, tmp_path):
    for name in ("head",):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    # The inner shell leads no session, and finds no setsid.
    hosts["web1"].behaviour.shell = ("/bin/sh", "-c", f'PATH={tmp_path}; /bin/sh "$@"; exit $?', "sh")
    with pytest.raises(ShellRefused, match="setsid") as caught:
        await pool.run(hosts["web1"].endpoint(), Command(("/bin/true",)))
    assert "util-linux" in str(caught.value.hint)


async def test_a_command_that_runs_too_long_is_ended_whole(pool, hosts, members):
    begun = Begun()
    with pytest.raises(CommandTimeout) as caught:
        task = Script(text="echo before; " + STUBBORN, timeout=0.5, kill_after=0.3)
        await pool.run(hosts["web1"].endpoint(), task, on_started=begun)
    assert caught.value.proved_dead
    assert caught.value.completed is not None
    assert caught.value.completed.stdout == b"before\n"
    assert members(await begun.pgid()) == []


async def test_who_cancels_while_what_ran_too_long_is_ended_is_heard(pool, hosts, members, monkeypatch):
    begun, ending, kill = Begun(), asyncio.Event(), pool.kill

    async def slow(*given, **more):
        ending.set()
        return await kill(*given, **more)

    monkeypatch.setattr(pool, "kill", slow)
    task = Script(text=STUBBORN, timeout=0.3, kill_after=0.3)
    running = asyncio.ensure_future(pool.run(hosts["web1"].endpoint(), task, on_started=begun))
    await asyncio.wait_for(ending.wait(), 60)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert members(await begun.pgid()) == []


async def test_stragglers_of_a_timeout_are_ended_too(pool, hosts, members):
    begun = Begun()
    # The command itself obeys; what it left behind does not.
    text = '(trap "" TERM; sleep 300) & exec sleep 300'
    with pytest.raises(CommandTimeout) as caught:
        await pool.run(hosts["web1"].endpoint(), Script(text=text, timeout=0.4, kill_after=0.4), on_started=begun)
    assert caught.value.proved_dead
    assert members(await begun.pgid()) == []


async def test_the_timeout_holds_on_the_host_when_the_link_is_gone(pool, hosts, members):
    running, pgid, _ = await begin(pool, hosts["web1"].endpoint(), Script(text=STUBBORN, timeout=1.0, kill_after=0.3))
    await hosts["web1"].drop()
    with pytest.raises(LinkLost) as caught:
        await running
    assert caught.value.may_have_run
    assert members(pgid)
    for _ in range(100):
        if not members(pgid):
            break
        await asyncio.sleep(0.1)
    assert members(pgid) == []


async def test_ending_with_124_in_time_is_no_timeout(pool, hosts):
    done = await pool.run(hosts["web1"].endpoint(), Script(text="exit 124", timeout=30))
    assert done.exit_status == 124


async def test_cancelling_ends_the_processes_first(pool, hosts, members):
    running, pgid, group = await begin(pool, hosts["web1"].endpoint(), Script(text=STUBBORN))
    assert len(members(pgid)) >= 3
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert members(pgid) == []
    assert await pool.kill(hosts["web1"].endpoint(), group)


async def test_cancelling_twice_changes_nothing(pool, hosts, members):
    running, pgid, _ = await begin(pool, hosts["web1"].endpoint(), Script(text=STUBBORN))
    running.cancel()
    await asyncio.sleep(0.05)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert members(pgid) == []


async def test_cancelled_before_it_began_it_does_not_run(pool, hosts, tmp_path):
    endpoint = hosts["web1"].endpoint()
    await pool.run(endpoint, Command(("true",)))
    for delay in (0.0, 0.0005, 0.002, 0.005):
        mark = tmp_path / f"ran-{delay}"
        running = asyncio.ensure_future(pool.run(endpoint, Script(text=f"sleep 0.3; touch {mark}")))
        await asyncio.sleep(delay)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await asyncio.sleep(0.6)
        assert not mark.exists()


async def test_all_channels_busy_do_not_keep_a_command_from_being_ended(pool, hosts, until):
    endpoint = hosts["web1"].endpoint()
    busy = [asyncio.ensure_future(pool.run(endpoint, Command(("sleep", "300")))) for _ in range(8)]
    await until(lambda: pool.connections() and pool.connections()[0].channels == 8)
    await asyncio.sleep(0.3)
    busy[0].cancel()
    async with asyncio.timeout(8):
        with pytest.raises(asyncio.CancelledError):
            await busy[0]
        for task in busy[1:]:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)


async def test_a_server_that_refuses_sessions_for_a_moment_is_asked_again(pool, hosts):
    web1 = hosts["web1"]
    endpoint = web1.endpoint()
    web1.behaviour.max_sessions = 3
    runs = [asyncio.ensure_future(pool.run(endpoint, Script(text="sleep 0.3"))) for _ in range(10)]
    await asyncio.sleep(0.5)
    web1.behaviour.max_sessions = 0
    await asyncio.sleep(1)
    web1.behaviour.max_sessions = 3
    async with asyncio.timeout(30):
        assert all(done.ok for done in await asyncio.gather(*runs))


async def test_who_leaves_the_line_for_a_session_keeps_nobody_waiting():
    turns = Turns(1)
    await turns.take()
    leaving, staying = (asyncio.ensure_future(turns.take()) for _ in range(2))
    await asyncio.sleep(0)
    turns.give()
    leaving.cancel()  # it was called a moment ago
    async with asyncio.timeout(5):
        await staying
    late = asyncio.ensure_future(turns.take())
    await asyncio.sleep(0)
    late.cancel()
    turns.give()  # passes by the one who is leaving
    async with asyncio.timeout(5):
        await turns.take()
    assert turns.taken == 1


async def test_a_failing_callback_ends_the_command(pool, hosts, members):
    begun = Begun()

    def fail(stream: Stream, data: bytes) -> None:
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        await pool.run(hosts["web1"].endpoint(), Script(text="echo x; " + STUBBORN), on_output=fail, on_started=begun)
    assert members(await begun.pgid()) == []


async def test_killing_spares_a_number_that_belongs_to_somebody_else(pool, hosts, members):
    endpoint = hosts["web1"].endpoint()
    running, pgid, group = await begin(pool, endpoint, Command(("sleep", "300")))
    other = ProcessGroup(group.pgid, group.started + 1, group.boot)
    assert await pool.kill(endpoint, other)
    assert await pool.kill(endpoint, ProcessGroup(group.pgid, group.started, "0" * 36))
    assert members(pgid)
    assert await pool.kill(endpoint, group)
    assert not members(pgid)
    assert (await running).signal == "TERM"


async def test_output_in_pieces_and_kept_up_to_the_limit(pool, hosts):
    taken = {Stream.STDOUT: 0, Stream.STDERR: 0}

    def take(stream: Stream, data: bytes) -> None:
        taken[stream] += len(data)

    text = "head -c 300000 /dev/zero; head -c 200000 /dev/zero >&2; printf end >&2"
    done = await pool.run(hosts["web1"].endpoint(), Script(text=text), on_output=take, capture_limit=1000)
    assert taken == {Stream.STDOUT: 300_000, Stream.STDERR: 200_003}
    assert len(done.stdout) == 1000
    assert done.stderr.endswith(b"end")
    assert done.truncated


async def test_a_slow_reader_holds_the_host_back_and_memory_stays_flat(pool, hosts):
    endpoint = hosts["web1"].endpoint()
    await pool.run(endpoint, Command(("true",)))
    got = 0

    async def slow(stream: Stream, data: bytes) -> None:
        nonlocal got
        got += len(data)
        await asyncio.sleep(0.001)

    tracemalloc.start()
    begun = tracemalloc.get_traced_memory()[0]
    done = await pool.run(
        endpoint, Command(("head", "-c", "30000000", "/dev/zero")), on_output=slow, capture_limit=1000
    )
    most = tracemalloc.get_traced_memory()[1] - begun
    tracemalloc.stop()
    assert done.ok
    assert got == 30_000_000
    # Both ends of the link live in this process: two windows of 2 MiB, and what is queued.
    assert most < 16_000_000


async def test_a_stdin_larger_than_the_window_arrives_whole(pool, hosts):
    data = bytes(range(256)) * 40_000
    done = await pool.run(hosts["web1"].endpoint(), Command(("md5sum",), stdin=data))
    import hashlib

    assert done.stdout.split()[0].decode() == hashlib.md5(data, usedforsecurity=False).hexdigest()


async def test_a_command_that_does_not_read_its_stdin_ends_all_the_same(pool, hosts):
    done = await pool.run(hosts["web1"].endpoint(), Command(("true",), stdin=b"x" * 10_000_000))
    assert done.ok


@pytest.mark.sshd
async def test_a_daemon_that_keeps_stdout_does_not_keep_us(pool, sshd, account):
    endpoint = sshd.endpoint(user=account().name)
    done = await pool.run(endpoint, Script(text="sleep 60 & echo $!"))
    assert done.exit_status == 0
    assert (await pool.run(endpoint, Script(text='kill -0 "$1"', args=(done.stdout.decode().strip(),)))).ok


async def test_the_trace_shows_argv_and_never_stdin(hosts):
    lines: list[str] = []
    pool = Pool(trace=lines.append)
    await pool.run(hosts["web1"].endpoint(), Command(("cat", "a b"), stdin=b"hidden-word"))
    await pool.close()
    assert lines == ["web1: 'cat' 'a b'"]
