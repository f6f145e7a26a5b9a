"""The limits and the ways of a real OpenSSH server."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import asyncssh
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opsdeck.ssh.command import Command, ProcessGroup, Script
from opsdeck.ssh.errors import LinkLost, ShellRefused
from opsdeck.ssh.pool import Pool

pytestmark = pytest.mark.sshd

TRUE = Command(("true",))
ODD = st.sampled_from(list("'\"\\$`!*?[]{}()<>|&;#~ \n\t\r=-%^@é"))


@pytest.fixture(scope="module")
def plain(account):
    return account("/bin/sh")


async def test_eleven_at_once_and_more_all_succeed(pool, sshd, plain):
    endpoint = sshd.endpoint(user=plain.name)
    done = await asyncio.gather(*(pool.run(endpoint, Script(text="sleep 0.2")) for _ in range(25)))
    assert all(one.ok for one in done)
    assert len(pool.connections()) == 1


async def test_fewer_sessions_than_ours_are_obeyed(pool, sshd_at, plain):
    endpoint = sshd_at("MaxSessions 3").endpoint(user=plain.name)
    done = await asyncio.gather(*(pool.run(endpoint, Script(text="sleep 0.1")) for _ in range(10)))
    assert all(one.ok for one in done)


async def test_forty_starts_at_once_lose_none(pool, sshd, plain):
    endpoints = [replace(sshd.endpoint(user=plain.name), name=f"n{number}") for number in range(40)]
    done = await asyncio.gather(*(pool.run(endpoint, TRUE) for endpoint in endpoints))
    assert all(one.ok for one in done)


async def test_forty_behind_one_bastion_share_one_login(pool, sshd_at, sshd, plain):
    bastion = sshd_at()
    via = bastion.endpoint("bastion", plain.name)
    endpoints = [sshd.endpoint(f"n{number}", plain.name, via=via) for number in range(40)]
    done = await asyncio.gather(*(pool.run(endpoint, TRUE) for endpoint in endpoints))
    assert all(one.ok for one in done)
    assert bastion.log.read_text().count("Accepted publickey") == 1


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash", "/usr/bin/fish", "/usr/bin/tcsh"])
@pytest.mark.parametrize("noisy", [False, True])
async def test_any_login_shell_will_do(pool, sshd, account, shell, noisy):
    user = account(shell)
    if noisy:
        text = "echo a banner on stdout\nsh -c 'echo and on stderr >&2; sleep 0.1'\n"
        for name in (".bashrc", ".tcshrc", ".zshenv", ".config/fish/config.fish"):
            (user.home / name).parent.mkdir(parents=True, exist_ok=True)
            (user.home / name).write_text(text)
        # bash reads .bashrc under sshd only above what Debian puts there to keep others out.
    endpoint = sshd.endpoint(user=user.name)

    @given(words=st.lists(st.text(ODD, max_size=12), min_size=1, max_size=4))
    @settings(max_examples=4, suppress_health_check=list(HealthCheck), database=None)
    def compose_only(words):
        examples.append(words)

    examples: list[list[str]] = [["!!", "it's \\'"]]
    compose_only()
    for words in examples:
        done = await pool.run(endpoint, Command(("printf", "%s\\0", *words), stdin=b""))
        assert done.stdout == "".join(word + "\0" for word in words).encode()
        assert done.stderr == b""


async def test_an_account_without_a_shell_is_told(pool, sshd, account):
    with pytest.raises(ShellRefused, match="not available"):
        await pool.run(sshd.endpoint(user=account("/usr/sbin/nologin").name), TRUE)


async def test_the_server_ended_under_a_command(sshd_at, plain):
    server = sshd_at()
    pool = Pool(keepalive=(0.5, 2))
    groups: list[ProcessGroup] = []

    async def noted(group: ProcessGroup) -> None:
        groups.append(group)
        children = await asyncio.create_subprocess_exec("pkill", "-KILL", "-f", f"sshd(-session)?: {plain.name}")
        await children.wait()

    with pytest.raises(LinkLost, match="may have run"):
        await pool.run(server.endpoint(user=plain.name), Command(("sleep", "30")), on_started=noted)
    assert await pool.kill(server.endpoint(user=plain.name), groups[0])
    listed = await asyncio.create_subprocess_exec("pgrep", "-g", str(groups[0].pgid), "-r", "R,S,D,T", stdout=-1)
    assert (await listed.communicate())[0] == b""
    await pool.close()


async def test_every_host_key_of_a_server_is_shown(pool, sshd):
    (key,) = await pool.offered_keys("127.0.0.1", sshd.port)
    assert key.openssh == " ".join(sshd.host_key.split()[:2])
    assert "Accepted" not in sshd.log.read_text().splitlines()[-1]


async def test_a_server_with_several_keys_shows_the_pinned_one(pool, sshd_at, plain, tmp_path):
    second = asyncssh.generate_private_key("ssh-rsa", key_size=2048)
    file = tmp_path / "rsa"
    file.write_bytes(second.export_private_key("openssh"))
    file.chmod(0o600)
    server = sshd_at(f"HostKey {file}")
    first = server.endpoint(user=plain.name)
    pin = second.export_public_key("openssh").decode().strip()
    shown = await pool.offered_keys(first)
    assert {key.openssh for key in shown} == {" ".join(text.split()[:2]) for text in (pin, server.host_key)}
    assert (await pool.run(replace(first, host_keys=(pin,)), TRUE)).ok
    assert (await pool.run(replace(first, host_keys=(server.host_key,)), TRUE)).ok
