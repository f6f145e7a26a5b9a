"""What may be run at all, and how an end is told."""

from __future__ import annotations

import subprocess
import sys

import pytest

from opsdeck.errors import Invalid
from opsdeck.ssh.command import ARGUMENT_LIMIT, Command, Completed, Script, printable
from opsdeck.ssh.errors import CommandFailed


@pytest.mark.parametrize(
    "make",
    [
        lambda: Command(()),
        lambda: Command(("",)),
        lambda: Command(("-c", "x")),
        lambda: Command(("echo", "a\0b")),
        lambda: Command(("echo", "\ud800")),
        lambda: Command(("echo", "x" * (ARGUMENT_LIMIT + 1))),
        lambda: Command(("id",), env={"A-B": "x"}),
        lambda: Command(("id",), env={"A": "\0"}),
        lambda: Command(("id",), run_as="root; id"),
        lambda: Command(("id",), run_as="-x"),
        lambda: Command(("id",), timeout=0),
        lambda: Command(("id",), timeout=float("nan")),
        lambda: Command(("id",), kill_after=-1),
        lambda: Command(("id",), cwd=""),
        lambda: Script(text="echo \0"),
        lambda: Script(text="x" * (ARGUMENT_LIMIT + 1)),
    ],
)
def test_what_no_host_could_run_is_told_at_once(make):
    with pytest.raises(Invalid) as caught:
        make()
    assert caught.value.field


def test_check_tells_the_last_words_of_the_host_as_harmless_text():
    done = Completed(3, None, b"", b"first\n\x1b[31mno such \xff thing\x07\n\n", 0.1)
    with pytest.raises(CommandFailed) as caught:
        done.check("web1")
    assert str(caught.value) == "web1: the command ended with exit status 3: [31mno such \ufffd thing"
    assert Completed(0, None, b"", b"", 0.1).check("web1").ok


def test_a_signal_is_not_a_success():
    done = Completed(None, "KILL", b"", b"", 0.1)
    assert not done.ok
    with pytest.raises(CommandFailed, match="signal KILL"):
        done.check("web1")


def test_printable_keeps_one_line_and_a_bound():
    assert printable(b"a\nb\tc\r" + "é\u202e<script>".encode()) == "a b c é <script>"
    assert len(printable(b"x" * 10_000)) == 300


def test_a_task_does_not_show_its_stdin():
    assert "secret" not in repr(Command(("cat",), stdin=b"secret")) + repr(Script(text="cat", stdin=b"secret"))


def test_the_room_can_be_named_without_loading_the_client():
    code = "import sys, opsdeck.ssh.detached, opsdeck.ssh.known_hosts; sys.exit('asyncssh' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
