"""Who may do what: one place, the same for every door.

| role | may |
|---|---|
| viewer | look, and run actions of risk `read` |
| operator | also run actions that change; with a fresh proof of identity those that destroy; set secrets |
| admin | also people, tokens of others, keys, showing a secret's value |
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from opsdeck.actor import Actor, Door, Role
from opsdeck.errors import Refused
from opsdeck.manifest import Action, Risk

NEEDED = {Risk.READ: Role.VIEWER, Risk.CHANGE: Role.OPERATOR, Risk.DESTROY: Role.OPERATOR}


class StepUpNeeded(Refused):
    """The person is allowed to and must first prove again who they are."""


def require(actor: Actor, role: Role, what: str) -> None:
    """Let `actor` do `what` (a phrase: `add people`) if their role is at least `role`.

    A token that is limited to actions may do nothing else. Raises `Refused`.
    """
    if actor.scopes:
        raise Refused(f"this token is limited to {', '.join(actor.scopes)} and may not {what}.", hint="use a login")
    _rank(actor, role, what)


def in_scope(actor: Actor, name: str) -> bool:
    """Tell whether a token may deal with an action, `plugin.action`; a login and an unlimited token always may."""
    return not actor.scopes or any(fnmatchcase(name, scope) for scope in actor.scopes)


def authorise(actor: Actor, action: Action, plugin: str = "") -> None:
    """Let `actor` run `action` of `plugin`. Raises `Refused`, or `StepUpNeeded` when a fresh proof would do.

    What destroys asks for a fresh proof of identity. A token cannot give one: it must name such an action in its
    scopes in full (`cdn.remove_zone`, not `cdn.*`). A schedule was proven when it was made.
    """
    name = f"{plugin}.{action.name}" if plugin else action.name
    what = f"run {name}"
    if not in_scope(actor, name if plugin else ""):
        raise Refused(
            f"this token may not {what}: it is limited to {', '.join(actor.scopes)}.",
            field="action",
            hint=f"make a token with the scope {name}",
        )
    _rank(actor, NEEDED[action.risk], what)
    if action.risk is not Risk.DESTROY or actor.stepped_up or actor.door in (Door.SCHEDULE, Door.SYSTEM):
        return
    if actor.door is Door.API:
        if name in actor.scopes:
            return
        raise Refused(
            f"this token may not {what}: it destroys, and the token does not name it in full.",
            field="action",
            hint=f"make a token with the scope {name}",
        )
    raise StepUpNeeded(f"to {what}, which destroys, prove again who you are.", hint="give your password, then repeat")


def _rank(actor: Actor, role: Role, what: str) -> None:
    if actor.role.rank < role.rank:
        raise Refused(
            f"{actor.name} is {actor.role.value} and may not {what}: that takes {role.value}.",
            hint="ask an admin to do it, or for the role",
        )
