"""The action that changes what is the same for all edges."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from sqlmodel import select

from opsdeck.api import Action, JobRun, Multiline, Receipt, Targets, as_value_error
from opsdeck_cdn import book
from opsdeck_cdn.caddy import check_version
from opsdeck_cdn.models import SetupRow
from opsdeck_cdn.sites import address, domain, outside_servers


class SetupParams(BaseModel):
    """What is the same for all edges; what is left out stays."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    acme_directory: str | None = Field(
        None, title="ACME directory", description="Address of the CA's directory.", pattern=r"^https://[^\s{}]+$",
        max_length=500,
    )  # fmt: skip
    acme_email: str | None = Field(
        None, title="E-mail for the CA", pattern=r"^$|^[^@\s/{}]+@[^@\s/{}]+$", max_length=200
    )
    acme_roots: Multiline | None = Field(
        None, title="Roots of the directory", description="PEM; only for a CA of your own."
    )
    visitor_roots: Multiline | None = Field(
        None, title="Roots of the certificates", description="PEM that probes trust; only for a CA of your own."
    )
    zone: str | None = Field(None, title="DNS zone", description="Delegated to your name servers: cdn.example.net.")
    parent: str | None = Field(
        None, title="Name server of the zone above",
        description="Its address, to check the delegation; empty finds it.", max_length=60,
    )  # fmt: skip
    ttl: int | None = Field(None, ge=5, le=3600, title="TTL of answers", json_schema_extra={"unit": "s"})
    caddy_version: str | None = Field(None, title="Caddy version", description="At least 2.11.")
    caddy_source: str | None = Field(
        None, title="Caddy source", max_length=2000, pattern=r"^$|^https?://[^\s]+$",
        description="Address of a release; empty takes the one installed with this plugin.",
    )  # fmt: skip
    caddy_sha256: str | None = Field(None, title="Caddy SHA-256", pattern=r"^$|^[0-9a-f]{64}$")
    caddy_member: str | None = Field(None, title="File in the release", description="Such as caddy.")
    caddy_arch: Literal["amd64", "arm64", "armhf", "i386", "riscv64"] | None = Field(
        None, title="Architecture of the Caddy", description="Of all edges."
    )

    @field_validator("zone")
    @classmethod
    @as_value_error()
    def _zone(cls, value: str | None) -> str | None:
        return value and domain(value, "zone")

    @field_validator("parent")
    @classmethod
    @as_value_error()
    def _parent(cls, value: str | None) -> str | None:
        return value and address(value, "parent")

    @field_validator("acme_roots", "visitor_roots")
    @classmethod
    def _pem(cls, value: str | None) -> str | None:
        if value:
            try:
                ssl.create_default_context(cadata=value)
            except (ssl.SSLError, ValueError):
                raise ValueError("this is no PEM of certificates") from None
        return value

    @model_validator(mode="after")
    def _caddy(self) -> SetupParams:
        if self.caddy_source:
            if not self.caddy_sha256 or not self.caddy_version:
                raise ValueError("a Caddy source needs its version and sha256")
            with as_value_error():
                check_version(self.caddy_version)
        elif self.caddy_version or self.caddy_sha256 or self.caddy_member or self.caddy_arch:
            raise ValueError("a version, sha256, file or architecture of Caddy says nothing without its source")
        return self


async def _setup(run: JobRun, params: SetupParams) -> Receipt:
    model = await book.load(run.db)
    outside_servers([name for site in model.sites for name in site.names], params.zone or "")
    given = {key: value for key, value in params.model_dump().items() if value is not None}
    async with run.db.write() as session:
        row = (await session.exec(select(SetupRow))).one()
        for key, value in given.items():
            setattr(row, key, value)
    run.log("settings changed; edges have them after the next deploy", "good")
    return {"changed": sorted(given)}


def _touches(_params: BaseModel, _hosts: Sequence[str]) -> Sequence[str]:
    return ["cdn:model"]


setup = Action(
    "setup", "Set up the CDN", "Certificates, DNS zone and Caddy: what is the same for all edges.",
    params=SetupParams, targets=Targets.CONSOLE, run=_setup, touches=_touches, timeout=60.0,
)  # fmt: skip
