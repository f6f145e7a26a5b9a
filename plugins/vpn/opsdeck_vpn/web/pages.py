"""Answering with a page of this plugin, and who may change something."""

from __future__ import annotations

from typing import Any

from jinja2_fragments.litestar import HTMXBlockTemplate
from litestar.plugins.htmx import HTMXRequest

from opsdeck.api import Refused, Role
from opsdeck_vpn.models import State

DOTS = {
    State.DOWN: "idle",
    State.STARTING: "running",
    State.WAIT_OTP: "attention",
    State.UP: "ok",
    State.DEGRADED: "attention",
    State.RECONNECTING: "attention",
    State.FAILED: "broken",
}


def page(
    request: HTMXRequest, template: str, block: str | None = None, status: int = 200, **context: Any
) -> HTMXBlockTemplate:
    """Answer with a page, or with its block alone when htmx asks for a part of it."""
    part = bool(request.htmx) and not request.htmx.boosted and not request.htmx.history_restore_request
    return HTMXBlockTemplate(
        template_name=f"vpn/{template}",
        block_name=block if part else None,
        context={"dots": {state.value: dot for state, dot in DOTS.items()}, **context},
        headers={"Vary": "HX-Request"},
        status_code=status,
        media_type="text/html",
    )


def may_change(visitor: Any) -> None:
    """Raise `Refused` below operator."""
    if Role(visitor.role).rank < Role.OPERATOR.rank:
        raise Refused("this needs the role of an operator.", hint="ask an admin")
