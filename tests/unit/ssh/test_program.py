"""The shell text that is sent, run by the shells of this machine, and the fence in what comes back."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsdeck.errors import Invalid
from opsdeck.secrets.sensitive import Sensitive
from opsdeck.ssh.command import Command, Script
from opsdeck.ssh.endpoint import Credential, Endpoint, Method, Sudo
from opsdeck.ssh.errors import SudoRefused
from opsdeck.ssh.program import Fence, compose

ODD = st.sampled_from(list("'\"\\$`!*?[]{}()<>|&;#~ \n\t\r=-%^@"))
WORDS = st.text(st.one_of(ODD, st.characters(codec="utf-8", exclude_characters="\0")), max_size=40)
SHELLS = [name for name in ("sh", "dash", "bash", "fish", "tcsh", "csh", "zsh", "busybox") if shutil.which(name)]


def endpoint(**other):
    return Endpoint("web1", "192.0.2.1", 22, "ops", Credential(Method.KEY, "key"), **other)


def say(shell: str, task, *, stdin: bytes = b"", before: str = "") -> tuple[Fence, bytes, bytes, int]:
    """Run a task as sshd would: the login shell with -c, in a session of its own."""
    program = compose(endpoint(), task)
    words = ["busybox", "sh"] if shell == "busybox" else [shell]
    done = subprocess.run(
        [*words, "-c", before + program.line],
        input=program.opening + stdin,
        capture_output=True,
        start_new_session=True,
    )
    fence = Fence(program)
    return fence, fence.stdout(done.stdout), fence.stderr(done.stderr), done.returncode


@pytest.mark.parametrize("shell", SHELLS)
@given(words=st.lists(WORDS, max_size=6))
@settings(max_examples=25)
def test_argv_arrives_as_it_was_sent(shell, words):
    fence, out, err, status = say(shell, Command(("printf", "%s\\0", *words)))
    assert fence.group is not None
    assert (out, err, status) == ("".join(word + "\0" for word in words or [""]).encode(), b"", 0)


@given(words=st.lists(WORDS, max_size=6), value=WORDS)
@settings(max_examples=25)
def test_a_scripts_arguments_and_environment_arrive_as_sent(words, value):
    _, out, _, _ = say("sh", Script(text='printf "%s\\0" "$OD" "$@"', args=tuple(words), env={"OD": value}))
    assert out == "".join(word + "\0" for word in [value, *words]).encode()


@given(before=st.binary(max_size=300), after=st.binary(max_size=300), cut=st.integers(1, 64))
def test_a_fence_is_found_however_it_is_cut(before, after, cut):
    program = compose(endpoint(), Command(("id",)))
    mark = program.marker.encode()
    boot = b"0" * 36
    whole = before + mark + b" 12 345 " + boot + b"\n" + after
    errors = before + mark + b":become\n" + before + mark + b":password " + before + mark + b"\n" + after
    fence = Fence(program)
    out = b"".join(fence.stdout(whole[at : at + cut]) for at in range(0, len(whole), cut))
    err = b"".join(fence.stderr(errors[at : at + cut]) for at in range(0, len(errors), cut))
    assert (out, err) == (after, after)
    assert fence.group is not None
    assert (fence.group.pgid, fence.group.started) == (12, 345)
    assert fence.prompts == 1
    assert fence.becoming


def test_a_flood_before_the_fence_is_not_kept():
    fence = Fence(compose(endpoint(), Command(("id",))))
    for _ in range(200):
        assert fence.stdout(b"banner " * 10_000) == b""
        assert fence.stderr(b"banner " * 10_000) == b""
    assert len(fence.said()) < 40_000


def test_a_forged_fence_line_starts_nothing():
    program = compose(endpoint(), Command(("id",)))
    fence = Fence(program)
    assert fence.stdout(program.marker.encode() + b" 1; rm -rf / \n") == b""
    assert fence.group is None
    assert fence.stdout(program.marker.encode() + b" 5 6 " + b"a" * 36 + b"\nmine") == b"mine"


@pytest.mark.parametrize("size", [1, 3000, 4000, 4096, 5000, 100_000])
@pytest.mark.parametrize("end", ["", "\n", " ", "\\"])
def test_programs_of_any_length_leave_stdin_alone(size, end):
    word = "x" * size + end
    _, out, _, _ = say("sh", Script(text='printf %s "$1"; cat', args=(word,), stdin=b""), stdin=b"\n own")
    assert out == word.encode() + b"\n own"


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("size", [7_000, 20_000, 120_000])
def test_long_words_pass_every_shell(shell, size):
    _, out, err, _ = say(shell, Command(("printf", "%s", "!'" * (size // 2))))
    assert (out, err) == (b"!'" * (size // 2), b"")


def test_a_login_shell_that_echoes_the_program_does_not_begin_the_output():
    for flag in ("-x", "-v"):
        program = compose(endpoint(), Command(("echo", "fine")))
        done = subprocess.run(["bash", flag, "-c", program.line + "\n"], input=program.opening, capture_output=True)
        echoed = done.stderr + done.stdout
        assert Fence(program).stdout(echoed) == b"fine\n"


def test_stdin_behind_the_program_is_the_commands_own():
    _, out, _, _ = say("sh", Command(("cat",), stdin=b""), stdin=b"\0\xff first\nsecond")
    assert out == b"\0\xff first\nsecond"


def test_without_stdin_a_command_reads_nothing():
    _, out, _, status = say("sh", Command(("cat",)), stdin=b"not for it")
    assert (out, status) == (b"", 0)


def test_who_is_no_session_leader_gets_a_session_of_its_own():
    program = compose(endpoint(), Script(text="read -r line </proc/$$/stat; echo $line"))
    done = subprocess.run(
        ["bash", "-c", f"({program.line}); true"], input=program.opening, capture_output=True, check=True
    )
    fence = Fence(program)
    pid, _, _, _, pgid, sid = fence.stdout(done.stdout).split()[:6]
    assert pid == pgid == sid
    assert fence.group is not None
    assert int(pid) == fence.group.pgid


@pytest.mark.parametrize("pipe_signal", [True, False])
def test_it_does_not_start_when_nobody_listens(tmp_path, pipe_signal):
    program = compose(endpoint(), Command(("touch", str(tmp_path / "ran"))))
    process = subprocess.Popen(
        ["sh", "-c", "sleep 0.3; " + program.line],
        stdin=-1,
        stdout=-1,
        stderr=subprocess.DEVNULL,
        restore_signals=pipe_signal,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(program.opening)
    process.stdin.close()
    process.stdout.close()
    process.wait(10)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("timeout", [None, 5])
@pytest.mark.parametrize(("argv", "status"), [(("no-such-program-here",), 127), (("/",), 126), (("exit", "7"), 127)])
def test_only_programs_are_run(argv, status, timeout):
    fence, _, err, ended = say("sh", Command(argv, timeout=timeout))
    assert fence.group is not None
    assert ended == status
    assert err


def test_a_missing_folder_ends_it_before_it_begins():
    fence, out, err, ended = say("sh", Command(("pwd",), cwd="/no/such/place"))
    assert fence.group is not None
    assert out == b""
    assert ended != 0
    assert b"/no/such/place" in err


@pytest.mark.parametrize("cwd", ["-", "-x", "a b", "$(id)", "'"])
def test_a_folder_with_an_odd_name_is_entered(tmp_path, cwd):
    (tmp_path / cwd).mkdir()
    program = compose(endpoint(), Command(("pwd",), cwd=cwd))
    done = subprocess.run(
        ["sh", "-c", program.line], input=program.opening, capture_output=True, cwd=tmp_path, check=True
    )
    assert Fence(program).stdout(done.stdout).decode() == f"{tmp_path / cwd}\n"


@pytest.mark.parametrize("variable", ["_od_b", "_od_l", "_od_p", "n"])
def test_what_the_login_exports_is_not_in_the_way(variable):
    program = compose(endpoint(), Command(("printf", "%s", "fine")))
    done = subprocess.run(
        ["sh", "-c", program.line],
        input=program.opening,
        capture_output=True,
        env={variable: "'; exit 3", "PATH": "/usr/bin:/bin", "IFS": "0123456789", "CDPATH": "/tmp"},
    )
    assert Fence(program).stdout(done.stdout) == b"fine"


def test_no_secret_is_in_the_program_text_but_on_stdin_behind_it():
    program = compose(endpoint(sudo=Sudo.PASSWORD, sudo_password=Sensitive("hunter2")), Command(("id",), sudo=True))
    assert "hunter2" not in program.line
    assert program.opening == b"hunter2\n"
    assert "hunter2" not in repr(program)


def test_a_sudo_password_with_a_line_break_is_refused():
    with pytest.raises(SudoRefused, match="line break"):
        compose(endpoint(sudo=Sudo.PASSWORD, sudo_password=Sensitive("a\nb")), Command(("id",), sudo=True))


def test_too_much_to_hand_on_as_another_user_is_told():
    with pytest.raises(Invalid, match="too much"):
        compose(endpoint(sudo=Sudo.NOPASSWD), Command(("echo", "x" * 100_000, "y" * 100_000), sudo=True))


@pytest.mark.parametrize(
    "task", [Command(("true",)), Command(("true",), timeout=30, cwd="/", sudo=True), Script(text="id\n" * 100)]
)
def test_a_short_program_waits_for_no_window(task):
    # OpenSSH opens the window for stdin only after the command began: what is needed there costs a round trip.
    assert compose(endpoint(sudo=Sudo.NOPASSWD), task).opening == b""
