"""Finding, loading and guarding plugins; nothing else.

Each plugin is loaded and called on its own. One that raises, hangs or calls `sys.exit()` is reported by name and
stops nobody else; pluggy alone does not give this (one implementation that raises ends the call for all).
"""

from __future__ import annotations

import asyncio
import difflib
import importlib.util
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pluggy

from opsdeck import hookspecs
from opsdeck.errors import NotFound
from opsdeck.manifest import API, Action, Finding, HostCard, Manifest

GROUP = "opsdeck.plugins"
LOAD_SECONDS = 10.0
CALL_SECONDS = 5.0
BEFORE_MANIFEST = {"opsdeck_commands"}
"""Hooks that are called without the manifest, which imports all that a plugin is made of: `--help` must be quick."""
FAULTS = 20
"""Faults that are kept of one plugin; one that fails in ever new words fills nothing."""
ANSWERS: dict[str, type[Any]] = {"opsdeck_health": Finding, "opsdeck_host_cards": HostCard}
"""What a hook's answer is a sequence of, where those who ask count on it."""


@dataclass(frozen=True)
class Fault:
    """What a plugin did wrong, and where."""

    plugin: str
    where: str
    text: str

    def __str__(self) -> str:
        return f"plugin {self.plugin}: {self.text} (in {self.where})"


class Plugins:
    """The loaded plugins by name, and the faults of those that are not."""

    def __init__(self, *, trace: bool = False) -> None:
        self._manager = pluggy.PluginManager("opsdeck")
        self._manager.add_hookspecs(hookspecs.Hooks)
        self._trace = trace
        self._manifests: dict[str, Manifest] = {}
        self._faults: list[Fault] = []
        self._announced: dict[str, EntryPoint] = {}
        """Those that were found and not imported yet, by name, in order."""
        self._unasked: set[str] = set()
        """Those that are imported and were not asked for their manifest yet."""
        self._importing = threading.RLock()

    @property
    def manifests(self) -> dict[str, Manifest]:
        """The manifests of all plugins by name; imports those that were only found so far."""
        for name in (*self._announced, *self._unasked):
            self._ask(name)
        return self._manifests

    @property
    def faults(self) -> list[Fault]:
        """What was wrong with any plugin; imports those that were only found so far."""
        _ = self.manifests
        return self._faults

    def load(self, disabled: Iterable[str] = (), group: str = GROUP) -> None:
        """Load every plugin that an installed distribution announces, in the order of their names, core first."""
        self.find(disabled, group)
        _ = self.manifests

    def find(self, disabled: Iterable[str] = (), group: str = GROUP) -> None:
        """Find every plugin that an installed distribution announces; each is imported when something needs it."""
        skip = frozenset(disabled)
        for point in sorted(entry_points(group=group), key=lambda point: _rank(point.name)):
            seen = self._announced.setdefault(point.name, point) if point.name not in skip else point
            if seen.value != point.value:
                text = f"two are installed under this name: {seen.value}, which counts, and {point.value}"
                self.report(point.name, "import", text)

    def manifest(self, name: str) -> Manifest | None:
        """Give one plugin's manifest, importing that plugin alone; None when it is not there or could not be loaded."""
        self._ask(name)
        return self._manifests.get(name)

    def add(self, name: str, module: object) -> None:
        """Register one plugin; on any fault it is left out and reported."""
        if self._manager.has_plugin(name):
            self.report(name, "opsdeck_manifest", "a plugin of this name is loaded already")
            return
        self._take(name, module)
        self._ask(name)

    def _import(self, name: str) -> None:
        """Import a plugin that was only found so far, without asking what it brings."""
        with self._importing:
            point = self._announced.pop(name, None)
            if point is None:
                return
            try:
                module = _bounded(point.load, LOAD_SECONDS)
            except _Failed as fault:
                self.report(name, "import", str(fault))
                return
            self._take(name, module)

    def _take(self, name: str, module: object) -> None:
        try:
            _bounded(lambda: self._register(name, module), CALL_SECONDS)
        except _Failed as fault:
            self._drop(name, fault)
            return
        self._unasked.add(name)

    def _drop(self, name: str, fault: _Failed) -> None:
        self.report(name, "opsdeck_manifest", str(fault))
        if self._manager.has_plugin(name):
            self._manager.unregister(name=name)

    def _ask(self, name: str) -> None:
        """Ask an imported plugin for its manifest, once; on any fault it is left out and reported."""
        with self._importing:
            self._import(name)
            if name not in self._unasked:
                return
            self._unasked.remove(name)
            try:
                manifest = _bounded(self._caller(name, "opsdeck_manifest"), LOAD_SECONDS)  # it imports the plugin
                if not isinstance(manifest, Manifest):
                    raise _Failed("opsdeck_manifest gave no Manifest")
                if manifest.api != API:
                    raise _Failed(f"it speaks plugin API {manifest.api}, this core {API}")
                if manifest.name != name:
                    raise _Failed(f"its manifest calls it {manifest.name}")
            except _Failed as fault:
                self._drop(name, fault)
                return
            self._manifests[name] = manifest
            for each in sorted(self._manifests, key=_rank):
                self._manifests[each] = self._manifests.pop(each)

    def _register(self, name: str, module: object) -> None:
        self._manager.register(module, name=name)
        known = self._manager.get_hookcallers(module) or []
        unknown = [caller.name for caller in known if not caller.has_spec()]
        if unknown:
            near = difflib.get_close_matches(unknown[0], [name for name in dir(hookspecs.Hooks) if name[0] == "o"], 1)
            raise ValueError(f"{unknown[0]} is no hook" + (f"; did it mean {near[0]}?" if near else ""))
        if not any(caller.name == "opsdeck_manifest" for caller in known):
            raise ValueError("it has no opsdeck_manifest")

    def ordered(self) -> tuple[Manifest, ...]:
        """Give the manifests, each after those it names in `after`."""
        done: dict[str, Manifest] = {}

        def visit(manifest: Manifest, path: tuple[str, ...]) -> None:
            if manifest.name in done or manifest.name in path:
                return
            for name in manifest.after:
                if name in self.manifests:
                    visit(self.manifests[name], (*path, manifest.name))
            done[manifest.name] = manifest

        for manifest in self.manifests.values():
            visit(manifest, ())
        return tuple(done.values())

    def action(self, plugin: str, name: str) -> Action:
        """Find an action. Raises `NotFound`, naming what there is."""
        manifest = self.manifest(plugin)
        if manifest is None:
            fault = next((fault for fault in self._faults if fault.plugin == plugin), None)
            if fault:
                raise NotFound(f"plugin {plugin!r} is not loaded: {fault.text}.", field="plugin")
            raise NotFound(f"no plugin is called {plugin!r}.", field="plugin", hint="`opsdeck plugin list` names them")
        for action in manifest.actions:
            if action.name == name:
                return action
        names = ", ".join(action.name for action in manifest.offered) or "none"
        raise NotFound(f"plugin {plugin!r} has no action {name!r}.", field="action", hint=f"it has: {names}")

    def call(self, hook: str, **given: Any) -> dict[str, Any]:
        """Call a plain hook of each plugin on its own; give the results by plugin, without those that failed."""
        return dict(self._each(hook, given))

    def _each(self, hook: str, given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        for name in self._implementing(hook):
            try:
                yield name, self._call(name, hook, **given)
            except _Failed as fault:
                self.report(name, hook, str(fault))

    async def gather(self, hook: str, *, seconds: float = CALL_SECONDS, **given: Any) -> dict[str, Any]:
        """Call an async hook of all plugins side by side, each within `seconds`; failures are reported, not raised."""

        async def one(name: str) -> tuple[str, Any]:
            try:
                async with asyncio.timeout(seconds):
                    answer = await self._caller(name, hook)(**given)
                return name, _checked(hook, answer)
            except TimeoutError:
                self.report(name, hook, f"it did not answer within {seconds:g} s")
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                self.report(name, hook, "it cancelled itself")
            except (Exception, SystemExit, KeyboardInterrupt) as fault:  # whatever a plugin does, it stops nobody else
                self.report(name, hook, f"{type(fault).__name__}: {fault}")
            return name, None

        results = await asyncio.gather(*(one(name) for name in self._implementing(hook)))
        return {name: result for name, result in results if result is not None}

    def callers(self, hook: str) -> dict[str, Callable[..., Any]]:
        """Give each plugin's implementation of a hook, unguarded, for who guards it otherwise."""
        return {name: self._caller(name, hook) for name in self._implementing(hook)}

    def report(self, plugin: str, where: str, text: str) -> None:
        """Keep what a plugin did wrong, once, for `opsdeck doctor` and the health page."""
        fault = Fault(plugin, where, text)
        if fault not in self._faults and sum(known.plugin == plugin for known in self._faults) < FAULTS:
            self._faults.append(fault)

    def _implementing(self, hook: str) -> list[str]:
        for waiting, point in tuple(self._announced.items()):
            try:
                may = _bounded(partial(_may_implement, point, hook), LOAD_SECONDS)
            except _Failed:
                may = True  # whatever is wrong with it, its import tells and reports it
            if may:
                self._import(waiting)
        having = {impl.plugin_name for impl in getattr(self._manager.hook, hook).get_hookimpls()}
        if hook not in BEFORE_MANIFEST:
            for name in having & self._unasked:
                self._ask(name)
            having &= self._manifests.keys()
        return sorted(having, key=_rank)

    def _caller(self, name: str, hook: str) -> Callable[..., Any]:
        others = [plugin for other, plugin in self._manager.list_name_plugin() if other != name and plugin is not None]
        caller = self._manager.subset_hook_caller(hook, others)

        def call(**given: Any) -> Any:
            if self._trace:
                print(f"hook {hook} → {name}", file=sys.stderr)
            results = caller(**given)
            return results[0] if results else None

        return call

    def _call(self, name: str, hook: str, **given: Any) -> Any:
        return _bounded(lambda: self._caller(name, hook)(**given), CALL_SECONDS)


class _Failed(Exception):
    """A plugin's call did not come back with a result."""


def _rank(name: str) -> tuple[bool, str]:
    return name != "core", name


def _may_implement(point: EntryPoint, hook: str) -> bool:
    """Tell from the text of a plugin's module, without running it, whether it may implement a hook.

    A hook stands in its plugin's module by name. Where the text cannot be read, or takes names from elsewhere
    unnamed, only an import tells.
    """
    spec = None if point.attr else importlib.util.find_spec(point.module)
    text = Path(spec.origin).read_text("utf-8") if spec is not None and spec.origin else ""
    return not text or hook in text or re.search(r"^\s*from\s.+\simport\s+\(?\s*\*", text, re.MULTILINE) is not None


def _checked(hook: str, answer: Any) -> Any:
    """Give an answer whose every part is what the hook promises."""
    wanted = ANSWERS.get(hook)
    if wanted is None or answer is None:
        return answer
    parts = tuple(answer)
    for part in parts:
        if not isinstance(part, wanted):
            raise TypeError(f"gave a {type(part).__name__} where a {wanted.__name__} belongs")
    return parts


def _bounded(call: Callable[[], Any], seconds: float) -> Any:
    """Call in a thread of its own, so that a hang is bounded and a `SystemExit` stays there."""
    outcome: dict[str, Any] = {}

    def work() -> None:
        try:
            outcome["result"] = call()
        except BaseException as fault:  # whatever a plugin does, it stops nobody else
            outcome["fault"] = fault

    thread = threading.Thread(target=work, daemon=True, name="plugin")
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise _Failed(f"it did not answer within {seconds:g} s")
    if "fault" in outcome:
        fault = outcome["fault"]
        raise _Failed(f"{type(fault).__name__}: {fault}") from fault
    return outcome["result"]
