"""Files: the pure parts on data, the shell text on a real sh and a real file system."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opsdeck.errors import Invalid, NotFound, Refused
from opsdeck.plan import Verb
from opsdeck.remote import files
from opsdeck.remote.errors import CheckRefused, NotDone, Unreadable
from opsdeck.remote.files import File, FileState, Kind
from opsdeck.secrets.sensitive import Sensitive
from opsdeck.ssh.command import Completed
from opsdeck.ssh.errors import DiskFull


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_writes_and_says_what_changed(here, tmp_path):
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    wanted = [File(one, b"1\n"), File(two, b"", mode=0o600)]
    assert [change.verb for change in await files.plan(here, wanted)] == [Verb.CREATE, Verb.CREATE]
    assert await files.apply(here, wanted) == (one, two)
    assert (tmp_path / "one").read_bytes() == b"1\n"
    assert (tmp_path / "two").stat().st_mode & 0o7777 == 0o600
    assert await files.plan(here, wanted) == ()
    assert await files.apply(here, wanted) == ()


async def test_one_round_trip_for_many(here, tmp_path):
    await files.apply(here, [File(str(tmp_path / f"f{n}"), b"x" * n) for n in range(40)])
    assert len(here.ran) == 1
    assert len(await files.look(here, [str(tmp_path / f"f{n}") for n in range(40)])) == 40
    assert len(here.ran) == 2


async def test_diff_and_mode(here, tmp_path):
    path = tmp_path / "conf"
    path.write_text("a\nb\n")
    path.chmod(0o644)
    (change,) = await files.plan(here, [File(str(path), b"a\nc\n", mode=0o600)])
    assert change.verb is Verb.UPDATE
    assert change.detail == "mode 0644 → 0600"
    assert [line for line in change.diff() if line[0] in "+-"] == ["-b", "+c"]
    (change,) = await files.plan(here, [File(str(path), b"a\nb\n", mode=0o600)])
    assert (change.before, change.after) == (None, None)


async def test_keeps_mode_when_none_is_asked(here, tmp_path):
    path = tmp_path / "conf"
    path.write_text("a")
    path.chmod(0o640)
    await files.apply(here, [File(str(path), b"b", mode=None)])
    assert path.stat().st_mode & 0o7777 == 0o640


@pytest.mark.parametrize("name", ["-rf", "a b", "it's", 'q"q', "n\nl", "$(id)", "`id`", "*", "ünï", "a;b", "\\"])
async def test_evil_names(here, tmp_path, name):
    path = str(tmp_path / name)
    await files.apply(here, [File(path, b"x")])
    assert Path(path).read_bytes() == b"x"
    (state,) = await files.look(here, [path])
    assert (state.kind, state.content) == (Kind.FILE, b"x")
    await files.apply(here, [File(path, b"y")])
    assert await files.put_back(here, [path]) == (path,)
    assert Path(path).read_bytes() == b"x"
    assert left(tmp_path) == [name]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=40).filter(
        lambda name: name not in (".", "..")
    ),
    content=st.binary(max_size=2000),
)
def test_any_name_and_content(here, tmp_path_factory, name, content):
    path = str(tmp_path_factory.mktemp("any") / name)
    asyncio.run(files.apply(here, [File(path, content)], keep_previous=False))
    (state,) = asyncio.run(files.look(here, [path]))
    assert state.content == content
    assert left(Path(path).parent) == [name]


@pytest.mark.parametrize("path", ["a", "", "/", "/a/", "/a//b", "/a/../b", "/a\0b", "/" + "x" * 300, "/\ud800"])
def test_bad_paths_are_refused(path):
    with pytest.raises(Invalid) as caught:
        File(path, b"")
    assert caught.value.field == "path"


def test_bad_owner_mode_and_size():
    for bad in (
        {"owner": "a b"},
        {"owner": "-x"},
        {"mode": 0o10000},
        {"content": Sensitive("x" * (files.INLINE_LIMIT + 1))},
    ):
        with pytest.raises(Invalid):
            File(**({"path": "/a", "content": b""} | bad))
    with pytest.raises(Invalid, match="twice"):
        files.apply_script([File("/a", b""), File("/a", b"")], files.stage([File("/a", b"")] * 2))


async def test_check_refuses_and_nothing_changes(here, tmp_path):
    good, bad = tmp_path / "good", tmp_path / "bad"
    bad.write_text("old")
    wanted = [
        File(str(good), b"fine", check=("grep", "-q", "fine", "{}")),
        File(str(bad), b"wrong", check=("sh", "-c", 'echo "line 1: $(cat "$1")" >&2; exit 3', "sh", "{}")),
    ]
    with pytest.raises(CheckRefused, match="line 1: wrong") as caught:
        await files.apply(here, wanted)
    assert caught.value.file == str(bad)
    assert bad.read_text() == "old"
    assert left(tmp_path) == ["bad"]


async def test_validate_refuses_and_all_lies_as_before(here, tmp_path):
    old, new, gone = tmp_path / "old", tmp_path / "new", tmp_path / "gone"
    old.write_text("old")
    gone.write_text("still here")
    inode = old.stat().st_ino
    wanted = [File(str(old), b"changed"), File(str(new), b"new"), File(str(gone), None)]
    with pytest.raises(CheckRefused, match="syntax error"):
        await files.apply(
            here, wanted, validate=("sh", "-c", 'cat "$1" && echo "syntax error" && false', "sh", str(old))
        )
    assert (old.read_text(), old.stat().st_ino, gone.read_text()) == ("old", inode, "still here")
    assert left(tmp_path) == ["gone", "old"]


async def test_validate_sees_the_new_files(here, tmp_path):
    path = tmp_path / "conf"
    await files.apply(here, [File(str(path), b"new")], validate=("grep", "-q", "new", str(path)), keep_previous=False)
    assert left(tmp_path) == ["conf"]
    await files.apply(here, [File(str(path), b"new")], validate=("false",))  # nothing changed: nothing to judge


async def test_removes_and_puts_back(here, tmp_path):
    path = tmp_path / "conf"
    path.write_text("old")
    (change,) = await files.plan(here, [File(str(path), None)])
    assert (change.verb, change.before, change.after) == (Verb.DELETE, "old", None)
    assert await files.apply(here, [File(str(path), None)]) == (str(path),)
    assert not path.exists()
    assert await files.apply(here, [File(str(path), None)]) == ()
    assert await files.put_back(here, [str(path)]) == (str(path),)
    assert path.read_text() == "old"
    assert await files.put_back(here, [str(path)]) == ()


async def test_put_back_removes_what_was_new(here, tmp_path):
    path = tmp_path / "conf"
    await files.apply(here, [File(str(path), b"new")])
    assert await files.put_back(here, [str(path)]) == (str(path),)
    assert left(tmp_path) == []


async def test_links_folders_and_missing_folders(here, tmp_path):
    (tmp_path / "target").write_text("x")
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "folder").mkdir()
    for name, kind in (("link", "link"), ("folder", "folder")):
        with pytest.raises(Refused, match=kind):
            await files.plan(here, [File(str(tmp_path / name), b"y")])
        with pytest.raises(Refused, match=kind):
            await files.apply(here, [File(str(tmp_path / name), b"y")])
    with pytest.raises(NotFound, match=r"folder of .*no/file is missing"):
        await files.apply(here, [File(str(tmp_path / "no/file"), b"y")])
    states = await files.look(here, [str(tmp_path / "no/file"), "/dev/null", str(tmp_path / "none")])
    assert [state.kind for state in states] == [Kind.ORPHAN, Kind.OTHER, Kind.ABSENT]
    assert left(tmp_path) == ["folder", "link", "target"]


async def test_unknown_owner_changes_nothing(here, tmp_path):
    with pytest.raises(NotDone, match="owner"):
        await files.apply(here, [File(str(tmp_path / "a"), b"x", owner="nobody-of-that-name")])
    assert left(tmp_path) == []


async def test_secret_content_shows_nowhere(here, tmp_path):
    path = tmp_path / "key"
    wanted = File(str(path), Sensitive("hunter2-hunter2"), mode=0o600)
    (change,) = await files.plan(here, [wanted])
    await files.apply(here, [wanted])
    path.write_text("other secret")
    (update,) = await files.plan(here, [wanted])
    seen = repr((change, update, here.ran, wanted))
    assert "hunter2" not in seen
    assert "other secret" not in seen
    assert change.detail == "secret content, mode 0600"


async def test_no_room(here, small_disk):
    (small_disk / "conf").write_text("old")
    (small_disk / "others").write_bytes(b"x" * 150_000)
    with pytest.raises(DiskFull, match="No space left"):
        await files.apply(here, [File(str(small_disk / "conf"), b"x" * 200_000)])
    assert (small_disk / "conf").read_text() == "old"
    assert left(small_disk) == ["conf", "others"]


async def test_told_to_stop_in_the_middle_puts_back(tmp_path):
    path, flag = tmp_path / "conf", tmp_path / "flag"
    path.write_text("old")
    wait = ("sh", "-c", ': >"$1"; trap "exit 0" TERM; while :; do sleep 0.05; done', "sh", str(flag))
    wanted = [File(str(path), b"new")]
    script, body = files.apply_script(wanted, files.stage(wanted), validate=wait)
    assert isinstance(body, bytes)
    with subprocess.Popen(script.words(), stdin=-1, stdout=-1, stderr=-1, start_new_session=True) as process:
        assert process.stdin
        process.stdin.write(body)
        process.stdin.close()
        while not flag.exists():  # noqa: ASYNC110 - the other side is a process
            await asyncio.sleep(0.01)
        assert path.read_text() == "new"
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)
    assert path.read_text() == "old"
    assert left(tmp_path) == ["conf", "flag"]


def test_what_cannot_be_read_is_an_error():
    for output in (b"", b"absent\n", b"nonsense\nend\n", b"file 644 root root x y =\nend\n", b"\xff\xfe\nend\n"):
        with pytest.raises(Unreadable):
            files.parse_look(output, 1)
    with pytest.raises(NotDone, match="ended early"):
        files.parse_apply("web1", [File("/a", b"")], Completed(137, None, b"", b"", 0.1))


def test_binary_gives_sizes_not_texts():
    state = FileState(Kind.FILE, 0o644, "root", "root", 3, "0", b"a\0b")
    (change,) = files.plan_files("web1", [File("/a", b"\xff\xfe")], [state])
    assert change.detail == "3 → 2 bytes"
    assert change.before is None


async def test_large_files_are_staged_first_and_judged_alike(here, tmp_path):
    source, path = tmp_path / "source", tmp_path / "large"
    source.write_bytes(b"\0\1" * 400_000)
    wanted = [File(str(path), source), File(str(tmp_path / "bytes"), b"y" * 600_000), File(str(tmp_path / "s"), b"s")]
    assert next(change.detail for change in await files.plan(here, wanted)) == "0 → 800000 bytes, mode 0644"
    assert len(await files.apply(here, wanted, keep_previous=False)) == 3
    assert path.read_bytes() == source.read_bytes()
    assert left(tmp_path) == ["bytes", "large", "s", "source"]
    with pytest.raises(CheckRefused):
        await files.apply(here, [File(str(path), tmp_path / "bytes", check=("false", "{}"))])
    assert left(tmp_path) == ["bytes", "large", "s", "source"]
    with pytest.raises(NotFound, match="no file"):
        File("/a", tmp_path / "missing")


async def test_a_link_laid_where_a_file_is_staged_is_not_followed(here, tmp_path, monkeypatch):
    """In a folder of somebody else's, root must not write through a link that waits there."""
    victim, trap = tmp_path / "victim", tmp_path / "trap"
    victim.write_text("mine")
    trap.symlink_to(victim)
    monkeypatch.setattr(files.paths, "staged", lambda path: str(trap))
    with pytest.raises(NotDone):
        await files.apply(here, [File(str(tmp_path / "conf"), b"theirs")])
    assert victim.read_text() == "mine"
    assert not (tmp_path / "conf").exists()
