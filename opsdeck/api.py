"""What a plugin may import: the public surface of OpsDeck.

Everything here keeps its meaning within one `API` number. A plugin imports from this module and no other.
"""

from opsdeck.actor import Actor as Actor
from opsdeck.actor import Door as Door
from opsdeck.actor import Role as Role
from opsdeck.clock import stamp as stamp
from opsdeck.clock import utcnow as utcnow
from opsdeck.db.naming import Table as Table
from opsdeck.errors import Conflict as Conflict
from opsdeck.errors import Invalid as Invalid
from opsdeck.errors import NotFound as NotFound
from opsdeck.errors import OpsDeckError as OpsDeckError
from opsdeck.errors import Refused as Refused
from opsdeck.errors import Unavailable as Unavailable
from opsdeck.events import Event as Event
from opsdeck.hookspecs import hookimpl as hookimpl
from opsdeck.jobs.context import HostAccess as HostAccess
from opsdeck.jobs.context import JobRun as JobRun
from opsdeck.jobs.context import PlanRun as PlanRun
from opsdeck.jobs.context import ServiceRun as ServiceRun
from opsdeck.jobs.context import StepRun as StepRun
from opsdeck.manifest import API as API
from opsdeck.manifest import Action as Action
from opsdeck.manifest import Finding as Finding
from opsdeck.manifest import HostCard as HostCard
from opsdeck.manifest import HostName as HostName
from opsdeck.manifest import Manifest as Manifest
from opsdeck.manifest import Multiline as Multiline
from opsdeck.manifest import NavItem as NavItem
from opsdeck.manifest import NoParams as NoParams
from opsdeck.manifest import Receipt as Receipt
from opsdeck.manifest import Recover as Recover
from opsdeck.manifest import Risk as Risk
from opsdeck.manifest import SecretKind as SecretKind
from opsdeck.manifest import SecretName as SecretName
from opsdeck.manifest import Service as Service
from opsdeck.manifest import Targets as Targets
from opsdeck.plan import Change as Change
from opsdeck.plan import Plan as Plan
from opsdeck.plan import Verb as Verb
from opsdeck.secrets.sensitive import Sensitive as Sensitive
