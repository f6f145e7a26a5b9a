"""People, their roles, their sessions, their tokens."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlmodel import select

from opsdeck.accounts import passwords, sessions
from opsdeck.accounts.accounts import Accounts
from opsdeck.accounts.limits import TooManyAttempts
from opsdeck.accounts.models import Token
from opsdeck.accounts.permissions import StepUpNeeded
from opsdeck.accounts.sessions import Sessions, step_up_until, stepped_up
from opsdeck.accounts.tokens import NotAuthenticated
from opsdeck.actor import SYSTEM, Actor, Door, Role
from opsdeck.audit.log import AuditLog
from opsdeck.clock import utcnow
from opsdeck.db import Database
from opsdeck.errors import Conflict, Invalid, NotFound, Refused
from opsdeck.manifest import Action, Risk
from opsdeck.secrets.sensitive import Sensitive

ADA = Actor("ada", Role.ADMIN, Door.WEB)
OLGA = Actor("olga", Role.OPERATOR, Door.WEB)
VERA = Actor("vera", Role.VIEWER, Door.WEB)


async def _step(*_given: object) -> None:
    return None


def action(risk: Risk) -> Action:
    return Action("purge", "Purge", "", risk=risk, step=_step)


@pytest.mark.parametrize("name", ["", "Ada", "a b", "-a", "ä", "a" * 64, "a/b", "a\n"])
async def test_names_that_cannot_be(accounts: Accounts, name: str, password: Sensitive) -> None:
    with pytest.raises(Invalid) as caught:
        await accounts.create(name, password, Role.VIEWER, ADA)
    assert caught.value.field == "name"


@pytest.mark.parametrize("text", ["", "short", "x" * 1025, "my name is gustav"])
async def test_passwords_that_cannot_be(accounts: Accounts, text: str) -> None:
    with pytest.raises(Invalid) as caught:
        await accounts.create("gustav", Sensitive(text), Role.VIEWER, ADA)
    assert caught.value.field == "password"
    with pytest.raises(Invalid):
        await accounts.set_password("vera", Sensitive(text[:5]), ADA)


async def test_two_of_one_name(accounts: Accounts, password: Sensitive) -> None:
    with pytest.raises(Conflict, match="vera exists"):
        await accounts.create("vera", password, Role.VIEWER, ADA)


async def test_only_admins_see_to_people(accounts: Accounts, password: Sensitive) -> None:
    for actor in (OLGA, VERA, Actor("t", Role.ADMIN, Door.API, scopes=("core.*",))):
        for call in (
            accounts.create("eve", password, Role.ADMIN, actor),
            accounts.set_role("vera", Role.ADMIN, actor),
            accounts.set_disabled("ada", True, actor),
            accounts.set_password("ada", password, actor),
            accounts.remove("ada", actor),
        ):
            with pytest.raises(Refused):
                await call
    assert {person.name for person in await accounts.list()} == {"ada", "olga", "vera"}


async def test_the_last_admin_stays(accounts: Accounts) -> None:
    for call in (
        accounts.set_role("ada", Role.OPERATOR, ADA),
        accounts.set_disabled("ada", True, ADA),
        accounts.remove("ada", ADA),
    ):
        with pytest.raises(Conflict, match="ada is the last admin"):
            await call
    await accounts.set_role("olga", Role.ADMIN, ADA)
    await accounts.set_disabled("olga", True, ADA)
    with pytest.raises(Conflict):
        await accounts.remove("ada", ADA)
    await accounts.set_disabled("olga", False, ADA)
    await accounts.remove("ada", ADA)
    assert [person.name for person in await accounts.list()] == ["olga", "vera"]


async def test_what_ends_logins(accounts: Accounts, password: Sensitive) -> None:
    vera = (await accounts.get("vera")).id
    changes: list[Any] = [
        lambda: accounts.set_role("vera", Role.OPERATOR, ADA),
        lambda: accounts.set_password("vera", password, ADA),
        lambda: accounts.set_disabled("vera", True, ADA),
        lambda: accounts.remove("vera", ADA),
    ]
    for change in changes:
        await accounts.sessions.set("s", b"{}", expires_in=timedelta(hours=1), user_id=vera)
        await accounts.sessions.set("other", b"{}", expires_in=timedelta(hours=1), user_id=None)
        await change()
        assert await accounts.sessions.get("s") is None
        assert await accounts.sessions.get("other") == b"{}"


async def test_ones_own_password_keeps_the_login_it_was_changed_in(accounts: Accounts, password: Sensitive) -> None:
    vera = (await accounts.get("vera")).id
    for key in ("here", "there"):
        await accounts.sessions.set(key, b"{}", expires_in=timedelta(hours=1), user_id=vera)
    await accounts.set_password("vera", Sensitive("another long password"), VERA, keep="here")
    assert await accounts.sessions.get("here") == b"{}"
    assert await accounts.sessions.get("there") is None
    with pytest.raises(NotAuthenticated):
        await accounts.authenticate("vera", password, "", "")
    assert await accounts.authenticate("vera", Sensitive("another long password"), "", "")


async def test_all_of_it_is_audited(accounts: Accounts, audit: AuditLog, password: Sensitive) -> None:
    await accounts.set_role("vera", Role.OPERATOR, ADA)
    await accounts.set_disabled("vera", True, ADA)
    await accounts.set_disabled("vera", True, ADA)
    await accounts.set_disabled("vera", False, ADA)
    await accounts.set_password("vera", password, ADA)
    await accounts.remove("vera", ADA)
    entries = await audit.list()
    assert [entry.verb for entry in reversed(entries)][3:] == [
        "user.role_changed",
        "user.disabled",
        "user.enabled",
        "user.password_changed",
        "user.removed",
    ]
    assert (await audit.verify()).bad is None
    for call in (accounts.get("vera"), accounts.set_role("vera", Role.ADMIN, ADA), accounts.remove("vera", ADA)):
        with pytest.raises(NotFound):
            await call


def test_made_passwords_are_good() -> None:
    made = {passwords.make_password().reveal() for _ in range(50)}
    assert len(made) == 50
    assert all(len(text) == 27 and not set(text) & set("ilo01") for text in made)


async def test_sessions(db: Database, clock: Any) -> None:
    kept = Sessions(db)
    hour = timedelta(hours=1)
    assert await kept.get("k") is None
    await kept.set("k", b"1", expires_in=hour)
    await kept.set("k", b"2", expires_in=hour)
    assert await kept.get("k") == b"2"
    clock.ahead = timedelta(minutes=20)
    await kept.get("k", renew_for=hour)
    clock.ahead = timedelta(minutes=50)
    assert await kept.get("k", renew_for=hour) == b"2"
    clock.ahead = timedelta(minutes=100)
    assert await kept.get("k") == b"2", "it was renewed after half its time"
    clock.ahead = timedelta(minutes=111)
    assert await kept.get("k") is None
    await kept.prune()
    clock.ahead = timedelta(0)
    assert await kept.get("k") is None
    await kept.set("k", b"3", expires_in=hour)
    await kept.delete("k")
    await kept.delete("k")
    assert await kept.get("k") is None


async def test_sessions_of_a_person(accounts: Accounts) -> None:
    vera = await accounts.get("vera")
    assert vera.id
    await accounts.sessions.set("k", b"1", expires_in=timedelta(hours=1), user_id=vera.id)
    await accounts.sessions.set("k", b"2", expires_in=timedelta(hours=1))
    await accounts.make_login_link("vera", SYSTEM)
    assert [info.key for info in await accounts.sessions.list(vera.id)] == ["k"]
    await accounts.sessions.delete_for_user(vera.id)
    assert await accounts.sessions.list(vera.id) == ()


def test_step_up(monkeypatch: pytest.MonkeyPatch) -> None:
    data = {sessions.STEP_UP_FIELD: step_up_until()}
    assert stepped_up(data)
    far = (utcnow() + timedelta(days=1)).isoformat()
    for text in (None, "", "x", 7, far, "2026-01-01T00:00:00", "2020-01-01T00:00:00+00:00"):
        assert not stepped_up({sessions.STEP_UP_FIELD: text})
    assert not stepped_up({})
    monkeypatch.setattr(sessions, "utcnow", lambda: utcnow() + timedelta(minutes=11))
    assert not stepped_up(data)


async def test_tokens(accounts: Accounts, db: Database, audit: AuditLog, clock: Any) -> None:
    info, token = await accounts.tokens.create("olga", "ci", role=Role.OPERATOR, scopes=["core.*"], actor=OLGA)
    actor = await accounts.authenticate_token(token.reveal(), "192.0.2.1")
    assert actor == Actor("olga/ci", Role.OPERATOR, Door.API, "192.0.2.1", scopes=("core.*",))
    async with db.read() as session:
        row = (await session.exec(select(Token))).one()
    assert token.reveal().split("_", 2)[2] not in row.model_dump_json()
    assert row.last_used is not None
    assert info.expires is not None
    assert timedelta(days=89) < info.expires - utcnow() < timedelta(days=91)
    assert token.reveal() not in "".join(entry.body for entry in await audit.list())
    await accounts.set_role("olga", Role.VIEWER, ADA)
    assert (await accounts.authenticate_token(token.reveal(), "")).role is Role.VIEWER, "never more than its owner"
    clock.ahead = timedelta(days=91)
    with pytest.raises(NotAuthenticated, match="has expired"):
        await accounts.authenticate_token(token.reveal(), "")


async def test_tokens_end(accounts: Accounts) -> None:
    first, one = await accounts.tokens.create("olga", "one", role=Role.VIEWER, actor=OLGA)
    _, two = await accounts.tokens.create("olga", "two", role=Role.VIEWER, actor=ADA)
    with pytest.raises(Refused):
        await accounts.tokens.revoke(first.prefix, VERA)
    await accounts.tokens.revoke(f"opd_{first.prefix}", OLGA)
    await accounts.tokens.revoke(first.prefix, OLGA)
    with pytest.raises(NotAuthenticated, match="was revoked"):
        await accounts.authenticate_token(one.reveal(), "")
    await accounts.set_disabled("olga", True, ADA)
    with pytest.raises(NotAuthenticated, match="disabled"):
        await accounts.authenticate_token(two.reveal(), "")
    assert [info.name for info in await accounts.tokens.list("olga")] == ["two", "one"]
    await accounts.remove("olga", ADA)
    with pytest.raises(NotAuthenticated, match="not known"):
        await accounts.authenticate_token(two.reveal(), "")
    with pytest.raises(NotFound):
        await accounts.tokens.revoke(first.prefix, ADA)


async def test_tokens_that_are_not_made(accounts: Accounts) -> None:
    make = accounts.tokens.create
    with pytest.raises(Refused, match="may not be admin"):
        await make("olga", "x", role=Role.ADMIN, actor=ADA)
    with pytest.raises(Refused):
        await make("ada", "x", role=Role.VIEWER, actor=OLGA)
    with pytest.raises(Refused, match="limited to"):
        await make("olga", "x", role=Role.VIEWER, actor=Actor("olga", Role.OPERATOR, Door.API, scopes=("core.run",)))
    with pytest.raises(NotFound):
        await make("nobody", "x", role=Role.VIEWER, actor=ADA)
    for wrong in ({"name": " "}, {"name": "x" * 64}, {"scopes": ["no scope"]}, {"scopes": ["a.b.c"]}, {"days": 0}):
        with pytest.raises(Invalid):
            await make("ada", **({"name": "x", "role": Role.VIEWER, "actor": ADA} | wrong))


@pytest.mark.parametrize("text", ["", "opd_", "opd_000000000000_" + "A" * 43, "Bearer x", "ü\udcff\0", "x" * 100_000])
async def test_wrong_tokens(accounts: Accounts, text: str) -> None:
    with pytest.raises(NotAuthenticated, match="not known"):
        await accounts.authenticate_token(text, "192.0.2.1")


async def test_guessing_tokens_is_slowed_down(accounts: Accounts, clock: Any) -> None:
    _, token = await accounts.tokens.create("olga", "ci", role=Role.VIEWER, actor=OLGA)
    for _ in range(20):
        with pytest.raises(NotAuthenticated):
            await accounts.authenticate_token(token.reveal()[:-1] + "!", "192.0.2.1")
    with pytest.raises(TooManyAttempts):
        await accounts.authenticate_token(token.reveal(), "192.0.2.1")
    assert await accounts.authenticate_token(token.reveal(), "192.0.2.2")


@pytest.mark.parametrize(
    ("role", "risk", "allowed"),
    [
        (Role.VIEWER, Risk.READ, True),
        (Role.VIEWER, Risk.CHANGE, False),
        (Role.VIEWER, Risk.DESTROY, False),
        (Role.OPERATOR, Risk.READ, True),
        (Role.OPERATOR, Risk.CHANGE, True),
        (Role.OPERATOR, Risk.DESTROY, True),
        (Role.ADMIN, Risk.DESTROY, True),
    ],
)
async def test_roles(accounts: Accounts, role: Role, risk: Risk, allowed: bool) -> None:
    actor = Actor("x", role, Door.WEB, stepped_up=True)
    if allowed:
        accounts.authorise(actor, action(risk), "cdn")
    else:
        with pytest.raises(Refused, match=f"x is {role.value} and may not run cdn.purge") as caught:
            accounts.authorise(actor, action(risk), "cdn")
        assert caught.value.exit_code == 4


async def test_destroy_asks_for_a_fresh_proof(accounts: Accounts) -> None:
    with pytest.raises(StepUpNeeded):
        accounts.authorise(ADA, action(Risk.DESTROY), "cdn")
    accounts.authorise(Actor("nightly", Role.OPERATOR, Door.SCHEDULE), action(Risk.DESTROY), "cdn")
    for scopes, allowed in (((), False), (("*",), False), (("cdn.*",), False), (("cdn.purge",), True)):
        token = Actor("t", Role.OPERATOR, Door.API, scopes=scopes)
        if allowed:
            accounts.authorise(token, action(Risk.DESTROY), "cdn")
        else:
            with pytest.raises(Refused, match="does not name it in full"):
                accounts.authorise(token, action(Risk.DESTROY), "cdn")


async def test_scopes(accounts: Accounts) -> None:
    for scopes, plugin, allowed in (
        (("cdn.*",), "cdn", True),
        (("*",), "cdn", True),
        (("*.purge",), "cdn", True),
        (("cdn.purge",), "cdnx", False),
        (("core.*", "cdn.flush"), "cdn", False),
        (("cdn.*",), "", False),
        (("purge",), "", False),
    ):
        token = Actor("t", Role.OPERATOR, Door.API, scopes=scopes)
        if allowed:
            accounts.authorise(token, action(Risk.CHANGE), plugin)
        else:
            with pytest.raises(Refused, match="may not run"):
                accounts.authorise(token, action(Risk.CHANGE), plugin)
