"""The actions that move files: onto hosts, checked and kept, and from hosts into the data folder."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from opsdeck.actor import Door
from opsdeck.errors import NotFound, OpsDeckError, Refused, as_value_error
from opsdeck.manifest import Action, Multiline, Receipt, Risk
from opsdeck.plan import Plan

if TYPE_CHECKING:
    from opsdeck.actor import Actor
    from opsdeck.jobs.context import HostAccess, PlanRun, StepRun
    from opsdeck.remote.files import File

FOLDER = "files"
"""Below the data folder: what may be sent through any door, and where fetched files land."""
SUDO_FETCH_LIMIT = 16 << 20


@as_value_error()
def _path(text: str) -> str:
    from opsdeck.remote.paths import check_path

    return check_path(text)


def _mode(text: str) -> str:
    if text and not re.fullmatch(r"0?[0-7]{3,4}", text):
        raise ValueError("write it like 0644")
    return text


@as_value_error()
def _owner(text: str) -> str:
    from opsdeck.remote.paths import check_owner

    return check_owner(text) if text else ""


HostPath = Annotated[str, Field(json_schema_extra={"opsdeck": "path"}), AfterValidator(_path)]


class CopyParams(BaseModel):
    """What goes where."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: HostPath = Field(title="Path on the host", description="Where the file shall lie; its folder must be there.")
    source: str = Field(
        "",
        title="File to copy",
        description="On the console: a file below `files` in its data folder; from the command line any file.",
        json_schema_extra={"opsdeck": "path"},
        max_length=4096,
    )
    content: Multiline = Field(
        "", title="Content", description="Instead of a file: the text itself.", max_length=400_000
    )
    mode: Annotated[str, AfterValidator(_mode)] = Field(
        "", title="Mode", description="Such as 0644; empty keeps what is there, 0644 for a new file."
    )
    owner: Annotated[str, AfterValidator(_owner)] = Field(
        "", title="Owner", description="user or user:group; empty keeps what is there."
    )
    check: str = Field(
        "",
        title="Check",
        description="A program that judges the new file before it counts, such as `visudo -cf {}`; {} is the file.",
        max_length=4096,
    )
    keep_previous: bool = Field(True, title="Keep the previous file", description="Beside it, hidden, to put back.")
    sudo: bool = Field(False, title="As root", description="Through the sudo way set for each host.")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if bool(self.source) == bool(self.content):
            raise ValueError("give either a file or content")
        if "\0" in self.source:
            raise ValueError("a NUL byte cannot be part of a path")
        try:
            words = shlex.split(self.check)
        except ValueError as fault:
            raise ValueError(f"the check cannot be read: {fault}") from None
        if words and "{}" not in words:
            raise ValueError("the check needs {} as a word of its own, for the file")
        return self

    def file(self, actor: Actor, home: Path) -> File:
        """Give the file as it should be. Raises `NotFound`, `Refused` for a source that this door may not read."""
        from opsdeck.remote.files import File
        from opsdeck.remote.paths import parse_mode

        return File(
            self.path,
            local_file(self.source, actor, home) if self.source else self.content.replace("\r\n", "\n").encode(),
            mode=parse_mode(self.mode) if self.mode else None,
            owner=self.owner or None,
            check=tuple(shlex.split(self.check)),
        )


def local_file(text: str, actor: Actor, home: Path) -> Path:
    """Find the file to send. Only who sits at the command line may name any; others reach below `files` alone."""
    root = (home / FOLDER).resolve()
    if actor.door is Door.CLI:
        path = Path(text).expanduser()
        if not path.is_file() and (root / text).is_file():
            path = root / text
    else:
        path = (root / text).resolve()
        if not path.is_relative_to(root):
            raise Refused(
                f"{text} is not below {FOLDER} of the data folder.", field="source", hint=f"put it into {root} first"
            )
    if not path.is_file():
        raise NotFound(f"there is no file {path} here.", field="source", file=str(path))
    return path


async def _copy(step: StepRun, params: CopyParams) -> Receipt:
    from opsdeck.remote import files

    file = params.file(step.job.actor, step.job.home)
    changed = await files.apply(step, [file], keep_previous=params.keep_previous, sudo=params.sudo)
    (state,) = await files.look(step, [file.path], limit=0, sudo=params.sudo)
    if state.digest != file.digest:
        raise OpsDeckError(f"{file.path} is not what was sent.", host=step.host.name, hint="see who else writes it")
    text = f"wrote {file.path}, {file.size} bytes" if changed else f"{file.path} was like this already"
    step.log(text, "good")
    step.note("written" if changed else "unchanged")
    return {"path": file.path, "changed": bool(changed), "bytes": file.size, "sha256": state.digest}


async def _plan_copy(run: PlanRun, params: CopyParams) -> Plan:
    from opsdeck.remote import files

    file = params.file(run.actor, run.home)

    async def look(host: HostAccess) -> object:
        return await files.plan(host, [file], sudo=params.sudo)

    found = await run.gather(look)
    return Plan(tuple(change for changes in found.values() for change in changes))


class FetchParams(BaseModel):
    """What is fetched."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: HostPath = Field(title="Path on the host", description="The file to fetch.")
    sudo: bool = Field(
        False,
        title="As root",
        description=f"For a file that the login may not read; at most {SUDO_FETCH_LIMIT >> 20} MB.",
    )


def landing(home: Path, job: int, host: str, path: str) -> Path:
    """Say where a fetched file lands: `files/<job>/<host>/<name>` in the data folder.

    Only the last part of the host's path is used, and never as `.` or `..`; `check_path` refuses those.
    """
    return home / FOLDER / str(job) / host / path.rpartition("/")[2]


async def _fetch(step: StepRun, params: FetchParams) -> Receipt:
    local = landing(step.job.home, step.job.id, step.host.name, params.path)
    local.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if params.sudo:
        content = await step.get(params.path, sudo=True, limit=SUDO_FETCH_LIMIT)
        local.write_bytes(content)
        size = len(content)
    else:
        size = await step.fetch(params.path, local)
    with local.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    step.log(f"{params.path} lies in {local}, {size} bytes", "good")
    return {"path": params.path, "file": str(local.relative_to(step.job.home)), "bytes": size, "sha256": digest}


def _touches(params: CopyParams, hosts: Sequence[str]) -> Sequence[str]:
    return [f"file:{host}:{params.path}" for host in hosts]


copy = Action(
    "copy",
    "Copy a file",
    "Put a file or a text in its place on each host: checked, swapped in at once, the previous one kept.",
    params=CopyParams,
    risk=Risk.CHANGE,
    step=_copy,
    plan=_plan_copy,
    touches=_touches,
)
fetch = Action(
    "fetch",
    "Fetch a file",
    "Copy a file of each host into the console's data folder.",
    params=FetchParams,
    # It changes nothing, yet what lies in a host's files may be secret: looking at hosts is not enough to ask for it.
    risk=Risk.CHANGE,
    step=_fetch,
)
