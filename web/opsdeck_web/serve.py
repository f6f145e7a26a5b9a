"""`opsdeck serve`: one process with the console, the jobs, the schedules and the services."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import logging
import socket
import sys
import webbrowser
from collections.abc import AsyncIterator, Callable, Iterator
from urllib.parse import quote

import uvicorn

from opsdeck.cli import frame
from opsdeck.db.migrate import upgrade_at
from opsdeck.deck import Deck
from opsdeck.errors import Conflict, Unavailable
from opsdeck.plugins import Plugins
from opsdeck.settings import Settings

GRACE = 5
"""Seconds that open pages get at the end; an open stream would hold the process for ever."""


class Server(uvicorn.Server):
    """uvicorn, told to stop by an event rather than by signals of its own."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        """Leave the signals to `serve`, which ends the jobs as well."""
        yield


@contextlib.contextmanager
def alone(settings: Settings) -> Iterator[None]:
    """Be the one console of this node on this data folder: two would take each other's leases for their own.

    The kernel lets go of it when the process ends, however it ends. Raises `Conflict`.
    """
    node = settings.node or socket.gethostname()
    path = settings.home / f"serve-{quote(node, safe='')}.lock"
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as fault:
            raise Conflict(
                f"a console of node {node} runs on {settings.home} already.",
                file=str(path),
                hint="stop that one first; a second node needs OPSDECK_NODE and PostgreSQL",
            ) from fault
        yield


def listen(bind: str, port: int) -> socket.socket:
    """Open the listening socket. Raises `Unavailable` when the address cannot be taken."""
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((bind, port))
    except OSError as fault:
        sock.close()
        hint = "another process listens there; give another --port"
        raise Unavailable(f"cannot listen on {bind}:{port}: {fault.strerror}.", hint=hint) from fault
    sock.listen(256)
    sock.setblocking(False)
    return sock


def address(sock: socket.socket) -> str:
    """Give the URL of a listening socket, as a browser on this machine would open it."""
    host, port = sock.getsockname()[:2]
    host = "127.0.0.1" if host == "0.0.0.0" else "::1" if host == "::" else host  # noqa: S104
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


@contextlib.asynccontextmanager
async def console(deck: Deck, sock: socket.socket) -> AsyncIterator[uvicorn.Server]:
    """Serve the console of an open deck on `sock` until the block is left."""
    from opsdeck_web.app import make_app

    config = uvicorn.Config(
        make_app(deck),
        log_config=None,
        access_log=False,
        workers=1,
        lifespan="on",
        proxy_headers=True,
        forwarded_allow_ips=deck.settings.trusted_proxies,
        server_header=False,
        timeout_graceful_shutdown=GRACE,
        timeout_keep_alive=30,
    )
    server = Server(config)
    task = asyncio.create_task(server.serve(sockets=[sock]), name="console")
    try:
        while not server.started:
            if task.done():
                await task
                raise Unavailable("the console did not start.", hint="its log says why")
            await asyncio.sleep(0.01)
        yield server
    finally:
        server.should_exit = True
        await task


async def serve(
    settings: Settings, plugins: Plugins, sock: socket.socket, ready: Callable[[Deck], None], stop: asyncio.Event
) -> None:
    """Bring the tables up to date, then run console and jobs side by side until `stop` is set."""
    await upgrade_at(settings.url, plugins)
    async with Deck.open(settings, plugins=plugins, kind="server") as deck:
        work = asyncio.create_task(deck.jobs.serve(stop), name="jobs")
        work.add_done_callback(lambda _: stop.set())
        try:
            async with console(deck, sock):
                # What is there now stays: looking through it again and again would hold up the event loop.
                gc.collect()
                gc.freeze()
                ready(deck)
                await stop.wait()
        finally:
            stop.set()
            await work


def run(bind: str | None, port: int | None, *, open_browser: bool) -> None:
    """Run the console until SIGINT or SIGTERM, and print its address once it answers."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for noisy in ("asyncssh", "apscheduler", "alembic", "uvicorn.error"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    settings, plugins = frame.settings(), frame.plugins()
    if not settings.key_file.is_file():
        raise Unavailable(
            f"there is no master key at {settings.key_file}.",
            file=str(settings.key_file),
            hint="run `opsdeck init`, or check OPSDECK_HOME",
        )
    sock = listen(bind or settings.bind, settings.port if port is None else port)

    def ready(deck: Deck) -> None:
        url = settings.public_url or address(sock)
        print(f"OpsDeck listens on {url}", flush=True)
        for fault in deck.plugins.faults:
            print(f"Not loaded: {fault}", file=sys.stderr, flush=True)
        if open_browser:
            webbrowser.open(url)

    async def main() -> None:
        await serve(settings, plugins, sock, ready, frame.stopped())

    with contextlib.closing(sock), alone(settings):
        asyncio.run(main())
