"""The pages' addresses."""

from __future__ import annotations

from typing import Any

from opsdeck_vpn.web import devices, tunnels

inside: tuple[Any, ...] = (*tunnels.routes, *devices.routes)
outside: tuple[Any, ...] = devices.open_routes
