"""Play hosts: what works on them, what they refuse, and that nothing outlives them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncssh
import pytest

from opsdeck.errors import Invalid, Unavailable
from opsdeck.lab import children
from opsdeck.lab.inprocess import Behaviour, PlayHost, PlayHosts
from opsdeck.ssh.endpoint import Method


async def dial(
    host: PlayHost, *, key: asyncssh.SSHKey | None = None, **options: object
) -> asyncssh.SSHClientConnection:
    wanted: dict[str, object] = {
        "username": host.user,
        "client_keys": [key or asyncssh.import_private_key(host.private_key)],
        "known_hosts": ([asyncssh.import_public_key(host.host_key)], [], []),
        "config": None,
        "agent_path": None,
    }
    return await asyncssh.connect(host.address, host.port, **(wanted | options))


async def sleepers(connection: asyncssh.SSHClientConnection, *words: str) -> int:
    done = await connection.run(f"{' '.join(words)} sleep 600 >/dev/null 2>&1 </dev/null & echo $!")
    return int(str(done.stdout))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_a_command_gets_input_and_gives_both_outputs_and_its_status(play_hosts: PlayHosts) -> None:
    async with await dial(play_hosts["web1"]) as connection:
        done = await connection.run("cat; echo oops >&2; exit 7", input="given")
        assert (done.stdout, done.stderr, done.exit_status) == ("given", "oops\n", 7)


async def test_each_host_has_its_own_home_and_key_and_shows_nothing_of_this_process(
    play_hosts: PlayHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRIVATE_TO_THE_CONSOLE", "1")
    homes = set()
    for host in play_hosts:
        async with await dial(host) as connection:
            homes.add((await connection.run('pwd; test "$HOME" = "$(pwd)"', check=True)).stdout)
            assert "PRIVATE" not in str((await connection.run("env")).stdout)
    assert len(homes) == len({host.host_key for host in play_hosts}) == 3


async def test_output_is_complete_and_bytes_pass_unchanged(play_hosts: PlayHosts) -> None:
    everything = bytes(range(256)) * 4096
    async with await dial(play_hosts[0]) as connection:
        done = await connection.run("cat", input=everything, encoding=None)
        assert done.stdout == everything


async def test_a_signal_ends_the_command(play_hosts: PlayHosts) -> None:
    async with await dial(play_hosts[0]) as connection:
        process = await connection.create_process("sleep 600")
        process.terminate()
        assert (await process.wait()).exit_signal[0] == "TERM"


async def test_a_terminal_has_the_size_that_was_asked_for(play_hosts: PlayHosts) -> None:
    async with await dial(play_hosts[0]) as connection:
        done = await connection.run("stty size; tty >/dev/null && echo yes", term_type="xterm", term_size=(101, 37))
        assert str(done.stdout).split() == ["37", "101", "yes"]


async def test_sftp_shows_the_shells_paths_and_refuses_others(play_hosts: PlayHosts, tmp_path: Path) -> None:
    host = play_hosts[0]
    async with await dial(host) as connection, connection.start_sftp_client() as files:
        async with files.open("new.txt", "w") as file:
            await file.write("hello")
        assert (await connection.run(f"cat {host.home}/new.txt")).stdout == "hello"
        assert await files.exists(f"{host.home}/new.txt")
        (host.home / "way-out").symlink_to("/etc/passwd")
        for path in ("/etc/passwd", "../host_key", "way-out", f"{host.home}/../../login_key"):
            with pytest.raises(asyncssh.SFTPPermissionDenied):
                await files.open(path, "r")


async def test_it_is_a_jump_host(play_hosts: PlayHosts) -> None:
    async with await dial(play_hosts[0]) as bastion, await dial(play_hosts[1], tunnel=bastion) as connection:
        assert "web2" in str((await connection.run("pwd")).stdout)
    play_hosts[0].behaviour.forwarding = False
    async with await dial(play_hosts[0]) as bastion:
        with pytest.raises(asyncssh.ChannelOpenError):
            await dial(play_hosts[1], tunnel=bastion)


async def test_only_its_own_key_and_password_open_it(play_hosts: PlayHosts) -> None:
    host = play_hosts[0]
    stranger = asyncssh.generate_private_key("ssh-ed25519")
    with pytest.raises(asyncssh.PermissionDenied):
        await dial(host, key=stranger)
    with pytest.raises(asyncssh.PermissionDenied):
        await dial(host, username="root")
    with pytest.raises(asyncssh.PermissionDenied):
        await dial(host, client_keys=None, password="wrong")
    (await dial(host, client_keys=None, password=host.password)).close()
    host.behaviour.refuse_keys = True
    with pytest.raises(asyncssh.PermissionDenied):
        await dial(host)
    assert host.endpoint(method=Method.PASSWORD).credential.secret.reveal() == host.password


async def test_a_certificate_of_a_trusted_authority_opens_it(play_hosts: PlayHosts) -> None:
    host = play_hosts[0]
    authority, key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    certificate = authority.generate_user_certificate(key, "tester", principals=[host.user])
    with pytest.raises(asyncssh.PermissionDenied):
        await dial(host, client_keys=[(key, certificate)])
    host.authorized_authorities.append(authority.export_public_key().decode())
    (await dial(host, client_keys=[(key, certificate)])).close()


async def test_the_eleventh_session_is_refused(play_hosts: PlayHosts) -> None:
    async with await dial(play_hosts[0]) as connection:
        running = [await connection.create_process("sleep 600") for _ in range(10)]
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.create_process("true")
        running[0].terminate()
        await running[0].wait()
        await connection.run("true", check=True)


async def test_starts_above_the_limit_are_dropped(play_hosts: PlayHosts) -> None:
    host = play_hosts[0]
    host.behaviour.max_startups, host.behaviour.login_delay = (2, 100, 2), 0.3
    dials = await asyncio.gather(*(dial(host) for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(one, asyncssh.SSHClientConnection) for one in dials) == 2
    (await dial(host)).close()


async def test_a_frozen_host_is_silent_until_it_thaws(play_hosts: PlayHosts) -> None:
    host = play_hosts[0]
    async with await dial(host) as connection:
        host.freeze()
        asked = asyncio.create_task(connection.run("echo back"))
        with pytest.raises(asyncssh.Error):
            await dial(host, login_timeout=0.3)
        assert not asked.done()
        host.thaw()
        assert (await asked).stdout == "back\n"


async def test_keepalive_finds_a_frozen_host(play_hosts: PlayHosts) -> None:
    host = play_hosts[0]
    connection = await dial(host, keepalive_interval=0.1, keepalive_count_max=2)
    host.freeze()
    await asyncio.wait_for(connection.wait_closed(), 10)


async def test_dropping_connections_leaves_processes_and_stopping_ends_them_all(play_hosts: PlayHosts) -> None:
    host = play_hosts[0]
    connection = await dial(host)
    pids = [await sleepers(connection), await sleepers(connection, "setsid"), await sleepers(connection, "nohup")]
    assert await host.drop() == 1
    with pytest.raises(asyncssh.Error):
        await connection.run("true", check=True)
    assert all(alive(pid) for pid in pids)
    port = host.port
    await host.stop()
    assert not any(alive(pid) for pid in pids)
    assert not children.belonging(host.mark)
    with pytest.raises(OSError):
        await dial(host)
    await host.start()
    assert host.port == port
    (await dial(host)).close()


async def test_a_command_lives_on_when_its_channel_is_closed_as_under_sshd(play_hosts: PlayHosts) -> None:
    async with await dial(play_hosts[0]) as connection:
        process = await connection.create_process("echo $$; exec sleep 600")
        pid = int(str(await process.stdout.readline()))
        process.close()
        await connection.run("true", check=True)
        assert alive(pid)


async def test_a_changed_key_is_another_key(play_hosts: PlayHosts) -> None:
    host = play_hosts[0]
    before = host.host_key
    assert await host.change_host_key() != before
    with pytest.raises(asyncssh.HostKeyNotVerifiable):
        await dial(host, known_hosts=([asyncssh.import_public_key(before)], [], []))
    (await dial(host)).close()


async def test_a_talkative_login_speaks_first(tmp_path: Path) -> None:
    noisy = Behaviour(login_output=b"Welcome!\n")
    async with PlayHosts(tmp_path, ["noisy"], behaviour=noisy) as hosts, await dial(hosts[0]) as connection:
        assert (await connection.run("echo done")).stdout == "Welcome!\ndone\n"


async def test_a_login_shell_that_is_missing_says_so(play_hosts: PlayHosts) -> None:
    play_hosts[0].behaviour.shell = ("/no/such/shell",)
    async with await dial(play_hosts[0]) as connection:
        done = await connection.run("true")
        assert done.exit_status == 126
        assert "/no/such/shell" in str(done.stderr)


async def test_the_same_folder_gives_the_same_hosts(tmp_path: Path) -> None:
    async with PlayHosts(tmp_path, ["a"]) as hosts:
        before = (hosts["a"].host_key, hosts["a"].port, hosts.public_key)
    async with PlayHosts(tmp_path, ["a"]) as hosts:
        assert (hosts["a"].host_key, hosts["a"].port, hosts.public_key) == before
        assert (tmp_path / "login_key").stat().st_mode & 0o077 == 0


async def test_two_hundred_hosts_at_once(tmp_path: Path) -> None:
    async with PlayHosts(tmp_path, [f"h{number}" for number in range(200)]) as hosts:
        starts = asyncio.Semaphore(16)

        async def ask(host: PlayHost) -> str:
            async with starts, await dial(host) as connection:
                return str((await connection.run("pwd", check=True)).stdout)

        assert len(set(await asyncio.gather(*(ask(host) for host in hosts)))) == 200


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b"])
def test_a_name_that_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Invalid):
        PlayHosts(tmp_path, [name])


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable) as caught:
        PlayHosts(tmp_path / "file" / "hosts")
    assert caught.value.file == str(tmp_path / "file" / "hosts")
