"""What a plugin may import: the public surface of OpsDeck.

Everything here keeps its meaning within one `API` number. A plugin imports from this module and no other.
A name's home is imported when the name is asked for, so that a plugin's hooks and commands load in no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opsdeck.actor import Actor, Door, Role
    from opsdeck.cli import frame
    from opsdeck.clock import stamp, utcnow
    from opsdeck.db import Database
    from opsdeck.db.naming import Table
    from opsdeck.deck import Deck
    from opsdeck.errors import Conflict, Invalid, NotFound, OpsDeckError, Refused, Unavailable, as_value_error
    from opsdeck.events import Event, HostChanged, IncidentClosed, IncidentOpened, JobChanged, SlotMissed
    from opsdeck.hookspecs import hookimpl
    from opsdeck.inventory.models import Host
    from opsdeck.jobs.context import HostAccess, JobRun, PlanRun, ServiceRun, StepRun
    from opsdeck.jobs.jobs import Submission
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
    from opsdeck.pages import page
    from opsdeck.plan import Change, Plan, Verb
    from opsdeck.remote import artefacts, boots, directories, files, firewall, packages, units, users
    from opsdeck.remote.artefacts import Artefact, Program
    from opsdeck.remote.deploy import Rollout
    from opsdeck.remote.depot import Depot
    from opsdeck.remote.directories import Directory
    from opsdeck.remote.errors import CheckRefused, NoSystemd, NotDone, ProbeFailed
    from opsdeck.remote.files import File
    from opsdeck.remote.firewall import AddressSet, Chain, Firewall, Hook
    from opsdeck.remote.units import Unit
    from opsdeck.remote.users import User
    from opsdeck.secrets.sensitive import Sensitive
    from opsdeck.ssh.command import Command, Completed, Script
    from opsdeck.ssh.errors import CommandFailed, CommandTimeout, DiskFull, LinkLost, Unreachable

_HOMES = {
    "opsdeck.actor": "Actor Door Role",
    "opsdeck.cli": "frame",
    "opsdeck.clock": "stamp utcnow",
    "opsdeck.db": "Database",
    "opsdeck.db.naming": "Table",
    "opsdeck.deck": "Deck",
    "opsdeck.errors": "Conflict Invalid NotFound OpsDeckError Refused Unavailable as_value_error",
    "opsdeck.events": "Event HostChanged IncidentClosed IncidentOpened JobChanged SlotMissed",
    "opsdeck.hookspecs": "hookimpl",
    "opsdeck.inventory.models": "Host",
    "opsdeck.jobs.context": "HostAccess JobRun PlanRun ServiceRun StepRun",
    "opsdeck.jobs.jobs": "Submission",
    "opsdeck.manifest": (
        "API Action Finding HostCard HostName Manifest Multiline NavItem NoParams Receipt Recover Risk "
        "SecretKind SecretName Service Targets"
    ),
    "opsdeck.pages": "page",
    "opsdeck.plan": "Change Plan Verb",
    "opsdeck.remote": "artefacts boots directories files firewall packages units users",
    "opsdeck.remote.artefacts": "Artefact Program",
    "opsdeck.remote.deploy": "Rollout",
    "opsdeck.remote.depot": "Depot",
    "opsdeck.remote.directories": "Directory",
    "opsdeck.remote.errors": "CheckRefused NoSystemd NotDone ProbeFailed",
    "opsdeck.remote.files": "File",
    "opsdeck.remote.firewall": "AddressSet Chain Firewall Hook",
    "opsdeck.remote.units": "Unit",
    "opsdeck.remote.users": "User",
    "opsdeck.secrets.sensitive": "Sensitive",
    "opsdeck.ssh.command": "Command Completed Script",
    "opsdeck.ssh.errors": "CommandFailed CommandTimeout DiskFull LinkLost Unreachable",
}
"""Module → the names that live there."""

__all__ = [
    "API",
    "Action",
    "Actor",
    "AddressSet",
    "Artefact",
    "Chain",
    "Change",
    "CheckRefused",
    "Command",
    "CommandFailed",
    "CommandTimeout",
    "Completed",
    "Conflict",
    "Database",
    "Deck",
    "Depot",
    "Directory",
    "DiskFull",
    "Door",
    "Event",
    "File",
    "Finding",
    "Firewall",
    "Hook",
    "Host",
    "HostAccess",
    "HostCard",
    "HostChanged",
    "HostName",
    "IncidentClosed",
    "IncidentOpened",
    "Invalid",
    "JobChanged",
    "JobRun",
    "LinkLost",
    "Manifest",
    "Multiline",
    "NavItem",
    "NoParams",
    "NoSystemd",
    "NotDone",
    "NotFound",
    "OpsDeckError",
    "Plan",
    "PlanRun",
    "ProbeFailed",
    "Program",
    "Receipt",
    "Recover",
    "Refused",
    "Risk",
    "Role",
    "Rollout",
    "Script",
    "SecretKind",
    "SecretName",
    "Sensitive",
    "Service",
    "ServiceRun",
    "SlotMissed",
    "StepRun",
    "Submission",
    "Table",
    "Targets",
    "Unavailable",
    "Unit",
    "Unreachable",
    "User",
    "Verb",
    "artefacts",
    "as_value_error",
    "boots",
    "directories",
    "files",
    "firewall",
    "frame",
    "hookimpl",
    "packages",
    "page",
    "stamp",
    "units",
    "users",
    "utcnow",
]

_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"opsdeck.api has no {name!r}", name=name)
    module = import_module(_HOME[name])
    if not hasattr(module, name):
        import_module(f"{_HOME[name]}.{name}")  # a module, which becomes its package's attribute
    globals()[name] = getattr(module, name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
