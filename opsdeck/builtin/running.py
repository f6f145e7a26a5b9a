"""The actions that run what a person wrote: one command, or a script."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from opsdeck.manifest import Action, Multiline, Receipt, Recover, Risk

if TYPE_CHECKING:
    from opsdeck.jobs.context import StepRun
    from opsdeck.ssh.command import Command, Completed, Script

LABEL = "main"
"""The name under which a detached run of these actions is found again on its host."""


class _Manner(BaseModel):
    """How it is run: the part that both actions share."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sudo: bool = Field(False, title="As root", description="Through the sudo way set for each host.")
    run_as: str = Field(
        "",
        title="As user",
        description="Another user of the host; needs sudo there.",
        pattern=r"^([A-Za-z_][A-Za-z0-9_.-]{0,31})?$",
    )
    folder: str = Field(
        "",
        title="Folder",
        json_schema_extra={"opsdeck": "path"},
        description="Where it starts; empty means the login's home.",
    )
    timeout: float | None = Field(
        None,
        gt=0,
        le=30 * 86400,
        json_schema_extra={"unit": "s"},
        title="Time limit",
        description="It is ended on the host after this time; empty means only the job's own limit.",
    )
    detach: bool = Field(
        False,
        title="Detached",
        description="It keeps running on the host when the link drops or the console restarts, and is followed again.",
    )

    @model_validator(mode="after")
    def _detached_as_login_or_root(self) -> Self:
        if self.detach and self.run_as:
            raise ValueError("a detached run is the login's or root's; leave out the user")
        return self


class _Line(BaseModel):
    command: str = Field(
        "", title="Command", description="A line for sh on each host, taken exactly as written.", max_length=100_000
    )
    words: list[str] = Field(
        default_factory=list,
        title="Words",
        description="Instead of a line: the program and its arguments, one word each; no shell reads them.",
        max_length=4096,
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if bool(self.command.strip()) == bool(self.words):
            raise ValueError("give either a command or words")
        if self.words and not self.words[0]:
            raise ValueError("the first word names the program, so it cannot be empty")
        if "\0" in self.command or any("\0" in word for word in self.words):
            raise ValueError("a NUL byte cannot be part of a command")
        return self


class _Text(BaseModel):
    text: Multiline = Field(
        min_length=1,
        max_length=100_000,
        title="Script",
        description="POSIX sh. A line that fails does not end it, unless it begins with `set -e`.",
    )
    args: list[str] = Field(
        default_factory=list, title="Arguments", description='They arrive as "$1", "$2" and so on.', max_length=4096
    )

    @model_validator(mode="after")
    def _no_nul(self) -> Self:
        if "\0" in self.text or any("\0" in word for word in self.args):
            raise ValueError("a NUL byte cannot be part of a script or its arguments")
        return self


# The fields of the last base come first in forms.
class CommandParams(_Manner, _Line):
    """What to run, and how."""


class ScriptParams(_Manner, _Text):
    """What to run, and how."""


def command_task(params: CommandParams) -> Command | Script:
    """Build what `command` runs: the line as a script of its own, or the words as argv."""
    from opsdeck.ssh.command import Command, Script

    if params.words:
        return Command(
            tuple(params.words),
            sudo=params.sudo or bool(params.run_as),
            run_as=params.run_as or None,
            cwd=params.folder or None,
            timeout=params.timeout,
        )
    return Script(
        params.command,
        sudo=params.sudo or bool(params.run_as),
        run_as=params.run_as or None,
        cwd=params.folder or None,
        timeout=params.timeout,
    )


def script_task(params: ScriptParams) -> Script:
    """Build what `script` runs. Line ends of a browser's form (CR LF) become those of sh."""
    from opsdeck.ssh.command import Script

    return Script(
        params.text.replace("\r\n", "\n"),
        tuple(params.args),
        sudo=params.sudo or bool(params.run_as),
        run_as=params.run_as or None,
        cwd=params.folder or None,
        timeout=params.timeout,
    )


async def _run(step: StepRun, task: Command | Script, detach: bool) -> Receipt:
    done = await (step.detached(LABEL, task) if detach else step.run(task))
    return receipt(done)


def receipt(done: Completed) -> Receipt:
    """Give what stays of a run: exit status, seconds, and the last line it said."""
    return {"exit_status": done.exit_status, "seconds": round(done.duration, 3), "last_line": done.last_words(200)}


async def _command(step: StepRun, params: CommandParams) -> Receipt:
    return await _run(step, command_task(params), params.detach)


async def _script(step: StepRun, params: ScriptParams) -> Receipt:
    return await _run(step, script_task(params), params.detach)


def _recover(params: _Manner) -> Recover:
    return Recover.RESUME if params.detach else Recover.LOST


command = Action(
    "command",
    "Run a command",
    "Run one command on each host and show what it says.",
    params=CommandParams,
    risk=Risk.CHANGE,
    step=_command,
    recover=_recover,
)
script = Action(
    "script",
    "Run a script",
    "Run a shell script on each host and show what it says.",
    params=ScriptParams,
    risk=Risk.CHANGE,
    step=_script,
    recover=_recover,
)
