"""Every table of the core, imported in one place so that the metadata is whole."""

from opsdeck.accounts import models as accounts
from opsdeck.audit import models as audit
from opsdeck.inventory import models as inventory
from opsdeck.jobs import models as jobs
from opsdeck.notify import models as notify
from opsdeck.secrets import models as secrets

ROOMS = (accounts, audit, inventory, jobs, notify, secrets)
