"""Becoming root on a real host, with and without a password, and being refused."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from opsdeck.lab.inprocess import PlayHosts
from opsdeck.ssh.command import Command, ProcessGroup, Script
from opsdeck.ssh.endpoint import Sudo
from opsdeck.ssh.errors import SudoRefused

pytestmark = pytest.mark.sshd

WITH_PASSWORD = "{user} ALL=(ALL) ALL"
WITHOUT = "{user} ALL=(ALL) NOPASSWD: ALL"


@pytest.fixture(scope="module")
def asked(account):
    return account("/bin/bash", WITH_PASSWORD)


@pytest.fixture(scope="module")
def trusted(account):
    return account("/bin/sh", WITHOUT)


async def test_nopasswd_runs_as_root(pool, sshd, trusted):
    endpoint = sshd.endpoint(user=trusted.name, sudo=Sudo.NOPASSWD)
    done = await pool.run(endpoint, Command(("id", "-un"), sudo=True))
    assert done.stdout == b"root\n"
    assert (await pool.run(endpoint, Command(("id", "-un")))).stdout.decode().strip() == trusted.name


async def test_a_password_is_given_and_stdin_stays_the_commands(pool, sshd, asked):
    endpoint = sshd.endpoint(user=asked.name, sudo=Sudo.PASSWORD, sudo_password=asked.password)
    done = await pool.run(endpoint, Script(text="id -un; cat", stdin=b"line one\nline two\0", sudo=True))
    assert done.stdout == b"root\nline one\nline two\0"
    assert done.stderr == b""
    done = await pool.run(endpoint, Script(text="id -un; cat", sudo=True))
    assert done.stdout == b"root\n"


async def test_a_password_that_is_not_asked_for_never_reaches_the_command(pool, sshd, trusted):
    endpoint = sshd.endpoint(user=trusted.name, sudo=Sudo.PASSWORD, sudo_password="not-needed-word")
    done = await pool.run(endpoint, Command(("cat",), stdin=b"own\n", sudo=True))
    assert done.stdout == b"own\n"
    done = await pool.run(endpoint, Command(("cat",), sudo=True))
    assert done.stdout == b""


async def test_a_cached_ticket_does_not_let_the_password_through(pool, sshd, asked):
    endpoint = sshd.endpoint(user=asked.name, sudo=Sudo.PASSWORD, sudo_password=asked.password)
    for _ in range(3):
        done = await pool.run(endpoint, Command(("cat",), stdin=b"own\n", sudo=True))
        assert done.stdout == b"own\n"


@pytest.mark.parametrize("stdin", [None, b"x" * 200_000])
async def test_a_wrong_password_is_refused_at_once_and_tried_once(pool, sshd, asked, tmp_path, stdin):
    endpoint = sshd.endpoint(user=asked.name, sudo=Sudo.PASSWORD, sudo_password="wrong-word")
    witness = tmp_path / "ran"
    async with asyncio.timeout(12):
        with pytest.raises(SudoRefused) as caught:
            await pool.run(endpoint, Command(("touch", str(witness)), sudo=True, stdin=stdin))
    assert "password was not accepted" in str(caught.value)
    assert caught.value.host == "real"
    assert caught.value.hint
    assert "wrong-word" not in str(caught.value)
    assert not witness.exists()


async def test_nopasswd_where_a_password_is_wanted_is_refused(pool, sshd, asked):
    endpoint = sshd.endpoint(user=asked.name, sudo=Sudo.NOPASSWD)
    with pytest.raises(SudoRefused, match="password is required"):
        await pool.run(endpoint, Command(("id",), sudo=True))


async def test_a_user_without_rules_is_refused(pool, sshd, account):
    plain = account()
    endpoint = sshd.endpoint(user=plain.name, sudo=Sudo.PASSWORD, sudo_password=plain.password)
    with pytest.raises(SudoRefused):
        await pool.run(endpoint, Command(("id",), sudo=True))


async def test_no_way_to_root_is_told_before_dialling(pool, sshd):
    endpoint = sshd.endpoint(user="somebody")
    with pytest.raises(SudoRefused, match="no way to become it"):
        await pool.run(endpoint, Command(("id",), sudo=True))
    assert pool.connections() == ()


async def test_run_as_another_user(pool, sshd, trusted, asked):
    endpoint = sshd.endpoint(user=trusted.name, sudo=Sudo.NOPASSWD)
    assert (await pool.run(endpoint, Command(("id", "-un"), run_as=asked.name))).stdout.decode().strip() == asked.name


async def test_root_runs_as_another_user_without_sudo(pool, asked, tmp_path):
    async with PlayHosts(tmp_path, ["root1"], user="root") as hosts:
        endpoint = hosts["root1"].endpoint()
        done = await pool.run(endpoint, Script(text='cd /; id -un; echo "$HOME"', run_as=asked.name, timeout=5))
        assert done.stdout.decode().split() == [asked.name, str(asked.home)]
        assert (await pool.run(endpoint, Command(("id", "-u"), sudo=True))).stdout == b"0\n"


async def test_roots_processes_are_ended_by_cancelling(pool, sshd, asked, until, members):
    endpoint = sshd.endpoint(user=asked.name, sudo=Sudo.PASSWORD, sudo_password=asked.password)
    groups: list[ProcessGroup] = []

    async def noted(group: ProcessGroup) -> None:
        groups.append(group)

    text = 'trap "" TERM; sleep 300 & sleep 300 | sleep 300'
    task = asyncio.ensure_future(pool.run(endpoint, Script(text=text, sudo=True), on_started=noted))
    await until(lambda: groups)
    await asyncio.sleep(0.2)
    assert members(groups[0].pgid)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not members(groups[0].pgid)


async def test_neither_password_nor_stdin_shows_in_argv_or_environment(pool, sshd, asked):
    endpoint = sshd.endpoint(user=asked.name, sudo=Sudo.PASSWORD, sudo_password=asked.password)
    task = asyncio.ensure_future(
        pool.run(endpoint, Script(text="cat >/dev/null; sleep 5", stdin=b"stdin-secret-word", sudo=True))
    )
    await asyncio.sleep(0.7)
    seen = b""
    for place in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                seen += (place / name).read_bytes()
            except OSError:
                continue
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert b"sleep" in seen
    assert asked.password.encode() not in seen
    assert b"stdin-secret-word" not in seen
