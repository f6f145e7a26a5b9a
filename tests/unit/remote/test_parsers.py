"""What hosts really printed, as files, and what it means.

A new case is a file `data/<parser>-<case>.out` with what the host printed and one `.json` beside it with what is read.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsdeck.errors import OpsDeckError
from opsdeck.remote import artefacts, boots, directories, files, firewall, packages, units, users
from opsdeck.ssh.command import Completed

DATA = Path(__file__).parent / "data"


def done(output: bytes, code: int = 0) -> Completed:
    return Completed(code, None, output, b"", 0.1)


PARSERS: dict[str, Callable[[bytes], Any]] = {
    "simulation": packages.parse_simulation,
    "packages": lambda output: packages.parse_look("web1", done(output)),
    "units": lambda output: units.parse_units("web1", done(output)),
    "act": lambda output: units.parse_act("web1", done(output)),
    "boots": lambda output: boots.parse_look("web1", done(output)),
    "artefacts": lambda output: artefacts.parse_look("web1", done(output)),
    "firewall": lambda output: firewall.parse_look("web1", done(output)),
    "users": lambda output: users.parse_look(output, max(0, output.count(b"\n") - 1)),
    "folders": lambda output: directories.parse_look(output, max(0, output.count(b"\n") - 1)),
}


def plain(value: Any) -> Any:
    """Give what was read as JSON would."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, frozenset):
        return sorted(value)
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


CASES = sorted(DATA.glob("*.out"))


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_what_hosts_printed(case):
    read = plain(PARSERS[case.stem.partition("-")[0]](case.read_bytes()))
    assert read == json.loads(case.with_suffix(".json").read_text())


def test_every_parser_has_a_case():
    assert {case.stem.partition("-")[0] for case in CASES} == set(PARSERS)


@pytest.mark.parametrize("name", PARSERS)
@given(noise=st.binary(max_size=300))
def test_noise_is_an_error_of_the_house_and_nothing_else(name, noise):
    """A host that prints nonsense (or a banner, or half an answer) never breaks the console."""
    try:
        PARSERS[name](noise)
    except OpsDeckError as fault:
        assert fault.message


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_half_an_answer_is_never_taken_for_a_whole_one(case):
    name, output = case.stem.partition("-")[0], case.read_bytes()
    if name == "simulation":
        return
    for cut in range(0, len(output) - 2, 7):
        if name in ("users", "folders"):
            with pytest.raises(OpsDeckError):
                (users if name == "users" else directories).parse_look(output[:cut], output.count(b"\n") - 1)
        else:
            with pytest.raises(OpsDeckError):
                PARSERS[name](output[:cut])


def test_files_answer_may_be_noise():
    with pytest.raises(OpsDeckError):
        files.parse_look(b"\xff\xfe\0 file\nend\n", 1)
