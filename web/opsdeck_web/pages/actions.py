"""The actions: list, the form made of an action's parameters, the plan, the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.plugins.htmx import ClientRedirect, HTMXRequest
from litestar.response import Redirect

from opsdeck.accounts import permissions
from opsdeck.deck import Deck
from opsdeck.errors import Invalid, NotFound, OpsDeckError, Refused
from opsdeck.jobs import consent, params
from opsdeck.jobs.jobs import Submission
from opsdeck.jobs.params import FieldKind
from opsdeck.jobs.targets import hosts_for
from opsdeck.manifest import Action, Risk, Targets
from opsdeck.pages import page
from opsdeck.plan import Plan
from opsdeck_web.forms import faults_of, form_of, raw_of, sent_back
from opsdeck_web.pages.login import asks_code, prove
from opsdeck_web.visitor import Visitor


@get("/actions")
async def show(request: HTMXRequest, deck: NamedDependency[Deck], visitor: NamedDependency[Visitor]) -> Response[Any]:
    """List what can be done, plugin by plugin."""
    groups = [(manifest.name, manifest.offered) for manifest in deck.plugins.ordered() if manifest.offered]
    return page(request, "pages/actions.html", groups=groups, may={risk: may(visitor, risk) for risk in Risk})


def may(visitor: Visitor, risk: Risk) -> bool:
    """Tell whether a person's role is enough for a risk."""
    return visitor.role.rank >= permissions.NEEDED[risk].rank


@get("/actions/{plugin:str}/{name:str}")
async def form(
    request: HTMXRequest,
    deck: NamedDependency[Deck],
    visitor: NamedDependency[Visitor],
    plugin: FromPath[str],
    name: FromPath[str],
) -> Response[Any]:
    """Show an action's form; the query fills its fields, each under the field's name."""
    action = deck.plugins.action(plugin, name)
    sent = request.query_params
    return await _form(request, deck, visitor, plugin, action, sent.get("_selector", ""), sent)


async def _form(
    request: HTMXRequest,
    deck: Deck,
    visitor: Visitor,
    plugin: str,
    action: Action,
    selector: str,
    given: Mapping[str, Any],
    fault: OpsDeckError | None = None,
) -> Response[Any]:
    return page(
        request,
        "pages/action.html",
        status=fault.status if fault else 200,
        **await form_of(deck, plugin, action, given, fault, {"selector"} if action.targets is Targets.HOSTS else ()),
        selector=selector,
        allowed=may(visitor, action.risk),
    )


@post("/actions/{plugin:str}/{name:str}")
async def run(
    request: HTMXRequest,
    deck: NamedDependency[Deck],
    visitor: NamedDependency[Visitor],
    plugin: FromPath[str],
    name: FromPath[str],
) -> Response[Any]:
    """Show what the action would do and ask for consent, or (`_step=run`) do it as a job."""
    action = deck.plugins.action(plugin, name)
    sent = await request.form()
    selector = str(sent.get("_selector") or "").strip()
    try:
        if sent.get("_step") == "run":
            return await _run(request, deck, visitor, plugin, action, selector, sent)
        return await _look(request, deck, visitor, plugin, action, selector, sent)
    except (Invalid, NotFound, Refused) as fault:
        if request.htmx:
            return page(request, "pages/action_plan.html", "fault", status=fault.status, fault=fault,
                        faults=faults_of(fault))  # fmt: skip
        return await _form(request, deck, visitor, plugin, action, selector, sent_back(action, sent), fault)


async def _look(
    request: HTMXRequest, deck: Deck, visitor: Visitor, plugin: str, action: Action, selector: str, sent: Any
) -> Response[Any]:
    """Check everything that can be checked without doing it; a read that nothing must be asked for runs at once."""
    raw = raw_of(action, sent)
    params.parse(plugin, action, raw)
    hosts = await hosts_for(deck.inventory, action, selector)
    plan: Plan | None = None
    if action.plan is not None:
        plan = await deck.jobs.plan(Submission(plugin, action.name, raw, selector), visitor.actor)
    return page(
        request,
        "pages/action_plan.html",
        "plan",
        plugin=plugin,
        action=action,
        plan=plan,
        hosts=hosts,
        selector=selector,
        raw={key: shown_raw(value) for key, value in raw.items()},
        given=[
            (field.title, shown_raw(raw[field.name]))
            for field in params.fields(action.params)
            if field.name in raw and raw[field.name] not in ("", "false", []) and field.kind is not FieldKind.MULTILINE
        ],
        word=consent.expected(action, hosts) or "",
        prove=action.risk is Risk.DESTROY and not visitor.stepped_up,
        ask_code=asks_code(visitor),
    )


def shown_raw(value: Any) -> str:
    """Give a raw value as the hidden field carries it."""
    return "\n".join(str(item) for item in value) if isinstance(value, list) else str(value)


async def _run(
    request: HTMXRequest, deck: Deck, visitor: Visitor, plugin: str, action: Action, selector: str, sent: Any
) -> Response[Any]:
    if action.risk is Risk.DESTROY and not visitor.stepped_up:
        visitor = await prove(deck, visitor, sent)
    confirm = str(sent.get("_confirm") or "") or None
    job = await deck.jobs.submit(
        Submission(plugin, action.name, raw_of(action, sent), selector, confirm), visitor.actor
    )
    target = f"/jobs/{job.id}"
    return ClientRedirect(redirect_to=target) if request.htmx else Redirect(target, status_code=303)


routes = [show, form, run]
