"""What happens to the data on a claim: moved aside, kept, put back; whatever part of the claim they are."""

from __future__ import annotations

import os
import subprocess

import pytest
from opsdeck_backup import look
from opsdeck_backup.kube import charts

OWNER = f"{os.getuid()}:{os.getgid()}"
MOVE = 'mv "$1"/* "$2" && echo "completed OK!"'


def claim(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", look.shell("place", "claim"), "sh", *words], capture_output=True, text=True, timeout=30
    )


def held(folder) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): file.read_text()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and ".opsdeck" not in str(file)
    }


@pytest.fixture(params=["data", ""], ids=["a folder of the claim", "the whole claim"])
def place(tmp_path, request):
    """A claim with data that are a folder of it, or all of it, and a prepared copy on it."""
    root = tmp_path / "claim"
    data = root / request.param
    for file in ("ibdata1", "undo_001.ibu", "shop/orders.ibd", "lost+found/x"):
        (data / file).parent.mkdir(parents=True, exist_ok=True)
        (data / file).write_text(f"old {file}")
    prepared = root / ".opsdeck-restore" / "0"
    (prepared / "shop").mkdir(parents=True)
    (prepared / "shop" / "orders.ibd").write_text("new")
    return data, prepared, root / ".opsdeck-before-x"


def test_the_new_takes_the_place_and_the_old_is_kept_out_of_innodbs_sight(place):
    data, prepared, aside = place
    done = claim("place", str(data), str(aside), OWNER, "sh", "-c", MOVE, "sh", str(prepared), str(data))
    assert done.returncode == 0, done.stderr
    assert held(data) == {"lost+found/x": "old lost+found/x", "shop/orders.ibd": "new"}
    assert len([file for file in aside.rglob("*") if file.is_file()]) == 3
    if aside.is_relative_to(data):
        assert not [*aside.rglob("*.ibd"), *aside.rglob("*.ibu")]
    back = claim("back", str(data), str(aside), OWNER)
    assert back.returncode == 0, back.stderr
    assert held(data)["shop/orders.ibd"] == "old shop/orders.ibd"
    assert held(data)["undo_001.ibu"] == "old undo_001.ibu"
    assert not aside.exists()


@pytest.mark.parametrize("engine", ["exit 7", "echo half done"])
def test_what_the_engine_does_not_complete_is_taken_back_at_once(place, engine):
    data, _, aside = place
    before = held(data)
    done = claim("place", str(data), str(aside), OWNER, "sh", "-c", f'touch "$1/ibdata1"; {engine}', "sh", str(data))
    assert done.returncode == 1
    assert "could not be moved into place" in done.stderr
    assert held(data) == before


def test_nothing_is_overwritten_and_nothing_is_put_back_twice(place):
    data, _, aside = place
    before = held(data)
    assert "is not there" in claim("back", str(data), str(aside), OWNER).stderr
    aside.mkdir()
    assert "is there already" in claim("place", str(data), str(aside), OWNER, "true").stderr
    assert held(data) == before


def test_the_job_sees_the_data_where_each_chart_has_them():
    assert {name: charts.chart(name).claimed for name in charts.CHARTS} == {
        "bitnami-mysql": "/claim/data",
        "bitnami-mariadb": "/claim/data",
        "mariadb-operator": "/claim/storage",
        "percona-operator": "/claim",
        "plain-mariadb": "/claim/data",
    }
