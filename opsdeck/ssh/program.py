"""The one place where shell text is made: from a task to what travels to the host.

The login shell gets one line that starts `sh`, made of characters that `sh`, `bash`, `dash`, `fish`, `csh` and `zsh`
read alike. A short program is in that line, with octal escapes for all that any of them could take for its own: OpenSSH
opens a session's window for stdin only after it has started the command, so a program on stdin costs a round trip. A
long one goes on stdin, behind a line that takes it by its length (neither `read` nor `head -c` reads on, so what
follows is the task's own). Nothing that a start-up file prints counts: output begins after a fence with a random
marker, on stdout and stderr alike.

The program makes its shell the leader of an own session and process group, says so in the fence, and only then becomes
the task. If the fence cannot be written, since nobody listens any more, the task is not started.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from opsdeck.errors import Invalid
from opsdeck.ssh.command import ARGUMENT_LIMIT, Command, ProcessGroup, Task
from opsdeck.ssh.endpoint import Endpoint, Sudo
from opsdeck.ssh.errors import SudoRefused

# Within single quotes every shell takes these as they are. A backslash too, unless a quote or backslash follows it.
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 ./:=,+@_-")
_ESCAPED = {byte: f"\\{byte:03o}" for byte in range(256) if byte not in _PLAIN}
_LINE = """exec /bin/sh -c 'eval "$(printf "%s")"'"""
_FROM_STDIN = """exec /bin/sh -c 'IFS= read -r _od_p && eval "$_od_p"'"""
# Bytes of the line with a program in it; csh and the like have limits of their own for a word.
_LINE_LIMIT = 16 * 1024

# `left PGID` prints the members of a process group that are not zombies. Fields after the last ")" of
# /proc/PID/stat (proc(5)): 1 state, 2 parent, 3 group, 4 session, 20 start in clock ticks.
_LEFT = (
    "left() { for _od_d in /proc/[0-9]*; do "
    '{ read -r _od_l <"$_od_d/stat"; } 2>/dev/null || continue; '
    "_od_p=${_od_d#/proc/}; _od_g=$1; set -- ${_od_l##*) }; "
    '[ "$3" = "$_od_g" ] && [ "$1" != Z ] && [ "$1" != X ] && echo "$_od_p"; '
    'set -- "$_od_g"; done; }; '
)

_STAT = "read -r _od_l </proc/$$/stat; set -- ${_od_l##*) }; "

# Runs $_od_b as leader of its session: in this very shell if it leads one already (sshd starts it so).
_LEAD = (
    _STAT
    + 'if [ "$3" = $$ ] && [ "$4" = $$ ]; then eval "$_od_b"; '
    + 'elif command -v setsid >/dev/null; then exec setsid -w /bin/sh -c "$_od_b"; '
    + 'else echo "setsid is missing on this host: install util-linux" >&2; exit 127; fi'
)

# Under `timeout`, which ends the group: waits, once told to end, for stragglers, so that they are killed as well.
_WATCHED = (
    '_od_t=; trap _od_t=1 TERM; (exec "$@"); _od_r=$?; [ -n "$_od_t" ] || exit $_od_r; '
    + _LEFT
    + "while :; do _od_n=; for _od_i in $(left $PPID); do "
    "[ $_od_i = $$ ] || [ $_od_i = $PPID ] || [ ! -e /proc/$_od_i ] || _od_n=1; done; "
    '[ -n "$_od_n" ] || exit $_od_r; sleep 0.1; done'
)

# $1 group, $2 start of its leader, $3 boot id, $4 and $5 tenths of a second to wait after TERM and after KILL.
END_GROUP = (
    _LEFT
    + """_od_pg=$1 _od_st=$2 _od_bo=$3 _od_a=$4 _od_k=$5
read -r _od_b </proc/sys/kernel/random/boot_id
[ "$_od_b" = "$_od_bo" ] || { echo gone; exit 0; }
if read -r _od_l </proc/$_od_pg/stat; then
  set -- ${_od_l##*) }
  [ "${20}" = "$_od_st" ] || { echo gone; exit 0; }
fi 2>/dev/null
tell() { kill -s "$1" -- -$_od_pg 2>/dev/null; }
wait_gone() { _od_w=$1; while [ "$_od_w" -gt 0 ]; do
[ -n "$(left $_od_pg)" ] || return 0
sleep 0.1; _od_w=$((_od_w - 1)); done; [ -z "$(left $_od_pg)" ]; }
tell TERM; tell CONT
wait_gone "$_od_a" || { tell KILL; wait_gone "$_od_k"; } && { echo gone; exit 0; }
left $_od_pg; exit 1"""
)

_GROUP = re.compile(rb" ([0-9]{1,10}) ([0-9]{1,20}) ([0-9a-f-]{36})")
NO_SETSID = b"setsid is missing on this host"


def quote(word: str) -> str:
    """Quote one word for `sh`: the only quoting in the house."""
    return "'" + word.replace("'", "'\\''") + "'"


@dataclass(frozen=True)
class Escalation:
    """How a task becomes another user: the words before `sh`, and whether sudo will ask for a password."""

    prefix: tuple[str, ...]
    password: str | None = None
    home_of: str | None = None

    def __repr__(self) -> str:
        return f"Escalation({' '.join(self.prefix)})"


@dataclass(frozen=True)
class Program:
    """A task made ready for one endpoint: `line` is for the login shell, `opening` comes first on stdin, then (after
    the fence if `gated`) `go` and the task's own.

    `gated` holds when sudo may ask for a password and the task has a stdin: sudo reads from the same place, so nothing
    else may lie there before it is done.
    """

    marker: str
    line: str
    opening: bytes
    fed: bool
    gated: bool
    go: bytes
    sudo: bool
    run_as: str | None

    def __repr__(self) -> str:
        return f"Program({self.marker})"


def escalate(endpoint: Endpoint, task: Task, prompt: str) -> Escalation | None:
    """Decide how the task becomes its user; None if the login already is that user. Raises `SudoRefused`."""
    target = task.run_as or ("root" if task.sudo else None)
    if target is None or target == endpoint.user:
        return None
    if endpoint.user == "root":
        return Escalation(("runuser", "-u", target, "--"), home_of=target)
    user = () if target == "root" else ("-u", target)
    if endpoint.sudo is Sudo.NOPASSWD:
        return Escalation(("sudo", "-n", *user, "--"))
    if endpoint.sudo is Sudo.PASSWORD and endpoint.sudo_password:
        password = endpoint.sudo_password.reveal()
        if "\n" in password or "\0" in password:
            raise SudoRefused(
                "the sudo password holds a line break.", host=endpoint.name, hint="set the secret again without it."
            )
        return Escalation(("sudo", "-k", "-S", "-p", prompt, *user, "--"), password=password)
    raise SudoRefused(
        f"the command needs to be {target}, and no way to become it is set for this host.",
        host=endpoint.name,
        hint="set sudo for the host (nopasswd, or password with its secret), or log in as root.",
    )


def compose(endpoint: Endpoint, task: Task, *, has_stdin: bool | None = None) -> Program:
    """Make the program of a task. Raises `Invalid` or `SudoRefused` before anything is dialled."""
    marker = "opsdeck:" + secrets.token_hex(16)
    way = escalate(endpoint, task, marker + ":password ")
    fed = task.stdin is not None if has_stdin is None else has_stdin
    gated = way is not None and way.password is not None and fed
    body = _body(task, marker, fed=fed, gated=gated, home_of=way.home_of if way else None)
    if way is None:
        text = f"_od_b={quote(body)}; {_LEAD}"
    else:
        if len(body.encode()) > ARGUMENT_LIMIT:
            raise Invalid(
                f"the command is {len(body.encode())} bytes long, too much to hand on as another user.",
                field="argv",
                hint="send the data on stdin, or copy it as a file.",
            )
        words = (*way.prefix, "/bin/sh", "-c", "_od_b=$1; " + _LEAD, "sh", body)
        text = f"printf '%s\\n' {quote(marker + ':become')} >&2; exec {' '.join(map(quote, words))}"
    line, opening = _carry(text.encode())
    secret = way.password.encode() + b"\n" if way and way.password is not None else b""
    return Program(
        marker=marker,
        line=line,
        opening=opening + secret,
        fed=fed,
        gated=gated,
        go=(marker + ":go\n").encode() if gated else b"",
        sudo=task.sudo,
        run_as=task.run_as,
    )


def _carry(program: bytes) -> tuple[str, bytes]:
    """Give the line for the login shell, and what of the program goes on stdin."""
    line = _LINE.replace("%s", program.decode("latin-1").translate(_ESCAPED))
    if len(line) <= _LINE_LIMIT:
        return line, b""
    return _FROM_STDIN, b'_od_p=$(head -c %d); eval "$_od_p"\n%b' % (len(program), program)


def _body(task: Task, marker: str, *, fed: bool, gated: bool, home_of: str | None) -> str:
    """Write what runs in the leading shell, as the task's own user."""
    lines = [
        _STAT + "read -r _od_s </proc/sys/kernel/random/boot_id",
        '[ -n "${20}" ] && [ -n "$_od_s" ] || { echo "there is no /proc on this host" >&2; exit 126; }',
        f"printf '%s %s %s %s\\n' {quote(marker)} $$ ${{20}} $_od_s || exit 126",
        f"printf '%s\\n' {quote(marker)} >&2 || exit 126",
    ]
    if gated:
        # The first line is the password if sudo did not want it.
        lines.append(f'IFS= read -r _od_l; [ "$_od_l" = {quote(marker + ":go")} ] || IFS= read -r _od_l; _od_l=')
    if not fed:
        lines.append("exec </dev/null")
    if home_of:
        lines.append(f"HOME=~{home_of} USER={home_of} LOGNAME={home_of}; export HOME USER LOGNAME")
    lines += _surroundings(task.cwd, task.env)
    lines.append("set -- " + " ".join(quote(word) for word in _argv(task)))
    lines.append(_become(task))
    return "; ".join(lines)


def _surroundings(cwd: str | None, env: Mapping[str, str]) -> list[str]:
    lines = [f"export {name}={quote(value)}" for name, value in env.items()]
    if cwd is not None:
        place = "./" + cwd if cwd.startswith("-") else cwd
        lines.insert(0, f"unset CDPATH; cd {quote(place)} || exit 126")
    return lines


def _argv(task: Task) -> tuple[str, ...]:
    return task.argv if isinstance(task, Command) else ("/bin/sh", "-c", task.text, "sh", *task.args)


class Fence:
    """Finds where a task's output begins in what a channel brings, and what was said before.

    Feed it with `stdout` and `stderr`; what it gives back is the task's own. `noise` keeps the last 4 KiB of the rest.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._mark = program.marker.encode()
        self._out: bytearray | None = bytearray()
        self._err: bytearray | None = bytearray()
        self.group: ProcessGroup | None = None
        self.becoming = False
        self.prompts = 0
        self.noise = b""

    def stdout(self, data: bytes) -> bytes:
        """Give the part of `data` that lies behind the fence on stdout."""
        if self._out is None:
            return data
        self._out += data
        told = None
        start = self._out.find(self._mark)
        while start >= 0 and told is None:
            end = self._out.find(b"\n", start, start + 256)
            if end < 0 and len(self._out) < start + 256:
                return b""
            told = _GROUP.fullmatch(self._out, start + len(self._mark), max(end, start))
            if told is None:
                start = self._out.find(self._mark, start + 1)
        if told is None:
            self._shrink(self._out)
            return b""
        pgid, started, boot = told.groups()
        self.group = ProcessGroup(int(pgid), int(started), boot.decode(), self._program.sudo, self._program.run_as)
        rest = bytes(self._out[end + 1 :])
        self._out = None
        return rest

    def stderr(self, data: bytes) -> bytes:
        """Give the part of `data` that lies behind the fence on stderr; count sudo's questions before it."""
        if self._err is None:
            return data
        self._err += data
        while (start := self._err.find(self._mark)) >= 0:
            rest = self._err[start + len(self._mark) :]
            if rest.startswith(b"\n"):
                self._err = None
                return bytes(rest[1:])
            if rest.startswith(b":become\n"):
                self.becoming, self.noise = True, b""
                self._err = rest[8:]
            elif rest.startswith(b":password "):
                self.prompts += 1
                self._note(bytes(self._err[:start]))
                self._err = rest[10:]
            elif len(rest) >= 10:
                self._err = rest
            else:
                return b""
        self._shrink(self._err)
        return b""

    def said(self) -> bytes:
        """Give the last of what came before the fence, stderr last."""
        return self.noise + b"\n" + bytes(self._out or b"") + b"\n" + bytes(self._err or b"")

    def _shrink(self, buffer: bytearray) -> None:
        """Keep no more than could be the beginning of a fence, or be worth telling."""
        if len(buffer) > 8192:
            self._note(bytes(buffer[:-1024]))
            del buffer[:-1024]

    def _note(self, data: bytes) -> None:
        self.noise = (self.noise + data)[-4096:]


def detached_body(task: Task) -> str:
    """Write the text that a keeper runs with `sh`: tells its group in the folder OPSDECK_UNIT, then is the task."""
    lines = [
        _STAT + "read -r _od_s </proc/sys/kernel/random/boot_id",
        'echo "$$ ${20} $_od_s" >"$OPSDECK_UNIT/group.new" && mv -f "$OPSDECK_UNIT/group.new" "$OPSDECK_UNIT/group"',
        "unset OPSDECK_UNIT; umask 022",
        *_surroundings(task.cwd, task.env),
        "set -- " + " ".join(quote(word) for word in _argv(task)),
        _become(task),
    ]
    return "\n".join(lines)


def _become(task: Task) -> str:
    if task.timeout is None:
        return 'exec "$@"'
    return f'exec timeout -k {task.kill_after:.3f} {task.timeout:.3f} /bin/sh -c {quote(_WATCHED)} sh "$@"'
