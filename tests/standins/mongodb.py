"""A stand-in for one member of a MongoDB replica set, over the wire, strict to what the manual says and small.

Kept: OP_MSG, sessions (a cursor belongs to the one that opened it), cursors, writes with their errors, reads in the
order of `_id` with bounds of the index, change streams of a collection with resume tokens (`mongo_streams.py`), logins
by SCRAM-SHA-256, `failCommand`. What it does not keep it refuses by the server's own error.

`python mongodb.py --port 27017 --db FILE [--user NAME --password WORD] [--version 7.0.5] [--standalone] [--noop 10]`
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import hmac
import os
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import bson
from bson import Timestamp
from bson.datetime_ms import DatetimeMS
from mongo_store import CODEC, Fault, Store, matches, order
from mongo_streams import Stream, stamp

OP_REPLY, OP_QUERY, OP_MSG = 1, 2004, 2013
WIRE = {"4.4": 9, "5.0": 13, "6.0": 17, "7.0": 21, "8.0": 25}
GENERAL = {
    "$db", "lsid", "$clusterTime", "$readPreference", "comment", "maxTimeMS", "readConcern", "writeConcern",
    "txnNumber", "apiVersion",
}  # fmt: skip
OPEN = {"hello", "ismaster", "isMaster", "saslStart", "saslContinue", "ping", "buildInfo", "endSessions"}


class Cursor:
    """A cursor over documents, or over a change stream."""

    def __init__(self, ns: str, session: bytes, source: Iterator[dict[str, Any]] | Stream) -> None:
        self.ns, self.session, self.source = ns, session, source

    def take(self, most: int) -> tuple[list[dict[str, Any]], bool]:
        """Give the next documents, and whether there may be more."""
        if isinstance(self.source, Stream):
            return self.source.next(most), not self.source.closed
        found: list[dict[str, Any]] = []
        for document in self.source:
            found.append(document)
            if len(found) == most:
                return found, True
        return found, False


class Server:
    """The member: what it keeps, and what it answers."""

    def __init__(self, store: Store, given: argparse.Namespace) -> None:
        self.store, self.given = store, given
        self.cursors: dict[int, Cursor] = {}
        self.next_cursor = 1
        self.news = asyncio.Event()
        self.failing: dict[str, Any] = {}
        self.stale = False
        self.salt = hashlib.sha256(given.password.encode()).digest()[:16]

    async def beat(self) -> None:
        """Write into the log while nobody else does, as a primary does every ten seconds."""
        seen = 0
        while True:
            await asyncio.sleep(self.given.noop)
            if self.store.newest() == seen:
                self.store.log("n", "", {"msg": "periodic noop"})
            seen = self.store.newest()
            self.wake()

    def wake(self) -> None:
        self.news.set()
        self.news = asyncio.Event()

    # --- the wire ------------------------------------------------------------------------------------------------

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link: dict[str, Any] = {"in": not self.given.user}
        try:
            while True:
                length, request, _, op = struct.unpack("<iiii", await reader.readexactly(16))
                data = await reader.readexactly(length - 16)
                if op == OP_QUERY:
                    at = data.index(b"\0", 4) + 9
                    answer = await self.answer(link, bson.decode(data[at:], CODEC))
                    body = struct.pack("<iqii", 8, 0, 0, 1) + bson.encode(answer)
                    kind = OP_REPLY
                elif op == OP_MSG:
                    answer = await self.answer(link, parsed(data))
                    body, kind = b"\0\0\0\0\0" + bson.encode(answer), OP_MSG
                    if struct.unpack_from("<I", data)[0] & 2:
                        continue
                else:
                    return
                writer.write(struct.pack("<iiii", len(body) + 16, 0, request, kind) + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer(self, link: dict[str, Any], command: dict[str, Any]) -> dict[str, Any]:
        name = next(iter(command))
        try:
            await self.fail(name)
            if not link["in"] and name not in OPEN:
                raise Fault(13, "Unauthorized", f"Command {name} requires authentication")
            work = getattr(self, f"do_{name.lower()}", None)
            if work is None:
                raise Fault(59, "CommandNotFound", f"no such command: '{name}'")
            made = work(link, command) if name.startswith("sasl") else work(command)
            made = await made if asyncio.iscoroutine(made) else made
        except Fault as fault:
            made = fault.body()
        else:
            made |= {"ok": 1.0}
        newest = stamp(self.store.newest())
        return made | {
            "operationTime": newest,
            "$clusterTime": {"clusterTime": newest, "signature": {"hash": b"\0" * 20, "keyId": 0}},
        }

    async def fail(self, name: str) -> None:
        """What `failCommand` asked for."""
        data = self.failing.get("data", {})
        if name not in data.get("failCommands", ()) or self.failing["times"] <= 0:
            return
        self.failing["times"] -= 1
        if data.get("blockConnection"):
            await asyncio.sleep(data["blockTimeMS"] / 1000)
        if data.get("closeConnection"):
            raise ConnectionError
        if "errorCode" in data:
            raise Fault(data["errorCode"], "Injected", "Failing command via 'failCommand' failpoint",
                        tuple(data.get("errorLabels", ())))  # fmt: skip

    # --- who is there --------------------------------------------------------------------------------------------

    def do_hello(self, command: dict[str, Any]) -> dict[str, Any]:
        me = f"127.0.0.1:{self.given.port}"
        made = {
            "helloOk": True, "isWritablePrimary": True, "ismaster": True, "readOnly": False, "minWireVersion": 0,
            "maxWireVersion": WIRE[self.given.version.rpartition(".")[0]], "maxBsonObjectSize": 16 << 20,
            "maxMessageSizeBytes": 48_000_000, "maxWriteBatchSize": 100_000, "localTime": DatetimeMS(now()),
            "logicalSessionTimeoutMinutes": 30, "connectionId": 1,
        }  # fmt: skip
        if not self.given.standalone:
            made |= {"setName": "rs0", "setVersion": 1, "hosts": [me], "primary": me, "me": me, "secondary": False}
        if "saslSupportedMechs" in command:
            made["saslSupportedMechs"] = ["SCRAM-SHA-256"]
        return made

    do_ismaster = do_hello

    def do_ping(self, _command: dict[str, Any]) -> dict[str, Any]:
        return {}

    def do_endsessions(self, _command: dict[str, Any]) -> dict[str, Any]:
        return {}

    def do_buildinfo(self, _command: dict[str, Any]) -> dict[str, Any]:
        numbers = [int(part) for part in self.given.version.split(".")]
        return {"version": self.given.version, "versionArray": [*numbers, 0]}

    def do_configurefailpoint(self, command: dict[str, Any]) -> dict[str, Any]:
        mode = command["mode"]
        times = mode["times"] if isinstance(mode, dict) else 10**9 if mode == "alwaysOn" else 0
        self.failing = {"times": times, "data": command.get("data", {})}
        return {}

    def do__test(self, command: dict[str, Any]) -> dict[str, Any]:
        """What no command of a real server does at once: outgrow the log, go back in time, answer from the past."""
        self.stale = bool(command.get("stale"))
        if "keep" in command:
            self.store.trim(command["keep"])
        if "log" in command:
            self.store.log(command["log"], command["ns"], {"documentKey": {"_id": 0}})
        if "forget" in command:
            self.store.db.execute("DELETE FROM oplog WHERE ts > ?", (self.store.newest() - command["forget"],))
        return {}

    def do_saslstart(self, link: dict[str, Any], command: dict[str, Any]) -> dict[str, Any]:
        if command["mechanism"] != "SCRAM-SHA-256":
            raise Fault(334, "MechanismUnavailable", f"Received authentication for mechanism {command['mechanism']}")
        bare = bytes(command["payload"]).decode().partition(",,")[2]
        client = dict(part.split("=", 1) for part in bare.split(","))
        link["user"], nonce = client["n"], client["r"] + base64.b64encode(os.urandom(18)).decode()
        first = f"r={nonce},s={base64.b64encode(self.salt).decode()},i=15000"
        link["said"] = f"{bare},{first}"
        return {"conversationId": 1, "done": False, "payload": first.encode()}

    def do_saslcontinue(self, link: dict[str, Any], command: dict[str, Any]) -> dict[str, Any]:
        if link.get("in"):
            return {"conversationId": 1, "done": True, "payload": b""}
        text = bytes(command["payload"]).decode()
        without, _, proof = text.rpartition(",p=")
        salted = hashlib.pbkdf2_hmac("sha256", self.given.password.encode(), self.salt, 15_000)
        key = hmac.digest(salted, b"Client Key", "sha256")
        said = f"{link['said']},{without}".encode()
        mask = hmac.digest(hashlib.sha256(key).digest(), said, "sha256")
        wanted = base64.b64encode(bytes(a ^ b for a, b in zip(key, mask, strict=True))).decode()
        if link["user"] != self.given.user or not hmac.compare_digest(wanted, proof):
            raise Fault(18, "AuthenticationFailed", "Authentication failed.")
        link["in"] = True
        last = base64.b64encode(hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), said, "sha256")).decode()
        return {"conversationId": 1, "done": True, "payload": f"v={last}".encode()}

    # --- reads ---------------------------------------------------------------------------------------------------

    def opened(self, command: dict[str, Any], ns: str, source: Iterator[dict[str, Any]] | Stream) -> dict[str, Any]:
        cursor = Cursor(ns, self.session(command), source)
        size = command.get("batchSize", command.get("cursor", {}).get("batchSize", 101))
        return self.batch(cursor, "firstBatch", size, 0, command)

    def batch(self, cursor: Cursor, name: str, size: int, number: int, command: dict[str, Any]) -> dict[str, Any]:
        documents, more = cursor.take(size) if size else ([], True)
        if command.get("singleBatch"):
            more = False
        if not more:
            self.cursors.pop(number, None)
            number = 0
        elif not number:
            number, self.next_cursor = self.next_cursor, self.next_cursor + 1
            self.cursors[number] = cursor
        made: dict[str, Any] = {"id": bson.Int64(number), "ns": cursor.ns, name: documents}
        if isinstance(cursor.source, Stream):
            made["postBatchResumeToken"] = cursor.source.token
        return {"cursor": made}

    @staticmethod
    def session(command: dict[str, Any]) -> bytes:
        return bytes(command["lsid"]["id"]) if "lsid" in command else b""

    def do_find(self, command: dict[str, Any]) -> dict[str, Any]:
        known(command, {"find", "filter", "sort", "projection", "hint", "min", "limit", "batchSize", "singleBatch"})
        ns = f"{command['$db']}.{command['find']}"
        self.concern(command)
        if ns == "local.oplog.rs":
            way = "DESC" if command.get("sort") == {"$natural": -1} else "ASC"
            rows = self.store.db.execute(f"SELECT ts FROM oplog ORDER BY ts {way} LIMIT ?", (command.get("limit", 1),))
            return self.opened(command, ns, ({"ts": stamp(ts)} for (ts,) in rows.fetchall()))
        if command.get("sort", {"_id": 1}) != {"_id": 1} or command.get("hint", {"_id": 1}) != {"_id": 1}:
            raise Fault(2, "BadValue", "the stand-in sorts by _id only")
        if "min" in command and "hint" not in command:
            raise Fault(51173, "Location51173", "A .hint() is required when using .min() or .max()")
        least = order(command["min"]["_id"]) if "min" in command else b""
        found = self.store.scan(ns, least, command.get("filter", {}))
        if self.stale and "afterClusterTime" not in command.get("readConcern", {}):
            found = iter(())  # a member that has not heard yet of what the majority holds
        fields = command.get("projection")
        limit = command.get("limit", 0)

        def documents() -> Iterator[dict[str, Any]]:
            for number, document in enumerate(found):
                if limit and number >= limit:
                    return
                chosen = {name: value for name, value in document.items() if name in fields} if fields else document
                yield {"_id": document["_id"]} | chosen

        return self.opened(command, ns, documents())

    def concern(self, command: dict[str, Any]) -> None:
        concern = command.get("readConcern", {})
        if concern.get("level", "local") not in ("local", "majority", "available"):
            raise Fault(9, "FailedToParse", f"unkept read concern {concern}")
        after = concern.get("afterClusterTime")
        if isinstance(after, Timestamp) and (after.time << 32) + after.inc > self.store.newest():
            raise Fault(50, "MaxTimeMSExpired", "the stand-in does not wait for a time that has not come")

    def do_count(self, command: dict[str, Any]) -> dict[str, Any]:
        known(command, {"count", "query"})
        ns = f"{command['$db']}.{command['count']}"
        return {"n": self.store.db.execute("SELECT count(*) FROM doc WHERE ns=?", (ns,)).fetchone()[0]}

    def do_aggregate(self, command: dict[str, Any]) -> dict[str, Any]:
        known(command, {"aggregate", "pipeline", "cursor", "hint", "collation", "let"})
        if "cursor" not in command:
            raise Fault(9, "FailedToParse", "The 'cursor' option is required, except for aggregate with the explain")
        ns, stages = f"{command['$db']}.{command['aggregate']}", command["pipeline"]
        names = [next(iter(stage)) for stage in stages]
        if names[:1] == ["$changeStream"]:
            return self.opened(command, ns, self.stream(ns, stages, names, command))
        self.concern(command)
        if names == ["$sample"]:
            import random

            documents = list(self.store.scan(ns))
            size = min(len(documents), stages[0]["$sample"]["size"])
            return self.opened(command, ns, iter(random.sample(documents, size)))
        if names == ["$match", "$group"] and stages[1]["$group"] == {"_id": 1, "n": {"$sum": 1}}:
            number = sum(1 for _ in self.store.scan(ns, match=stages[0]["$match"]))
            return self.opened(command, ns, iter([{"_id": 1, "n": number}] if number else []))
        raise Fault(40324, "Location40324", f"Unrecognized pipeline stage name: {names}")

    def stream(self, ns: str, stages: list[dict[str, Any]], names: list[str], command: dict[str, Any]) -> Stream:
        if self.given.standalone:
            raise Fault(40573, "Location40573", "The $changeStream stage is only supported on replica sets")
        if command.get("readConcern", {}).get("level", "majority") != "majority":
            raise Fault(72, "InvalidOptions", "$changeStream cannot run with a readConcern other than 'majority'")
        if self.store.collection(ns) == "view":
            raise Fault(166, "CommandNotSupportedOnView", f"Namespace {ns} is a view, not a collection")
        newer = tuple(int(part) for part in self.given.version.split(".")) >= (6, 0, 9)
        split = names[1:] == ["$changeStreamSplitLargeEvent"] and newer
        if names[1:] and not split:
            raise Fault(40324, "Location40324", f"Unrecognized pipeline stage name: '{names[1]}'")
        return Stream(self.store, ns, stages[0]["$changeStream"], split, wall=not self.given.version.startswith("4"))

    async def do_getmore(self, command: dict[str, Any]) -> dict[str, Any]:
        known(command, {"getMore", "collection", "batchSize"})
        number = command["getMore"]
        cursor = self.cursors.get(number)
        if cursor is None or cursor.ns != f"{command['$db']}.{command['collection']}":
            raise Fault(43, "CursorNotFound", f"cursor id {number} not found", ("ResumableChangeStreamError",))
        if cursor.session != self.session(command):
            raise Fault(13, "Unauthorized", f"Cursor session id is not the same as the operation context's: {number}")
        if not isinstance(cursor.source, Stream) and "maxTimeMS" in command:
            raise Fault(2, "BadValue", "cannot set maxTimeMS on getMore command for a non-awaitData cursor")
        end = time.monotonic() + command.get("maxTimeMS", 1000) / 1000
        while True:
            news = self.news
            made = self.batch(cursor, "nextBatch", command.get("batchSize", 101), number, command)
            left = end - time.monotonic()
            if (
                not isinstance(cursor.source, Stream)
                or made["cursor"]["nextBatch"]
                or left <= 0
                or cursor.source.closed
            ):
                return made
            try:
                async with asyncio.timeout(left):
                    await news.wait()
            except TimeoutError:
                continue

    def do_killcursors(self, command: dict[str, Any]) -> dict[str, Any]:
        killed = [number for number in command["cursors"] if self.cursors.pop(number, None)]
        return {"cursorsKilled": killed, "cursorsNotFound": [], "cursorsAlive": [], "cursorsUnknown": []}

    def do_listcollections(self, command: dict[str, Any]) -> dict[str, Any]:
        start = command["$db"] + "."
        rows = self.store.db.execute("SELECT ns, type FROM coll ORDER BY ns").fetchall()
        found = [{"name": ns[len(start) :], "type": kind} for ns, kind in rows if ns.startswith(start)]
        chosen = [one for one in found if matches(one, command.get("filter", {}))]
        return {"cursor": {"id": bson.Int64(0), "ns": f"{start}$cmd.listCollections", "firstBatch": chosen}}

    # --- writes --------------------------------------------------------------------------------------------------

    def written(self, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        self.store.db.execute("BEGIN IMMEDIATE")
        try:
            made = work()
        except BaseException:
            self.store.db.execute("ROLLBACK")
            raise
        self.store.db.execute("COMMIT")
        self.wake()
        return made

    def do_insert(self, command: dict[str, Any]) -> dict[str, Any]:
        ns = f"{command['$db']}.{command['insert']}"

        def work() -> dict[str, Any]:
            done, wrong = 0, []
            for number, document in enumerate(command["documents"]):
                try:
                    self.store.insert(ns, document)
                    done += 1
                except Fault as fault:
                    wrong.append({"index": number, "code": fault.code, "errmsg": fault.message})
                    if command.get("ordered", True):
                        break
            return {"n": done} | ({"writeErrors": wrong} if wrong else {})

        return self.written(work)

    def do_update(self, command: dict[str, Any]) -> dict[str, Any]:
        ns = f"{command['$db']}.{command['update']}"

        def work() -> dict[str, Any]:
            matched = changed = 0
            for one in command["updates"]:
                for document in self.store.scan(ns, match=one["q"]):
                    matched += 1
                    changed += self.store.change(ns, document, one["u"])
                    if not one.get("multi"):
                        break
            return {"n": matched, "nModified": changed}

        return self.written(work)

    def do_delete(self, command: dict[str, Any]) -> dict[str, Any]:
        ns = f"{command['$db']}.{command['delete']}"

        def work() -> dict[str, Any]:
            removed = 0
            for one in command["deletes"]:
                for document in self.store.scan(ns, match=one["q"]):
                    self.store.remove(ns, document["_id"])
                    removed += 1
                    if one["limit"]:
                        break
            return {"n": removed}

        return self.written(work)

    def do_create(self, command: dict[str, Any]) -> dict[str, Any]:
        kind = "view" if "viewOn" in command else "timeseries" if "timeseries" in command else "collection"
        ns = f"{command['$db']}.{command['create']}"
        if self.store.collection(ns):
            raise Fault(48, "NamespaceExists", f"Collection {ns} already exists.")
        self.store.db.execute("INSERT INTO coll VALUES(?, ?)", (ns, kind))
        return {}

    def do_drop(self, command: dict[str, Any]) -> dict[str, Any]:
        return self.written(lambda: self.store.drop(f"{command['$db']}.{command['drop']}") or {})

    def do_dropdatabase(self, command: dict[str, Any]) -> dict[str, Any]:
        rows = self.store.db.execute("SELECT ns FROM coll").fetchall()
        for (ns,) in rows:
            if ns.startswith(command["$db"] + "."):
                self.written(lambda ns=ns: self.store.drop(ns) or {})  # type: ignore[misc]
        return {}

    def do_renamecollection(self, command: dict[str, Any]) -> dict[str, Any]:
        over = bool(command.get("dropTarget"))
        return self.written(lambda: self.store.rename(command["renameCollection"], command["to"], over) or {})


def known(command: dict[str, Any], fields: set[str]) -> None:
    """Refuse a field that the command does not have."""
    name = next(iter(command))
    if unknown := set(command) - fields - GENERAL:
        raise Fault(40415, "Location40415", f"BSON field '{name}.{sorted(unknown)[0]}' is an unknown field.")


def parsed(data: bytes) -> dict[str, Any]:
    """Read an OP_MSG: a command, and the sequences of documents that belong to it."""
    end = len(data) - (4 if struct.unpack_from("<I", data)[0] & 1 else 0)
    at, command, more = 4, dict[str, Any](), dict[str, Any]()
    while at < end:
        kind = data[at]
        (size,) = struct.unpack_from("<i", data, at + 1)
        part = data[at + 1 : at + 1 + size]
        at += 1 + size
        if kind == 0:
            command = bson.decode(part, CODEC)
        else:
            stop = part.index(b"\0", 4)
            more[part[4:stop].decode()] = bson.decode_all(part[stop + 1 :], CODEC)
    return command | more


def now() -> int:
    return int(time.time() * 1000)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--db", required=True)
    parser.add_argument("--user", default="")
    parser.add_argument("--password", default="")
    parser.add_argument("--version", default="7.0.5")
    parser.add_argument("--standalone", action="store_true")
    parser.add_argument("--noop", type=float, default=10.0)
    given = parser.parse_args()
    server = Server(Store(given.db), given)
    beat = asyncio.create_task(server.beat())
    async with await asyncio.start_server(server.serve, "127.0.0.1", given.port, limit=64 << 20) as listening:
        await listening.serve_forever()
    beat.cancel()


if __name__ == "__main__":
    asyncio.run(main())
