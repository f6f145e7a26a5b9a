"""The way to a source and to a Meilisearch: directly, or through a host of the inventory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Protocol
from urllib.parse import urlsplit

from opsdeck.api import HostAccess, Invalid, JobRun, PlanRun, Sensitive, ServiceRun
from opsdeck_search_sync.changes import Reader
from opsdeck_search_sync.meilisearch import Meilisearch
from opsdeck_search_sync.models import Instance, Source
from opsdeck_search_sync.sources.place import Place, Tls

PORTS = {"postgres": 5432, "mariadb": 3306, "mysql": 3306, "mongodb": 27017}
"""The kinds of sources, with the port that each has as a rule."""


class Way(Protocol):
    """What opens hosts and secrets, for a service, a job or a plan."""

    def on(self, host: str) -> AbstractAsyncContextManager[HostAccess]:
        """Reach a host."""
        ...

    async def secret(self, name: str) -> Sensitive:
        """Open a secret."""
        ...


class JobWay:
    """A job's way to hosts and secrets."""

    def __init__(self, run: JobRun) -> None:
        self._run = run

    def on(self, host: str) -> AbstractAsyncContextManager[HostAccess]:
        """Reach a host as a step of the job."""
        return self._run.step(host)

    async def secret(self, name: str) -> Sensitive:
        """Open a secret."""
        return await self._run.secret(name)


class PlanWay:
    """A plan's way to hosts and secrets."""

    def __init__(self, run: PlanRun) -> None:
        self._run = run

    @asynccontextmanager
    async def on(self, host: str) -> AsyncIterator[HostAccess]:
        """Reach a host, to look."""
        yield self._run.on(host)

    async def secret(self, name: str) -> Sensitive:
        """Open a secret."""
        return await self._run.secret(name)


class ServiceWay:
    """A service's way to hosts and secrets: each start takes the passwords that hold now."""

    def __init__(self, run: ServiceRun) -> None:
        self._run = run

    def on(self, host: str) -> AbstractAsyncContextManager[HostAccess]:
        """Reach a host."""
        return self._run.on(host)

    async def secret(self, name: str) -> Sensitive:
        """Open a secret anew."""
        return await self._run.secret(name, fresh=True)


@asynccontextmanager
async def reached(way: Way, source: Source) -> AsyncIterator[Place]:
    """Give where a source can be reached from here, for a while."""
    password = await way.secret(source.secret) if source.secret else None
    async with _port(way, source.host, source.address, source.port) as (address, port):
        name = source.address if source.host else ""
        yield Place(address, port, source.database, source.user, password, Tls(source.tls), name, source.tls_ca)


@asynccontextmanager
async def meilisearch(way: Way, instance: Instance) -> AsyncIterator[Meilisearch]:
    """Open a client of a Meilisearch."""
    key = await way.secret(instance.secret) if instance.secret else None
    url = urlsplit(instance.url)
    default = 443 if url.scheme == "https" else 80
    async with AsyncExitStack() as stack:
        base = instance.url
        if instance.host:
            if url.scheme != "http":
                raise Invalid("through a host, the address must begin with http://.", field="url")
            way_in = _port(way, instance.host, url.hostname or "127.0.0.1", url.port or default)
            address, port = await stack.enter_async_context(way_in)
            base = f"http://{address}:{port}{url.path}"
        yield await stack.enter_async_context(Meilisearch(base, key))


@asynccontextmanager
async def _port(way: Way, host: str, address: str, port: int) -> AsyncIterator[tuple[str, int]]:
    if not host:
        yield address, port
        return
    async with way.on(host) as access, access.forward(port, address) as local:
        yield "127.0.0.1", local


async def true_kind(way: Way, source: Source) -> str:
    """Give a source's kind as its server tells it: MariaDB and MySQL answer to one another's clients."""
    if source.kind not in {"mariadb", "mysql"}:
        return source.kind
    from opsdeck_search_sync.sources.mysql import flavour

    async with reached(way, source) as place:
        return await flavour(place)


def reader(kind: str, place: Place, table: str, name: str, needed: frozenset[str] | None = None) -> Reader:
    """Make the reader of a generation (`name` is `<sync>_<number>`)."""
    if kind == "postgres":
        from opsdeck_search_sync.sources.postgres import PostgresReader

        return PostgresReader(place, table, name, needed)
    if kind in {"mariadb", "mysql"}:
        from opsdeck_search_sync.sources.mysql import MysqlReader

        return MysqlReader(place, table, name, needed, maria=kind == "mariadb")
    if kind == "mongodb":
        from opsdeck_search_sync.sources.mongodb import MongoReader

        return MongoReader(place, table, needed)
    raise Invalid(f"sources of the kind {kind!r} are not known.", field="kind", hint=f"one of: {', '.join(PORTS)}")
