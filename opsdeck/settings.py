"""Where OpsDeck keeps its things and how it listens: from the environment and `config.toml` in the data folder.

Order of precedence: environment, `config.toml`, default. Every setting is one field here.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from opsdeck.errors import Invalid


def _default_home() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "opsdeck"


class Settings(BaseModel):
    """All settings of one node. `OPSDECK_<NAME>` in the environment sets the field `<name>`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    home: Path = Field(default_factory=_default_home, description="Data folder: database, key, artefacts")
    database_url: str = Field("", description="SQLAlchemy URL; empty means SQLite in the data folder")
    master_key_file: Path | None = Field(None, description="File with the master key; default `master.key` in home")
    node: str = Field("", description="This node's name; default is the machine's host name")
    bind: str = Field("127.0.0.1", description="Address that the console listens on")
    port: int = Field(8600, ge=0, le=65535, description="Port that the console listens on; 0 takes a free one")
    public_url: str = Field("", description="Address that people use, when a proxy stands before the console")
    trusted_proxies: str = Field("127.0.0.1", description="Addresses whose forwarded headers are believed")
    disabled_plugins: tuple[str, ...] = Field((), description="Names of plugins that are not loaded")
    history_days: int = Field(90, ge=1, description="How long finished jobs are kept, days")
    history_mb: int = Field(512, ge=1, description="How much log is kept, MB")
    sample_seconds: int = Field(60, ge=10, description="How often each host's counters are read, seconds")
    trace: bool = Field(False, description="Print every hook call and remote command")

    @property
    def url(self) -> str:
        """Give the database's URL with its async driver."""
        return self.database_url or f"sqlite+aiosqlite:///{self.home / 'opsdeck.db'}"

    @property
    def key_file(self) -> Path:
        """Give the path of the master key file."""
        return self.master_key_file or self.home / "master.key"


def load(home: Path | None = None, **given: Any) -> Settings:
    """Read the settings.

    `home` overrides `OPSDECK_HOME`; `given` overrides everything. Raises `Invalid`, naming the field and where it
    came from.
    """
    root = home or Path(os.environ.get("OPSDECK_HOME") or _default_home())
    file = root / "config.toml"
    values: dict[str, Any] = {}
    if file.is_file():
        try:
            values = tomllib.loads(file.read_text())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
            raise Invalid(f"{file} is not TOML: {fault}", file=str(file), hint="mend that line") from fault
    for name in Settings.model_fields:
        text = os.environ.get(f"OPSDECK_{name.upper()}")
        if text is not None and name != "home":
            values[name] = [part for part in text.split(",") if part] if name == "disabled_plugins" else text
    try:
        return Settings(**(values | given | {"home": root}))
    except ValidationError as fault:
        first = fault.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise Invalid(
            f"setting {name!r}: {first['msg']}",
            field=name,
            file=str(file),
            hint=f"change it in {file} or in OPSDECK_{name.upper()}",
        ) from fault
