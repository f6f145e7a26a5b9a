"""Forms of actions whose parameters are called like what the console itself asks: the two never meet."""

from __future__ import annotations

import re
import types
from dataclasses import dataclass, field
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any

import pyotp
import pytest
from opsdeck_web.forms import sent_back, shown
from pydantic import BaseModel, Field
from sqlmodel import select

from opsdeck.accounts.models import WebSession
from opsdeck.actor import SYSTEM, Actor, Door, Role
from opsdeck.clock import utcnow
from opsdeck.hookspecs import hookimpl
from opsdeck.inventory.forms import HostIn
from opsdeck.jobs import params
from opsdeck.jobs.models import Job, State
from opsdeck.manifest import API, Action, Manifest, Risk, Targets

PASSWORD = "correct horse battery"
NAMES = ("name", "plugin", "action", "selector", "confirm", "proof", "code", "step", "cron", "every", "time_zone",
         "misfire", "overlap", "on", "which")  # fmt: skip
OWNER = Actor("admin", Role.ADMIN, Door.CLI, stepped_up=True)
TYPED = {name: f"what was typed for {name}" for name in NAMES}


class Namesakes(BaseModel):
    """Parameters with the names of the console's own fields."""

    name: str = ""
    plugin: str = ""
    action: str = ""
    selector: str = Field("", max_length=40)
    confirm: str = ""
    proof: str = ""
    code: str = ""
    step: str = ""
    cron: str = ""
    every: str = ""
    time_zone: str = ""
    misfire: str = ""
    overlap: str = ""
    on: str = ""
    which: str = ""


@dataclass
class Controls(HTMLParser):
    """The names and values that a browser would send for the forms of a page that go to `path`."""

    path: str
    sent: list[tuple[str, str]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._inside = False
        self._open: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        have = {key: value or "" for key, value in attrs}
        if tag == "form":
            self._inside = have.get("action") == self.path
        if not self._inside:
            return
        self.ids += [have["id"]] if "id" in have else []
        if tag == "input" and "name" in have and have.get("type") != "checkbox":
            self.sent.append((have["name"], have.get("value", "")))
        elif tag in ("textarea", "select") and "name" in have:
            self.sent.append((have["name"], ""))
            self._open = tag
        elif tag == "option" and self._open == "select" and "selected" in have:
            self.sent[-1] = (self.sent[-1][0], have.get("value", ""))

    def handle_data(self, data: str) -> None:
        if self._open == "textarea":
            self.sent[-1] = (self.sent[-1][0], data.removeprefix("\n"))

    def handle_endtag(self, tag: str) -> None:
        self._open = None if tag == self._open else self._open
        self._inside = self._inside and tag != "form"


def controls(text: str, path: str) -> dict[str, str]:
    """Give what the page's form to `path` would send; no name and no id may be there twice."""
    form = Controls(path)
    form.feed(text)
    assert form.sent
    for names in ([name for name, _ in form.sent], form.ids):
        assert [name for name in names if names.count(name) > 1] == []
    return dict(form.sent)


@pytest.fixture
async def namesakes(visit: Any) -> None:
    """Bring a plugin whose actions have such parameters, a host, and a login."""

    async def run(_job: Any, _given: Namesakes) -> None: ...

    @hookimpl
    def opsdeck_manifest() -> Manifest:
        actions = (
            Action("look", "Look", "…", params=Namesakes, risk=Risk.READ, run=run),
            Action("wipe", "Wipe", "…", params=Namesakes, risk=Risk.DESTROY, run=run),
            Action("here", "Here", "…", params=Namesakes, risk=Risk.READ, targets=Targets.CONSOLE, run=run),
        )
        return Manifest("namesakes", "1", API, "opsdeck_no_such_package", actions=actions)

    module = types.ModuleType("opsdeck_namesakes")
    module.opsdeck_manifest = opsdeck_manifest  # type: ignore[attr-defined]
    visit.deck.plugins.add("namesakes", module)
    assert not visit.deck.plugins.faults
    await visit.deck.inventory.add(HostIn(name="web1", address="127.0.0.1", port=1), SYSTEM)
    await visit.log_in()


async def stale(visit: Any) -> None:
    """Let the proof of the last login grow old."""
    async with visit.deck.db.write() as session:
        for row in (await session.exec(select(WebSession))).all():
            row.data = b"{}"
            session.add(row)


async def over(visit: Any, job: Any) -> dict[str, str]:
    """Let a job have failed, the proof of the login grown old; give what the form of its retry would send."""
    async with visit.deck.db.write() as session:
        (await session.get(Job, job.id)).state = State.FAILED
    await stale(visit)
    return controls((await visit.client.get(f"/jobs/{job.id}")).text, f"/jobs/{job.id}/retry")


async def load(visit: Any, path: str, **query: str) -> dict[str, str]:
    """Load the page of a form and give what it would send."""
    answer = await visit.client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return controls(answer.text, path)


async def send(visit: Any, path: str, form: dict[str, str]) -> Any:
    return await visit.client.post(path, data=form, follow_redirects=False)


async def job_of(visit: Any, answer: Any) -> Any:
    assert answer.status_code == 303, answer.text
    return await visit.deck.jobs.get(int(answer.headers["location"].rsplit("/", 1)[-1]))


async def test_what_was_typed_arrives_through_the_run_form(visit: Any, namesakes: None) -> None:
    path = "/actions/namesakes/wipe"
    await stale(visit)
    looked = await send(visit, path, await load(visit, path) | TYPED | {"_selector": "web1"})
    assert looked.status_code == 200, looked.text
    asked = controls(looked.text, path)
    assert asked["_proof"] == asked["_confirm"] == ""
    job = await job_of(visit, await send(visit, path, asked | {"_proof": PASSWORD, "_confirm": "web1"}))
    assert (job.action, job.selector, job.hosts, job.params) == ("wipe", "web1", ["web1"], TYPED)


async def test_what_was_typed_arrives_through_a_schedule(visit: Any, namesakes: None) -> None:
    path = "/schedules/add"
    form = await load(visit, path, _plugin="namesakes", _action="wipe", _selector="web1")
    assert form["_selector"] == "web1"
    form |= TYPED | {"_name": "nightly", "_cron": "30 2 * * *", "_time_zone": "Asia/Tokyo", "_misfire": "each",
                     "_overlap": "queue", "_confirm": "web1"}  # fmt: skip
    shown = await visit.client.post(path, data=form | {"_step": "preview"}, headers={"HX-Request": "true"})
    assert shown.status_code == 200 and "17:30 UTC" in shown.text
    assert await visit.deck.schedules.list() == ()
    answer = await send(visit, path, form)
    assert (answer.status_code, answer.headers.get("location")) == (303, "/schedules/nightly")
    kept = await visit.deck.schedules.get("nightly")
    assert kept.params == TYPED
    assert (kept.name, kept.plugin, kept.action, kept.selector) == ("nightly", "namesakes", "wipe", "web1")
    assert (kept.cron, kept.time_zone, kept.misfire, kept.overlap) == ("30 2 * * *", "Asia/Tokyo", "each", "queue")


async def test_the_proof_of_a_person_is_no_parameter(visit: Any, namesakes: None) -> None:
    path = "/actions/namesakes/wipe"
    await stale(visit)
    asked = controls((await send(visit, path, await load(visit, path) | {"_selector": "web1"})).text, path)
    wrong = await send(visit, path, asked | {"_proof": "not my password", "_confirm": "web1"})
    assert wrong.status_code == 401
    assert "not my password" not in wrong.text
    assert 'class="notice broken"' in wrong.text
    job = await job_of(visit, await send(visit, path, asked | {"_proof": PASSWORD, "_confirm": "web1"}))
    assert job.params == dict.fromkeys(NAMES, "")
    again = await over(visit, job)
    retried = await send(visit, f"/jobs/{job.id}/retry", again | {"_proof": PASSWORD, "_confirm": "web1"})
    assert (await job_of(visit, retried)).params == job.params
    assert PASSWORD not in (await visit.client.get("/audit")).text


async def test_the_code_of_a_person_is_no_parameter(visit: Any, namesakes: None) -> None:
    begun = await visit.deck.accounts.enrol_totp("admin", OWNER)
    codes = pyotp.TOTP(begun.seed.reveal())
    await visit.deck.accounts.confirm_totp("admin", begun.ticket, codes.now(), OWNER)
    path = "/actions/namesakes/wipe"
    job = await job_of(visit, await send(visit, path, await load(visit, path) | {
        "_selector": "web1", "_confirm": "web1", "_step": "run"}))  # fmt: skip
    again = await over(visit, job)
    assert "_proof" not in again
    fresh = codes.at(utcnow() + timedelta(seconds=30))  # the one before is used up
    retried = await send(visit, f"/jobs/{job.id}/retry", again | {"_code": fresh, "_confirm": "web1"})
    assert (await job_of(visit, retried)).params == dict.fromkeys(NAMES, "")


async def test_a_link_fills_the_fields_it_names_and_no_others(visit: Any, namesakes: None) -> None:
    query = TYPED | {"_selector": "web1"}
    form = await load(visit, "/actions/namesakes/look", **query)
    assert {name: form[name] for name in query} == query
    query |= {"_plugin": "namesakes", "_action": "look", "_name": "hourly", "_every": "1h"}
    form = await load(visit, "/schedules/add", **query)
    assert {name: form[name] for name in query} == query
    bare = await load(visit, "/schedules/add", _plugin="namesakes", _action="look")
    assert {bare[name] for name in NAMES} == {""}


def faults(text: str) -> list[str]:
    """Give the names of the fields that are marked as wrong."""
    return re.findall(r'name="([^"]+)"[^>]*aria-invalid', text)


async def test_a_fault_is_shown_at_the_field_it_is_about(visit: Any, namesakes: None) -> None:
    path = "/actions/namesakes/look"
    form = await load(visit, path)
    for change, at in (
        ({"_selector": "nobody!"}, "_selector"),
        ({"_selector": "web1", "selector": "x" * 41}, "selector"),
    ):
        answer = await send(visit, path, form | change)
        assert (answer.status_code, faults(answer.text)) == (422, [at])
    path = "/schedules/add"
    form = await load(visit, path, _plugin="namesakes", _action="wipe", _selector="web1", _name="n", _every="1h")
    for change, at in (
        ({"_name": "no name!"}, "_name"),
        ({"selector": "x" * 41}, "selector"),
        ({"_every": "", "_cron": "never"}, "_cron"),
        ({}, "_confirm"),
    ):
        answer = await send(visit, path, form | change)
        assert (answer.status_code >= 400, faults(answer.text)) == (True, [at]), change
    assert await visit.deck.schedules.list() == ()
    assert await visit.deck.jobs.list() == ()


def test_no_parameter_takes_a_name_of_the_consoles_own() -> None:
    class Sly(BaseModel):
        proof: str = Field("", alias="_proof")

    async def run(_job: Any, _given: Any) -> None: ...

    with pytest.raises(ValueError, match="'_proof' begins with _"):
        Action("sly", "Sly", "…", params=Sly, run=run)


class Boxed(BaseModel):
    """Parameters with a box that is ticked at first."""

    restart: bool = True
    keep: bool = True


def test_a_box_that_was_unticked_stays_so_when_the_form_comes_back() -> None:
    action = Action("boxed", "Boxed", "", params=Boxed, targets=Targets.CONSOLE, run=_nothing)
    sent = sent_back(action, {"keep": "true", "_step": "look"})
    kept = {field.name: shown(field, sent.get(field.name)) for field in params.fields(Boxed)}
    assert kept == {"restart": False, "keep": True}


async def _nothing(_run: Any, _params: BaseModel) -> None:
    """Do nothing."""
