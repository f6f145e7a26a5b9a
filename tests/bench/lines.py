"""Many lines at once, from the hosts through to an open page: does anything freeze, does memory stay?

    ./run bench lines --hosts 10 --lines 10000 --rounds 3

Three processes: hosts (real SSH servers on loopback, a real shell each), a real console (`opsdeck serve` with a task
that looks how late it is called), and this one with Chromium on the job's page. All hosts begin to print at the same
moment. Prints Markdown. `stall` is the longest time for which the console's event loop was not free, of that `busy`
with its own work (CPU time of its thread), the rest spent waiting for a core; `frame` the longest task of the page.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from opsdeck_web import serve as web

from opsdeck.actor import SYSTEM, Role
from opsdeck.deck import Deck
from opsdeck.inventory.forms import HostIn
from opsdeck.jobs.jobs import Submission
from opsdeck.jobs.models import State
from opsdeck.lab.inprocess import PlayHosts
from opsdeck.plugins import Plugins
from opsdeck.secrets.keyring import Keyring
from opsdeck.secrets.sensitive import Sensitive
from opsdeck.settings import Settings

TICK = 0.005
PASSWORD = "correct horse battery"
WATCH_FRAMES = """() => { window.longest = 0;
  new PerformanceObserver(list => list.getEntries().forEach(e => window.longest = Math.max(window.longest, e.duration)))
    .observe({entryTypes: ["longtask"]}); }"""


async def be_hosts(folder: Path, count: int) -> None:
    """Be the hosts until standard input ends."""
    async with PlayHosts(folder, [f"h{number}" for number in range(count)]) as hosts:
        places = [[host.name, host.address, host.port, host.user, host.host_key] for host in hosts]
        print(json.dumps([hosts.private_key, places]), flush=True)
        await asyncio.to_thread(sys.stdin.read)


class Ticker:
    """Looks how late the event loop calls it."""

    def __init__(self) -> None:
        self.stall = self.busy = 0.0

    async def run(self) -> None:
        """Look for ever."""
        while True:
            wall, cpu = time.perf_counter(), time.thread_time()
            await asyncio.sleep(TICK)
            late = time.perf_counter() - wall - TICK
            self.stall = max(self.stall, late)
            self.busy = max(self.busy, time.thread_time() - cpu)

    def take(self) -> tuple[float, float]:
        """Give the longest stall and the most CPU time between two calls, ms, and begin anew."""
        found = round(self.stall * 1000, 1), round(self.busy * 1000, 1)
        self.stall = self.busy = 0.0
        return found


async def be_console(home: Path) -> None:
    """Be `opsdeck serve` until standard input ends; a line there asks for something, a line of JSON answers."""
    key, places = json.loads(sys.stdin.readline())
    settings, plugins = Settings(home=home, node="bench"), Plugins()
    plugins.load()
    Keyring.create(settings.key_file)
    sock = web.listen("127.0.0.1", 0)
    opened: list[Deck] = []
    ready, stop, ticker = asyncio.Event(), asyncio.Event(), Ticker()

    def answers(deck: Deck) -> None:
        opened.append(deck)
        ready.set()

    serving = asyncio.create_task(web.serve(settings, plugins, sock, answers, stop))
    await asyncio.wait({serving, asyncio.ensure_future(ready.wait())}, return_when=asyncio.FIRST_COMPLETED)
    deck = opened[0]
    await deck.accounts.create("admin", Sensitive(PASSWORD), Role.ADMIN, SYSTEM)
    await deck.secrets.set("bench", Sensitive(key), kind="ssh-key", actor=SYSTEM)
    forms = [HostIn(name=n, address=a, port=p, user=u, credential="bench") for n, a, p, u, _ in places]
    await deck.inventory.apply(forms, {}, SYSTEM)
    for name, *_, public in places:
        await deck.host_keys.pin(name, public, SYSTEM)
    print(json.dumps(web.address(sock).rstrip("/")), flush=True)
    ticking = asyncio.create_task(ticker.run())
    while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
        print(json.dumps(await answer(deck, ticker, json.loads(line))), flush=True)
    ticking.cancel()
    stop.set()
    await serving
    sock.close()


async def answer(deck: Deck, ticker: Ticker, ask: dict[str, Any]) -> Any:
    """Do what was asked: `run` a script, or tell how a `job` stands and what the process was like meanwhile."""
    if "run" in ask:
        job = await deck.jobs.submit(
            Submission("core", "script", {"text": ask["run"]}, "all", confirm=ask["count"]), SYSTEM
        )
        return job.id
    if "begin" in ask:
        ticker.take()
        return memory()
    job = await deck.jobs.get(ask["job"])
    if not State(job.state).final:
        return None
    stall, busy = ticker.take()
    return {"state": job.state, "stall": stall, "busy": busy, "memory": memory(), "last": await last(deck, ask["job"])}


async def last(deck: Deck, job: int) -> int:
    """Give the number of a job's last line."""
    from opsdeck.jobs.log import last_number

    async with deck.db.read() as session:
        return await last_number(session, job)


def memory() -> float:
    """Give what this process holds in memory, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * 4096 / 1e6, 1)


class Part:
    """One of the other processes: a line of JSON goes in, one comes out."""

    def __init__(self, *words: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def hear(self) -> Any:
        """Read one line."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("a part of the benchmark ended; see above")
        return json.loads(line)

    def ask(self, what: Any) -> Any:
        """Say one line and read the answer."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return self.hear()

    def end(self) -> None:
        """End it and wait for that."""
        self._process.communicate(timeout=60)


@contextlib.contextmanager
def page_of(url: str) -> Iterator[Any]:
    """Open Chromium with the admin logged in."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_context(base_url=url).new_page()
        page.goto("/login")
        page.locator("input[name=name]").fill("admin")
        page.locator("input[name=password]").fill(PASSWORD)
        page.locator("form[action='/login'] button").click()
        page.wait_for_url(f"{url}/")
        yield page
        browser.close()


def once(console: Part, page: Any, go: Path, hosts: int, lines: int) -> dict[str, Any]:
    """Let all hosts print, and look until the last line is on the page."""
    go.unlink(missing_ok=True)
    text = f"until [ -e {go} ]; do sleep 0.05; done; seq -f 'line %.0f of some program that says much' {lines}"
    job = console.ask({"run": text, "count": str(hosts)})
    page.goto(f"/jobs/{job}")
    page.wait_for_function("() => document.querySelectorAll('#lines > div').length >= " + str(hosts), timeout=60_000)
    page.evaluate(WATCH_FRAMES)
    before = console.ask({"begin": True})
    began = time.perf_counter()
    go.touch()
    while (end := console.ask({"job": job})) is None:
        time.sleep(0.05)
    ended = time.perf_counter() - began
    seen = f"() => Number(document.querySelector('#lines').lastElementChild?.dataset.line) >= {end['last']}"
    page.wait_for_function(seen, timeout=120_000)
    visible = time.perf_counter() - began
    rows = page.evaluate("() => document.querySelectorAll('#lines > div').length")
    frame = page.evaluate("() => window.longest")
    return end | {"before": before, "ended": ended, "visible": visible, "rows": rows, "frame": frame}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", type=int, default=10)
    parser.add_argument("--lines", type=int, default=10_000, help="from each host")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--be-hosts", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--be-console", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.be_hosts:
        return asyncio.run(be_hosts(given.be_hosts, given.hosts))
    if given.be_console:
        return asyncio.run(be_console(given.be_console))
    print("| round | lines | job over after, s | last line visible after, s | stall, ms | busy, ms |", end="")
    print(" memory before, MB | after, MB | rows on the page | frame, ms |\n|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        home.mkdir(mode=0o700)
        hosts = Part("--be-hosts", f"{folder}/hosts", "--hosts", str(given.hosts))
        console = Part("--be-console", str(home))
        try:
            with page_of(console.ask(hosts.hear())) as page:
                for number in range(given.rounds):
                    found = once(console, page, Path(folder) / "go", given.hosts, given.lines)
                    parts = (f"{found['ended']:.1f}", f"{found['visible']:.1f}", found["stall"], found["busy"])
                    parts += (found["before"], found["memory"], found["rows"], f"{found['frame']:.0f}")
                    print("|", " | ".join(map(str, (number + 1, found["last"], *parts))), "|", flush=True)
        finally:
            console.end()
            hosts.end()
    return None


if __name__ == "__main__":
    main()
