"""`opsdeck vpn`: thin doors to the same rooms as the pages."""

from opsdeck_vpn.cli import profiles, tunnels
from opsdeck_vpn.cli.group import vpn

__all__ = ["profiles", "tunnels", "vpn"]
