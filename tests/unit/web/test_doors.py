"""What the console refuses: no login, no token, another site, a change by GET, too small a role; and what the API asks."""

from __future__ import annotations

from typing import Any

import pytest
from litestar import get
from litestar.testing import AsyncTestClient

from opsdeck.actor import SYSTEM, Role
from opsdeck.inventory.forms import HostIn
from opsdeck.manifest import API, Manifest
from opsdeck_web.app import make_app
from opsdeck_web.security import SAFE_METHODS, local_path

CHANGES = (
    "/logout",
    "/preferences",
    "/hosts/add",
    "/hosts/web1/remove",
    "/hosts/web1/approve",
    "/actions/core/command",
    "/jobs/1/cancel",
    "/jobs/1/retry",
    "/schedules/add",
    "/schedules/x/remove",
    "/secrets",
    "/people",
    "/account/password",
    "/account/tokens",
    "/audit/verify",
)


def routes(app: Any) -> list[tuple[str, set[str]]]:
    return [(route.path, set(route.methods)) for route in app.routes if hasattr(route, "methods")]


async def test_every_page_asks_for_a_login(visit: Any) -> None:
    open_to_all = {"/login", "/login/link/{link:str}", "/preferences", "/logout", "/step-up", "/login/link"}
    for path, methods in routes(visit.client.app):
        if path in open_to_all or path.startswith(("/static", "/api")) or "{rest" in path or "GET" not in methods:
            continue
        answer = await visit.client.get(
            path.replace("{number:int}", "1").replace("{name:str}", "x"), follow_redirects=False
        )
        assert answer.status_code == 303, path
        assert answer.headers["location"].startswith("/login"), path


async def test_htmx_is_led_to_the_login(visit: Any) -> None:
    answer = await visit.client.get("/hosts", headers={"HX-Request": "true"}, follow_redirects=False)
    assert (answer.status_code, answer.headers["HX-Redirect"]) == (204, "/login")


async def test_a_change_without_the_forms_token_is_refused(visit: Any) -> None:
    await visit.log_in()
    for path in CHANGES:
        assert (await visit.client.post(path, data={"name": "x"})).status_code == 403, path


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}]
)
async def test_a_change_from_another_site_is_refused(visit: Any, headers: dict[str, str]) -> None:
    await visit.log_in()
    form = {"_csrf_token": await visit.token("/account")}
    for path in CHANGES:
        answer = await visit.client.post(path, data=form, headers=headers)
        assert answer.status_code == 403, path
        assert "nothing was done" in answer.text, path


async def test_nothing_changes_by_get(visit: Any) -> None:
    await visit.log_in()
    before = await visit.deck.audit.count()
    for path, methods in routes(visit.client.app):
        if "GET" in methods and not path.endswith(("/live", "/stream")) and "static" not in path:
            await visit.client.get(
                path.replace("{number:int}", "1").replace("{name:str}", "x").replace("{plugin:str}", "core")
            )
    assert await visit.deck.audit.count() == before
    for _path, methods in routes(visit.client.app):
        assert methods <= SAFE_METHODS | {"POST"}


async def test_security_headers_are_on_every_answer(visit: Any) -> None:
    for path in ("/login", "/", "/nowhere", "/api/v1/jobs", "/static/none.css"):
        answer = await visit.client.get(path, follow_redirects=False)
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy, path
        assert answer.headers["X-Content-Type-Options"] == "nosniff", path


async def test_the_session_is_new_at_login_and_gone_at_logout(visit: Any) -> None:
    visit.client.cookies.set("opsdeck_session", "chosen-by-somebody-else", domain="testserver.local")
    await visit.log_in()
    cookie = visit.client.cookies.get("opsdeck_session")
    assert cookie != "chosen-by-somebody-else"
    assert await visit.post("/logout") == 303
    answer = await visit.client.get("/hosts", headers={"Cookie": f"opsdeck_session={cookie}"}, follow_redirects=False)
    assert answer.status_code == 303


async def test_a_disabled_person_is_out_at_once(visit: Any) -> None:
    await visit.log_in("operator")
    assert (await visit.client.get("/hosts")).status_code == 200
    await visit.deck.accounts.set_disabled("operator", True, SYSTEM)
    assert (await visit.client.get("/hosts", follow_redirects=False)).status_code == 303


async def test_a_viewer_looks_and_changes_nothing(visit: Any) -> None:
    await visit.deck.inventory.add(HostIn(name="web1", address="192.0.2.1"), SYSTEM)
    await visit.log_in("viewer")
    assert (await visit.client.get("/hosts/web1")).status_code == 200
    assert await visit.post("/hosts/web1/edit", notes="x") == 403
    assert await visit.post("/hosts/web1/remove", confirm="web1") == 403
    assert await visit.post("/secrets", name="abc", value="long enough", kind="text") == 403
    assert await visit.post("/actions/core/command", selector="all", command="id", step="run") == 403
    assert await visit.post("/schedules/add", plugin="core", action="command", name="n", cron="0 0 * * *",
                            selector="all", command="id") == 403  # fmt: skip
    assert (await visit.client.get("/people")).status_code == 403
    assert await visit.post("/people", name="x", role="admin") == 403
    assert [host.notes for host in await visit.deck.inventory.list()] == [""]


async def test_many_wrong_passwords_are_slowed_down(visit: Any) -> None:
    statuses = []
    for _ in range(12):
        form = {"_csrf_token": await visit.token(), "name": "admin", "password": "wrong"}
        statuses.append((await visit.client.post("/login", data=form)).status_code)
    assert statuses[0] == 403 or statuses[0] == 401
    assert statuses[-1] == 429


@pytest.mark.parametrize(
    "target", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:x", "", "/a\nb"]
)
def test_after_login_one_stays_on_this_console(target: str) -> None:
    assert local_path(target) == "/"


async def test_the_api_asks_for_a_token_and_takes_no_cookie(visit: Any) -> None:
    assert (await visit.client.get("/api/v1/jobs")).status_code == 401
    await visit.log_in()
    assert (await visit.client.get("/api/v1/jobs")).status_code == 401
    wrong = await visit.client.get("/api/v1/jobs", headers={"Authorization": "Bearer opd_nope_nope"})
    assert wrong.status_code in {401, 403}


async def test_the_api_has_the_same_checks_as_other_doors(visit: Any) -> None:
    _info, token = await visit.deck.accounts.tokens.create("admin", "t", role=Role.OPERATOR, actor=SYSTEM)
    headers = {"Authorization": f"Bearer {token.reveal()}"}
    actions = (await visit.client.get("/api/v1/actions", headers=headers)).json()
    assert {"plugin": "core", "action": "command"}.items() <= actions[0].items()
    schema = (await visit.client.get("/api/v1/actions/core/command", headers=headers)).json()
    assert "command" in schema["params"]["properties"]
    path = "/api/v1/actions/core/command/jobs"
    missing = await visit.client.post(path, headers=headers, json={"params": {"command": "id"}})
    assert (missing.status_code, missing.json()["field"]) == (422, "selector")
    unknown = await visit.client.post(path, headers=headers, json={"params": {"command": "id"}, "selector": "nobody"})
    assert unknown.status_code == 404
    assert (await visit.client.get("/api/v1/jobs/99", headers=headers)).status_code == 404
    assert (await visit.client.get("/api/schema/openapi.json")).json()["openapi"].startswith("3.")


async def test_a_plugins_page_that_fails_names_it_and_harms_nobody(deck: Any) -> None:
    @get("/boom", sync_to_thread=False)
    def boom() -> str:
        raise RuntimeError("kaput")

    deck.plugins.manifests["shaky"] = Manifest("shaky", "1", API, "opsdeck_no_such_package", routes=(boom,))
    deck.plugins.manifests["worse"] = Manifest("worse", "1", API, "opsdeck_no_such_package", routes=(object(),))
    async with AsyncTestClient(make_app(deck), raise_server_exceptions=False) as client:
        text = (await client.get("/login")).text
        form = {"_csrf_token": text.split('name="_csrf_token" value="')[1].split('"')[0], "name": "admin",
                "password": "correct horse battery"}  # fmt: skip
        await client.post("/login", data=form)
        answer = await client.get("/p/shaky/boom")
        assert answer.status_code == 500
        assert "shaky" in answer.text and "RuntimeError" in answer.text and "kaput" not in answer.text
        assert (await client.get("/")).status_code == 200
        assert any(fault.plugin == "worse" for fault in deck.plugins.faults)
