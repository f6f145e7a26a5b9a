"""The pages of tunnels: the list, one tunnel, taking one in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from litestar import Response, get, post
from litestar.datastructures import UploadFile
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.plugins.htmx import HTMXRequest
from litestar.response import Redirect

from opsdeck.api import Deck, Invalid, OpsDeckError, Sensitive, Submission
from opsdeck_vpn import book, tunnels
from opsdeck_vpn.enrol import Wish, adjust, enrol, give_code
from opsdeck_vpn.models import State
from opsdeck_vpn.web.pages import may_change, page

FIELDS = ("name", "host", "driver", "profile", "username", "otp", "listen", "port", "probe")
BUTTONS = ("up", "down", "check", "leak_test")


@get("/")
async def show(request: HTMXRequest, deck: NamedDependency[Deck]) -> Response[Any]:
    """List the tunnels, the devices and what was fetched last."""
    return page(
        request,
        "overview.html",
        "tunnels",
        tunnels=await tunnels.every(deck.db),
        rules=await book.rules(deck),
        devices=await book.devices(deck),
        fetches=await book.fetches(deck, limit=10),
    )


@get("/tunnels/{name:str}")
async def one(request: HTMXRequest, deck: NamedDependency[Deck], name: FromPath[str]) -> Response[Any]:
    """Show one tunnel."""
    row = await tunnels.find(deck.db, name)
    jobs = [job for job in await deck.jobs.list(plugin="vpn", limit=50) if job.params.get("tunnel") == name]
    asks = row.state == State.WAIT_OTP and row.code_given is None
    answer = page(
        request,
        "tunnel.html",
        "countdown" if request.query_params.get("part") == "countdown" else "state",
        tunnel=row,
        proofs=await tunnels.proofs(deck.db, name),
        probe=tunnels.probe_of(row),
        jobs=jobs[:5],
        asks=asks,
    )
    if request.query_params.get("asks", f"{asks}") != f"{asks}":
        answer.headers["HX-Refresh"] = "true"  # the form for the code, which is not part of the state, comes or goes
    return answer


@post("/tunnels/{name:str}/do/{action:str}")
async def do(
    deck: NamedDependency[Deck], visitor: NamedDependency[Any], name: FromPath[str], action: FromPath[str]
) -> Response[Any]:
    """Run one of a tunnel's actions."""
    if action not in BUTTONS:
        raise Invalid(f"{action[:40]!r} is no button of a tunnel.", field="action")
    await tunnels.find(deck.db, name)
    job = await deck.jobs.submit(Submission("vpn", action, {"tunnel": name}), visitor.actor)
    return Redirect(f"/jobs/{job.id}", status_code=303)


@post("/tunnels/{name:str}/code")
async def code(
    request: HTMXRequest, deck: NamedDependency[Deck], visitor: NamedDependency[Any], name: FromPath[str]
) -> Response[Any]:
    """Take the one-time code that the office asks for."""
    may_change(visitor)
    await give_code(deck, name, str((await request.form()).get("code") or ""), visitor.actor)
    return Redirect(f"/p/vpn/tunnels/{name}", status_code=303)


@post("/tunnels/{name:str}/set")
async def change(
    request: HTMXRequest, deck: NamedDependency[Deck], visitor: NamedDependency[Any], name: FromPath[str]
) -> Response[Any]:
    """Change where a tunnel is probed and where its port is."""
    may_change(visitor)
    given = {key: str(text).strip() for key, text in (await request.form()).items() if isinstance(text, str)}
    await adjust(
        deck,
        name,
        visitor.actor,
        probe=given.get("probe", ""),
        listen=given.get("listen", ""),
        port=_number(given.get("port", ""), "port"),
        mtu=_number(given.get("mtu") or "0", "mtu"),
    )
    return Redirect(f"/p/vpn/tunnels/{name}", status_code=303)


def _number(text: str, field: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", text):
        raise Invalid(f"{text[:20]!r} is no number.", field=field, hint="digits alone")
    return int(text)


@get("/import")
async def form(request: HTMXRequest, deck: NamedDependency[Deck], visitor: NamedDependency[Any]) -> Response[Any]:
    """Show the form for a new tunnel."""
    may_change(visitor)
    return await _form(request, deck, {"listen": "127.0.0.1", "otp": "none"}, None)


async def _form(
    request: HTMXRequest, deck: Deck, values: Mapping[str, str], fault: OpsDeckError | None
) -> Response[Any]:
    return page(
        request,
        "import.html",
        status=fault.status if fault else 200,
        values=dict.fromkeys(FIELDS, "") | dict(values),
        fault=fault,
        hosts=[host.name for host in await deck.inventory.list()],
    )


@post("/import")
async def take_in(request: HTMXRequest, deck: NamedDependency[Deck], visitor: NamedDependency[Any]) -> Response[Any]:
    """Read, clean and seal a profile; then go to the tunnel's page, which says what was left out."""
    may_change(visitor)
    given = await request.form()
    values = {name: str(given.get(name) or "").strip() for name in FIELDS}
    try:
        files = [item for item in given.getall("files", []) if isinstance(item, UploadFile) and item.filename]
        texts = {file.filename.replace("\\", "/").rpartition("/")[2]: await _text(file) for file in files}
        profile = values["profile"] or next(
            (texts.pop(name) for name in sorted(texts) if name.endswith((".ovpn", ".conf"))), ""
        )
        if not profile:
            raise Invalid("there is no profile.", field="profile", hint="paste it, or choose its file")
        wish = Wish(
            name=values["name"],
            host=values["host"],
            profile=Sensitive(profile),
            files=texts,
            username=values["username"],
            password=Sensitive(str(given.get("password") or "")),
            otp=values["otp"] if values["otp"] in ("ask", "seed") else "none",
            seed=Sensitive(str(given.get("seed") or "")),
            concat=given.get("concat") == "true",
            listen=values["listen"] or "127.0.0.1",
            port=_number(values["port"] or "0", "port"),
            probe=values["probe"],
            driver="compose" if values["driver"] == "compose" else "namespace",
            passphrase=Sensitive(str(given.get("passphrase") or "")),
        )
        tunnel = await enrol(deck, wish, visitor.actor)
    except OpsDeckError as fault:
        values["profile"] = ""  # it holds private keys: it does not go back into a page
        return await _form(request, deck, values, fault)
    return Redirect(f"/p/vpn/tunnels/{tunnel.name}", status_code=303)


async def _text(file: UploadFile) -> str:
    try:
        return (await file.read()).decode()
    except UnicodeDecodeError:
        raise Invalid(f"{file.filename[:60]!r} is not text.", field="profile", hint="give PEM files") from None


routes = (show, one, do, code, change, form, take_in)
