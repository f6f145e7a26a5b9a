"""The link to a MySQL or MariaDB: opened, and the servers' faults in our words."""

from __future__ import annotations

import socket
import ssl
from typing import Any

import pymysql
from pymysql.constants import CR
from pymysql.cursors import Cursor

from opsdeck.api import Conflict, Invalid, NotFound, OpsDeckError, Refused, Unavailable
from opsdeck_search_sync.changes import LoginRefused, LogLost
from opsdeck_search_sync.sources.place import Place, Tls, tls_hint


def settings(place: Place) -> dict[str, Any]:
    """Give what the driver is told of a place."""
    return {
        "host": place.address, "port": place.port, "user": place.user, "charset": "utf8mb4",
        "password": place.password.reveal() if place.password else "", "connect_timeout": 15, **_tls(place),
    }  # fmt: skip


def _tls(place: Place) -> dict[str, Any]:
    """Say it in the driver's words; without a word of it, the driver encrypts where the server offers that."""
    if place.tls is Tls.OFF:
        return {"ssl_disabled": True}
    if place.tls is Tls.REQUIRE:
        return {"ssl": {"verify_mode": False}}
    if place.tls is Tls.VERIFY:
        with place.authorities() as file:
            context = ssl.create_default_context(cafile=file)
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # authorities that MySQL makes lack what it asks for
        return {"ssl": context}
    return {}


def connect(place: Place, **given: Any) -> pymysql.Connection[Cursor]:
    """Connect with `settings` and more. The driver checks a certificate against the host that it connects to, so where
    that is not the server's name it gets a socket of ours. Raises `pymysql.Error`."""
    if place.tls is not Tls.VERIFY or not place.name:
        return pymysql.connect(**given)
    made = pymysql.connect(**given | {"host": place.name}, defer_connect=True)
    try:
        sock = socket.create_connection((place.address, place.port), given["connect_timeout"])
    except OSError as fault:
        raise pymysql.OperationalError(CR.CR_CONN_HOST_ERROR, f"Can't connect ({fault})") from fault
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.connect(sock)
    return made


def translated(fault: pymysql.Error, place: Place | None) -> OpsDeckError:
    """Say a fault of the server in our words."""
    code = fault.args[0] if fault.args and isinstance(fault.args[0], int) else 0
    text = str(fault.args[1] if len(fault.args) > 1 else fault)
    if code == 1236:
        if "server_uuid/server_id" in text or "same" in text:
            return Conflict(f"another reader uses our number: {text}", hint="it is tried again by itself")
        return LogLost(f"the log cannot be read from our position on: {text}", hint="rebuild the sync")
    if code == 1045:
        tls = "; it may ask for TLS: save the source with tls = verify" if place and place.tls is Tls.OFF else ""
        return LoginRefused(f"the server refuses: {text}", hint=f"check user and password{tls}")
    if code in {1044, 1142, 1227}:
        return Refused(
            f"the server refuses: {text}",
            hint="GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* and SELECT on the table to the user",
        )
    if code in {1146, 1049}:
        return NotFound(f"the server says: {text}", field="table")
    if isinstance(fault, pymysql.ProgrammingError):
        return Invalid(f"the server does not take a statement of ours ({code}): {text}", hint="report it")
    where = f" at {place.address}:{place.port}" if place else ""
    hint = tls_hint(text) or "check that it runs, address and password"
    return Unavailable(f"the database{where} cannot be reached: {text}", hint=hint)
