"""The built-in actions through the one way: parameters in, rows and receipts out."""

from __future__ import annotations

import hashlib
import json
import string
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from opsdeck.actor import Door
from opsdeck.builtin import copying, running
from opsdeck.builtin.running import CommandParams, ScriptParams
from opsdeck.errors import Invalid, Refused
from opsdeck.jobs import params as forms
from opsdeck.manifest import Recover, Risk
from opsdeck.remote.errors import NoSystemd
from opsdeck.ssh.command import Command, Script


def test_every_action_says_what_it_is_for(core):
    actions = core.manifests["core"].actions
    assert {action.name for action in actions} >= {
        "command", "script", "copy", "fetch", "packages", "restart", "reboot", "facts", "check"
    }  # fmt: skip
    for action in actions:
        assert action.title[0].isupper()
        assert action.summary.endswith(".")
        for field in forms.fields(action.params):
            assert field.title[0].isupper()
            assert field.help.endswith("."), f"{action.name}.{field.name}"
        json.dumps(action.params.model_json_schema())


def test_only_looking_is_free(core):
    free = {action.name for action in core.manifests["core"].actions if action.risk is Risk.READ}
    assert free == {"facts", "check"}


async def test_a_command_is_a_line_for_sh(do):
    job, steps, lines = await do("command", command="echo $((6*7)) | tr 4 5; exit 0")
    assert job.state == "succeeded"
    assert {name: step.receipt["last_line"] for name, step in steps.items()} == {"h1": "52", "h2": "52"}
    assert {line.text for line in lines if line.stream == "out"} == {"52"}


async def test_words_meet_no_shell(do):
    job, _, lines = await do("command", words=["printf", "%s|", "$(id)", "a b", "", "-n", "'", "é"], on="h1")
    assert job.state == "succeeded"
    assert [line.text for line in lines if line.stream == "out"] == ["$(id)|a b||-n|'|é|"]


async def test_a_command_that_fails_fails_its_step(do):
    job, steps, _ = await do("command", command="case $PWD in */h1 | */h1/*) ;; *) echo why >&2; exit 3 ;; esac")
    assert job.state == "failed"
    assert (steps["h1"].state, steps["h2"].state) == ("succeeded", "failed")
    assert steps["h2"].exit_status == 3
    assert "why" in steps["h2"].error


async def test_a_command_is_ended_after_its_time(do):
    job, steps, _ = await do("command", command="sleep 600", timeout=0.5, on="h1")
    assert job.state == "failed"
    assert "ended after 0.5 s; all its processes are gone" in steps["h1"].error


async def test_a_detached_command_is_followed(do):
    job, steps, lines = await do("command", command="echo begun; sleep 0.3; echo ended", detach=True, on="h1")
    assert (job.state, steps["h1"].receipt["last_line"]) == ("succeeded", "ended")
    assert [line.text for line in lines if line.stream == "out"] == ["begun", "ended"]


async def test_sudo_on_a_host_without_it_is_one_clear_error(do):
    job, steps, _ = await do("command", command="id -u", sudo=True, on="h1")
    if job.state == "succeeded":
        assert steps["h1"].receipt["last_line"] == "0"
    else:
        assert "sudo" in steps["h1"].error


async def test_a_script_gets_its_arguments(do):
    text = 'for word do\r\n  printf "<%s>" "$word"\r\ndone\r\n'
    job, steps, _ = await do("script", text=text, args=["a b", "-x", "$HOME", "it's", "\n"], on="h1")
    assert job.state == "succeeded", steps["h1"].error
    _, _, lines = await do("script", text=text, args=["a b", "-x", "$HOME", "it's"], on="h1")
    assert [line.text for line in lines if line.stream == "out"] == ["<a b><-x><$HOME><it's>"]


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"command": " "},
        {"command": "a", "words": ["b"]},
        {"words": [""]},
        {"command": "a\0b"},
        {"words": ["a", "\0"]},
        {"command": "a", "run_as": "x y"},
        {"command": "a", "run_as": "bob", "detach": True},
        {"command": "a", "timeout": 0},
        {"command": "a", "unknown": 1},
    ],
)
def test_bad_parameters(bad):
    with pytest.raises(ValidationError):
        CommandParams(**bad)


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1, max_size=5))
def test_words_are_argv(words):
    words = ["prog", *words]
    task = running.command_task(CommandParams(words=words))
    assert isinstance(task, Command)
    assert task.argv == tuple(words)


def test_what_survives_a_restart():
    assert running.command.recover(CommandParams(command="x", detach=True)) is Recover.RESUME
    assert running.command.recover(CommandParams(command="x")) is Recover.LOST
    task = running.script_task(ScriptParams(text="x", sudo=True, folder="/srv", timeout=5))
    assert isinstance(task, Script)
    assert (task.sudo, task.cwd, task.timeout) == (True, "/srv", 5)


async def test_copy_plans_writes_and_says_when_there_is_nothing_to_do(do, plan, tmp_path):
    path = str(tmp_path / "it's a 'file'\n")
    shown = await plan("copy", path=path, content="one\r\ntwo\r\n", on="h1")
    (change,) = shown.changes
    assert (change.host, change.verb, change.after) == ("h1", "create", "one\ntwo\n")
    job, steps, _ = await do("copy", path=path, content="one\r\ntwo\r\n", on="h1")
    assert job.state == "succeeded", steps["h1"].error
    assert steps["h1"].receipt == {
        "path": path,
        "changed": True,
        "bytes": 8,
        "sha256": hashlib.sha256(b"one\ntwo\n").hexdigest(),
    }
    assert (await plan("copy", path=path, content="one\ntwo\n", on="h1")).empty
    _, steps, _ = await do("copy", path=path, content="one\ntwo\n", on="h1")
    assert steps["h1"].receipt["changed"] is False


async def test_copy_whose_check_refuses_changes_nothing(do, tmp_path):
    path = tmp_path / "conf"
    path.write_text("good\n")
    job, steps, _ = await do("copy", path=str(path), content="bad\n", check="grep -q good {}", on="h1")
    assert job.state == "failed"
    assert "refused by its checker" in steps["h1"].error
    assert path.read_text() == "good\n"
    assert sorted(found.name for found in tmp_path.iterdir() if "conf" in found.name) == ["conf"]


async def test_only_the_command_line_reads_any_file_of_the_console(do, deck, tmp_path):
    (tmp_path / "any").write_text("x")
    job, steps, _ = await do("copy", path=str(tmp_path / "to"), source=str(tmp_path / "any"), on="h1")
    assert job.state == "succeeded", steps["h1"].error
    for source in (str(tmp_path / "any"), "../master.key", "/etc/passwd"):
        job, steps, _ = await do("copy", path=str(tmp_path / "to2"), source=source, on="h1", door=Door.WEB)
        assert job.state == "failed"
        assert "not below files" in steps["h1"].error
    kept = deck.settings.home / copying.FOLDER
    kept.mkdir(exist_ok=True)
    (kept / "ok").write_text("y")
    (kept / "link").symlink_to(deck.settings.key_file)
    job, _, _ = await do("copy", path=str(tmp_path / "to3"), source="ok", on="h1", door=Door.WEB)
    assert (job.state, (tmp_path / "to3").read_text()) == ("succeeded", "y")
    job, _, _ = await do("copy", path=str(tmp_path / "to4"), source="link", on="h1", door=Door.WEB)
    assert job.state == "failed"


async def test_fetch_lands_below_the_data_folder(do, deck, tmp_path):
    (tmp_path / "-rf $(x)").write_bytes(b"\0\xff" * 70_000)
    job, steps, _ = await do("fetch", path=str(tmp_path / "-rf $(x)"))
    assert job.state == "succeeded", [step.error for step in steps.values()]
    for name, step in steps.items():
        local = deck.settings.home / step.receipt["file"]
        assert local == deck.settings.home / "files" / str(job.id) / name / "-rf $(x)"
        assert local.read_bytes() == b"\0\xff" * 70_000
        assert step.receipt["sha256"] == hashlib.sha256(b"\0\xff" * 70_000).hexdigest()
    job, steps, _ = await do("fetch", path="/no/such/file", on="h1")
    assert job.state == "failed"
    assert "/no/such/file" in steps["h1"].error


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(string.printable, max_size=30))
def test_a_fetched_file_stays_in_its_place(tmp_path, text):
    try:
        params = copying.FetchParams(path=f"/{text}")
    except ValidationError:
        return
    place = copying.landing(tmp_path, 7, "h1", params.path)
    assert place.parent == tmp_path / "files" / "7" / "h1"
    assert place.resolve().is_relative_to(tmp_path.resolve())


async def test_a_host_to_play_with_is_never_rebooted(do, plan):
    """It is a shell on this very machine."""
    with pytest.raises(Refused, match="play"):
        await plan("reboot", on="h1")
    job, steps, _ = await do("reboot", on="h1")
    assert job.state == "failed"
    assert "not rebooted" in steps["h1"].error


@pytest.mark.skipif(Path("/run/systemd/system").exists(), reason="this machine runs systemd")
async def test_without_systemd_there_are_no_units(plan):
    with pytest.raises(NoSystemd, match="systemd does not run here"):
        await plan("restart", unit="ssh", on="h1")


@pytest.mark.parametrize(
    ("action", "params", "field"),
    [
        ("copy", {"path": "relative", "content": "x"}, "path"),
        ("copy", {"path": "/a", "content": "x", "mode": "999"}, "mode"),
        ("copy", {"path": "/a", "content": "x", "owner": "a b"}, "owner"),
        ("copy", {"path": "/a"}, "all"),
        ("copy", {"path": "/a", "content": "x", "check": "visudo -cf"}, "all"),
        ("copy", {"path": "/a", "content": "x", "check": "visudo 'x {}"}, "all"),
        ("fetch", {"path": "/a/../b"}, "path"),
        ("packages", {"names": ["foo-"]}, "names.0"),
        ("packages", {"names": ["-o=x"]}, "names.0"),
        ("packages", {"what": "install"}, "all"),
        ("restart", {"unit": "a b"}, "unit"),
        ("restart", {"unit": "--all"}, "unit"),
        ("reboot", {"limit": 1}, "limit"),
    ],
)
async def test_bad_parameters_name_their_field(do, action, params, field):
    with pytest.raises(Invalid) as caught:
        await do(action, on="h1", **params)
    assert caught.value.field == field
