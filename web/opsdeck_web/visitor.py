"""Who is asking: found by the cookie of the session, once per request."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from opsdeck.accounts.models import User
from opsdeck.actor import Actor, Door, Role
from opsdeck.clock import utcnow


@dataclass(frozen=True)
class Visitor:
    """A person who is logged in. `source` is the address the request came from."""

    user: User
    key: str
    """The session's cookie value."""
    source: str
    step_up_until: datetime | None = None

    @property
    def name(self) -> str:
        """Give the person's name."""
        return self.user.name

    @property
    def role(self) -> Role:
        """Give the person's role."""
        return Role(self.user.role)

    @property
    def stepped_up(self) -> bool:
        """Tell whether the person proved themselves again a short while ago."""
        return self.step_up_until is not None and self.step_up_until > utcnow()

    @property
    def may_act(self) -> bool:
        """Tell whether the person may run actions that change something."""
        return self.role.rank >= Role.OPERATOR.rank

    @property
    def admin(self) -> bool:
        """Tell whether the person rules."""
        return self.role is Role.ADMIN

    @property
    def actor(self) -> Actor:
        """Give the person as jobs and the audit trail know them."""
        return Actor(self.name, self.role, Door.WEB, source=self.source, stepped_up=self.stepped_up)
