"""Answering with a page of this plugin, and who may change something."""

from __future__ import annotations

from typing import Any

from jinja2_fragments.litestar import HTMXBlockTemplate
from litestar.plugins.htmx import HTMXRequest

from opsdeck.api import Refused, Role
from opsdeck.api import page as answer
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
    """Answer with a page of this plugin; its templates know the dots of states."""
    dots = {state.value: dot for state, dot in DOTS.items()}
    return answer(request, f"vpn/{template}", block, status=status, dots=dots, **context)


def may_change(visitor: Any) -> None:
    """Raise `Refused` below operator."""
    if Role(visitor.role).rank < Role.OPERATOR.rank:
        raise Refused("this needs the role of an operator.", hint="ask an admin")
