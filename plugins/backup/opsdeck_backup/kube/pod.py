"""A container of a pod as a place where parts run, reached by kubectl on a host.

Nothing but a few constant lines and names stands in kubectl's words: text, arguments and secrets travel on standard
input. What runs long is detached in the container, so a lost connection of kubectl costs nothing.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opsdeck.api import NotFound, Script, Sensitive
from opsdeck_backup import look
from opsdeck_backup.kube import charts
from opsdeck_backup.models import Target

if TYPE_CHECKING:
    from opsdeck.api import Completed, Host, HostAccess, StepRun

PATIENCE = 100
"""Looks that may fail in a row, three seconds apart."""
_TAKE = """take() { IFS= read -r line && printf %s "$line" | base64 -d; }
IFS= read -r count || exit 1
text=$(take) || exit 1
set --
while [ "$count" -gt 0 ]; do word=$(take) || exit 1; set -- "$@" "$word"; count=$((count - 1)); done
"""
_RUN = _TAKE + 'eval "$text"\n'
_START = (
    """base=$1
umask 077
if [ -e "$base.pid" ]; then cat >/dev/null; exit 0; fi
"""
    + _TAKE
    + """rest=$(cat)
(
  part='echo $$ >"$0.pid"; text=$1; shift; eval "$text"'
  printf '%s\\n' "$rest" | setsid sh -c "$part" "$base" "$text" "$@" >"$base.log" 2>&1
  echo $? >"$base.new"
  mv "$base.new" "$base.rc"
) </dev/null >/dev/null 2>&1 &
left=50
until [ -s "$base.pid" ]; do left=$((left - 1)); [ "$left" -gt 0 ] || exit 1; sleep 0.1; done
"""
)
_FOLLOW = """base=$1
{ read -r pid <"$base.pid"; } 2>/dev/null || { echo '@@ gone 0'; exit 0; }
alive=y
kill -0 "$pid" 2>/dev/null || { alive=; sleep 0.2; }
size=$(wc -c <"$base.log")
tail -c "+$(($2 + 1))" "$base.log" | head -c "$((size - $2))"
state=running
if [ -e "$base.rc" ]; then read -r state <"$base.rc"; elif [ -z "$alive" ]; then state=killed; fi
echo "@@ $state $size"
"""
_END = """base=$1
[ "$2" = end ] && { read -r pid <"$base.pid"; } 2>/dev/null && kill -TERM -- "-$pid" 2>/dev/null
rm -f "$base.pid" "$base.log" "$base.rc"
"""


def packed(script: Script, stdin: Sensitive | None) -> Sensitive:
    """Put a part's text, its words and what it reads into one stream of lines."""
    lines = [str(len(script.args)), *(base64.b64encode(text.encode()).decode() for text in (script.text, *script.args))]
    return Sensitive("\n".join(lines) + "\n" + (stdin.reveal() if stdin else ""))


def kubectl(row: Target, *words: str) -> tuple[str, ...]:
    """Give kubectl's words for a target's namespace."""
    config = (f"--kubeconfig={row.kubeconfig}",) if row.kubeconfig else ()
    return ("kubectl", *config, f"--namespace={row.namespace}", *words)


async def get(host: HostAccess, row: Target, *words: str) -> Any:
    """Ask kubectl for an object; give it as JSON has it. Raises `NotFound`, `CommandFailed`."""
    done = await host.run(
        kubectl(row, "get", *words, "--output=json", "--ignore-not-found"), sudo=True, log=False, timeout=90
    )
    if not done.stdout.strip():
        raise NotFound(f"the cluster has no {' '.join(words)} in {row.namespace}.", host=host.host.name)
    return json.loads(done.stdout)


@dataclass(frozen=True)
class Pod:
    """One container of a pod; parts run there as its user. `name` tells the runs of one job from those of others."""

    step: StepRun
    row: Target
    pod: str
    name: str

    @property
    def host(self) -> Host:
        """Give the host whose kubectl reaches it."""
        return self.step.host

    @property
    def work(self) -> str:
        """Give the folder for what a Job unpacks: on the claim, beside the data."""
        return f"{charts.CLAIM}/.opsdeck-restore"

    @property
    def _exec(self) -> tuple[str, ...]:
        return kubectl(self.row, "exec", "--stdin", self.pod, f"--container={charts.CONTAINER}", "--")

    async def run(
        self,
        command: Script,
        *,
        sudo: bool = False,
        check: bool = True,
        log: bool = True,
        timeout: float | None = None,
        stdin: Sensitive | None = None,
    ) -> Completed:
        """Run a part there and wait for its end; `sudo` is what kubectl gets on its host."""
        words = (*self._exec, "sh", "-c", _RUN, "sh")
        return await self.step.run(
            words, sudo=True, check=check, log=log, timeout=timeout, stdin=packed(command, stdin)
        )

    async def detached(
        self, label: str, command: Script, *, sudo: bool = False, check: bool = True, stdin: Sensitive | None = None
    ) -> Completed:
        """Run a part that outlives console, host's link and kubectl's connection, and follow it to its end."""
        base, title = f"{charts.RUN}/{self.name}.{label}", f"in {self.row.namespace}/{self.pod}: {command.title}"
        script = Script(look.shell("pod"), (base, str(PATIENCE), _START, _FOLLOW, _END, *self._exec), title)
        return await self.step.detached(label, script, sudo=True, check=check, stdin=packed(command, stdin))

    def log(self, text: str, stream: str = "info") -> None:
        """Add a line to the host's lane."""
        self.step.log(text, stream)

    def note(self, text: str) -> None:
        """Set the short phrase beside the host."""
        self.step.note(text)


def pod_of(row: Target) -> str:
    """Give the pod that is backed up."""
    return row.pod or f"{row.workload}-0"


def options(row: Target, login: Sensitive | None) -> Sensitive:
    """Give the options file of a pod's database: the login, and the socket that the server shares."""
    socket = charts.chart(row.chart).socket
    return Sensitive(f"{login.reveal() if login else ''}\n[client]\nsocket={socket}\n")


def images(workload: Any) -> Sequence[str]:
    """Give the image of the sidecar in a workload as kubectl gave it; none when it has no sidecar."""
    spec = workload.get("spec", {}).get("template", {}).get("spec", {})
    return [one["image"] for one in spec.get("containers", ()) if one.get("name") == charts.CONTAINER]
