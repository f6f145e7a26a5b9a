"""Logging in: passwords, codes, links, and what happens to those who guess."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any

import pyotp
import pytest

from opsdeck.accounts import passwords
from opsdeck.accounts.accounts import Accounts
from opsdeck.accounts.limits import TooManyAttempts, source
from opsdeck.accounts.login import CodeNeeded
from opsdeck.accounts.permissions import StepUpNeeded
from opsdeck.accounts.tokens import NotAuthenticated
from opsdeck.actor import SYSTEM, Actor, Door, Role
from opsdeck.audit.log import AuditLog, Filters
from opsdeck.errors import Invalid, NotFound, Refused, Unavailable
from opsdeck.secrets.sensitive import Sensitive

HERE = "192.0.2.7"
WRONG = Sensitive("wrong horse battery")


@pytest.fixture
async def with_code(accounts: Accounts) -> pyotp.TOTP:
    """Turn Ada's second factor on; give her app. Its present code was used up by that."""
    ada = Actor("ada", Role.ADMIN, Door.WEB, stepped_up=True)
    enrolment = await accounts.enrol_totp("ada", ada)
    app = pyotp.TOTP(enrolment.seed.reveal())
    await accounts.confirm_totp("ada", enrolment.ticket, app.at(time.time() - 30), ada)
    return app


async def test_the_right_password(accounts: Accounts, password: Sensitive, audit: AuditLog) -> None:
    user = await accounts.authenticate(" Ada ", password, "", HERE)
    assert user.name == "ada"
    assert (await accounts.get("ada")).last_login is not None
    (entry,) = await audit.list(Filters(verb="login.*"))
    assert (entry.verb, entry.target, entry.actor) == ("login.succeeded", "user:ada", "ada")
    assert (await accounts.authenticate("ada", password.reveal(), "", HERE)).name == "ada"


@pytest.mark.parametrize("name", ["ada", "nobody", "", "x" * 5000, "a\0b", "\udcff"])
async def test_one_sentence_for_all_that_is_wrong(accounts: Accounts, name: str) -> None:
    with pytest.raises(NotAuthenticated, match="name, password or code is wrong") as caught:
        await accounts.authenticate(name, WRONG, "", HERE)
    assert caught.value.status == 401


async def test_a_name_nobody_has_is_not_written_down(accounts: Accounts, audit: AuditLog) -> None:
    with pytest.raises(NotAuthenticated):
        await accounts.authenticate("hunter22-my-password", WRONG, "", HERE)
    (entry,) = await audit.list(Filters(verb="login.failed"))
    assert "hunter22" not in entry.body
    assert HERE in entry.body


async def test_the_same_work_for_a_name_nobody_has(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    worked: list[str] = []
    real = passwords._verify
    monkeypatch.setattr(passwords, "_verify", lambda text, kept: worked.append(kept) or real(text, kept))
    for name in ("ada", "nobody"):
        with pytest.raises(NotAuthenticated):
            await accounts.authenticate(name, WRONG, "", HERE)
    cost = [kept.split("$")[3] for kept in worked]
    assert len(cost) == 2
    assert cost[0] == cost[1]


async def test_the_disabled_stay_out(accounts: Accounts, password: Sensitive) -> None:
    await accounts.set_disabled("vera", True, SYSTEM)
    with pytest.raises(NotAuthenticated):
        await accounts.authenticate("vera", password, "", HERE)


async def test_guessing_is_slowed_down(accounts: Accounts, password: Sensitive, clock: Any, audit: AuditLog) -> None:
    tried, waits = 0, []
    for _ in range(12):
        try:
            await accounts.authenticate("ada", WRONG, "", f"192.0.2.{tried}")
        except TooManyAttempts as fault:
            assert fault.status == 429
            assert str(fault.seconds) in fault.message
            waits.append(fault.seconds)
            with pytest.raises(TooManyAttempts):
                await accounts.authenticate("ada", password, "", "198.51.100.1")
            clock.ahead += timedelta(seconds=fault.seconds)
        except NotAuthenticated:
            tried += 1
    assert waits == sorted(waits)
    assert waits[:4] == [15, 30, 60, 120]
    assert tried == 8
    assert len(await audit.list(Filters(verb="login.failed"))) == tried
    clock.ahead += timedelta(minutes=16)
    assert await accounts.authenticate("ada", password, "", HERE)
    with pytest.raises(NotAuthenticated):
        await accounts.authenticate("ada", WRONG, "", HERE)


async def test_a_hundred_guesses_at_once_get_no_more_than_one_after_another(accounts: Accounts, clock: Any) -> None:
    outcomes = await asyncio.gather(
        *(accounts.authenticate("ada", WRONG, "", f"192.0.2.{n}") for n in range(40)), return_exceptions=True
    )
    refused = [each for each in outcomes if isinstance(each, TooManyAttempts)]
    assert {type(each) for each in outcomes} == {NotAuthenticated, TooManyAttempts}
    assert len(outcomes) - len(refused) == 5


async def test_one_address_that_tries_many_names(accounts: Accounts, password: Sensitive, clock: Any) -> None:
    for number in range(20):
        with pytest.raises(NotAuthenticated):
            await accounts.authenticate(f"user{number}", WRONG, "", f"2001:db8:0:1::{number:x}")
    with pytest.raises(TooManyAttempts):
        await accounts.authenticate("ada", password, "", "2001:db8:0:1::ffff")
    assert await accounts.authenticate("ada", password, "", "2001:db8:0:2::1"), "others are not shut out"


def test_an_ipv6_address_counts_with_its_network() -> None:
    assert source("x", "2001:db8::1") == source("x", "2001:db8::2:3")
    assert source("x", "192.0.2.1") != source("x", "192.0.2.2")
    assert source("x", "not an address" * 50).name


async def test_old_failures_are_forgotten(accounts: Accounts, clock: Any, db: Any) -> None:
    for _ in range(4):
        with pytest.raises(NotAuthenticated):
            await accounts.authenticate("ada", WRONG, "", "")
    clock.ahead += timedelta(hours=25)
    for _ in range(5):
        with pytest.raises(NotAuthenticated):
            await accounts.authenticate("ada", WRONG, "", "")
    clock.ahead += timedelta(hours=25)
    await accounts.prune()
    async with db.read() as session:
        from sqlmodel import select

        from opsdeck.accounts.models import Attempt

        assert (await session.exec(select(Attempt))).all() == []


async def test_codes(accounts: Accounts, password: Sensitive, with_code: pyotp.TOTP) -> None:
    with pytest.raises(CodeNeeded) as caught:
        await accounts.authenticate("ada", password, "", HERE)
    assert caught.value.field == "code"
    code = with_code.now()
    assert (await accounts.authenticate("ada", password, f"{code[:3]} {code[3:]}", HERE)).name == "ada"
    with pytest.raises(NotAuthenticated):
        await accounts.authenticate("ada", password, code, HERE)


async def test_an_older_code_than_the_last_is_refused(
    accounts: Accounts, password: Sensitive, with_code: pyotp.TOTP
) -> None:
    await accounts.authenticate("ada", password, with_code.at(time.time() + 30), HERE)
    with pytest.raises(NotAuthenticated):
        await accounts.authenticate("ada", password, with_code.now(), HERE)


@pytest.mark.parametrize("code", ["000000", "12345", "1234567", "abcdef", "１２３４５６", "'; --"])
async def test_wrong_codes(accounts: Accounts, password: Sensitive, with_code: pyotp.TOTP, code: str) -> None:
    with pytest.raises(NotAuthenticated):
        await accounts.authenticate("ada", password, code, HERE)


async def test_one_code_in_two_logins_at_once_works_once(
    accounts: Accounts, password: Sensitive, with_code: pyotp.TOTP
) -> None:
    code = with_code.now()
    outcomes = await asyncio.gather(
        *(accounts.authenticate("ada", password, code, HERE) for _ in range(4)), return_exceptions=True
    )
    assert sum(not isinstance(each, BaseException) for each in outcomes) == 1


async def test_asking_for_the_code_again_does_not_forgive_wrong_ones(
    accounts: Accounts, password: Sensitive, with_code: pyotp.TOTP, clock: Any
) -> None:
    wrong = 0
    for _ in range(30):
        try:
            await accounts.authenticate("ada", password, "000000", "")
        except TooManyAttempts:
            break
        except NotAuthenticated:
            wrong += 1
        try:
            await accounts.authenticate("ada", password, "", "")
        except (CodeNeeded, TooManyAttempts):
            continue
    assert wrong == 5


async def test_enrolment_is_oneself_confirmed_and_bound(accounts: Accounts, password: Sensitive) -> None:
    vera = Actor("vera", Role.VIEWER, Door.WEB, stepped_up=True)
    with pytest.raises(Refused, match="its owner"):
        await accounts.enrol_totp("vera", Actor("ada", Role.ADMIN, Door.WEB))
    enrolment = await accounts.enrol_totp("vera", vera)
    assert enrolment.seed.reveal() in enrolment.uri.reveal()
    assert enrolment.seed.reveal() not in enrolment.ticket + repr(enrolment)
    for ticket, code in (
        (enrolment.ticket, "000000"),
        (enrolment.ticket[:-8] + "AAAAAAA=", "1"),
        ("", "1"),
        ("ü", "1"),
    ):
        with pytest.raises(Invalid):
            await accounts.confirm_totp("vera", ticket, code, vera)
    code = pyotp.TOTP(enrolment.seed.reveal()).now()
    with pytest.raises(Invalid, match="enrolment is over"):
        await accounts.confirm_totp("olga", enrolment.ticket, code, Actor("olga", Role.OPERATOR, Door.WEB))
    assert (await accounts.authenticate("vera", password, "", HERE)).totp_blob is None
    await accounts.confirm_totp("vera", enrolment.ticket, code, vera)
    with pytest.raises(CodeNeeded):
        await accounts.authenticate("vera", password, "", HERE)


async def test_who_finds_a_login_open_cannot_enrol_their_own_app(
    accounts: Accounts, password: Sensitive, with_code: pyotp.TOTP
) -> None:
    for name, role in (("vera", Role.VIEWER), ("ada", Role.ADMIN)):
        with pytest.raises(StepUpNeeded, match="prove again"):
            await accounts.enrol_totp(name, Actor(name, role, Door.WEB))
    assert await accounts.authenticate("ada", password, with_code.now(), HERE)


async def test_an_enrolment_grows_old(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    vera = Actor("vera", Role.VIEWER, Door.WEB, stepped_up=True)
    enrolment = await accounts.enrol_totp("vera", vera)
    real = time.time
    monkeypatch.setattr("opsdeck.accounts.totp.time.time", lambda: real() + 1000)
    with pytest.raises(Invalid, match="enrolment is over"):
        await accounts.confirm_totp("vera", enrolment.ticket, "000000", vera)


async def test_turning_it_off_asks_for_a_fresh_proof(
    accounts: Accounts, password: Sensitive, with_code: pyotp.TOTP
) -> None:
    with pytest.raises(Refused, match="prove again"):
        await accounts.remove_totp("ada", Actor("ada", Role.ADMIN, Door.WEB))
    with pytest.raises(Refused):
        await accounts.remove_totp("ada", Actor("olga", Role.OPERATOR, Door.WEB, stepped_up=True))
    await accounts.remove_totp("ada", Actor("ada", Role.ADMIN, Door.WEB, stepped_up=True))
    assert await accounts.authenticate("ada", password, "", HERE)


async def test_proving_again(accounts: Accounts, password: Sensitive, with_code: pyotp.TOTP, clock: Any) -> None:
    assert (await accounts.prove("ada", code=with_code.now(), source=HERE)).name == "ada"
    assert (await accounts.prove("ada", password=password, source=HERE)).name == "ada"
    for _ in range(5):
        with pytest.raises(NotAuthenticated):
            await accounts.prove("ada", code="000000", source=HERE)
    with pytest.raises(TooManyAttempts):
        await accounts.prove("ada", password=password, source=HERE)


async def test_links_work_once(accounts: Accounts, audit: AuditLog, clock: Any) -> None:
    link = await accounts.make_login_link("vera", SYSTEM)
    assert (await accounts.use_login_link(link.reveal(), HERE)).name == "vera"
    for token in (link.reveal(), "", "nonsense", "ü\udcff", "x" * 10_000):
        with pytest.raises(NotAuthenticated, match="was used, is too old, or is none"):
            await accounts.use_login_link(token, HERE)
    late = await accounts.make_login_link("vera", SYSTEM, timedelta(minutes=5))
    clock.ahead += timedelta(minutes=6)
    with pytest.raises(NotAuthenticated):
        await accounts.use_login_link(late.reveal(), HERE)
    assert link.reveal() not in "".join(entry.body for entry in await audit.list())


async def test_links_at_once_and_of_the_shut_out(accounts: Accounts, clock: Any) -> None:
    link = await accounts.make_login_link("vera", SYSTEM)
    outcomes = await asyncio.gather(
        *(accounts.use_login_link(link.reveal(), HERE) for _ in range(5)), return_exceptions=True
    )
    assert sum(not isinstance(each, BaseException) for each in outcomes) == 1
    link = await accounts.make_login_link("vera", SYSTEM)
    await accounts.set_disabled("vera", True, SYSTEM)
    with pytest.raises(NotAuthenticated):
        await accounts.use_login_link(link.reveal(), HERE)


async def test_guessing_links_is_slowed_down(accounts: Accounts, clock: Any) -> None:
    for _ in range(20):
        with pytest.raises(NotAuthenticated):
            await accounts.use_login_link("guess", HERE)
    link = await accounts.make_login_link("vera", SYSTEM)
    with pytest.raises(TooManyAttempts):
        await accounts.use_login_link(link.reveal(), HERE)


async def test_who_makes_links(accounts: Accounts) -> None:
    for actor in (Actor("olga", Role.OPERATOR, Door.WEB), Actor("t", Role.ADMIN, Door.API, scopes=("*",))):
        with pytest.raises(Refused):
            await accounts.make_login_link("ada", actor)
    with pytest.raises(NotFound):
        await accounts.make_login_link("nobody", SYSTEM)
    with pytest.raises(Invalid):
        await accounts.make_login_link("ada", SYSTEM, timedelta(days=8))
    await accounts.set_disabled("vera", True, SYSTEM)
    with pytest.raises(Refused, match="disabled"):
        await accounts.make_login_link("vera", SYSTEM)


async def test_hashes_grow_with_the_costs(
    accounts: Accounts, password: Sensitive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passwords, "ROUNDS", 2)
    await accounts.authenticate("ada", password, "", HERE)
    assert ",t=2," in (await accounts.get("ada")).password_hash
    assert await accounts.authenticate("ada", password, "", HERE)


async def test_too_many_at_once_are_told_so(accounts: Accounts, password: Sensitive, monkeypatch: Any) -> None:
    monkeypatch.setattr(passwords, "WAIT_SECONDS", 0.05)
    monkeypatch.setattr(passwords, "_verify", lambda *_: time.sleep(0.5))
    with pytest.raises(Unavailable, match="too many people"):
        await accounts.authenticate("ada", password, "", HERE)
