"""A running console with three play hosts, and Chromium to look at it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import threading
from collections.abc import Awaitable, Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from opsdeck_web import serve

from opsdeck.actor import SYSTEM, Role
from opsdeck.db import Database
from opsdeck.db.migrate import upgrade
from opsdeck.deck import Deck
from opsdeck.inventory.forms import HostIn
from opsdeck.lab.inprocess import PlayHosts
from opsdeck.plugins import Plugins
from opsdeck.secrets.keyring import Keyring
from opsdeck.secrets.sensitive import Sensitive
from opsdeck.settings import Settings

T = TypeVar("T")
PASSWORD = "correct horse battery"
RENEWAL = date.today() + timedelta(days=320)  # noqa: DTZ011 - a day far enough to be shown with its year
REFUSED = ("Failed to load resource", "Response Status Error Code 4")
"""What Chromium and htmx write when the server refuses, which the page itself shows."""
ARGUMENTS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Console:
    """The console, its jobs and its hosts, in a loop of their own in another thread."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.url = ""
        self.password = PASSWORD
        self.deck: Deck
        self.hosts: PlayHosts
        self._loop = asyncio.new_event_loop()
        self._stop: asyncio.Event
        self._ready = threading.Event()
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="console", daemon=True)

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._thread.start()
        if not self._ready.wait(60) or self._fault:
            raise RuntimeError("the console did not start") from self._fault

    def stop(self) -> None:
        """Stop it and wait for its end."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)

    def do(self, work: Callable[[Deck], Awaitable[T]]) -> T:
        """Do something with the deck, in its loop."""

        async def inside() -> T:
            return await work(self.deck)

        return asyncio.run_coroutine_threadsafe(inside(), self._loop).result(60)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._main())
        except BaseException as fault:
            self._fault = fault
            self._ready.set()

    async def _main(self) -> None:
        self._stop = asyncio.Event()
        settings = Settings(home=self.home, node="test", sample_seconds=10, disabled_plugins=())
        plugins = Plugins()
        plugins.load()
        database = Database(settings.url)
        await upgrade(database, plugins)
        await database.close()
        Keyring.create(settings.key_file)
        sock = serve.listen("127.0.0.1", 0)
        self.url = serve.address(sock).rstrip("/")
        async with PlayHosts(self.home / "hosts") as hosts:
            self.hosts = hosts
            async with Deck.open(settings, plugins=plugins, kind="server") as deck:
                self.deck = deck
                await deck.accounts.create("admin", Sensitive(PASSWORD), Role.ADMIN, SYSTEM)
                for host in hosts:
                    await enrol(deck, host)
                work = asyncio.create_task(deck.jobs.serve(self._stop))
                async with serve.console(deck, sock):
                    self._ready.set()
                    await self._stop.wait()
                await work
        sock.close()


async def enrol(deck: Deck, host: Any) -> None:
    """Put a play host into the inventory, its key approved."""
    await deck.secrets.set(f"key-{host.name}", Sensitive(host.private_key), kind="ssh-key", actor=SYSTEM)
    form = HostIn(
        name=host.name, address=host.address, port=host.port, user=host.user, credential=f"key-{host.name}",
        tags={"role": "edge"}, region="Los Angeles", quota_bytes=20 * 10**12, renewal=RENEWAL,
    )  # fmt: skip
    await deck.inventory.add(form, SYSTEM)
    contact = await deck.host_keys.contact(host.name, SYSTEM)
    for fingerprint in contact.fingerprints:
        await deck.host_keys.approve(host.name, fingerprint, SYSTEM)


@pytest.fixture(scope="session")
def chromium(absent: Any) -> str:
    """The path of Chromium, for Playwright's `executable_path`."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path:
        return path
    absent("there is no Chromium here (package chromium)")
    raise AssertionError("not reached")


@pytest.fixture(scope="session")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """A running console; its admin is `admin`."""
    running = Console(tmp_path_factory.mktemp("console"))
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Any]:
    """Chromium, headless."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield running
        running.close()


class Watch:
    """What a page must not do: break the policy, fail in a script, ask another machine."""

    def __init__(self, page: Any, url: str) -> None:
        self.faults: list[str] = []
        page.on("console", self._heard)
        page.on("pageerror", lambda fault: self.faults.append(f"error: {fault}"))
        page.on("request", lambda request: self._asked(request.url, url))

    def _heard(self, message: Any) -> None:
        if "Content Security Policy" in message.text or (
            message.type == "error" and not any(told in message.text for told in REFUSED)
        ):
            self.faults.append(message.text)

    def _asked(self, asked: str, url: str) -> None:
        if not asked.startswith((url, "data:", "blob:")):
            self.faults.append(f"asked {asked}")


@contextlib.contextmanager
def tab(browser: Any, console: Console, **options: Any) -> Iterator[Any]:
    """Open a page that is watched; at the end it must have kept to the rules."""
    context = browser.new_context(base_url=console.url, **{"locale": "en-GB", "timezone_id": "Europe/Berlin"} | options)
    context.set_default_timeout(20_000)
    page = context.new_page()
    watch = Watch(page, console.url)
    try:
        yield page
        assert watch.faults == []
    finally:
        context.close()


def log_in(page: Any, console: Console) -> None:
    """Log in as the admin."""
    page.goto("/login")
    page.locator("input[name=name]").fill("admin")
    page.locator("input[name=password]").fill(console.password)
    page.locator("form[action='/login'] button").click()
    page.wait_for_url(f"{console.url}/")


@pytest.fixture
def page(browser: Any, console: Console) -> Iterator[Any]:
    """A page with nobody logged in."""
    with tab(browser, console) as opened:
        yield opened


@pytest.fixture
def admin(browser: Any, console: Console) -> Iterator[Any]:
    """A page with the admin logged in."""
    with tab(browser, console) as opened:
        log_in(opened, console)
        yield opened


@pytest.fixture(scope="session")
def open_tab(browser: Any, console: Console) -> Callable[..., Any]:
    """`with open_tab(viewport=…) as page`: a page with options, the admin logged in unless `logged_in=False`."""

    @contextlib.contextmanager
    def open_(*, logged_in: bool = True, **options: Any) -> Iterator[Any]:
        with tab(browser, console, **options) as opened:
            if logged_in:
                log_in(opened, console)
            yield opened

    return open_
