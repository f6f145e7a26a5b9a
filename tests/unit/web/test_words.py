"""Every word of the console is there in Chinese, and none stands bare in a template."""

from __future__ import annotations

import re
from importlib.resources import files
from io import BytesIO
from pathlib import Path

import pytest
from babel.messages.extract import extract_from_dir
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from opsdeck_web import language

from opsdeck.inventory.facts.catalogue import BY_NAME
from opsdeck.jobs import params
from opsdeck.plugins import Plugins

ROOT = Path(str(files("opsdeck_web")))
CATALOGUE = ROOT / "locale" / "zh_CN" / "LC_MESSAGES" / "opsdeck_web.po"
KEYWORDS = {"_": None, "gettext": None, "ngettext": (1, 2), "marked": None}
METHODS = [("**.py", "python"), ("**/templates/**.html", "jinja2"), ("templates/**.html", "jinja2")]
OPTIONS = {"templates/**.html": {"extensions": "jinja2.ext.i18n", "trimmed": "true"}}
KEPT = {"opsdeck", "ctrl", "k", "j", "g", "en", "utc", "oauth", "ssh", "api", "中文", "✓", "#", "·", "→", "–", "x"}


def messages() -> set[str]:
    found = set()
    for _file, _line, message, _comments, _context in extract_from_dir(ROOT, METHODS, OPTIONS, KEYWORDS):
        found.add(message[0] if isinstance(message, tuple) else message)
    return found


def test_every_message_has_its_chinese() -> None:
    with CATALOGUE.open("rb") as stream:
        catalogue = read_po(stream)
    there = {entry.id[0] if isinstance(entry.id, tuple) else entry.id: entry.string for entry in catalogue if entry.id}
    missing = {message for message in messages() if not there.get(message)}
    assert len(messages()) > 300
    assert missing == set()


def test_placeholders_are_the_same_in_both() -> None:
    with CATALOGUE.open("rb") as stream:
        for entry in read_po(stream):
            if not entry.id:
                continue
            one = entry.id[1] if isinstance(entry.id, tuple) else entry.id
            other = entry.string[0] if isinstance(entry.string, tuple) else entry.string
            assert sorted(re.findall(r"%(?:\(\w+\))?[sd]", one)) == sorted(re.findall(r"%(?:\(\w+\))?[sd]", other)), one


@pytest.mark.parametrize("name", ["opsdeck_web", "opsdeck.builtin"])
def test_the_compiled_catalogue_is_the_present_one(name: str) -> None:
    file = Path(str(files(name))) / "locale" / "zh_CN" / "LC_MESSAGES" / f"{name}.po"
    with file.open("rb") as stream:
        catalogue = read_po(stream)
    made = BytesIO()
    write_mo(made, catalogue)
    assert made.getvalue() == file.with_suffix(".mo").read_bytes()


def test_actions_and_facts_of_the_core_are_there_in_chinese() -> None:
    plugins = Plugins()
    plugins.load()
    language.words.add(plugins.ordered())
    texts = {("web", fact.title) for fact in BY_NAME.values()}
    manifest = plugins.manifests["core"]
    for action in manifest.actions:
        if not action.hidden:
            texts |= {("core", action.title), ("core", action.summary)}
            for field in params.fields(action.params):
                texts |= {("core", field.title), ("core", field.help)} - {("core", "")}
    same = {"systemd", "sudo", "SHA-256"}
    missing = {
        text
        for owner, text in texts
        if text not in same and language.words.text(text, owner=owner, language="zh_CN") == text
    }
    assert missing == set()


@pytest.mark.parametrize("file", sorted((ROOT / "templates").rglob("*.html")), ids=lambda file: file.name)
def test_no_word_stands_bare_in_a_template(file: Path) -> None:
    text = re.sub(r"\{#.*?#\}", " ", file.read_text(), flags=re.S)
    text = re.sub(r"\{% block width %\}.*?\{% endblock %\}", " ", text)  # names of classes
    text = re.sub(r"\{%.*?%\}|\{\{.*?\}\}", " ", text, flags=re.S)
    text = re.sub(r"<code>.*?</code>|<kbd>.*?</kbd>", " ", text, flags=re.S)
    attributes = re.findall(r"\s(?:title|placeholder|aria-label|alt)=\"([^\"]*)\"", text)
    text = re.sub(r"<[^>]*>", " ", text)
    for piece in [text, *attributes]:
        bare = {word for word in re.findall(r"[^\W\d_]{2,}", piece) if word.lower() not in KEPT}
        assert bare <= {"切换到简体中文", "Switch", "to", "English"}, bare


def test_the_language_is_chosen_by_wish_then_by_the_browser() -> None:
    assert language.choose("zh_CN", "en") == "zh_CN"
    assert language.choose("", None, accept="zh-TW,zh;q=0.9,en;q=0.8") == "zh_CN"
    assert language.choose("", None, accept="de,en;q=0.5") == "en"
    assert language.choose("xx", accept="q=;;,;q=x") == "en"
