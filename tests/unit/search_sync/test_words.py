"""Every word of the plugin is there in Chinese, and the compiled catalogue is the present one."""

from __future__ import annotations

import ast
from importlib.resources import files
from io import BytesIO
from pathlib import Path

from babel.messages.extract import extract_from_dir
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from opsdeck_search_sync import standing
from opsdeck_search_sync.actions import ACTIONS

from opsdeck.jobs import params

ROOT = Path(str(files("opsdeck_search_sync")))
CATALOGUE = ROOT / "locale" / "zh_CN" / "LC_MESSAGES" / "opsdeck_search_sync.po"
METHODS = [("templates/**.html", "jinja2")]
SAME = {"Meilisearches", "Ok", ""}


def words() -> set[str]:
    """What templates, actions, forms and the states of syncs say."""
    found = {str(message) for _f, _l, message, _c, _x in extract_from_dir(ROOT, METHODS, {}, {"_": None})}
    for action in ACTIONS:
        if not action.hidden:
            found |= {action.title, action.summary}
            for field in params.fields(action.params):
                found |= {field.title, field.help}
    tree = ast.parse(Path(str(standing.__file__)).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "(state, word)":
            found |= {
                each.value
                for part in ast.walk(node.value)
                for each in [part]
                if isinstance(each, ast.Constant) and str(each.value) not in {"running", "broken", "attention", "ok"}
            }
    return found - SAME


def test_every_word_is_there_in_chinese() -> None:
    with CATALOGUE.open("rb") as stream:
        there = {entry.id: entry.string for entry in read_po(stream) if entry.id}
    assert len(words()) > 80
    assert {word for word in words() if not there.get(word)} == set()


def test_the_compiled_catalogue_is_the_present_one() -> None:
    with CATALOGUE.open("rb") as stream:
        catalogue = read_po(stream)
    made = BytesIO()
    write_mo(made, catalogue)
    assert made.getvalue() == CATALOGUE.with_suffix(".mo").read_bytes()
