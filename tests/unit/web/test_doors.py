"""What the console refuses: no login, no token, another site, a change by GET, too small a role; the API alike."""

from __future__ import annotations

from typing import Any

import pytest
from litestar import get
from litestar.response import Template
from litestar.testing import AsyncTestClient
from opsdeck_web.app import make_app
from opsdeck_web.security import SAFE_METHODS, local_path

from opsdeck.actor import SYSTEM, Role
from opsdeck.inventory.forms import HostIn
from opsdeck.jobs.jobs import Submission
from opsdeck.manifest import API, Manifest

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
    for manifest in visit.deck.plugins.ordered():
        open_to_all |= {f"/p/{manifest.name}{path}" for handler in manifest.open_routes for path in handler.paths}
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
    assert await visit.post("/actions/core/command", _selector="all", command="id", _step="run") == 403
    assert await visit.post("/schedules/add", _plugin="core", _action="command", _name="n", _cron="0 0 * * *",
                            _selector="all", command="id") == 403  # fmt: skip
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


async def test_a_stranger_sends_no_large_form(visit: Any) -> None:
    await visit.token()
    form = {"_csrf_token": "of nobody", "name": "x", "password": "y" * 100_000}
    for path in ("/login", "/hosts/add", "/preferences"):
        assert (await visit.client.post(path, data=form, follow_redirects=False)).status_code == 413, path

    async def pieces() -> Any:
        yield b"name=x"

    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    assert (await visit.client.post("/login", content=pieces(), headers=kind)).status_code == 413
    await visit.log_in()
    form["_csrf_token"] = await visit.token("/account")
    assert (await visit.client.post("/hosts/add", data=form)).status_code != 413


@pytest.mark.parametrize("number", ["²", "9" * 30, "-1", "x", "٣"])
async def test_numbers_that_are_none_do_no_harm(visit: Any, number: str) -> None:
    await visit.log_in()
    for path in ("/jobs?before=", "/audit?before=", "/jobs/1/lines?after=", "/jobs/1/stream?after="):
        assert (await visit.client.get(path + number)).status_code in {200, 404}, path
    form = {"name": "t", "role": "viewer", "days": number}
    assert await visit.post("/account/tokens", **form) in {200, 422}
    _info, token = await visit.deck.accounts.tokens.create("admin", "t", role=Role.VIEWER, actor=SYSTEM)
    headers = {"Authorization": f"Bearer {token.reveal()}"}
    for path in ("/jobs?before=", "/jobs?limit=", "/jobs/1/log?after=", "/jobs/"):
        assert (await visit.client.get(f"/api/v1{path}{number}", headers=headers)).status_code < 500, path


async def test_json_that_is_nested_without_end_is_refused(visit: Any) -> None:
    _info, token = await visit.deck.accounts.tokens.create("admin", "t", role=Role.OPERATOR, actor=SYSTEM)
    headers = {"Authorization": f"Bearer {token.reveal()}", "Content-Type": "application/json"}
    body = '{"params": {"command": ' + "[" * 100_000
    answer = await visit.client.post("/api/v1/actions/core/command/jobs", headers=headers, content=body)
    assert (answer.status_code, answer.json()["message"]) == (400, "the JSON is nested too deep.")


async def test_a_limited_token_sees_nothing_but_its_own(visit: Any) -> None:
    deck = visit.deck
    await deck.inventory.add(HostIn(name="web1", address="127.0.0.1", port=1), SYSTEM)
    numbers = {}
    for name, params in (("command", {"command": "echo other"}), ("check", {})):
        job = await deck.jobs.submit(Submission("core", name, params, "web1"), SYSTEM)
        numbers[name] = job.id
    _info, token = await deck.accounts.tokens.create("admin", "t", role=Role.ADMIN, scopes=["core.check"], actor=SYSTEM)
    headers = {"Authorization": f"Bearer {token.reveal()}"}

    async def ask(path: str) -> Any:
        return await visit.client.get(f"/api/v1{path}", headers=headers)

    assert [job["id"] for job in (await ask("/jobs")).json()] == [numbers["check"]]
    assert [action["action"] for action in (await ask("/actions")).json()] == ["check"]
    assert (await ask(f"/jobs/{numbers['check']}")).status_code == 200
    assert (await ask(f"/jobs/{numbers['check']}/log")).status_code == 200
    for path in ("/hosts", f"/jobs/{numbers['command']}", f"/jobs/{numbers['command']}/log"):
        assert (await ask(path)).status_code == 403, path
    cancel = await visit.client.post(f"/api/v1/jobs/{numbers['command']}/cancel", headers=headers)
    assert cancel.status_code == 403


async def test_a_plugins_page_that_fails_names_it_and_harms_nobody(deck: Any, caplog: Any) -> None:
    @get("/boom", sync_to_thread=False)
    def boom() -> str:
        raise RuntimeError("kaput")

    @get("/gone", sync_to_thread=False)
    def gone() -> Template:
        return Template("shaky/nowhere.html")

    deck.plugins.manifests["shaky"] = Manifest("shaky", "1", API, "opsdeck_no_such_package", routes=(boom, gone))
    deck.plugins.manifests["worse"] = Manifest("worse", "1", API, "opsdeck_no_such_package", routes=(object(),))
    async with AsyncTestClient(make_app(deck), raise_server_exceptions=False) as client:
        text = (await client.get("/login")).text
        form = {"_csrf_token": text.split('name="_csrf_token" value="')[1].split('"')[0], "name": "admin",
                "password": "correct horse battery"}  # fmt: skip
        await client.post("/login", data=form)
        answer = await client.get("/p/shaky/boom")
        assert answer.status_code == 500
        assert "shaky" in answer.text and "RuntimeError" in answer.text and "kaput" not in answer.text
        answer = await client.get("/p/shaky/gone")
        assert answer.status_code == 500
        assert "shaky" in answer.text and "nowhere.html" in caplog.text
        assert (await client.get("/")).status_code == 200
        assert any(fault.plugin == "worse" for fault in deck.plugins.faults)
