"""The tables of people, their sessions and their tokens."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import JSON, Field

from opsdeck.clock import utcnow
from opsdeck.db import Table


class User(Table, table=True):
    """A person who may log in."""

    __tablename__ = "core_user"

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(unique=True, max_length=63)
    role: str = "viewer"
    password_hash: str = ""
    totp_blob: bytes | None = None
    """The TOTP seed, sealed; None until a code of it was confirmed."""
    totp_last: int = 0
    """Last accepted time step, so that a code works once."""
    language: str = ""
    theme: str = ""
    time_zone: str = ""
    disabled: bool = False
    created: datetime = Field(default_factory=utcnow)
    password_changed: datetime = Field(default_factory=utcnow)
    last_login: datetime | None = None


class WebSession(Table, table=True):
    """A login on the server's side, under the SHA-256 of the cookie's value."""

    __tablename__ = "core_session"

    key: str = Field(primary_key=True)
    user_id: int | None = Field(default=None, foreign_key="core_user.id", ondelete="CASCADE", index=True)
    data: bytes
    created: datetime = Field(default_factory=utcnow)
    expires: datetime = Field(index=True)


class Token(Table, table=True):
    """An API token: `prefix` finds it, `mac` proves it; the token itself is shown once and not kept."""

    __tablename__ = "core_token"

    id: int | None = Field(default=None, primary_key=True)
    prefix: str = Field(unique=True)
    mac: str
    name: str
    user_id: int = Field(foreign_key="core_user.id", ondelete="CASCADE", index=True)
    role: str
    scopes: list[str] = Field(default_factory=list, sa_type=JSON)
    created: datetime = Field(default_factory=utcnow)
    expires: datetime | None = None
    last_used: datetime | None = None
    revoked: datetime | None = None


class Attempt(Table, table=True):
    """Failed proofs of identity per account or address, for the limits on every login path."""

    __tablename__ = "core_attempt"

    key: str = Field(primary_key=True)
    failures: int = 0
    first: datetime = Field(default_factory=utcnow)
    blocked_until: datetime | None = None
