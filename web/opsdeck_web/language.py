"""Words in the reader's language: one catalogue of the console and one of each plugin.

A msgid is the English text. A text of a plugin is looked up in the plugin's catalogue (domain `<package>`, found
below its `locale/`), then in the console's, then stands as it is.
"""

from __future__ import annotations

import gettext as stdlib
from collections.abc import Iterable
from contextvars import ContextVar
from importlib.resources import files
from pathlib import Path

from opsdeck.manifest import Manifest

LANGUAGES = {"en": "English", "zh_CN": "简体中文"}
HTML_CODES = {"en": "en", "zh_CN": "zh-CN"}

current: ContextVar[str] = ContextVar("language", default="en")
"""The language of the request being answered."""


def choose(*wishes: str | None, accept: str = "") -> str:
    """Give the first wish that we speak, else what the `Accept-Language` header asks for, else English."""
    for wish in wishes:
        if wish in LANGUAGES:
            return wish
    ranked: list[tuple[float, int, str]] = []
    for place, part in enumerate(accept.split(",")[:20]):
        code, _, weight = part.strip().partition(";q=")
        try:
            ranked.append((-float(weight or 1), place, code.strip().lower()))
        except ValueError:
            continue
    for _, _, code in sorted(ranked):
        if code.startswith("zh"):
            return "zh_CN"
        if code.startswith("en"):
            return "en"
    return "en"


class Words:
    """All catalogues of this process."""

    def __init__(self) -> None:
        self._catalogues: dict[tuple[str, str], stdlib.NullTranslations] = {}
        self._load("web", "opsdeck_web")

    def add(self, manifests: Iterable[Manifest]) -> None:
        """Load the catalogues of plugins; a plugin without one is shown in English."""
        for manifest in manifests:
            self._load(manifest.name, manifest.package)

    def _load(self, owner: str, package: str) -> None:
        try:
            folder = files(package) / "locale"
        except (ModuleNotFoundError, TypeError):
            return
        for language in LANGUAGES:
            file = Path(str(folder)) / language / "LC_MESSAGES" / f"{package}.mo"
            if file.is_file():
                with file.open("rb") as stream:
                    self._catalogues[owner, language] = stdlib.GNUTranslations(stream)

    def text(self, message: str, *, owner: str = "web", language: str | None = None) -> str:
        """Translate `message`."""
        if not message:
            return ""
        for name in dict.fromkeys((owner, "web")):
            catalogue = self._catalogues.get((name, language or current.get()))
            if catalogue is not None:
                found = catalogue.gettext(message)
                if found != message:
                    return found
        return message

    def plural(self, one: str, many: str, count: int, *, owner: str = "web") -> str:
        """Translate a message that depends on a count."""
        for name in dict.fromkeys((owner, "web")):
            catalogue = self._catalogues.get((name, current.get()))
            if catalogue is not None:
                found = catalogue.ngettext(one, many, count)
                if found not in (one, many):
                    return found
        return one if count == 1 else many


words = Words()


def _(message: str) -> str:
    """Translate a message of the console itself."""
    return words.text(message)


def marked(message: str) -> str:
    """Mark a message for the catalogue without translating it now."""
    return message
