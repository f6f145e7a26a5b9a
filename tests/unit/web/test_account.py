"""One's account, people and secrets through their forms: what is shown once, what asks for a proof."""

from __future__ import annotations

import re
from typing import Any

import pyotp

from opsdeck.actor import SYSTEM
from opsdeck.secrets.sensitive import Sensitive

PASSWORD = "correct horse battery"


async def stale(visit: Any) -> None:
    """Let the proof of the last login grow old."""
    from sqlmodel import select

    from opsdeck.accounts.models import WebSession

    async with visit.deck.db.write() as session:
        for row in (await session.exec(select(WebSession))).all():
            row.data = b"{}"
            session.add(row)


async def send(visit: Any, path: str, **form: str) -> Any:
    form["_csrf_token"] = await visit.token("/account")
    return await visit.client.post(path, data=form, follow_redirects=False)


async def test_a_token_is_shown_once_and_works(visit: Any) -> None:
    await visit.log_in()
    answer = await send(visit, "/account/tokens", name="ci", role="viewer", days="7", scopes="")
    token = re.search(r'id="token">(opd_[^<]+)<', answer.text)
    assert token is not None
    assert token[1] not in (await visit.client.get("/account")).text
    headers = {"Authorization": f"Bearer {token[1]}"}
    assert (await visit.client.get("/api/v1/jobs", headers=headers)).status_code == 200


async def test_a_token_asks_for_a_fresh_proof(visit: Any) -> None:
    await visit.log_in()
    await stale(visit)
    answer = await send(visit, "/account/tokens", name="ci", role="viewer", days="7", _proof="wrong")
    assert answer.status_code >= 400
    assert "opd_" not in answer.text
    assert await visit.deck.accounts.tokens.list("admin") == ()


async def test_the_second_factor_is_set_up_and_then_asked_for(visit: Any) -> None:
    await visit.log_in()
    begun = (await send(visit, "/account/totp", act="begin")).text
    assert 'src="data:image/png;base64,' in begun
    seed = re.search(r"<code>([A-Z2-7]{16,})</code>", begun)
    ticket = re.search(r'name="ticket" value="([^"]+)"', begun)
    assert seed is not None and ticket is not None
    wrong = await send(visit, "/account/totp", act="confirm", ticket=ticket[1], first_code="000000")
    assert wrong.status_code == 422
    done = await send(visit, "/account/totp", act="confirm", ticket=ticket[1], first_code=pyotp.TOTP(seed[1]).now())
    assert done.status_code == 303
    await visit.post("/logout")
    form = {"_csrf_token": await visit.token(), "name": "admin", "password": PASSWORD}
    asked = await visit.client.post("/login", data=form, follow_redirects=False)
    assert asked.status_code in {401, 403}
    assert re.search(r'name="code"[^>]*required', asked.text)


async def test_a_password_change_proves_the_old_one_and_ends_other_logins(visit: Any) -> None:
    await visit.log_in()
    bad = await send(visit, "/account/password", _proof="wrong", new="a new long password", again="a new long password")
    assert bad.status_code >= 400
    differ = await send(visit, "/account/password", _proof=PASSWORD, new="a new long password", again="another")
    assert differ.status_code == 422
    good = await send(
        visit, "/account/password", _proof=PASSWORD, new="a new long password", again="a new long password"
    )
    assert good.status_code == 303
    assert (await visit.client.get("/account", follow_redirects=False)).status_code == 200
    user = await visit.deck.accounts.authenticate("admin", Sensitive("a new long password"), "", "192.0.2.9")
    assert user.name == "admin"


async def test_people_are_added_with_a_password_that_is_shown_once(visit: Any) -> None:
    await visit.log_in()
    answer = await send(visit, "/people", name="kim", role="operator")
    password = re.search(r'id="once">([^<]+)<', answer.text)
    assert password is not None
    assert password[1] not in (await visit.client.get("/people")).text
    assert (await visit.deck.accounts.authenticate("kim", Sensitive(password[1]), "", "192.0.2.9")).role == "operator"
    assert (await send(visit, "/people/admin", act="disable")).status_code == 409
    await stale(visit)
    assert (await send(visit, "/people/kim", act="role", role="admin")).status_code == 403


async def test_a_secrets_value_never_comes_out(visit: Any) -> None:
    await visit.log_in()
    await send(visit, "/secrets", name="db", kind="password", value="do-not-show-me")
    pages = ["/secrets", "/audit", "/hosts/add", "/palette", "/health"]
    for path in pages:
        assert "do-not-show-me" not in (await visit.client.get(path)).text, path
    refused = await send(visit, "/secrets", name="bad", kind="ssh-key", value="do-not-show-me-either")
    assert refused.status_code == 422
    assert "do-not-show-me-either" not in refused.text
    opened = await visit.deck.secrets.reveal("db", actor=SYSTEM, purpose="test")
    assert opened.reveal() == "do-not-show-me"
    assert (await send(visit, "/secrets/remove/db", confirm="other")).status_code == 422
    assert (await send(visit, "/secrets/remove/db", confirm="db")).status_code == 303
