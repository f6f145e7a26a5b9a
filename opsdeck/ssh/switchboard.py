"""The warm connections: one per endpoint identity, dialled with restraint, dropped with care."""

from __future__ import annotations

import asyncio
import random
import time
from collections import OrderedDict, defaultdict
from collections.abc import Coroutine
from dataclasses import dataclass

import asyncssh

from opsdeck.errors import OpsDeckError, Unavailable
from opsdeck.ssh.dial import Patience, PrivateKeys, Refusal, Transient, dial
from opsdeck.ssh.endpoint import Endpoint
from opsdeck.ssh.errors import LoginRefused, Unreachable
from opsdeck.ssh.link import ConnectionState, Link

# s to wait after a server dropped a start; each with up to the same again at random.
_PAUSES = (0.25, 0.5, 1.0, 2.0, 4.0)
# After a refused login: 30 s, doubled each time, at most 10 min (OpenSSH 9.8 shuts a source out for as long).
_WINDOW, _WINDOW_MOST = 30.0, 600.0
_REFUSALS_KEPT = 4096


@dataclass
class _Refused:
    until: float
    window: float


class Switchboard:
    """Gives the connection to an endpoint, dialling it if there is none.

    `starts_per_bastion` limits the logins under way through one jump host (or to one address), `starts_total` all.
    """

    def __init__(
        self, *, starts_per_bastion: int, starts_total: int, channels: int, patience: Patience, close_bound: float
    ) -> None:
        self._channels = channels
        self._patience = patience
        self._close_bound = close_bound
        self._links: dict[str, Link] = {}
        self._current: dict[str, str] = {}
        self._dialling: dict[str, asyncio.Future[Link]] = {}
        self._starts: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(starts_per_bastion))
        self._starts_total = asyncio.Semaphore(starts_total)
        self._refused: OrderedDict[str, _Refused] = OrderedDict()
        self._private_keys = PrivateKeys()
        self._leaving: set[asyncio.Task[None]] = set()
        self._closed = False

    async def link(self, endpoint: Endpoint) -> Link:
        """Give a usable connection. Raises what `dial` raises, and `LoginRefused`."""
        identity = endpoint.identity
        link = self._links.get(identity)
        if link is not None and link.usable:
            return link
        if self._closed:
            raise Unavailable("the console is closing its connections.", host=endpoint.name, hint="start it again.")
        dialling = self._dialling.get(identity)
        if dialling is None:
            dialling = self._dialling[identity] = asyncio.ensure_future(self._connect(endpoint, identity))
            dialling.add_done_callback(lambda task: self._dialled(identity, task))
        try:
            # All who wait share one dial and its failure; one who goes away does not end it for the others.
            return await asyncio.shield(dialling)
        except OpsDeckError as error:
            raise _own(error) from None
        except asyncio.CancelledError:
            if self._closed and dialling.cancelled():
                raise Unavailable(
                    "the console is closing its connections.", host=endpoint.name, hint="start it again."
                ) from None
            raise

    def states(self) -> tuple[ConnectionState, ...]:
        """Describe all connections, by host."""
        return tuple(sorted((link.state() for link in self._links.values()), key=lambda state: state.host))

    def drop(self, name: str) -> None:
        """Let a host's connections go, drained and then closed, in the background."""
        for identity, link in list(self._links.items()):
            if link.endpoint.name == name:
                self._retire(identity, link)

    def forgive(self, name_or_identity: str) -> None:
        """Forget that a login was refused: somebody has looked after it."""
        self._refused.pop(name_or_identity, None)

    async def close(self) -> None:
        """Drain all connections, those behind a jump host before it, and close them."""
        self._closed = True
        for dialling in list(self._dialling.values()):
            dialling.cancel()
        links = sorted(self._links.values(), key=lambda link: -len(link.state().hops))
        depths = sorted({len(link.state().hops) for link in links}, reverse=True)
        for depth in depths:
            await asyncio.gather(
                *(link.drain(self._close_bound) for link in links if len(link.state().hops) == depth),
                return_exceptions=True,
            )
        self._links.clear()
        if self._leaving:
            await asyncio.wait(set(self._leaving), timeout=self._close_bound)

    async def tunnel(self, endpoint: Endpoint | None, towards: str) -> Link | None:
        """Give the connection to the next hop towards a host; its failures say that they are a jump host's."""
        if endpoint is None:
            return None
        try:
            return await self.link(endpoint)
        except OpsDeckError as error:
            error.message = f"(a jump host on the way to {towards}) {error.message}"
            raise

    async def _connect(self, endpoint: Endpoint, identity: str) -> Link:
        self._check_window(endpoint, identity)
        place = endpoint.via.identity if endpoint.via else f"{endpoint.address}:{endpoint.port}"
        last: Transient | None = None
        for pause in (*_PAUSES, None):
            through = await self.tunnel(endpoint.via, endpoint.name)
            try:
                # The narrow gate first: who waits at a bastion must not keep others from starting.
                async with self._starts[place], self._starts_total:
                    return await self._login(endpoint, identity, through)
            except Transient as error:
                last = error
                if pause is None or (through is not None and through.gone and endpoint.via is None):
                    break
                await asyncio.sleep(pause * (1 + random.random()))  # noqa: S311 - to spread, not to hide
        raise Unreachable(
            f"{endpoint.address}:{endpoint.port} drops our connections before login ({last}).",
            host=endpoint.name,
            hop=endpoint.name,
            hint="see MaxStartups and the firewall on its side.",
        )

    async def _login(self, endpoint: Endpoint, identity: str, through: Link | None) -> Link:
        try:
            if through is None:
                connection = await dial(endpoint, None, self._private_keys, self._patience)
            else:
                async with through.held():
                    connection = await dial(endpoint, through.connection, self._private_keys, self._patience)
        except Refusal:
            raise self._refuse(endpoint, identity) from None
        self._refused.pop(identity, None)
        link = Link(endpoint, connection, self._channels, self._patience.connect)
        old = self._links.pop(identity, None)
        if old is not None and not old.gone:
            self._retire(identity, old)
        self._links[identity] = link
        previous = self._current.get(endpoint.name)
        self._current[endpoint.name] = identity
        if previous is not None and previous != identity and (stale := self._links.get(previous)) is not None:
            self._retire(previous, stale)
        self._watch(link, identity, through)
        return link

    def _dialled(self, identity: str, task: asyncio.Future[Link]) -> None:
        if self._dialling.get(identity) is task:
            del self._dialling[identity]
        if not task.cancelled():
            task.exception()  # told to those who wait, if any are left

    def _watch(self, link: Link, identity: str, through: Link | None) -> None:
        """Take the connection off the board when it ends; until then it holds the one it goes through."""

        async def until_closed(connection: asyncssh.SSHClientConnection) -> None:
            if through is None:
                await connection.wait_closed()
            else:
                async with through.held():
                    await connection.wait_closed()
            if self._links.get(identity) is link:
                del self._links[identity]

        self._keep(until_closed(link.connection))

    def _retire(self, identity: str, link: Link) -> None:
        if self._links.get(identity) is link:
            del self._links[identity]
        self._keep(link.drain())

    def _keep(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.ensure_future(work)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def _check_window(self, endpoint: Endpoint, identity: str) -> None:
        refused = self._refused.get(identity)
        if refused is not None and (left := refused.until - time.monotonic()) > 0:
            raise LoginRefused(endpoint.name, endpoint.user, endpoint.credential.name, retry_after=left, dialled=False)

    def _refuse(self, endpoint: Endpoint, identity: str) -> LoginRefused:
        before = self._refused.get(identity)
        window = min(before.window * 2, _WINDOW_MOST) if before else _WINDOW
        self._refused[identity] = _Refused(time.monotonic() + window, window)
        self._refused.move_to_end(identity)
        while len(self._refused) > _REFUSALS_KEPT:
            self._refused.popitem(last=False)
        return LoginRefused(endpoint.name, endpoint.user, endpoint.credential.name, retry_after=window, dialled=True)


def _own(error: OpsDeckError) -> OpsDeckError:
    """Give an equal error of one's own: the same object must not be raised, and added to, in several tasks."""
    own = type(error).__new__(type(error))
    own.args = error.args
    own.__dict__.update(error.__dict__)
    return own
