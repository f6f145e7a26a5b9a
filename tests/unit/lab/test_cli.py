"""`opsdeck lab` on any machine: what it says, and how it ends."""

from __future__ import annotations

import json
from typing import NoReturn

import pytest
from click.testing import CliRunner

from opsdeck.cli.lab import lab
from opsdeck.errors import Invalid, Unavailable
from opsdeck.lab import fleet
from opsdeck.lab.fleet import machine


def test_status_is_json_and_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "missing", lambda: ("not root",))
    monkeypatch.setattr(fleet, "fleets", lambda: [])
    done = CliRunner().invoke(lab, ["status", "--json"])
    assert json.loads(done.stdout) == {"missing": ["not root"], "hosts": []}
    assert "not root" in CliRunner().invoke(lab, ["status"]).output


@pytest.mark.parametrize("words", [["up"], ["down"], ["down", "--all"]])
def test_a_machine_without_the_rights_is_told_so_and_nothing_is_done(
    monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    def never(*_: object, **__: object) -> NoReturn:
        raise AssertionError("it ran a program of the machine")

    monkeypatch.setattr(machine, "missing", lambda: ("not root",))
    monkeypatch.setattr(machine.subprocess, "run", never)
    done = CliRunner().invoke(lab, words)
    assert isinstance(done.exception, Unavailable)
    assert "as root" in str(done.exception)


def test_a_bad_name_and_a_bad_count_are_usage_errors() -> None:
    assert isinstance(CliRunner().invoke(lab, ["up", "--name", "a b"]).exception, Invalid)
    assert CliRunner().invoke(lab, ["up", "--hosts", "0"]).exit_code == 2
