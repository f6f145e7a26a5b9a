"""Events reach the plugins, and a plugin that hangs, raises or dawdles costs nobody else anything."""

from __future__ import annotations

import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from opsdeck.api import API, Manifest, hookimpl
from opsdeck.events import Bus, Event, HostChanged, LogWritten
from opsdeck.notify.fanout import Fanout, Patience
from opsdeck.plugins import Plugins

QUICK = Patience(queue=5, faults=3, seconds=0.2, drain=5.0)


class Bench:
    def __init__(self) -> None:
        self.plugins = Plugins()
        self.bus = Bus()
        self.release = threading.Event()
        self.heard: list[str] = []

    def bring(self, name: str, hear: Callable[[Event], None]) -> None:
        module = types.ModuleType(name)
        manifest = Manifest(name, "1", API, name)

        @hookimpl
        def opsdeck_manifest() -> Manifest:
            return manifest

        @hookimpl
        def opsdeck_on_event(event: Event) -> None:
            hear(event)

        module.opsdeck_manifest = opsdeck_manifest  # type: ignore[attr-defined]
        module.opsdeck_on_event = opsdeck_on_event  # type: ignore[attr-defined]
        self.plugins.add(name, module)

    def hear(self, event: Event) -> None:
        assert isinstance(event, HostChanged)
        self.heard.append(event.host)

    def say(self, *names: str) -> None:
        for name in names:
            self.bus.publish(HostChanged(host=name, what="edited"))

    def faults(self, plugin: str) -> str:
        return "; ".join(fault.text for fault in self.plugins.faults if fault.plugin == plugin)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.release.set()


def until(true: Callable[[], Any]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_events_are_heard_in_order_and_off_the_callers_thread(bench: Bench) -> None:
    threads = set()

    def hear(event: Event) -> None:
        threads.add(threading.current_thread())
        bench.hear(event)

    bench.bring("good", hear)
    fanout = Fanout(bench.plugins, bench.bus)
    bench.say("a", "b", "c")
    fanout.close()
    assert bench.heard == ["a", "b", "c"]
    assert threading.current_thread() not in threads


def test_log_lines_are_not_events_for_plugins(bench: Bench) -> None:
    bench.bring("good", bench.hear)
    fanout = Fanout(bench.plugins, bench.bus)
    bench.bus.publish(LogWritten(job_id=1, first=1, count=5))
    fanout.close()
    assert bench.heard == []


@pytest.mark.parametrize("fault", [ValueError("no"), SystemExit(3), KeyboardInterrupt()])
def test_one_that_raises_is_named_and_in_the_end_dropped(bench: Bench, fault: BaseException) -> None:
    calls = []

    def hear(event: Event) -> None:
        calls.append(event)
        raise fault

    bench.bring("bad", hear)
    bench.bring("good", bench.hear)
    fanout = Fanout(bench.plugins, bench.bus, patience=QUICK)
    for name in "abcdef":
        bench.say(name)
        until(lambda name=name: name in bench.heard)
    fanout.close()
    assert bench.heard == list("abcdef")
    assert len(calls) == QUICK.faults
    assert type(fault).__name__ in bench.faults("bad")
    assert "hears no more events" in bench.faults("bad")
    assert bench.faults("good") == ""


def test_one_that_raises_now_and_then_goes_on(bench: Bench) -> None:
    def hear(event: Event) -> None:
        bench.hear(event)
        if len(bench.heard) % 2:
            raise ValueError("every other time")

    bench.bring("shaky", hear)
    fanout = Fanout(bench.plugins, bench.bus, patience=QUICK)
    for number in range(12):
        bench.say(str(number))
        until(lambda number=number: len(bench.heard) > number)
    fanout.close()
    assert len(bench.heard) == 12


def test_one_that_hangs_is_named_and_stops_nobody(bench: Bench) -> None:
    bench.bring("bad", lambda _event: bench.release.wait(30) and None)
    bench.bring("good", bench.hear)
    fanout = Fanout(bench.plugins, bench.bus, patience=QUICK)
    bench.say("a")

    def stuck() -> bool:
        bench.say("b")
        return "hears no more" in bench.faults("bad")

    until(stuck)
    until(lambda: bench.heard[:1] == ["a"])
    fanout.close()
    assert "events to bad" in {thread.name for thread in threading.enumerate()}, "it was waited for"


def test_a_full_queue_loses_events_and_says_so_once(bench: Bench) -> None:
    bench.bring("slow", lambda _event: bench.release.wait(30) and None)
    fanout = Fanout(bench.plugins, bench.bus, patience=Patience(queue=5, seconds=60.0, drain=0.1))
    bench.say(*map(str, range(100)))
    assert bench.faults("slow") == "it is too slow: more than 5 events waited"
    fanout.close()


def test_a_plugin_that_exits_in_the_end_still_lets_the_process_end(bench: Bench) -> None:
    bench.bring("bad", lambda _event: sys.exit(1))
    fanout = Fanout(bench.plugins, bench.bus, patience=QUICK)
    bench.say("a")
    fanout.close()
    assert "SystemExit: 1" in bench.faults("bad")


def test_no_thread_without_a_listener(bench: Bench) -> None:
    before = threading.active_count()
    fanout = Fanout(bench.plugins, bench.bus)
    bench.say("a")
    fanout.close()
    assert threading.active_count() == before
