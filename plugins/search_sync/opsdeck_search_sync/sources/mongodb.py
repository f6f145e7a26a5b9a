"""MongoDB 4.4 and later: one collection, copied in the order of `_id` and followed by a change stream.

Facts behind this: a position is a resume token, which a stream also tells while nothing happens; tokens are written in
hexadecimal and compare as texts; only what a majority holds is told. A read after the token's time, of what a majority
holds, sees everything before the token: so the copy's session begins by asking what time it is. Source: MongoDB's
manual (change streams, read concern, causal consistency) and the specification of change streams for drivers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any, TypeVar

from bson import Timestamp
from bson.errors import BSONError
from pymongo import AsyncMongoClient
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern

from opsdeck.api import NotFound, OpsDeckError, Refused, Unavailable
from opsdeck_search_sync.changes import ANY, Change, Chunk, Column, Finding, Head, LogLost, Part, Put, Removed, Row
from opsdeck_search_sync.sources import mongovalues
from opsdeck_search_sync.sources.mongofaults import translated
from opsdeck_search_sync.sources.mongovalues import KEY, again, written
from opsdeck_search_sync.sources.place import Place, Tls

_T = TypeVar("_T")

AWAIT, SILENCE = 1.0, 30.0
"""Seconds that the server waits for news before it says that there is none, and after which its silence is a fault."""
BATCH, BATCH_BYTES = 1000, 1 << 20
"""Events that are asked for at once, and what they should take: a batch of the server's may be 16 MB otherwise."""
REACH = 15.0
"""Seconds in which the server must be found."""
CHUNK_FIRST, CHUNK_MOST, CHUNK_GOAL = 500, 10_000, 0.25
LEAST_WINDOW = 24 * 3600
SPLITS = (6, 0, 9)
"""From this version on, an event larger than a document may be comes in pieces."""


class MongoReader:
    """One generation's way to one collection, at the member of the replica set (or the router) that `place` names."""

    def __init__(self, place: Place, table: str, needed: frozenset[str] | None = None) -> None:
        self._place, self._database, self._name = place, place.database, table
        self._needed = needed
        self._most = 16
        self._opened: AsyncMongoClient[dict[str, Any]] | None = None

    @property
    def _client(self) -> AsyncMongoClient[dict[str, Any]]:
        if self._opened is None:
            place = self._place
            login: dict[str, Any] = {}
            if place.user:
                login = {"username": place.user, "password": place.password.reveal() if place.password else ""}
            with place.authorities() as file:
                way: dict[Tls, dict[str, Any]]
                way = {Tls.REQUIRE: {"tls": True, "tlsInsecure": True}, Tls.VERIFY: {"tls": True, "tlsCAFile": file}}
                self._opened = AsyncMongoClient(
                    place.address, place.port, directConnection=True, appname="opsdeck", connectTimeoutMS=15_000,
                    serverSelectionTimeoutMS=int(REACH * 1000), socketTimeoutMS=600_000, maxPoolSize=4,
                    retryReads=False, **way.get(place.tls, {}), **login,
                )  # fmt: skip
        return self._opened

    @property
    def _db(self) -> AsyncDatabase[dict[str, Any]]:
        return self._client.get_database(self._database, codec_options=mongovalues.CODEC)

    @property
    def _collection(self) -> AsyncCollection[dict[str, Any]]:
        return self._db.get_collection(self._name, read_concern=ReadConcern("majority"))

    async def _ask(self, command: dict[str, Any], session: AsyncClientSession | None = None, **more: Any) -> Any:
        """Run a command within `SILENCE`."""
        database = self._client["admin"] if more.pop("admin", False) else self._db
        try:
            async with asyncio.timeout(more.pop("bound", SILENCE)):
                return await _heeding(database.command(command, session=session, codec_options=mongovalues.CODEC))
        except (PyMongoError, BSONError, TimeoutError) as fault:
            raise translated(fault, self._place, self._name) from fault

    async def identity(self) -> str:
        """Give the replica set's name (a router has none) and the database."""
        hello = await self._ask({"hello": 1}, admin=True)
        return f"mongodb {hello.get('setName') or hello.get('msg') or 'standalone'} {self._database}"

    async def columns(self) -> tuple[Column, ...]:
        """Give the key, the fields that some documents have, and `ANY`, since others may have more."""
        command = {"listCollections": 1, "filter": {"name": self._name}, "nameOnly": True}
        if not (await self._ask(command))["cursor"]["firstBatch"]:
            raise NotFound(
                f"there is no collection {self._name!r} in {self._database}.",
                field="table",
                hint="write its name as it is, and see that the user may look at it",
            )
        found: dict[str, str] = {"_id": "any"}
        for row in await self.sample(50):
            for name, value in row.items():
                found.setdefault(name, type(value).__name__)
        found.pop(KEY, None)
        return (Column(KEY, "id", True), *(Column(name, kind) for name, kind in found.items()), ANY)

    async def preflight(self) -> tuple[Finding, ...]:
        """Look at what would lose documents in silence, or stop us."""
        found: list[Finding] = []
        hello = await self._ask({"hello": 1}, admin=True)
        if not hello.get("setName") and hello.get("msg") != "isdbgrid":
            found.append(
                Finding("this server is no member of a replica set, so it tells nobody of changes.", True,
                        "// in mongod.conf: replication: {replSetName: rs0}; restart, then in mongosh: rs.initiate()")
            )  # fmt: skip
        if int(hello.get("maxWireVersion", 0)) < 9:
            found.append(Finding("this MongoDB is older than 4.4.", True))
        kinds = await self._ask({"listCollections": 1, "filter": {"name": self._name}})
        for one in kinds["cursor"]["firstBatch"]:
            if one["type"] != "collection":
                found.append(Finding(f"{self._name} is a {one['type']}; its changes are not told.", True))
        if not any(finding.stop for finding in found):
            try:
                await self._now()
            except Refused as fault:
                user = self._place.user or "NAME"
                grant = f'db.grantRolesToUser("{user}", [{{role: "read", db: "{self._database}"}}])'
                found.append(Finding(fault.message, True, grant))
            found += await self._window()
        return tuple(found)

    async def _window(self) -> list[Finding]:
        """Look how long the log is kept."""
        try:
            oldest, newest = await self._ends()
        except Refused:
            return [
                Finding("the user may not see how long the log is kept; a sync that stands still for longer than that"
                        " needs a rebuild.", False,
                        f'db.grantRolesToUser("{self._place.user}", [{{role: "read", db: "local"}}])')
            ]  # fmt: skip
        if newest - oldest < LEAST_WINDOW:
            hours = (newest - oldest) / 3600
            return [
                Finding(f"the log reaches back {hours:.1f} h; a sync that stands still for longer needs a rebuild.",
                        False, "db.adminCommand({replSetResizeOplog: 1, minRetentionHours: 48})")
            ]  # fmt: skip
        return []

    async def _ends(self) -> tuple[int, int]:
        """Give the times of the oldest and the newest entry of the log, in seconds."""
        oplog = self._client.get_database("local", codec_options=mongovalues.CODEC)["oplog.rs"]
        try:
            first = await _heeding(oplog.find_one({}, {"ts": 1}, sort=[("$natural", 1)]))
            last = await _heeding(oplog.find_one({}, {"ts": 1}, sort=[("$natural", -1)]))
        except PyMongoError as fault:
            raise translated(fault, self._place, self._name) from fault
        if first is None or last is None:
            raise Refused("this server shows no log.")  # a router has none of its own
        return int(first["ts"].time), int(last["ts"].time)

    async def estimate(self) -> int:
        """Give the server's own number of documents."""
        return int((await self._ask({"count": self._name}))["n"])

    async def count(self) -> int:
        """Count the documents."""
        stages = [{"$match": {}}, {"$group": {"_id": 1, "n": {"$sum": 1}}}]
        command = {"aggregate": self._name, "pipeline": stages, "cursor": {}}
        got = (await self._ask(command, bound=600.0))["cursor"]["firstBatch"]
        return int(got[0]["n"]) if got else 0

    async def begin(self) -> str:
        """Give the token that the server would begin with now."""
        return await self._now()

    async def _now(self) -> str:
        async with self._batches({}) as batches:
            return written((await anext(batches))["postBatchResumeToken"])

    @asynccontextmanager
    async def _batches(
        self, options: Mapping[str, Any], *stages: Any
    ) -> AsyncIterator[AsyncGenerator[dict[str, Any], None]]:
        """Open a change stream; give what the server tells of its cursor, batch by batch, and close it there."""
        cursor: dict[str, Any] = {"id": 0}

        async def told(session: AsyncClientSession) -> AsyncGenerator[dict[str, Any], None]:
            nonlocal cursor
            opening = {
                "aggregate": self._name, "pipeline": [{"$changeStream": dict(options)}, *stages],
                "cursor": {"batchSize": self._most},
            }  # fmt: skip
            cursor = (await self._ask(opening, session))["cursor"]
            yield cursor
            while cursor["id"]:
                more = {"getMore": cursor["id"], "collection": self._name, "batchSize": self._most,
                        "maxTimeMS": int(AWAIT * 1000)}  # fmt: skip
                cursor = (await self._ask(more, session))["cursor"]
                yield cursor

        async with self._client.start_session() as session:
            try:
                async with aclosing(told(session)) as batches:
                    yield batches
            finally:
                if cursor["id"]:
                    with suppress(OpsDeckError):  # else the server ends it by itself
                        await self._ask({"killCursors": self._name, "cursors": [cursor["id"]]}, session, bound=2.0)

    async def copy(self, after: Sequence[str] | None) -> AsyncGenerator[Chunk, None]:
        """Read all documents in the order of `_id`, whatever types it has, in chunks of about a quarter of a second.

        A comparison such as `$gt` would only find `_id`s of one type, so the lower bound is one of the index.
        """
        size, last = CHUNK_FIRST, tuple(after) if after is not None else None
        fields = None if self._needed is None else {name: 1 for name in self._needed - {KEY, "_id"}} | {"_id": 1}
        async with self._client.start_session(causal_consistency=True) as session:
            await self._ask({"ping": 1}, session)
            while True:
                began = time.monotonic()
                found = self._collection.find({}, fields, sort=[("_id", 1)], hint=[("_id", 1)], session=session)
                if last is not None:
                    found = found.min([("_id", again(last[0]))])
                try:
                    documents = await _heeding(found.limit(size + 1).to_list())
                except (PyMongoError, BSONError) as fault:
                    raise translated(fault, self._place, self._name) from fault
                if last is not None and documents and written(documents[0]["_id"]) == last[0]:
                    del documents[0]  # the bound itself
                if not documents:
                    return
                last = (written(documents[-1]["_id"]),)
                rows = tuple(mongovalues.row(document, self._needed) for document in documents)
                total = sum(len(str(row)) for row in rows)
                yield Chunk(rows, last, total)
                if len(documents) < size:
                    return
                took = max(0.001, time.monotonic() - began)
                size = int(min(CHUNK_MOST, max(100, size * min(2.0, CHUNK_GOAL / took))))
                if total > 4 << 20:
                    size = max(10, min(size, int(len(rows) * (4 << 20) / total)))

    async def sample(self, rows: int) -> list[Row]:
        """Read about `rows` documents from all over the collection."""
        command = {"aggregate": self._name, "pipeline": [{"$sample": {"size": rows}}], "cursor": {"batchSize": rows}}
        async with self._client.start_session() as session:
            got = (await self._ask(command, session))["cursor"]["firstBatch"]
        return [mongovalues.row(document, self._needed) for document in got]

    async def read(self, position: str) -> AsyncGenerator[Part, None]:
        """Read changes from `position` on, for ever."""
        await self.head(position)
        build = await self._ask({"buildInfo": 1}, admin=True)
        split: list[Any] = [{"$changeStreamSplitLargeEvent": {}}] if tuple(build["versionArray"][:3]) >= SPLITS else []
        options = {"fullDocument": "updateLookup", "startAfter": again(position)}
        said, pieces = position, dict[str, Any]()
        async with self._batches(options, *split) as batches:
            async for batch in batches:
                changes: list[Change] = []
                committed: datetime | None = None
                for event in batch.get("nextBatch", batch.get("firstBatch", ())):
                    whole = event
                    if "splitEvent" in event:
                        pieces |= event
                        if event["splitEvent"]["fragment"] < event["splitEvent"]["of"]:
                            continue
                        whole, pieces = pieces, {}
                    changes += self._changes(whole)
                    committed = _moment(whole)
                token = said if pieces else written(batch["postBatchResumeToken"])
                if changes or token != said:
                    size = _about(changes)
                    fit = len(changes) * BATCH_BYTES // max(1, size)
                    self._most = max(1, min(BATCH, 4 * self._most, fit or 1)) if changes else self._most
                    yield Part(changes, None if pieces else token, size, committed)
                said = token
        raise Unavailable("MongoDB ended the stream.", hint="it is read again by itself")

    def _changes(self, event: Mapping[str, Any]) -> Sequence[Change]:
        kind = event["operationType"]
        if kind in {"insert", "replace", "update"}:
            document = event.get("fullDocument")
            # A changed document that is no longer there was removed since; that comes as an event of its own.
            return (Put(mongovalues.row(document, self._needed)),) if document is not None else ()
        if kind == "delete":
            return (Removed({KEY: mongovalues.key(event["documentKey"]["_id"])}),)
        if kind in {"drop", "rename", "dropDatabase", "invalidate"}:
            raise Refused(
                f"the collection {self._database}.{self._name} was dropped, renamed or replaced as a whole ({kind}).",
                hint="rebuild the sync once it is back, or drop the sync; the index stays as it is until then",
            )
        raise Refused(
            f"the change stream holds an event of the kind {kind!r}, which is not known here; nothing after it was"
            " taken over.",
            hint="report it; the index stays as it is",
        )

    async def confirm(self, position: str) -> None:
        """Nothing to say: the server keeps its log by its own rules."""

    async def head(self, position: str) -> Head:
        """Give where the log ends now, and for how long it is kept. Raises `LogLost` when it lies beyond."""
        now = await self._now()
        if not self.reached(now, position):
            raise LogLost(
                "the server is behind us: it was restored, or lost what it had.",
                hint="resume if it only had to catch up; else rebuild the sync",
            )
        try:
            oldest, newest = await self._ends()
        except Refused:
            return Head(now)
        return Head(now, window_seconds=newest - oldest)

    def reached(self, position: str, goal: str) -> bool:
        """Compare two positions."""
        return bool(again(position)["_data"] >= again(goal)["_data"])

    async def end(self) -> None:
        """Nothing of ours lies at the source."""

    async def close(self) -> None:
        """Let go of every connection."""
        if self._opened is not None:
            await self._opened.close()
            self._opened = None


async def _heeding(work: Awaitable[_T]) -> _T:
    """Await the driver, and heed a cancelling that it drops.

    It waits with `asyncio.wait_for`, which before Python 3.12 gives its result to whoever was cancelled in the moment
    in which that came (https://github.com/python/cpython/issues/86296): the stream would be read on for ever.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        return await work
    finally:
        if task and task.cancelling() > before:
            raise asyncio.CancelledError


def _about(changes: Sequence[Change]) -> int:
    """Give about how many bytes changes take, from some of them."""
    some = changes[:: max(1, len(changes) // 16)]
    return len(changes) * sum(len(str(one)) for one in some) // max(1, len(some))


def _moment(event: Mapping[str, Any]) -> datetime | None:
    """Give when a change was made: to the millisecond from 6.0 on, else to the second."""
    if (wall := event.get("wallTime")) is not None:
        return datetime.fromtimestamp(int(wall) / 1000, UTC)
    clock = event.get("clusterTime")
    return datetime.fromtimestamp(clock.time, UTC) if isinstance(clock, Timestamp) else None
