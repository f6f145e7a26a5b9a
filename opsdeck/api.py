"""What a plugin may import: the public surface of OpsDeck.

Everything here keeps its meaning within one `API` number. A plugin imports from this module and no other.
"""

from opsdeck.actor import Actor, Door, Role
from opsdeck.clock import stamp, utcnow
from opsdeck.db.naming import Table
from opsdeck.errors import Conflict, Invalid, NotFound, OpsDeckError, Refused, Unavailable
from opsdeck.events import Event
from opsdeck.hookspecs import hookimpl
from opsdeck.jobs.context import HostAccess, JobRun, PlanRun, ServiceRun, StepRun
from opsdeck.manifest import (
    API,
    Action,
    Finding,
    HostCard,
    HostName,
    Manifest,
    Multiline,
    NavItem,
    NoParams,
    Receipt,
    Recover,
    Risk,
    SecretKind,
    SecretName,
    Service,
    Targets,
)
from opsdeck.plan import Change, Plan, Verb
from opsdeck.secrets.sensitive import Sensitive

__all__ = [
    "API",
    "Action",
    "Actor",
    "Change",
    "Conflict",
    "Door",
    "Event",
    "Finding",
    "HostAccess",
    "HostCard",
    "HostName",
    "Invalid",
    "JobRun",
    "Manifest",
    "Multiline",
    "NavItem",
    "NoParams",
    "NotFound",
    "OpsDeckError",
    "Plan",
    "PlanRun",
    "Receipt",
    "Recover",
    "Refused",
    "Risk",
    "Role",
    "SecretKind",
    "SecretName",
    "Sensitive",
    "Service",
    "ServiceRun",
    "StepRun",
    "Table",
    "Targets",
    "Unavailable",
    "Verb",
    "hookimpl",
    "stamp",
    "utcnow",
]
