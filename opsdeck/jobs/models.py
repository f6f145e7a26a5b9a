"""The tables of work: jobs, steps, logs, schedules, slots, leases, nodes. These rows are the truth."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, Index, UniqueConstraint
from sqlmodel import JSON, Field

from opsdeck.clock import utcnow
from opsdeck.db import Table


class State(StrEnum):
    """Where a job or step is. `skipped` is for steps only."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"
    SKIPPED = "skipped"

    @property
    def final(self) -> bool:
        """Tell whether nothing more will happen."""
        return self not in (State.QUEUED, State.RUNNING)


class Job(Table, table=True):
    """One run of one action with frozen parameters."""

    __tablename__ = "core_job"
    __table_args__ = (Index("ix_core_job_state_id", "state", "id"),)

    id: int | None = Field(default=None, primary_key=True)
    plugin: str = Field(index=True)
    action: str
    params: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    """As the action's Pydantic model dumps them; secrets stand there by name only."""
    selector: str = ""
    hosts: list[str] = Field(default_factory=list, sa_type=JSON)
    """Names the selector gave when the job was made; the job runs on these and no others."""
    plan: dict[str, Any] | None = Field(default=None, sa_type=JSON)
    state: str = State.QUEUED
    actor: str
    role: str
    door: str
    source: str = ""
    retry_of: int | None = Field(default=None, foreign_key="core_job.id", ondelete="SET NULL")
    slot_id: int | None = Field(default=None, unique=True)
    """The slot it came from; unique, so that a slot gives one job at most, whoever tries."""
    timeout: float | None = None
    """The clock over everything, seconds; frozen when the job was made. None: no bound."""
    silence: float | None = None
    """The clock since the last line of log, seconds; frozen when the job was made. None: no bound."""
    node: str = ""
    fence: int = 0
    """Grows with each claim; a late node's writes carry an old number and change nothing."""
    lease_until: datetime | None = None
    cancel_requested: datetime | None = None
    cancel_by: str = ""
    error: str = ""
    fault: str = ""
    """Name of the error's class (`Conflict`), for exit codes and pages."""
    receipt: dict[str, Any] | None = Field(default=None, sa_type=JSON)
    log_bytes: int = Field(default=0, sa_type=BigInteger)
    created: datetime = Field(default_factory=utcnow, index=True)
    started: datetime | None = None
    finished: datetime | None = None


def number(job: Job) -> int:
    """Give the number of a stored job."""
    if job.id is None:
        raise ValueError("the job was not stored")
    return job.id


class Step(Table, table=True):
    """A job's work on one host."""

    __tablename__ = "core_step"
    __table_args__ = (UniqueConstraint("job_id", "host"),)

    id: int | None = Field(default=None, primary_key=True)
    job_id: int = Field(foreign_key="core_job.id", ondelete="CASCADE")
    host: str
    """The host's name, kept when the host is gone."""
    state: str = State.QUEUED
    note: str = ""
    """One short phrase for the lane: `put back`, `not started: an earlier edge failed its probe`."""
    exit_status: int | None = None
    error: str = ""
    fault: str = ""
    """Name of the error's class (`HostKeyChanged`), for exit codes and pages."""
    receipt: dict[str, Any] | None = Field(default=None, sa_type=JSON)
    remote: dict[str, Any] | None = Field(default=None, sa_type=JSON)
    """What runs on the host right now: process group or unit, for cancel and re-attach from any node."""
    started: datetime | None = None
    finished: datetime | None = None


class LogChunk(Table, table=True):
    """A batch of consecutive log lines of one job, redacted before it was written."""

    __tablename__ = "core_log_chunk"

    job_id: int = Field(foreign_key="core_job.id", ondelete="CASCADE", primary_key=True)
    first: int = Field(primary_key=True)
    """Number of the batch's first line in the job, from 1."""
    count: int
    lines: str
    """JSON array of [milliseconds since epoch, host or "", stream, text]."""


class Schedule(Table, table=True):
    """When an action recurs."""

    __tablename__ = "core_schedule"

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(unique=True, max_length=100)
    plugin: str
    action: str
    params: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    selector: str = ""
    cron: str = ""
    every_seconds: int | None = None
    time_zone: str = "UTC"
    misfire: str = "once"
    """After downtime: `skip`, `once` (one run for all that were missed), `each`."""
    overlap: str = "skip"
    """While the job before still runs: `skip`, `queue`, `allow`."""
    paused: bool = False
    held_by: str = ""
    actor: str
    role: str
    version: int = 1
    created: datetime = Field(default_factory=utcnow)
    looked_at: datetime = Field(default_factory=utcnow)
    """Every slot planned up to here is a row."""


class Slot(Table, table=True):
    """One planned time of one schedule; becomes a job or is recorded as missed, exactly once."""

    __tablename__ = "core_slot"
    __table_args__ = (UniqueConstraint("schedule_id", "fire_key"),)

    id: int | None = Field(default=None, primary_key=True)
    schedule_id: int = Field(foreign_key="core_schedule.id", ondelete="CASCADE", index=True)
    fire_key: str
    """Local wall-clock time for schedules with a fixed hour (so a repeated hour fires once), UTC otherwise."""
    planned: datetime = Field(index=True)
    state: str = "due"
    """`due`, `fired`, `missed`, `skipped`."""
    reason: str = ""
    job_id: int | None = None
    decided: datetime = Field(default_factory=utcnow)


class Lease(Table, table=True):
    """The right of one holder to a job, a service or a resource for a while."""

    __tablename__ = "core_lease"

    name: str = Field(primary_key=True)
    node: str
    holder: str
    """`job:17`, `service:search_sync/shop`: who, shown to people."""
    purpose: str = ""
    fence: int = 1
    acquired: datetime = Field(default_factory=utcnow)
    expires: datetime = Field(default_factory=utcnow, index=True)


class Node(Table, table=True):
    """A process that runs jobs."""

    __tablename__ = "core_node"

    name: str = Field(primary_key=True)
    kind: str
    """`server`, `worker` or `cli`."""
    version: str
    started: datetime = Field(default_factory=utcnow)
    beat: datetime = Field(default_factory=utcnow)
