"""Both ends of a sync: the databases that rows come from, and the Meilisearches that they go into."""

from __future__ import annotations

import ssl
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, field_validator, model_validator
from sqlmodel import select

from opsdeck.api import (
    Conflict,
    HostName,
    JobRun,
    Multiline,
    NotFound,
    Receipt,
    Refused,
    SecretName,
)
from opsdeck_search_sync import reaching
from opsdeck_search_sync.models import Instance, Source, Sync
from opsdeck_search_sync.sources.place import Tls

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$", description="Small letters, digits and _")]


class SourceIn(BaseModel):
    """A database."""

    name: Name
    kind: Literal["postgres", "mariadb", "mysql", "mongodb"] = Field("postgres", description="What it is")
    host: HostName = Field("", description="Reach it through this host; empty: directly")
    address: str = Field("127.0.0.1", description="As seen from that host", min_length=1, max_length=255)
    port: int = Field(0, ge=0, le=65535, description="0 takes the usual one of its kind")
    database: str = Field(min_length=1, max_length=128)
    user: str = Field("", max_length=128, description="A MongoDB without logins has none")
    secret: SecretName = Field("", description="Holds the password; empty for none")
    tls: Tls = Field(
        Tls.PREFER, title="TLS", description="Verify checks the certificate; prefer encrypts where it is offered"
    )
    tls_ca: Multiline = Field(
        "",
        title="TLS authority",
        max_length=100_000,
        description="Certificate of the authority (PEM); empty: those that browsers trust",
    )

    @field_validator("tls_ca")
    @classmethod
    def _certificates(cls, text: str) -> str:
        try:
            if text.strip():
                ssl.create_default_context(cadata=text)
        except (ssl.SSLError, ValueError) as fault:
            raise ValueError("give certificates as PEM, from -----BEGIN CERTIFICATE----- on") from fault
        return text.strip() and text.strip() + "\n"

    @model_validator(mode="after")
    def _certain(self) -> SourceIn:
        if self.tls_ca and self.tls is not Tls.VERIFY:
            raise ValueError("tls_ca: is looked at with tls = verify alone")
        if self.tls is Tls.VERIFY and self.kind == "mongodb" and self.host:
            raise ValueError("tls: a MongoDB's certificate cannot be checked through a host; take require")
        return self

    @model_validator(mode="after")
    def _someone(self) -> SourceIn:
        if not self.user and self.kind != "mongodb":
            raise ValueError("user: say as whom to log in")
        return self


async def save_source(run: JobRun, params: SourceIn) -> Receipt:
    """Keep a source, once it answered. What other server it is now is told, not taken over in silence."""
    row = Source(**params.model_dump())
    row.port = row.port or reaching.PORTS[row.kind]
    way = reaching.JobWay(run)
    row.kind = await reaching.true_kind(way, row)
    async with reaching.reached(way, row) as place:
        reader = reaching.reader(row.kind, place, "x", "x_0")
        try:
            row.identity = await reader.identity()
        finally:
            await reader.close()
    run.log(f"{row.name} is {row.identity}", "good")
    async with run.db.write() as session:
        old = await session.get(Source, row.name)
        if old is not None and old.identity and old.identity != row.identity:
            used = (await session.exec(select(Sync.name).where(Sync.source == row.name))).all()
            if used:
                raise Conflict(
                    f"{row.name} is another server now ({row.identity}), and {', '.join(used)} read from it.",
                    field="address",
                    hint="drop those syncs first, or save it under another name",
                )
        await session.merge(row)
    return {"source": row.name, "identity": row.identity}


class InstanceIn(BaseModel):
    """A Meilisearch."""

    name: Name
    url: str = Field("http://127.0.0.1:7700", description="As seen from the host, if one is named", max_length=500)
    host: HostName = Field("", description="Reach it through this host; empty: directly")
    secret: SecretName = Field("", description="Holds the API key; empty for none")
    batch: int = Field(2000, ge=1, le=50_000, description="Most documents sent at once")
    wait: float = Field(0.2, ge=0.02, le=60, description="Seconds that a change waits for company")

    @field_validator("url")
    @classmethod
    def _an_address(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.query:
            raise ValueError("write it like http://127.0.0.1:7700; the key belongs into a secret")
        return url.rstrip("/")


async def save_instance(run: JobRun, params: InstanceIn) -> Receipt:
    """Keep a Meilisearch, once it answered to the key."""
    row = Instance(**params.model_dump())
    async with reaching.meilisearch(reaching.JobWay(run), row) as client:
        version = await client.version()
        await client.newest_task()
    run.log(f"{row.name} is Meilisearch {version}", "good")
    async with run.db.write() as session:
        await session.merge(row)
    return {"instance": row.name, "version": version}


class OneName(BaseModel):
    """The name of a thing."""

    name: Name


async def remove_source(run: JobRun, params: OneName) -> Receipt:
    """Forget a source that no sync reads."""
    return await _remove(run, Source, Sync.source, params.name)


async def remove_instance(run: JobRun, params: OneName) -> Receipt:
    """Forget a Meilisearch that no sync writes to."""
    return await _remove(run, Instance, Sync.instance, params.name)


async def _remove(run: JobRun, table: type[Source | Instance], column: Any, name: str) -> Receipt:
    async with run.db.write() as session:
        row = await session.get(table, name)
        if row is None:
            raise NotFound(f"there is no {name!r}.", field="name")
        used = (await session.exec(select(Sync.name).where(column == name))).all()
        if used:
            raise Refused(f"{name} is used by {', '.join(used)}.", field="name", hint="drop those syncs first")
        await session.delete(row)
    return {"removed": name}
