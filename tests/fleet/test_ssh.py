"""The SSH room on whole systems: systemd units, a pulled cable, a full disk, a reboot, a killed console."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from opsdeck.lab.fleet import Fleet
from opsdeck.ssh.command import Command, ProcessGroup, Script
from opsdeck.ssh.detached import Phase
from opsdeck.ssh.errors import DiskFull, LinkLost, Unreachable
from opsdeck.ssh.pool import Pool

pytestmark = pytest.mark.fleet


@pytest.fixture
async def pool():
    pool = Pool(keepalive=(0.5, 2), connect_timeout=3, login_timeout=3, close_timeout=2)
    yield pool
    await pool.close()


@pytest.mark.parametrize("user", ["root", "ops", "opspw"])
async def test_roots_detached_command_is_a_unit_and_survives_the_cable(fleet: Fleet, pool: Pool, user: str) -> None:
    host = fleet.host("web1")
    endpoint = host.endpoint(user)
    unit = f"backup-{user}"
    script = Script(
        text="id -u; cat; for i in $(seq 1 40); do echo line $i; sleep 0.1; done; exit 3",
        stdin=b"a secret\n",
        sudo=True,
    )
    told = await pool.detach(endpoint, unit, script)
    assert told.how == "systemd"
    assert (await pool.run(endpoint, Command(("systemctl", "is-active", f"opsdeck-{unit}")))).stdout == b"active\n"
    taken = bytearray()
    following = asyncio.ensure_future(
        pool.attach(endpoint, unit, sudo=True, on_output=lambda stream, data: taken.extend(data))
    )
    await asyncio.sleep(1)
    host.cut()
    await asyncio.sleep(2)
    host.mend()
    done = await asyncio.wait_for(following, 40)
    lines = b"".join(b"line %d\n" % number for number in range(1, 41))
    assert (done.exit_status, done.stdout) == (3, b"0\na secret\n" + lines)
    assert bytes(taken) == done.stdout
    await pool.forget(endpoint, unit, sudo=True)
    assert (await pool.detached_state(endpoint, unit, sudo=True)).phase is Phase.ABSENT


async def test_a_unit_is_stopped_with_all_it_started(fleet: Fleet, pool: Pool) -> None:
    endpoint = fleet.host("web1").endpoint("ops")
    text = 'trap "" TERM; setsid sleep 301 & sleep 302 & sleep 303'
    await pool.detach(endpoint, "stubborn", Script(text=text, sudo=True))
    assert await pool.stop_detached(endpoint, "stubborn", sudo=True)
    left = await pool.run(endpoint, Command(("pgrep", "-fx", "sleep 30[123]")))
    assert left.stdout == b""
    state = await pool.detached_state(endpoint, "stubborn", sudo=True)
    assert state.phase in (Phase.ENDED, Phase.LOST)


async def test_a_plain_users_detached_command_lives_on_without_a_unit(fleet: Fleet, pool: Pool) -> None:
    endpoint = fleet.host("web1").endpoint("ops")
    told = await pool.detach(endpoint, "plain", Script(text="sleep 1; id -un"))
    assert told.how == "session"
    await pool.close()
    later = Pool()
    done = await later.attach(endpoint, "plain")
    assert (done.exit_status, done.stdout) == (0, b"ops\n")
    await later.close()


async def test_a_reboot_under_it_is_told_as_lost(fleet: Fleet, pool: Pool) -> None:
    host = fleet.host("web2")
    endpoint = host.endpoint()
    await pool.detach(endpoint, "rebooted", Command(("sleep", "300")))
    following = asyncio.ensure_future(pool.attach(endpoint, "rebooted"))
    await asyncio.sleep(0.5)
    await asyncio.to_thread(host.kill)
    await asyncio.to_thread(host.start)
    with pytest.raises(LinkLost, match="restarted"):
        await asyncio.wait_for(following, 60)
    assert (await pool.detached_state(endpoint, "rebooted")).phase is Phase.LOST
    await pool.forget(endpoint, "rebooted")


async def test_a_killed_console_finds_its_command_again(fleet: Fleet, pool: Pool, tmp_path: Path) -> None:
    host = fleet.host("web1")
    endpoint = host.endpoint()
    child = os.fork()
    if child == 0:
        # The console that dies: nothing of it may run on after the kill.
        async def console() -> None:
            own = Pool()
            await own.detach(endpoint, "orphan", Script(text="for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.5; done"))
            (tmp_path / "begun").write_text("x")
            await own.attach(endpoint, "orphan")

        try:
            asyncio.new_event_loop().run_until_complete(console())
        finally:
            os._exit(1)
    for _ in range(200):
        if (tmp_path / "begun").exists():
            break
        await asyncio.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    await asyncio.to_thread(os.waitpid, child, 0)
    done = await pool.attach(endpoint, "orphan", offset=2)
    assert (done.exit_status, done.stdout) == (0, b"2\n3\n4\n5\n6\n7\n8\n")
    await pool.forget(endpoint, "orphan")


async def test_a_pulled_cable_is_found_out_and_the_timeout_holds_there(fleet: Fleet, pool: Pool) -> None:
    host = fleet.host("web1")
    groups: list[ProcessGroup] = []

    async def noted(group: ProcessGroup) -> None:
        groups.append(group)
        host.cut()

    endpoint = host.endpoint("opspw")
    with pytest.raises(LinkLost) as caught:
        text = 'trap "" TERM; sleep 304 & sleep 305'
        await asyncio.wait_for(
            pool.run(endpoint, Script(text=text, timeout=2, kill_after=0.5, sudo=True), on_started=noted), 20
        )
    assert caught.value.may_have_run
    with pytest.raises(Unreachable):
        await pool.run(endpoint, Command(("true",)))
    await asyncio.sleep(1)
    assert host.execute(["pgrep", "-fx", "sleep 30[45]"], check=False) == ""
    host.mend()
    assert await pool.kill(endpoint, groups[0])


async def test_a_full_disk_is_told_and_the_old_file_stands(fleet: Fleet, pool: Pool) -> None:
    host = fleet.host("small1")
    endpoint = host.endpoint("ops")
    await pool.put(endpoint, b"old", "/etc/kept.conf", sudo=True)
    host.fill(leave_kb=64)
    with pytest.raises(DiskFull) as caught:
        await pool.put(endpoint, b"x" * 3_000_000, "/etc/kept.conf", sudo=True)
    assert caught.value.host == "small1"
    assert await pool.get(endpoint, "/etc/kept.conf") == b"old"


async def test_no_secret_is_seen_by_another_user_of_the_host(fleet: Fleet, pool: Pool) -> None:
    host = fleet.host("web1")
    endpoint = host.endpoint("opspw")
    secret = b"only-on-stdin-4711"
    await pool.detach(endpoint, "quiet", Script(text="cat >/dev/null; sleep 3", stdin=secret, sudo=True))
    running = asyncio.ensure_future(pool.run(endpoint, Script(text="cat >/dev/null; sleep 3", stdin=secret, sudo=True)))
    seen = b""
    spy = Script(
        text="cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null; find / -xdev -newer /proc/1 -type f "
        "-exec grep -l only-on-stdin {} + 2>/dev/null; true"
    )
    for _ in range(4):
        seen += (await pool.run(host.endpoint("root"), spy)).stdout
    await running
    assert b"sleep" in seen
    assert seen.count(secret) == 0
    assert host.password.encode() not in seen
    await pool.stop_detached(endpoint, "quiet", sudo=True)
    await pool.forget(endpoint, "quiet", sudo=True)
