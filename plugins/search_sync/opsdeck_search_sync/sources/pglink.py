"""The link to a PostgreSQL: opened, asked within a bound, and its faults in our words."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import psycopg
from psycopg import sql

from opsdeck.api import Invalid, NotFound, OpsDeckError, Refused, Unavailable
from opsdeck_search_sync.changes import LogLost
from opsdeck_search_sync.sources import pgvalues
from opsdeck_search_sync.sources.place import Place, Tls, tls_hint

QUICK, LONG = 30.0, 600.0
"""Seconds that a question may take, and one that reads a table; then the link is taken for dead."""

SSLMODE = {Tls.PREFER: "prefer", Tls.OFF: "disable", Tls.REQUIRE: "require", Tls.VERIFY: "verify-full"}

Query = str | sql.Composed


class Link:
    """Connections to one database. `name` is what the server shows them as."""

    def __init__(self, place: Place, name: str) -> None:
        self._place, self._name = place, name
        self._plain: psycopg.AsyncConnection[Any] | None = None

    async def open(self, *, replication: bool = False) -> psycopg.AsyncConnection[Any]:
        """Open a connection, which the caller closes. Raises `Unavailable`."""
        place = self._place
        more: dict[str, Any] = {"replication": "database"} if replication else {}
        with contextlib.ExitStack() as stack:
            if place.tls is Tls.VERIFY:
                more |= {"sslrootcert": stack.enter_context(place.authorities())}
                more |= {"host": place.name, "hostaddr": place.address} if place.name else {}
            settings: dict[str, Any] = {
                "host": place.address, "port": place.port, "dbname": place.database, "user": place.user,
                "password": place.password.reveal() if place.password else None, "sslmode": SSLMODE[place.tls],
                "connect_timeout": 15, "application_name": f"opsdeck {self._name}", "options": pgvalues.SESSION,
                "client_encoding": "UTF8", "keepalives_idle": 20, "keepalives_interval": 10, "keepalives_count": 3,
            } | more  # fmt: skip
            try:
                return await psycopg.AsyncConnection.connect(autocommit=True, **settings)
            except psycopg.OperationalError as fault:
                what = " (replication)" if replication else ""
                raise Unavailable(
                    f"the database {place.database} at {place.address}:{place.port} cannot be reached: {first(fault)}",
                    hint=tls_hint(str(fault)) or f"check address, user and password, and pg_hba.conf{what}",
                ) from fault

    async def run(self, query: Query, *given: Any, bound: float | None = None) -> psycopg.AsyncCursor[Any]:
        """Run a statement within a bound: a link that is half open never says so by itself.

        A connection that the server closed while nothing was asked is opened anew, once.
        """
        kept = self._plain is not None and not self._plain.closed
        if self._plain is None or self._plain.closed:
            self._plain = await self.open()
            await self._plain.execute(sql.SQL("SET statement_timeout = {}").format(sql.Literal(f"{LONG:.0f}s")))
        connection = self._plain
        asked = asyncio.ensure_future(connection.execute(query, given or None))
        try:
            await asyncio.wait({asked}, timeout=bound or QUICK)
            if not asked.done():
                raise Unavailable(f"PostgreSQL did not answer within {bound or QUICK:g} s.", hint="the link is broken")
            return asked.result()
        except psycopg.Error as fault:
            if kept and connection.closed:
                return await self.run(query, *given, bound=bound)
            raise translated(fault) from fault
        finally:
            if not asked.done():
                connection.pgconn.finish()
                asked.cancel()
                await asyncio.gather(asked, return_exceptions=True)

    async def ask(self, query: Query, *given: Any) -> list[tuple[Any, ...]]:
        """Run a statement; give its rows."""
        return await (await self.run(query, *given)).fetchall()

    async def close(self) -> None:
        """Let go of the connection that `run` keeps."""
        if self._plain is not None:
            await self._plain.close()
        self._plain = None


def first(fault: Exception) -> str:
    """Give the first line of what a fault says."""
    return (str(fault).strip().splitlines() or [type(fault).__name__])[0]


def translated(fault: psycopg.Error) -> OpsDeckError:
    """Say a fault of the server in our words."""
    state = fault.sqlstate or ""
    if state == "55000" and "replication slot" in str(fault):
        return LogLost(f"PostgreSQL lost the log: {first(fault)}", hint="rebuild the sync")
    if state == "55006":
        return Unavailable(f"another reader holds the slot: {first(fault)}", hint="it is let go within a minute")
    if state.startswith("42501"):
        return Refused(f"PostgreSQL refuses: {first(fault)}", hint="look at the sync's preflight, which has the SQL")
    if state in {"42P01", "3F000"}:
        return NotFound(f"PostgreSQL: {first(fault)}", field="table")
    if state in {"22023", "42601", "0A000", "42703", "42710"}:
        return Invalid(f"PostgreSQL: {first(fault)}")
    return Unavailable(f"PostgreSQL: {first(fault)}", hint="see that it runs and can be reached")
