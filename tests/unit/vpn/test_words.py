"""Every word of the plugin is there in Chinese."""

from __future__ import annotations

import re
from importlib.resources import files
from io import BytesIO
from pathlib import Path

from babel.messages.extract import extract_from_dir
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from opsdeck_vpn import actions, directives

from opsdeck.jobs import params

ROOT = Path(str(files("opsdeck_vpn")))
CATALOGUE = ROOT / "locale" / "zh_CN" / "LC_MESSAGES" / "opsdeck_vpn.po"
METHODS = [("templates/**.html", "jinja2")]
OPTIONS = {"templates/**.html": {"extensions": "jinja2.ext.i18n", "trimmed": "true"}}


def test_every_word_is_there_with_its_placeholders() -> None:
    with CATALOGUE.open("rb") as stream:
        there = {str(entry.id): str(entry.string) for entry in read_po(stream) if entry.id}
    wanted = {str(message) for _file, _line, message, _notes, _context in extract_from_dir(ROOT, METHODS, OPTIONS)}
    assert len(wanted) > 90
    wanted |= {"Office network", *directives.DROPPED.values()}
    for action in actions.ALL:
        wanted |= {action.title, action.summary}
        for field in params.fields(action.params):
            wanted |= {field.title, field.help} - {""}
    assert {word for word in wanted if not there.get(word)} == set()
    for word, other in there.items():
        assert sorted(re.findall(r"%\(\w+\)s", word)) == sorted(re.findall(r"%\(\w+\)s", other)), word


def test_the_compiled_catalogue_is_the_present_one() -> None:
    with CATALOGUE.open("rb") as stream:
        catalogue = read_po(stream)
    made = BytesIO()
    write_mo(made, catalogue)
    assert made.getvalue() == CATALOGUE.with_suffix(".mo").read_bytes()
