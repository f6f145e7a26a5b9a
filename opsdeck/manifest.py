"""What a plugin brings, as frozen data: actions, services, tables, pages.

The manifest is data; async work hangs off the descriptors. One `Action` makes the CLI's options, the page's form,
the API's schema and the schedule's parameters.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from opsdeck.jobs.context import JobRun, PlanRun, ServiceRun, StepRun
    from opsdeck.plan import Plan

API = 1
"""The number of the contract between core and plugins; a plugin with another number is not loaded."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}\Z")

SecretName = Annotated[str, Field(json_schema_extra={"opsdeck": "secret"}, max_length=100)]
"""A parameter that names a secret; doors offer the names, never the values."""

HostName = Annotated[str, Field(json_schema_extra={"opsdeck": "host"}, max_length=63)]
"""A parameter that names one host."""

Multiline = Annotated[str, Field(json_schema_extra={"opsdeck": "multiline"})]
"""A text of several lines; the form gives it room, the CLI takes `@file` and `-` for standard input."""


class NoParams(BaseModel):
    """The parameters of an action that has none."""


class Risk(StrEnum):
    """What can go wrong: nothing, a change, a loss."""

    READ = "read"
    CHANGE = "change"
    DESTROY = "destroy"


class Targets(StrEnum):
    """What an action works on."""

    HOSTS = "hosts"
    CONSOLE = "console"


class Recover(StrEnum):
    """What becomes of a running job whose node died."""

    LOST = "lost"
    """It is marked lost, what still runs on the hosts is ended, its leases go free."""
    RESUME = "resume"
    """Another node (or this one after its restart) calls it again; `detached` commands are re-attached by name."""


Receipt = dict[str, Any]
"""The proof an action leaves: JSON-ready, small, what was done and what a probe saw afterwards."""


@dataclass(frozen=True)
class Action:
    """A named thing that can be done.

    Exactly one of `step` and `run` is given. `step` does the work on one host: the core fans it out, at most
    `parallel` hosts at once, one step each, and stops starting new ones after `stop_after` failures. `run` does the
    whole job and opens its steps itself (a first host, then the rest).

    `plan` tells what would change, from what lies there now; it changes nothing. `touches` names what must not be
    touched by two jobs at once (leases), from the parameters and the host names. `timeout` and `silence` are the two
    clocks of a job, in seconds: in total, and since its last line of log; None means no bound of that kind.
    """

    name: str
    title: str
    summary: str
    params: type[BaseModel] = NoParams
    risk: Risk = Risk.CHANGE
    targets: Targets = Targets.HOSTS
    step: Callable[[StepRun, Any], Awaitable[Receipt | None]] | None = None
    run: Callable[[JobRun, Any], Awaitable[Receipt | None]] | None = None
    plan: Callable[[PlanRun, Any], Awaitable[Plan]] | None = None
    touches: Callable[[Any, Sequence[str]], Sequence[str]] | None = None
    parallel: int = 32
    stop_after: int | None = None
    timeout: float | None = 3600.0
    silence: float | None = 900.0
    recover: Recover | Callable[[Any], Recover] = Recover.LOST
    hidden: bool = False
    """Run by other parts (a page of the plugin, a schedule of the core), not offered in lists."""

    def __post_init__(self) -> None:
        if not _NAME.match(self.name):
            raise ValueError(f"action name {self.name!r}: small letters, digits and _, at most 40")
        if (self.step is None) == (self.run is None):
            raise ValueError(f"action {self.name}: give either step or run")
        if self.step is not None and self.targets is not Targets.HOSTS:
            raise ValueError(f"action {self.name}: step works on hosts, so targets must be hosts")
        for name, part in self.params.model_fields.items():
            if str(part.alias or name).startswith("_"):
                raise ValueError(f"action {self.name}: parameter {part.alias!r} begins with _, which forms keep")


@dataclass(frozen=True)
class Service:
    """A long-running task: supervised, leased to one node, restarted with back-off.

    `instances` gives the keys that should run now (one per sync stream, `("",)` for a single one); it is asked again
    every few seconds, so starting and stopping an instance is a change of the plugin's rows and nothing else.
    """

    name: str
    title: str
    run: Callable[[ServiceRun], Awaitable[None]]
    instances: Callable[[ServiceRun], Awaitable[Sequence[str]]]


@dataclass(frozen=True)
class NavItem:
    """A line in the console's side bar. `title` is a msgid of the plugin's catalogue."""

    title: str
    path: str
    order: int = 100


@dataclass(frozen=True)
class SecretKind:
    """A kind of secret that a plugin uses; `check` raises `Invalid` for a value that cannot be one."""

    name: str
    title: str
    check: Callable[[str], None] | None = None


@dataclass(frozen=True)
class Manifest:
    """Everything static that a plugin brings.

    `package` is its import name: `templates/`, `static/`, `locale/` and `migrations/versions/` are found below it.
    Tables in `models` begin with `<name>_`. `routes` are Litestar handlers or controllers, mounted under `/p/<name>/`.
    """

    name: str
    version: str
    api: int
    package: str
    title: str = ""
    actions: tuple[Action, ...] = ()
    services: tuple[Service, ...] = ()
    models: tuple[type[Any], ...] = ()
    routes: tuple[Any, ...] = ()
    open_routes: tuple[Any, ...] = ()
    """Handlers that answer without a login: they prove by a token of their own who asks."""
    navigation: tuple[NavItem, ...] = ()
    secret_kinds: tuple[SecretKind, ...] = ()
    events: tuple[type[Any], ...] = ()
    after: tuple[str, ...] = field(default=())
    """Names of plugins whose tables must exist first."""

    @property
    def offered(self) -> tuple[Action, ...]:
        """Give the actions that lists offer: all but the hidden ones."""
        return tuple(action for action in self.actions if not action.hidden)

    def __post_init__(self) -> None:
        if not _NAME.match(self.name):
            raise ValueError(f"plugin name {self.name!r}: small letters, digits and _, at most 40")
        names = [action.name for action in self.actions]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"plugin {self.name}: action {sorted(twice)[0]} is there twice")
        services = [service.name for service in self.services]
        for service in services:
            if not _NAME.match(service):
                raise ValueError(
                    f"plugin {self.name}: service name {service!r}: small letters, digits and _, at most 40"
                )
            if services.count(service) > 1:
                raise ValueError(f"plugin {self.name}: service {service} is there twice")
        for model in self.models:
            table = str(getattr(model, "__tablename__", ""))
            if not table.startswith(f"{self.name}_"):
                raise ValueError(f"plugin {self.name}: table {table!r} must begin with {self.name}_")


@dataclass(frozen=True)
class Finding:
    """One line of `opsdeck doctor` and of the health page."""

    subject: str
    state: str
    """`ok`, `attention` or `broken`."""
    text: str
    hint: str = ""


@dataclass(frozen=True)
class HostCard:
    """What a plugin shows on a host's page: a title, key facts, a link to more."""

    title: str
    state: str
    facts: tuple[tuple[str, str], ...] = ()
    link: str = ""
