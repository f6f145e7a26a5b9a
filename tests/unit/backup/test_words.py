"""The pages and actions of backups speak Chinese too."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import opsdeck_backup
from babel.messages.extract import extract_from_dir
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from opsdeck_backup import plugin
from opsdeck_web import language

from opsdeck.jobs import params

ROOT = Path(str(opsdeck_backup.__file__)).parent
CATALOGUE = ROOT / "locale" / "zh_CN" / "LC_MESSAGES" / "opsdeck_backup.po"
METHODS = [("templates/**.html", "jinja2"), ("**.py", "python")]
OPTIONS = {"templates/**.html": {"extensions": "jinja2.ext.i18n", "trimmed": "true"}}


def test_every_word_of_pages_and_actions_has_its_chinese() -> None:
    manifest = plugin.opsdeck_manifest()
    language.words.add([manifest])
    texts = {found[2] for found in extract_from_dir(ROOT, METHODS, OPTIONS, {"_": None, "marked": None})}
    texts |= {manifest.title, *(item.title for item in manifest.navigation)}
    for action in manifest.actions:
        texts |= {action.title, action.summary}
        for field in params.fields(action.params):
            texts |= {field.title, field.help} - {""}
    assert len(texts) > 100
    missing = {text for text in texts if language.words.text(text, owner="backup", language="zh_CN") == text}
    assert missing == set()


def test_the_compiled_catalogue_is_the_present_one() -> None:
    with CATALOGUE.open("rb") as stream:
        catalogue = read_po(stream)
    made = BytesIO()
    write_mo(made, catalogue)
    assert made.getvalue() == CATALOGUE.with_suffix(".mo").read_bytes()
