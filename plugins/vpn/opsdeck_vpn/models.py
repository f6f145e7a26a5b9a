"""The plugin's tables: tunnels, the rule list, devices and what they fetched."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, BigInteger
from sqlmodel import Field

from opsdeck.api import Table, utcnow


class State(StrEnum):
    """What a tunnel is."""

    DOWN = "down"
    STARTING = "starting"
    WAIT_OTP = "wait_otp"
    UP = "up"
    DEGRADED = "degraded"
    RECONNECTING = "reconnecting"
    FAILED = "failed"

    @property
    def settled(self) -> bool:
        """Tell whether a person or the office has the next word."""
        return self in (State.WAIT_OTP, State.UP, State.DEGRADED, State.FAILED)


class Kind(StrEnum):
    """What dials."""

    OPENVPN = "openvpn"
    WIREGUARD = "wireguard"


class Driver(StrEnum):
    """What keeps a tunnel apart on its gateway."""

    NAMESPACE = "namespace"
    """A network namespace and units of systemd."""
    COMPOSE = "compose"
    """A container of Docker Compose."""


class Otp(StrEnum):
    """Where a one-time code comes from."""

    NONE = "none"
    ASK = "ask"
    """A person gives it when the server asks, at the page or with `opsdeck vpn code`."""
    SEED = "seed"
    """Made from a stored seed (TOTP)."""


class Tunnel(Table, table=True):
    """An office network dialled on a host."""

    __tablename__ = "vpn_tunnel"

    name: str = Field(primary_key=True, max_length=11)
    host: str = Field(max_length=63, index=True)
    kind: str = Kind.OPENVPN
    config_secret: str
    """The cleaned profile, with its keys."""
    username: str = ""
    password_secret: str = ""
    otp: str = Otp.NONE
    seed_secret: str = ""
    concat: bool = False
    """Whether password and code go to the server as one word."""
    driver: str = Driver.NAMESPACE
    key_secret: str = ""
    """The passphrase of the profile's private key, "" when the key is open."""
    asks_password: bool = False
    remotes: list[str] = Field(default_factory=list, sa_type=JSON)
    report: list[dict[str, Any]] = Field(default_factory=list, sa_type=JSON)
    listen: str = "127.0.0.1"
    port: int = 1080
    socks_secret: str
    management_port: int
    mtu: int = 0
    """The largest packet that the way to the server bears, 0 when nobody said."""
    probe: str = ""
    """An address of the office, `host:port`; "" takes the first name server that the office pushes."""
    wanted: bool = False
    claimed_until: datetime | None = None
    """Until when a job attends it, so that the watcher stays away."""
    state: str = State.DOWN
    reason: str = ""
    since: datetime = Field(default_factory=utcnow)
    challenge: str = ""
    ticket: str = ""
    """What a server that asks back (CRV1) wants to have returned with the code."""
    code_given: datetime | None = None
    refusals: int = 0
    """Codes that the server refused in a row."""
    code_step: int = 0
    """The 30 seconds, counted since 1970, for which a code was last made from the seed."""
    local: str = ""
    pushed: dict[str, list[str]] = Field(default_factory=dict, sa_type=JSON)
    received: int = Field(default=0, sa_type=BigInteger)
    sent: int = Field(default=0, sa_type=BigInteger)
    latency_ms: float | None = None
    probed: datetime | None = None


class Rule(Table, table=True):
    """One line of the rule list: the first that fits wins."""

    __tablename__ = "vpn_rule"

    id: int | None = Field(default=None, primary_key=True)
    position: int = Field(index=True)
    kind: str
    value: str
    target: str
    """`direct`, `reject`, `tunnel:NAME` or `proxy:NAME`."""
    note: str = ""


class Proxy(Table, table=True):
    """Another proxy that rules may name."""

    __tablename__ = "vpn_proxy"

    name: str = Field(primary_key=True, max_length=40)
    kind: str
    server: str
    port: int
    username: str = ""
    password_secret: str = ""


class Device(Table, table=True):
    """A laptop or phone that fetches its profile by a token of its own."""

    __tablename__ = "vpn_device"

    name: str = Field(primary_key=True, max_length=40)
    token_hash: str = Field(index=True, unique=True)
    created: datetime = Field(default_factory=utcnow)
    created_by: str = ""
    revoked: datetime | None = None


class Fetch(Table, table=True):
    """Who fetched which profile when."""

    __tablename__ = "vpn_fetch"

    id: int | None = Field(default=None, primary_key=True)
    device: str = Field(index=True)
    core: str
    at: datetime = Field(default_factory=utcnow)
    source: str = ""
    agent: str = ""
    status: int = 200
    digest: str = ""


class Proof(Table, table=True):
    """What a proof button found, the last of each kind for a tunnel."""

    __tablename__ = "vpn_proof"

    tunnel: str = Field(primary_key=True)
    kind: str = Field(primary_key=True)
    at: datetime = Field(default_factory=utcnow)
    passed: bool
    text: str
