"""One warm connection per host: shared, limited, guarded by pins, and found out when it is dead."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace

import asyncssh
import pytest

from opsdeck.errors import Invalid, Unavailable
from opsdeck.lab.inprocess import PlayHosts
from opsdeck.secrets.sensitive import Sensitive
from opsdeck.ssh.command import Command, Script
from opsdeck.ssh.endpoint import Credential, Method
from opsdeck.ssh.errors import HostKeyChanged, HostKeyUnknown, LinkLost, LoginRefused, Unreachable
from opsdeck.ssh.pool import Pool

TRUE = Command(("true",))


async def test_one_connection_serves_all(pool, hosts):
    host = hosts["web1"]
    done = await asyncio.gather(*(pool.run(host.endpoint(), TRUE) for _ in range(30)))
    assert all(one.ok for one in done)
    assert host.dials == 1
    (state,) = pool.connections()
    assert (state.host, state.channels, state.waiting, state.hops) == ("web1", 0, 0, ())


async def test_no_more_than_the_channels_allowed_are_in_use(pool, hosts, until, tmp_path):
    host = hosts["web1"]
    host.behaviour.max_sessions = 9  # eight, and the spare one
    script = Script(text='echo >>"$1/begun"; while [ ! -e "$1/go" ]; do sleep 0.02; done', args=(str(tmp_path),))
    waiting = asyncio.gather(*(pool.run(host.endpoint(), script) for _ in range(20)))
    begun = tmp_path / "begun"
    await until(lambda: begun.exists() and begun.stat().st_size == 8)
    (state,) = pool.connections()
    (tmp_path / "go").touch()
    assert state.channels == 8
    assert state.waiting == 12
    assert all(one.ok for one in await waiting)


async def test_a_server_with_fewer_sessions_is_obeyed(pool, hosts):
    host = hosts["web1"]
    host.behaviour.max_sessions = 3
    done = await asyncio.gather(*(pool.run(host.endpoint(), Script(text="sleep 0.1")) for _ in range(12)))
    assert all(one.ok for one in done)


async def test_a_server_that_opens_no_session_is_told(pool, hosts):
    hosts["web1"].behaviour.max_sessions = 0
    with pytest.raises(Unreachable, match="opens no session"):
        await pool.run(hosts["web1"].endpoint(), TRUE)


async def test_an_unknown_key_is_shown_and_nothing_is_run(pool, hosts):
    host = hosts["web1"]
    with pytest.raises(HostKeyUnknown) as caught:
        await pool.run(host.endpoint(pinned=False), TRUE)
    assert caught.value.offered.openssh == host.host_key
    assert caught.value.offered.fingerprint == asyncssh.import_public_key(host.host_key).get_fingerprint()
    assert caught.value.offered.fingerprint in str(caught.value)
    assert host.logins == []


@pytest.mark.parametrize("algorithm", ["ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"])
async def test_a_changed_key_is_refused_and_both_are_shown(pool, hosts, algorithm):
    host = hosts["web1"]
    endpoint = host.endpoint()
    new = await host.change_host_key(algorithm)
    with pytest.raises(HostKeyChanged) as caught:
        await pool.run(endpoint, TRUE)
    assert caught.value.offered.openssh == new
    assert [key.openssh for key in caught.value.pinned] == list(endpoint.host_keys)
    assert caught.value.offered.fingerprint in str(caught.value)
    assert caught.value.pinned[0].fingerprint in str(caught.value)
    assert host.logins == []


@pytest.mark.parametrize("algorithm", ["ecdsa-sha2-nistp384", "ssh-rsa"])
async def test_every_kind_of_key_can_be_pinned(pool, hosts, algorithm):
    await hosts["web1"].change_host_key(algorithm)
    assert (await pool.run(hosts["web1"].endpoint(), TRUE)).ok
    (offered,) = await pool.offered_keys(hosts["web1"].endpoint())
    assert offered.openssh == hosts["web1"].host_key


async def test_a_pin_that_is_no_key_is_told(pool, hosts):
    endpoint = replace(hosts["web1"].endpoint(), host_keys=("ssh-ed25519 AAAA",))
    with pytest.raises(Invalid, match="not a whole ssh-ed25519 key"):
        await pool.run(endpoint, TRUE)


async def test_a_wrong_key_is_offered_once_per_window(pool, hosts):
    host = hosts["web1"]
    endpoint = host.endpoint(secret=asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode())
    with pytest.raises(LoginRefused) as first:
        await pool.run(endpoint, TRUE)
    assert first.value.dialled
    dials = host.dials
    for _ in range(3):
        with pytest.raises(LoginRefused) as again:
            await pool.run(endpoint, TRUE)
        assert not again.value.dialled
        assert 0 < again.value.retry_after <= 30
    assert host.dials == dials
    # A rotated credential is another matter, and so is somebody's word that the host was put right.
    right = replace(host.endpoint().credential, version=2)
    assert (await pool.run(replace(endpoint, credential=right), TRUE)).ok
    pool.forgive(endpoint)
    with pytest.raises(LoginRefused) as later:
        await pool.run(endpoint, TRUE)
    assert later.value.dialled


async def test_many_at_once_with_a_wrong_password_try_it_once(pool, hosts):
    host = hosts["web1"]
    endpoint = host.endpoint(method=Method.PASSWORD, secret="wrong")
    ends = await asyncio.gather(*(pool.run(endpoint, TRUE) for _ in range(20)), return_exceptions=True)
    assert all(isinstance(end, LoginRefused) for end in ends)
    assert host.dials == 1
    assert "wrong" not in " ".join(map(str, ends)).replace("was refused", "")


async def test_password_key_with_passphrase_and_certificate_log_in(pool, hosts, monkeypatch):
    host = hosts["web1"]
    assert (await pool.run(host.endpoint(method=Method.PASSWORD), TRUE)).ok
    key = asyncssh.import_private_key(host.private_key)
    locked = key.export_private_key("openssh", passphrase="open it", rounds=1).decode()
    credential = Credential(Method.KEY, "locked", secret=Sensitive(locked), passphrase=Sensitive("open it"))
    assert (await pool.run(replace(host.endpoint(), credential=credential), TRUE)).ok
    authority, own = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    host.authorized_authorities.append(authority.export_public_key().decode())
    certificate = authority.generate_user_certificate(own, "ops", principals=[host.user])
    credential = Credential(
        Method.CERTIFICATE,
        "signed",
        secret=Sensitive(own.export_private_key().decode()),
        certificate=certificate.export_certificate().decode(),
    )
    assert (await pool.run(replace(host.endpoint(), credential=credential), TRUE)).ok


@pytest.mark.skipif(shutil.which("ssh-agent") is None, reason="needs ssh-agent")
async def test_the_agent_logs_in_and_only_when_asked(pool, hosts, monkeypatch, tmp_path, until):
    host = hosts["web1"]
    agent = tmp_path / "agent"
    process = await asyncio.create_subprocess_exec("ssh-agent", "-D", "-a", str(agent))
    try:
        await until(agent.exists)
        await asyncio.sleep(0.2)
        async with asyncssh.connect_agent(str(agent)) as client:
            await client.add_keys([asyncssh.import_private_key(host.private_key)])
        monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
        wrong = asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()
        with pytest.raises(LoginRefused):
            await pool.run(host.endpoint(secret=wrong), TRUE)
        for secret in ("", hosts.public_key):
            credential = Credential(Method.AGENT, f"agent{len(secret)}", secret=Sensitive(secret))
            assert (await pool.run(replace(host.endpoint(), credential=credential), TRUE)).ok
        credential = Credential(Method.AGENT, "other", secret=Sensitive(host.host_key))
        with pytest.raises(Invalid, match="does not have the key"):
            await pool.run(replace(host.endpoint(), credential=credential), TRUE)
    finally:
        process.terminate()
        await process.wait()
    credential = Credential(Method.AGENT, "agent", agent_path=str(tmp_path / "none"))
    with pytest.raises(Invalid, match="gives no keys"):
        await pool.run(replace(host.endpoint(), credential=credential), TRUE)


@pytest.mark.parametrize(
    ("credential", "told"),
    [
        (Credential(Method.KEY, "k", secret=Sensitive("not a key")), "not a private key"),
        (Credential(Method.CERTIFICATE, "k", secret=Sensitive("x"), certificate="y"), "not a private key"),
    ],
)
async def test_a_credential_that_is_none_is_told(pool, hosts, credential, told):
    with pytest.raises(Invalid, match=told) as caught:
        await pool.run(replace(hosts["web1"].endpoint(), credential=credential), TRUE)
    assert "k" in str(caught.value)
    assert hosts["web1"].logins == []


async def test_a_wrong_passphrase_is_told(pool, hosts):
    key = asyncssh.generate_private_key("ssh-ed25519").export_private_key("openssh", passphrase="a", rounds=1).decode()
    for passphrase, told in ((Sensitive("b"), "does not open"), (None, "needs a passphrase")):
        credential = Credential(Method.KEY, "locked", secret=Sensitive(key), passphrase=passphrase)
        with pytest.raises(Invalid, match=told):
            await pool.run(replace(hosts["web1"].endpoint(), credential=credential), TRUE)


async def test_a_host_that_is_off_is_told_and_comes_back(pool, hosts):
    host = hosts["web1"]
    endpoint = host.endpoint()
    assert (await pool.run(endpoint, TRUE)).ok
    await host.stop()
    with pytest.raises(Unreachable, match="nothing listens") as caught:
        await pool.run(endpoint, TRUE)
    assert (caught.value.host, caught.value.hop) == ("web1", "web1")
    await host.start()
    assert (await pool.run(host.endpoint(), TRUE)).ok


async def test_a_link_lost_under_a_command_is_told_and_not_tried_again(pool, hosts, tmp_path, until):
    host = hosts["web1"]
    counter = tmp_path / "count"
    running = asyncio.ensure_future(pool.run(host.endpoint(), Script(text=f"echo x >>{counter}; sleep 300")))
    await until(counter.exists)
    await host.drop()
    with pytest.raises(LinkLost, match="may have run") as caught:
        await running
    assert caught.value.may_have_run
    assert (await pool.run(host.endpoint(), TRUE)).ok
    assert counter.read_text() == "x\n"


async def test_a_connection_that_died_while_idle_is_replaced(pool, hosts):
    host = hosts["web1"]
    await pool.run(host.endpoint(), TRUE)
    await host.drop()
    assert (await pool.run(host.endpoint(), TRUE)).ok
    assert host.dials == 2


async def test_keepalive_finds_a_frozen_peer(hosts, until):
    pool = Pool(keepalive=(0.3, 2), connect_timeout=3, login_timeout=3)
    host = hosts["web1"]
    running = asyncio.ensure_future(pool.run(host.endpoint(), Command(("sleep", "300"))))
    await until(lambda: pool.connections() and pool.connections()[0].channels)
    await asyncio.sleep(0.2)
    host.freeze()
    async with asyncio.timeout(10):
        with pytest.raises(LinkLost):
            await running
    host.thaw()
    assert (await pool.run(host.endpoint(), TRUE)).ok
    await pool.close()


async def test_a_peer_frozen_while_idle_bounds_the_next_command(hosts):
    pool = Pool(keepalive=(30, 3), connect_timeout=0.7, login_timeout=0.7)
    host = hosts["web1"]
    await pool.run(host.endpoint(), TRUE)
    host.freeze()
    async with asyncio.timeout(10):
        with pytest.raises((Unreachable, LinkLost)):
            await pool.run(host.endpoint(), TRUE)
    host.thaw()
    assert (await pool.run(host.endpoint(), TRUE)).ok
    await pool.close()


async def test_a_new_pin_or_credential_gets_a_connection_of_its_own(pool, hosts, until):
    host = hosts["web1"]
    old = host.endpoint()
    running = asyncio.ensure_future(pool.run(old, Script(text="sleep 1.5; echo done")))
    await until(lambda: pool.connections() and pool.connections()[0].channels)
    new = replace(old, credential=replace(old.credential, version=2))
    assert (await pool.run(new, TRUE)).ok
    assert host.dials == 2
    assert len(pool.connections()) == 1
    # What runs on the old one runs to its end; then it is closed.
    assert (await running).stdout == b"done\n"
    await until(lambda: host.connections == 1)


async def test_closing_waits_for_what_runs(hosts, until):
    pool = Pool(close_timeout=5)
    running = asyncio.ensure_future(pool.run(hosts["web1"].endpoint(), Script(text="sleep 0.5; echo done")))
    await until(lambda: pool.connections() and pool.connections()[0].channels)
    await pool.close()
    assert (await running).stdout == b"done\n"
    assert pool.connections() == ()
    with pytest.raises(Unavailable, match="closing"):
        await pool.run(hosts["web1"].endpoint(), TRUE)


async def test_starts_are_limited_where_the_server_drops_them(hosts):
    host = hosts["web1"]
    host.behaviour.max_startups = (10, 30, 100)
    host.behaviour.login_delay = 0.05
    pool = Pool()
    endpoints = [replace(host.endpoint(), name=f"name{number}") for number in range(40)]
    done = await asyncio.gather(*(pool.run(endpoint, TRUE) for endpoint in endpoints))
    assert all(one.ok for one in done)
    assert host.dials == 40
    await pool.close()


async def test_dropped_starts_are_tried_again_with_an_end(hosts, monkeypatch):
    monkeypatch.setattr("opsdeck.ssh.switchboard._PAUSES", (0.01, 0.01, 0.01))
    host = hosts["web1"]
    host.behaviour.max_startups = (0, 100, 1)
    pool = Pool()
    with pytest.raises(Unreachable, match="drops our connections"):
        await pool.run(host.endpoint(), TRUE)
    assert host.dials == 4
    host.behaviour.max_startups = None
    assert (await pool.run(host.endpoint(), TRUE)).ok
    await pool.close()


async def test_a_hundred_behind_one_bastion_share_its_connection(tmp_path):
    pool = Pool()
    async with PlayHosts(tmp_path, ["bastion", *(f"t{number}" for number in range(100))]) as hosts:
        bastion = hosts["bastion"]
        bastion.behaviour.max_startups = (10, 30, 100)
        via = bastion.endpoint()
        done = await asyncio.gather(
            *(pool.run(hosts[f"t{number}"].endpoint(via=via), Script(text="echo $PPID")) for number in range(100))
        )
        assert all(one.ok for one in done)
        assert bastion.dials == 1
        assert all(hosts[f"t{number}"].dials == 1 for number in range(100))
        assert len(pool.connections()) == 101
        assert pool.connections()[-1].hops == ("bastion",)
        await pool.close()


async def test_a_chain_of_two_hops_and_its_failures_name_the_hop(pool, hosts):
    first = hosts["web1"].endpoint()
    second = hosts["web2"].endpoint(via=first)
    target = hosts["web3"].endpoint(via=second)
    assert (await pool.run(target, TRUE)).ok
    assert hosts["web1"].dials == hosts["web2"].dials == 1
    with pytest.raises(Unreachable, match="jump host cannot connect") as caught:
        await pool.run(replace(target, port=1, name="lost"), TRUE)
    assert caught.value.host == "lost"
    await hosts["web2"].stop()
    with pytest.raises(Unreachable) as caught:
        await pool.run(replace(target, name="other"), TRUE)
    assert caught.value.host == caught.value.hop == "web2"
    assert "on the way to other" in str(caught.value)
    with pytest.raises(HostKeyUnknown) as unknown:
        await pool.run(hosts["web3"].endpoint(via=replace(first, name="gate", host_keys=())), TRUE)
    assert unknown.value.host == "gate"


async def test_keys_are_shown_through_a_jump_host_without_a_login(pool, hosts):
    (key,) = await pool.offered_keys("127.0.0.1", hosts["web2"].port, via=hosts["web1"].endpoint())
    assert key.openssh == hosts["web2"].host_key
    assert hosts["web2"].logins == []
    await hosts["web2"].stop()
    with pytest.raises(Unreachable):
        await pool.offered_keys("127.0.0.1", hosts["web2"].port)


async def test_who_waits_and_is_cancelled_gives_its_place_back(pool, hosts):
    endpoint = hosts["web1"].endpoint()
    busy = asyncio.gather(*(pool.run(endpoint, Script(text="sleep 0.6")) for _ in range(8)))
    await asyncio.sleep(0.3)
    waiting = [asyncio.ensure_future(pool.run(endpoint, TRUE)) for _ in range(5)]
    await asyncio.sleep(0.05)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await busy
    done = await asyncio.gather(*(pool.run(endpoint, Script(text="sleep 0.05")) for _ in range(16)))
    assert all(one.ok for one in done)
    (state,) = pool.connections()
    assert (state.channels, state.waiting) == (0, 0)


async def test_all_who_wait_for_a_dead_host_share_one_dial_and_its_end(hosts):
    pool = Pool(connect_timeout=1, login_timeout=1)
    bastion, target = hosts["web1"], hosts["web2"]
    bastion.freeze()
    endpoint = target.endpoint(via=bastion.endpoint())
    async with asyncio.timeout(5):
        ends = await asyncio.gather(*(pool.run(endpoint, TRUE) for _ in range(20)), return_exceptions=True)
    assert all(isinstance(end, Unreachable) for end in ends)
    assert all(str(end).count("on the way to") == 1 for end in ends)
    assert len({id(end) for end in ends}) == 20
    bastion.thaw()
    assert (await pool.run(endpoint, TRUE)).ok
    await pool.close()


async def test_one_who_goes_away_does_not_end_the_dial_for_others(pool, hosts):
    hosts["web1"].behaviour.login_delay = 0.3
    first, second = (asyncio.ensure_future(pool.run(hosts["web1"].endpoint(), TRUE)) for _ in range(2))
    await asyncio.sleep(0.1)
    first.cancel()
    assert (await second).ok
    assert first.cancelled()
    assert hosts["web1"].dials == 1


async def test_closing_ends_a_dial_with_a_word(hosts):
    pool = Pool()
    hosts["web1"].freeze()
    waiting = asyncio.ensure_future(pool.run(hosts["web1"].endpoint(), TRUE))
    await asyncio.sleep(0.1)
    await pool.close()
    async with asyncio.timeout(5):
        with pytest.raises(Unavailable):
            await waiting
