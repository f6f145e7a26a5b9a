"""Templates, and the frame's navigation."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from jinja2 import BaseLoader, ChoiceLoader, Environment, PackageLoader, PrefixLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from litestar import Request
from litestar.plugins.jinja import JinjaTemplateEngine

from opsdeck.clock import utcnow
from opsdeck.inventory.forms import tag_words
from opsdeck.jobs.models import Job
from opsdeck.plugins import Plugins
from opsdeck_web import charts, formatting, states
from opsdeck_web.identity import Shell
from opsdeck_web.language import HTML_CODES, LANGUAGES, _, marked, words

STATIC = Path(str(files("opsdeck_web") / "static"))


@dataclass(frozen=True)
class Line:
    """One line of the navigation."""

    title: str
    path: str
    key: str = ""
    """Letter that goes there after `g`."""
    badge: str = ""
    bad: bool = False
    here: bool = False


CORE = (
    ("Overview", "/", "o"),
    ("Hosts", "/hosts", "h"),
    ("Actions", "/actions", "a"),
    ("Jobs", "/jobs", "j"),
    ("Schedules", "/schedules", "s"),
    ("Audit", "/audit", "u"),
)
PLATFORM = (("Secrets", "/secrets", "k"), ("People", "/people", "p"), ("Health", "/health", "e"))
MARKED = (
    marked("Overview"),
    marked("Hosts"),
    marked("Actions"),
    marked("Jobs"),
    marked("Schedules"),
    marked("Audit"),
    marked("Secrets"),
    marked("People"),
    marked("Health"),
    marked("Console"),
)
"""Titles that stand as data above, or in a manifest of ours; named here for the catalogue."""


def static_version() -> str:
    """Give a name for the present set of static files, so that browsers may keep them for good."""
    digest = hashlib.sha256()
    for file in sorted(STATIC.rglob("*")):
        if file.is_file():
            digest.update(file.relative_to(STATIC).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


class _Prefixed(PrefixLoader):
    """Plugins' templates under their plugin's name, which each keeps: by it the plugin's own words are found."""

    load = BaseLoader.load


class Frame:
    """The templates of the console and of every plugin, and the navigation around them."""

    def __init__(self, plugins: Plugins) -> None:
        self._plugins = plugins
        self.version = static_version()
        self.environment = self._environment()
        self.engine = JinjaTemplateEngine.from_environment(self.environment)

    def _environment(self) -> Environment:
        loaders: dict[str, BaseLoader] = {}
        for manifest in self._plugins.ordered():
            if manifest.name in {"core", "web"}:
                continue
            try:
                loaders[manifest.name] = PackageLoader(manifest.package)
            except (ValueError, ImportError):
                continue  # the plugin brings no templates folder
        environment = Environment(
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.i18n"],
            loader=ChoiceLoader([PackageLoader("opsdeck_web"), _Prefixed(loaders)]),
        )
        environment.policies["ext.i18n.trimmed"] = True
        words.add(self._plugins.ordered())
        environment.install_gettext_callables(_gettext, _ngettext, newstyle=True)  # type: ignore[attr-defined]
        environment.globals.update(
            bytes=formatting.bytes_,
            binary=formatting.binary,
            duration=formatting.duration,
            number=formatting.number,
            percent=formatting.percent,
            ago=formatting.ago,
            exact=formatting.exact,
            clock=formatting.clock,
            day=formatting.day,
            now=utcnow,
            charts=charts,
            languages=LANGUAGES,
            html_codes=HTML_CODES,
            static=lambda path: f"/static/{self.version}/{path}",
            shell_of=shell_of,
            job_state=states.job,
            reach_state=states.reach,
            slot_state=states.slot,
            finding_state=states.finding,
            job_title=self.job_title,
            action_title=self.action_title,
            param_title=self.param_title,
            log_time=formatting.log_time,
            local=formatting.local,
            reader_zone=formatting.zone.get,
            tags_of=lambda host: ", ".join(tag_words(host.tags)),
            zip=lambda *lists: list(zip(*lists, strict=True)),
            choice_texts=lambda plugin, texts: [words.text(text, owner=plugin) for text in texts],
            navigation=self.navigation,
            plugin_text=lambda owner, text: words.text(text, owner=owner),
            plugin_title=self.plugin_title,
        )
        environment.globals["ui"] = self._parts(environment)
        return environment

    @staticmethod
    def _parts(environment: Environment) -> SimpleNamespace:
        """Gather the macros of `parts/*.html` under one name, so that a block rendered alone has them too."""
        parts = SimpleNamespace()
        environment.globals["ui"] = parts
        for file in sorted((files("opsdeck_web") / "templates" / "parts").iterdir(), key=lambda file: file.name):
            module = environment.get_template(f"parts/{file.name}").module
            for name in dir(module):
                macro = getattr(module, name)
                if not name.startswith("_") and callable(macro):
                    setattr(parts, name, macro)
        return parts

    def plugin_title(self, name: str) -> str:
        """Give a plugin's title in the reader's language."""
        manifest = self._plugins.manifests.get(name)
        return words.text(manifest.title or name, owner=name) if manifest else name

    def action_title(self, plugin: str, name: str) -> str:
        """Give an action's title in the reader's language; its name when the plugin is gone."""
        manifest = self._plugins.manifests.get(plugin)
        title = next((action.title for action in manifest.actions if action.name == name), name) if manifest else name
        return words.text(title, owner=plugin)

    def param_title(self, plugin: str, name: str, param: str) -> str:
        """Give a parameter's title in the reader's language; its name when the plugin is gone."""
        manifest = self._plugins.manifests.get(plugin)
        action = next((action for action in manifest.actions if action.name == name), None) if manifest else None
        known = action.params.model_fields.get(param) if action else None
        return words.text(known.title, owner=plugin) if known is not None and known.title else param

    def job_title(self, job: Job) -> str:
        """Give what a job does in one phrase: the action and where."""
        title = self.action_title(job.plugin, job.action)
        where = job.hosts[0] if len(job.hosts) == 1 else job.selector or ", ".join(job.hosts[:3])
        return f"{title} · {where}" if where else title

    def navigation(self, request: Request[Any, Any, Any]) -> list[tuple[str, list[Line]]]:
        """Give the groups of the side bar."""
        shell = shell_of(request)
        path = request.url.path

        def line(
            title: str, target: str, key: str = "", badge: str = "", *, owner: str = "web", bad: bool = False
        ) -> Line:
            bare = target.rstrip("/")
            here = path.rstrip("/") == bare or bool(bare and path.startswith(f"{bare}/"))
            return Line(words.text(title, owner=owner), target, key, badge, bad, here)

        badges = {
            "/hosts": str(shell.hosts) if shell.hosts else "",
            "/jobs": _("%d running") % shell.running if shell.running else "",
        }
        admin = shell.visitor is not None and shell.visitor.admin
        plugin_lines = []
        for manifest in self._plugins.ordered():
            bad = shell.incidents.get(manifest.name, 0)
            for place, item in enumerate(sorted(manifest.navigation, key=lambda item: item.order)):
                target = item.path if item.path.startswith("/p/") else f"/p/{manifest.name}/{item.path.lstrip('/')}"
                badge = str(bad) if bad and place == 0 else ""
                plugin_lines.append(
                    (item.order, line(item.title, target, "", badge, owner=manifest.name, bad=bool(bad)))
                )
        return [
            ("", [line(title, target, key, badges.get(target, "")) for title, target, key in CORE]),
            (_("Plugins"), [entry for _order, entry in sorted(plugin_lines, key=lambda pair: pair[0])]),
            (
                _("Platform"),
                [line(title, target, key) for title, target, key in PLATFORM if admin or target != "/people"],
            ),
        ]


def shell_of(request: Request[Any, Any, Any]) -> Shell:
    """Give the frame's data; a bare one where no page was routed (an unknown address, a refused form)."""
    found = request.scope["state"].get("shell")
    return found if isinstance(found, Shell) else Shell()


def _owner(context: Context) -> str:
    head, slash, _rest = (context.name or "").partition("/")
    return head if slash and head not in {"parts", "pages"} else "web"


@pass_context
def _gettext(context: Context, message: str) -> str:
    return words.text(message, owner=_owner(context))


@pass_context
def _ngettext(context: Context, one: str, many: str, count: int) -> str:
    return words.plural(one, many, count, owner=_owner(context))
