"""A fleet of real Debian systems on this machine: systemd, sshd and a network of their own each. Needs root.

fleet = Fleet("test")
fleet.up([HostSpec("web1"), HostSpec("db1", disk_mb=64)])
fleet.host("web1").cut()
fleet.down()
"""

from opsdeck.lab.fleet.fleet import Fleet, fleets
from opsdeck.lab.fleet.host import HostSpec, LabHost
from opsdeck.lab.fleet.images import Recipe, base, image_for
from opsdeck.lab.fleet.machine import LabFault, missing, require

__all__ = ["Fleet", "HostSpec", "LabFault", "LabHost", "Recipe", "base", "fleets", "image_for", "missing", "require"]
