"""The manifest: what is known of one backup, written to the store last. A backup without one is none."""

from __future__ import annotations

import base64
import binascii
import json
import re
from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from opsdeck.api import Invalid

ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")
_Sha = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_LIMIT = 1 << 20


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Planned(_Part):
    """What was settled before the stream began."""

    format: int = 1
    id: str
    target: str
    chain: str
    parent: str = ""
    number: int = 0
    """Place in the chain; the full backup is 0."""
    kind: str
    reason: str = ""
    engine: str
    server: str
    tool: str
    identity: str
    """Tells the server's data from any other's."""
    data: str
    host: str
    object: str
    """Path of the data below the target's folder."""
    recipients: tuple[str, ...]
    at: datetime | None = None
    """When it was settled by the console's clock, which ages are told by; the host's may be wrong."""
    foreign: str = ""
    """Where plain folders of another's making lie, in rclone's words; `object` is then the list of their files."""

    @field_validator("id", "chain")
    @classmethod
    def _named(cls, value: str) -> str:
        if not ID.fullmatch(value):
            raise ValueError("not the name of a backup")
        return value


class Result(_Part):
    """What the host saw: sizes in bytes, sha256 of the stored objects, and the engine's own files."""

    started: datetime
    finished: datetime
    raw: int = Field(ge=0)
    stored: int = Field(ge=0)
    sha256: _Sha
    config_sha256: _Sha
    checkpoints: str
    checkpoints_name: str
    info: str
    read_back: bool = False
    listed: int = 0
    """Bytes of the list of a foreign backup's files; `sha256` is then the list's."""


class Manifest(_Part):
    """One backup as it lies in the store."""

    planned: Planned
    result: Result

    @property
    def id(self) -> str:
        """Give the backup's name."""
        return self.planned.id

    @property
    def at(self) -> datetime:
        """Give when it began, by the console's clock."""
        return self.planned.at or self.result.started

    def _lines(self, text: str) -> dict[str, str]:
        try:
            plain = base64.b64decode(text, validate=True).decode("utf-8", "replace")
        except binascii.Error:
            return {}
        return {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in plain.splitlines())}

    def lsn(self, name: str) -> int:
        """Give a log position of the checkpoints: `from_lsn` or `to_lsn`; 0 when it is not there."""
        value = self._lines(self.result.checkpoints).get(name, "")
        return int(value) if value.isdigit() else 0

    @property
    def position(self) -> str:
        """Give the place in the binary log, in the engine's words; "" when it keeps none."""
        return self._lines(self.result.info).get("binlog_pos", "")[:300]


def read(text: str | bytes, *, file: str) -> Manifest:
    """Read a manifest. Raises `Invalid` naming the file."""
    try:
        if len(text) > _LIMIT:
            raise ValueError("it is larger than 1 MiB")
        return Manifest.model_validate(json.loads(text))
    except (ValueError, ValidationError) as fault:
        what = str(fault).splitlines()[0]
        raise Invalid(f"the manifest {file} cannot be read: {what}.", file=file) from fault
