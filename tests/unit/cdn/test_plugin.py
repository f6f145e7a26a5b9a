"""The plugin as the core sees it: loaded, with tables that fit, and every text in Chinese too."""

from __future__ import annotations

import gettext
import re
from pathlib import Path

import opsdeck_cdn
from opsdeck_cdn import plugin

from opsdeck.db.revise import make_revision
from opsdeck.jobs.params import fields
from opsdeck.plugins import Plugins

HERE = Path(opsdeck_cdn.__file__).parent
SAME = {"CDN", "URLs", "SHA-256", "DNS zone"}


def loaded() -> Plugins:
    plugins = Plugins()
    plugins.add("cdn", plugin)
    assert not plugins.faults
    return plugins


async def test_models_and_revisions_agree():
    assert await make_revision("cdn", "nothing", loaded()) is None


def texts() -> set[str]:
    """Give what a person may read: of templates, actions and the side bar."""
    found = set()
    for file in (HERE / "templates").glob("*.html"):
        found |= {text.replace('\\"', '"') for text in re.findall(r'_\("((?:[^"\\]|\\.)*)"', file.read_text())}
    manifest = plugin.opsdeck_manifest()
    found |= {item.title for item in manifest.navigation}
    for action in manifest.actions:
        found |= {action.title, action.summary}
        for field in fields(action.params):
            found |= {field.title, field.help}
    views = (HERE / "web" / "views.py").read_text()
    found |= {word for _, word in re.findall(r'return "(ok|idle|attention|broken)", "([^"]+)"', views)}
    return {text for text in found if text}


def test_every_text_is_there_in_chinese():
    with (HERE / "locale/zh_CN/LC_MESSAGES/opsdeck_cdn.mo").open("rb") as stream:
        words = gettext.GNUTranslations(stream)
    missing = {text for text in texts() if text not in words._catalog}
    assert not missing
    assert len(texts()) > 100


def test_the_guide_names_only_actions_that_are_there():
    guide = (HERE.parent / "README.md").read_text()
    named = set(re.findall(r"`(?:opsdeck plugin run )?cdn ([a-z_]+)|opsdeck plugin run cdn ([a-z_]+)", guide))
    names = {first or second for first, second in named}
    assert names <= {action.name for action in plugin.opsdeck_manifest().actions}
    assert {"site", "edge", "deploy", "purge", "drain"} <= names
