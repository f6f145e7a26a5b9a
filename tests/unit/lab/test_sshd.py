"""The real sshd: it keeps its limits, answers on many addresses and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import asyncssh
import pytest

from opsdeck.errors import Invalid, Unavailable
from opsdeck.lab import children
from opsdeck.lab import sshd as room
from opsdeck.lab.sshd import RealSshd
from opsdeck.ssh.endpoint import Endpoint


async def dial(endpoint: Endpoint) -> asyncssh.SSHClientConnection:
    return await asyncssh.connect(
        endpoint.address,
        endpoint.port,
        username=endpoint.user,
        client_keys=[asyncssh.import_private_key(endpoint.credential.secret.reveal())],
        known_hosts=([asyncssh.import_public_key(endpoint.host_keys[0])], [], []),
        config=None,
        agent_path=None,
    )


async def test_the_eleventh_session_is_refused(sshd: RealSshd) -> None:
    async with await dial(sshd.endpoint()) as connection:
        for _ in range(10):
            await connection.create_process("sleep 600")
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.create_process("true")


async def test_stopping_it_ends_what_ran_under_it(sshd: RealSshd) -> None:
    async with await dial(sshd.endpoint()) as connection:
        done = await connection.run("setsid sleep 600 >/dev/null 2>&1 </dev/null & echo $!")
        assert int(str(done.stdout)) in children.belonging(sshd.mark)
        sshd.stop()
        assert not children.belonging(sshd.mark)


async def test_many_addresses_lead_to_it(sshd: RealSshd, tmp_path: Path) -> None:
    with RealSshd(tmp_path / "many", addresses=40, max_startups="100") as many:
        for number in (0, 15, 16, 39):
            async with await dial(many.endpoint(number)) as connection:
                asked = (await connection.run("echo $SSH_CONNECTION")).stdout
                assert str(asked).split()[2] == f"127.0.83.{number + 1}"


def test_a_wrong_setting_is_told_in_sshds_words(sshd: RealSshd, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="NoSuchOption"):
        RealSshd(tmp_path / "wrong", extra="NoSuchOption yes").start()
    with pytest.raises(Invalid):
        RealSshd(tmp_path / "wrong", addresses=0)


def test_a_machine_without_sshd_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "program", lambda: None)
    with pytest.raises(Unavailable, match="openssh-server"):
        RealSshd(tmp_path).start()
