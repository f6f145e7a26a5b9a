"""The command line as people and scripts use it: a process of its own against hosts to play with."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

OPSDECK = [sys.executable, "-c", "from opsdeck.cli import main; main()"]


@pytest.fixture
def opsdeck(home, deck):
    """Give a way to run `opsdeck`: exit code, stdout, stderr."""

    async def run(*words, stdin=b""):
        process = await start(home, *words)
        out, err = await asyncio.wait_for(process.communicate(stdin), 60)
        return process.returncode, out.decode(), err.decode()

    return run


async def start(home, *words):
    environment = {**os.environ, "OPSDECK_HOME": str(home), "COLUMNS": "200"}
    return await asyncio.create_subprocess_exec(*OPSDECK, *words, env=environment, stdin=-1, stdout=-1, stderr=-1)


def alive(mark):
    """Count the processes that have `mark` among their arguments."""
    found = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found += mark.encode() in (folder / "cmdline").read_bytes().split(b"\0")
    return found


async def test_the_main_job_from_the_command_line(opsdeck):
    code, out, err = await opsdeck("plugin", "run", "core", "command", "--command", "echo hi $((1+1))", "--on", "all")
    assert (code, sorted(out.splitlines())) == (0, ["h1 | hi 2", "h2 | hi 2", "h3 | hi 2"])
    assert "Job 1 succeeded: 3 succeeded." in err
    code, out, err = await opsdeck("plugin", "run", "core", "command", "--command", "exit 3", "--on", "h1", "--json")
    data = json.loads(out)
    assert code == 1
    assert (data["job"]["state"], data["steps"][0]["exit_status"]) == ("failed", 3)
    assert data["steps"][0]["tail"][0] == {"stream": "cmd", "text": "exit 3"}
    code, out, _ = await opsdeck("job", "list", "--json")
    assert [(job["id"], job["state"]) for job in json.loads(out)] == [(2, "failed"), (1, "succeeded")]
    code, out, _ = await opsdeck("job", "log", "1", "--host", "h2")
    assert (code, out) == (0, "h2 | $ echo hi $((1+1))\nh2 | hi 2\n")
    code, out, _ = await opsdeck("job", "log", "-f", "1", "--json")
    assert code == 0
    assert {json.loads(line)["host"] for line in out.splitlines()} == {"h1", "h2", "h3"}
    code, out, _ = await opsdeck("job", "show", "2")
    assert code == 0
    assert "h1: failed: the command ended with exit status 3." in out
    code, _, err = await opsdeck("job", "retry", "2", "--failed")
    assert code == 1
    assert "Job 3 failed" in err


async def test_plugins_are_listed_for_people_and_machines(opsdeck):
    code, out, _ = await opsdeck("plugin", "list", "--json")
    found = {plugin["name"]: plugin for plugin in json.loads(out)}
    assert code == 0
    assert "command" in {action["name"] for action in found["core"]["actions"]}
    assert "version" in found["core"]
    code, out, _ = await opsdeck("plugin", "run", "core", "command", "--help")
    assert code == 0
    assert "--command" in out
    assert "--sudo / --no-sudo" in out


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("plugin", "run", "nobody", "x"), 3, "no plugin is called 'nobody'"),
        (("plugin", "run", "core", "nothing"), 3, "has no action 'nothing'"),
        (("plugin", "run", "core", "command", "--on", "h1"), 2, "give either a command or words"),
        (("plugin", "run", "core", "command", "--command", "x"), 2, "no hosts were given"),
        (("plugin", "run", "core", "command", "--command", "x", "--on", "h9"), 3, "h9"),
        (("plugin", "run", "core", "command", "--command", "x", "--on", "h1", "--param", "z=1"), 2, "'z'"),
        (("plugin", "run", "core", "command", "--comand", "x"), 2, "--comand"),
        (("job", "show", "99"), 3, "there is no job 99"),
        (("job", "list", "--state", "gone"), 2, "no state"),
        (("lease", "steal", "x", "--yes"), 3, "nobody holds"),
        (("lease", "steal", "x"), 2, "there is no terminal"),
    ],
)
async def test_what_is_wrong_has_its_exit_code_and_sentence(opsdeck, words, code, told):
    found, out, err = await opsdeck(*words)
    assert (found, out) == (code, "")
    assert told in err


async def test_a_changed_host_key_is_a_refusal(opsdeck, hosts):
    await hosts["h1"].change_host_key()
    code, _, err = await opsdeck("plugin", "run", "core", "command", "--command", "true", "--on", "h1")
    assert code == 4
    assert "the host key changed" in err


async def test_a_script_comes_from_standard_input_or_a_file(opsdeck, tmp_path):
    text = b'printf \'%s\\n\' "$1" "$2"\n'
    (tmp_path / "it.sh").write_bytes(text)
    args = ("--args", "a b", "--args", "-$(x)'\"", "--on", "h1")
    for source in ("-", f"@{tmp_path}/it.sh"):
        code, out, err = await opsdeck("plugin", "run", "core", "script", "--text", source, *args, stdin=text)
        assert (code, out) == (0, "h1 | a b\nh1 | -$(x)'\"\n"), err


async def test_ctrl_c_cancels_on_the_hosts_and_says_so(home, deck, until):
    tell = f"6{time.time_ns() % 10**8:08d}"
    process = await start(home, "plugin", "run", "core", "command", "--command", f"sleep {tell}", "--on", "h1,h2")
    await until(lambda: alive(tell) == 2)
    process.send_signal(signal.SIGINT)
    _, err = await asyncio.wait_for(process.communicate(), 40)
    assert process.returncode == 1
    assert "Cancelling on the hosts" in err.decode()
    assert "h2: cancelled: cancelled by" in err.decode()
    assert "ended on the host" in err.decode()
    assert not alive(tell)
    assert (await deck.jobs.get(1)).state == "cancelled"


async def test_a_job_in_the_background_waits_for_a_node_and_can_be_cancelled(opsdeck, deck):
    code, out, err = await opsdeck(
        "plugin", "run", "core", "command", "--command", "true", "--on", "h1", "--background"
    )
    assert (code, "Job 1 is queued" in out) == (0, True)
    assert "No server or worker is running" in err
    code, out, _ = await opsdeck("job", "cancel", "1", "--json")
    assert (code, json.loads(out)["job"]["state"]) == (0, "cancelled")


async def test_leases_are_listed_and_stolen(opsdeck, deck):
    await deck.leases.acquire(["thing"], "job:7", "to test")
    code, out, _ = await opsdeck("lease", "list", "--json")
    assert [(lease["name"], lease["holder"]) for lease in json.loads(out)] == [("thing", "job:7")]
    code, out, _ = await opsdeck("lease", "steal", "thing", "--yes")
    assert (code, out) == (0, "thing was taken from job:7 on deck.\n")
    code, out, _ = await opsdeck("incident", "list", "--json")
    assert (code, json.loads(out)) == (0, [])


async def test_a_worker_takes_what_waits_and_leaves_on_sigterm(opsdeck, home, deck, until):
    worker = await start(home, "worker")
    try:
        await until(deck.jobs.nodes)
        code, _, err = await opsdeck(
            "plugin", "run", "core", "command", "--command", "echo hello", "--on", "h3", "--background"
        )
        assert (code, err) == (0, "")
        code, out, _ = await opsdeck("job", "log", "-f", "1")
        assert (code, out) == (0, "h3 | $ echo hello\nh3 | hello\n")
    finally:
        worker.terminate()
        out, err = await asyncio.wait_for(worker.communicate(), 40)
    assert worker.returncode == 0, err.decode()
    assert await deck.jobs.nodes() == ()
