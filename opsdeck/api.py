"""What a plugin may import: the public surface of OpsDeck.

Everything here keeps its meaning within one `API` number. A plugin imports from this module and no other.
"""

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
    "stamp",
    "units",
    "users",
    "utcnow",
]
