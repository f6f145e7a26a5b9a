"""What the documents say about the code is so: hooks, events, the public surface, the rooms, the commands."""

from __future__ import annotations

import ast
import gc
import inspect
import re
from pathlib import Path

import pytest
from litestar.routes import HTTPRoute
from opsdeck_web.api import router

import opsdeck
from opsdeck import api, hookspecs
from opsdeck.cli.reference import reference
from opsdeck.events import Event
from opsdeck.settings import Settings

ROOT = Path(opsdeck.__file__).parents[1]
PLUGINS = (ROOT / "docs" / "plugins.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
HOOKS = [name for name in vars(hookspecs.Hooks) if name.startswith("opsdeck_")]


def heading(hook: str) -> str:
    function = getattr(hookspecs.Hooks, hook)
    signature = str(inspect.signature(function)).replace("self, ", "").replace("self", "").replace("'", "")
    return f"{'async ' if inspect.iscoroutinefunction(function) else ''}{hook}{signature}"


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_sentence_a_heading_and_a_test(hook: str) -> None:
    assert getattr(hookspecs.Hooks, hook).__doc__.strip().endswith(".")
    assert heading(hook) in re.findall(r"^### `(.*)`$", PLUGINS, re.MULTILINE)
    tests = (ROOT / "tests" / "unit" / "test_plugins.py").read_text()
    assert re.search(rf"^(async )?def test_{hook}\(", tests, re.MULTILINE)


def test_no_heading_speaks_of_a_hook_that_is_gone() -> None:
    written = re.findall(r"^### `(.*)`$", PLUGINS, re.MULTILINE)
    assert sorted(written) == sorted(map(heading, HOOKS))


@pytest.mark.parametrize(
    "name", [kind.__name__ for kind in Event.__subclasses__() if kind.__module__ == Event.__module__]
)
def test_every_event_is_documented(name: str) -> None:
    assert f"`{name}`" in PLUGINS


@pytest.mark.parametrize("name", api.__all__)
def test_the_public_surface_is_there_and_documented(name: str) -> None:
    assert hasattr(api, name)
    assert re.search(rf"`(Risk\.|Recover\.)?{name}[`.:(]", PLUGINS)


def test_the_command_reference_is_current() -> None:
    assert (ROOT / "docs" / "cli.md").read_text() == reference(), "python -m opsdeck.cli.reference > docs/cli.md"


def sources(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*.py") if "/template/" not in file.as_posix())


def _parsed(file: Path) -> ast.Module:
    """Parse a module. CPython 3.11 gives up on it when the collector ends somebody's greenlet meanwhile."""
    gc.disable()
    try:
        return ast.parse(file.read_text())
    finally:
        gc.enable()


def imports(file: Path) -> set[str]:
    """Give every module of ours that a file imports, at its top or inside functions."""
    found: set[str] = set()
    for node in ast.walk(_parsed(file)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module} | {f"{node.module}.{name.name}" for name in node.names}
    return {name for name in found if name.split(".")[0].startswith("opsdeck")}


def test_the_core_imports_no_plugin_and_nothing_of_the_console() -> None:
    for file in sources(ROOT / "opsdeck"):
        foreign = {name for name in imports(file) if name.split(".")[0] != "opsdeck"}
        assert not foreign, f"{file.relative_to(ROOT)} imports {sorted(foreign)}"


def test_a_plugin_imports_the_public_surface_and_itself_only() -> None:
    for folder in sorted((ROOT / "plugins").glob("*/opsdeck_*")):
        for file in sources(folder):
            bad = {
                name for name in imports(file)
                if name.split(".")[0] != folder.name and name not in {"opsdeck", "opsdeck.api"}
                and not name.startswith("opsdeck.api.")
            }  # fmt: skip
            assert not bad, f"{file.relative_to(ROOT)} imports {sorted(bad)}"


@pytest.mark.parametrize(
    ("door", "openers"), [("cli", {"cli", "api.py"}), ("builtin", {"builtin"}), ("lab", {"lab", "cli"})]
)
def test_no_room_leans_on_a_door(door: str, openers: set[str]) -> None:
    for file in sources(ROOT / "opsdeck"):
        if file.relative_to(ROOT / "opsdeck").parts[0] not in openers:
            leaning = {name for name in imports(file) if name.split(".")[:2] == ["opsdeck", door]}
            assert not leaning, f"{file.relative_to(ROOT)} imports {sorted(leaning)}"


def test_every_room_is_on_the_map() -> None:
    rooms = {
        path.name for path in (ROOT / "opsdeck").iterdir() if path.is_dir() and (path / "__init__.py").exists()
    }  # fmt: skip
    assert rooms == set(re.findall(r"^\| `(\w+)/` \|", ARCHITECTURE, re.MULTILINE))


def test_every_setting_is_documented_with_its_default() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| (?:`(.*?)`)? *\| (.*) \|$", (ROOT / "docs" / "settings.md").read_text(), re.MULTILINE
    )
    wanted = [
        (
            name,
            "~/.local/share/opsdeck" if name == "home" else str(field.default) if field.default else "",
            field.description,
        )
        for name, field in Settings.model_fields.items()
    ]
    assert rows == wanted


def test_every_request_of_the_api_is_documented() -> None:
    written = set(re.findall(r"^\| `(GET|POST) (/api/v1\S*)` \|", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE))
    there = {
        (method, re.sub(r":[a-z]+}", "}", route.path))
        for route in router.routes
        if isinstance(route, HTTPRoute)
        for method in route.methods - {"OPTIONS"}
    }
    assert written == there


def test_every_link_between_documents_leads_somewhere() -> None:
    for file in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", file.read_text()):
            assert (file.parent / target).exists(), f"{file.relative_to(ROOT)} points to {target}"
