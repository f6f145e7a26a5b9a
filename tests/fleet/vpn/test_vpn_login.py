"""Logging in to an office: passwords, codes and passphrases, none of them ever tried without end."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pyotp
import pytest
from opsdeck_vpn import enrol

from opsdeck.actor import SYSTEM
from opsdeck.errors import Conflict, Invalid
from opsdeck.secrets.sensitive import Sensitive as secret

pytestmark = pytest.mark.fleet

if TYPE_CHECKING:
    Office = Any
    Gateway = Any

SITE = "the intranet says hello"


async def test_the_wrong_password_is_tried_once_and_said(office: Office, gateway: Gateway) -> None:
    office.open(login=True)
    await gateway.take_in("office", office.profile(login=True), username="alice", password=secret("wrong-one"))
    job = await gateway.run("up", "office")
    assert job.state == "failed"
    assert "refused the user name or password" in await gateway.said(job)
    assert (await gateway.row("office")).state == "failed"
    async with gateway.watching():
        await gateway.tells()
        await asyncio.sleep(3)
        assert office.attempts == 1
        assert (await gateway.row("office")).state == "failed"
        assert (await gateway.run("down", "office")).state == "succeeded"
        assert await gateway.deck.incidents.open_now() == ()
    await gateway.deck.secrets.set("vpn-office-password", secret("right-one"), actor=SYSTEM)
    job = await gateway.run("up", "office")
    assert job.state == "succeeded", await gateway.said(job)


@pytest.mark.campaign
async def test_a_code_is_asked_for_and_a_stale_one_never_hammers(office: Office, gateway: Gateway) -> None:
    office.open(login=True)
    office.codes("111111", "222222")
    profile = office.profile(login=True, extra='static-challenge "Enter OTP" 1')
    tunnel = await gateway.take_in("office", profile, username="alice", password=secret("right-one"))
    job = await gateway.run("up", "office")
    assert job.state == "succeeded"
    row = await gateway.row("office")
    assert (row.state, row.challenge) == ("wait_otp", "Enter OTP")
    assert office.attempts == 0
    async with gateway.watching():
        for number in range(1, 4):
            await enrol.give_code(gateway.deck, "office", f"00000{number}", SYSTEM)
            wanted = "failed" if number == 3 else "wait_otp"
            await gateway.comes(
                "office", lambda row, number=number, wanted=wanted: row.state == wanted and office.attempts == number
            )
        row = await gateway.row("office")
        assert "3 codes" in row.reason
        with pytest.raises(Conflict, match="nobody waits"):
            await enrol.give_code(gateway.deck, "office", "111111", SYSTEM)
        await asyncio.sleep(4)
        assert office.attempts == 3
    assert (await gateway.run("up", "office")).state == "succeeded"
    async with gateway.watching():
        await gateway.comes("office", lambda row: row.state == "wait_otp")
        await enrol.give_code(gateway.deck, "office", "222222", SYSTEM)
        await gateway.comes("office", lambda row: row.state == "up")
        tries, logins = office.attempts, office.logins
        office.codes("333333")
        gateway.sh("systemctl kill -s USR1 opsdeck-vpn-office-dial.service")
        await gateway.comes("office", lambda row: office.logins > logins and row.state == "up")
        await gateway.reaches(tunnel)
        assert office.attempts == tries


@pytest.mark.campaign
async def test_codes_that_are_refused_one_command_after_another_are_counted(office: Office, gateway: Gateway) -> None:
    office.open(login=True)
    office.codes("111111")
    profile = office.profile(login=True, extra='static-challenge "Enter OTP" 1')
    await gateway.take_in("office", profile, username="alice", password=secret("right-one"))
    await gateway.cli("vpn", "up", "office")
    for number in (1, 2):
        said = await gateway.cli("vpn", "code", "office", typed=f"00000{number}\n", code=4)
        assert f"refused the code ({number} of 3)" in said
    said = await gateway.cli("vpn", "code", "office", typed="000003\n", code=1)
    assert "refused 3 codes" in said
    assert "nobody waits" in await gateway.cli("vpn", "code", "office", typed="111111\n", code=4)
    assert office.attempts == 3
    await gateway.cli("vpn", "up", "office")
    await gateway.cli("vpn", "code", "office", typed="111111\n")
    assert (await gateway.row("office")).state == "up"


@pytest.mark.campaign
async def test_a_server_that_asks_back_is_answered_and_a_rekey_asks_nothing(office: Office, gateway: Gateway) -> None:
    office.open(login=True, extra="auth-gen-token 3600 60\nhand-window 8\nreneg-sec 9")
    office.codes("424242")
    office.asks_back()
    tunnel = await gateway.take_in(
        "office", office.profile(login=True), username="alice", password=secret("right-one"), otp="ask"
    )
    assert (await gateway.run("up", "office")).state == "succeeded"
    row = await gateway.row("office")
    assert (row.state, row.challenge) == ("wait_otp", "The code, please: PIN")
    async with gateway.watching():
        await asyncio.sleep(4)  # the watcher takes the conversation up, and spends no password
        assert office.tried == ["right-one"]
        await enrol.give_code(gateway.deck, "office", "000000", SYSTEM)
        await gateway.comes("office", lambda row: row.state == "wait_otp" and "1 of 3" in row.reason)
        await gateway.cli("vpn", "code", "office", typed="424242\n")
        await gateway.comes("office", lambda row: row.state == "up")
        assert office.tried == ["right-one", "CRV1", "right-one", "CRV1"]
        office.codes("none counts now")
        row = await gateway.comes("office", lambda _row: office.rekeys >= 2, 60)
        assert row.state == "up"
        assert len(office.tried) == 4
        assert SITE in await gateway.curl(tunnel, "http://intra.corp.test/")
        office.sh("systemctl stop office-vpn; systemctl reset-failed office-vpn 2>/dev/null; true")
        office.serve()  # it knows no token any more
        await gateway.comes("office", lambda row: row.state == "wait_otp")
        assert office.tried[4:] == ["right-one"], "the code of the last time was sent again"


@pytest.mark.campaign
async def test_a_seed_makes_the_codes(office: Office, gateway: Gateway) -> None:
    office.open(login=True)
    seed = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
    now = int(time.time())
    office.codes(*(pyotp.TOTP(seed).at(now + 30 * step) for step in range(-1, 6)))
    for name, extra, concat in (("otp", 'static-challenge "Enter OTP" 0', False), ("joined", "", True)):
        profile = office.profile(login=True, extra=extra)
        await gateway.take_in(
            name, profile, username="alice", password=secret("right-one"), otp="seed", seed=secret(seed), concat=concat
        )
        job = await gateway.run("up", name)
        assert job.state == "succeeded", await gateway.said(job)
        assert (await gateway.row(name)).state == "up"


@pytest.mark.campaign
async def test_a_locked_key_is_opened_by_its_passphrase_alone(office: Office, gateway: Gateway) -> None:
    office.open()
    profile = office.profile(passphrase="lock-and-key")
    with pytest.raises(Invalid, match="has a passphrase"):
        await gateway.take_in("office", profile)
    await gateway.take_in("wrong", profile, passphrase=secret("not-the-right-one"))
    job = await gateway.run("up", "wrong", wait=40)
    assert job.state == "failed"
    assert "passphrase of the private key is wrong" in await gateway.said(job)
    tunnel = await gateway.take_in("office", profile, passphrase=secret("lock-and-key"))
    job = await gateway.run("up", "office")
    assert job.state == "succeeded", await gateway.said(job)
    assert SITE in await gateway.curl(tunnel, "http://intra.corp.test/")
    assert "lock-and-key" not in gateway.sh("cat /etc/opsdeck/vpn/*/*")
    for name in ("office", "wrong"):
        assert (await gateway.run("remove", name)).state == "succeeded"
    assert not [name for name in await gateway.deck.secrets.names() if name.startswith("vpn-")]
