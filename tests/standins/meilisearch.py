"""A stand-in for Meilisearch's server that keeps its documented rules strictly; it searches nothing.

Kept: the task queue and its order, autobatching of one index's documents, what one bad document or one bad `_geo` does
to a task or to a batch, ids, payload limits, error classes, settings, swaps (which rename the index in older tasks),
task filters, keys. What is acknowledged survives `kill -9` (an SQLite file). Faults are set by `POST /_test`.

`python meilisearch.py --port 7700 --db FILE [--key KEY]`
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import re
import sqlite3
import time
from typing import Any
from urllib.parse import parse_qs, unquote

import uvicorn

LEGAL_ID = re.compile(r"[A-Za-z0-9_-]{1,511}\Z")
LEGAL_INDEX = re.compile(r"[A-Za-z0-9_-]{1,400}\Z")
KINDS = {
    "internal": "internal",
    "no_space_left_on_device": "system",
    "io_error": "system",
    "invalid_api_key": "auth",
    "missing_authorization_header": "auth",
}
SETTINGS = {
    "displayedAttributes": ["*"],
    "searchableAttributes": ["*"],
    "filterableAttributes": [],
    "sortableAttributes": [],
    "rankingRules": ["words", "typo", "proximity", "attribute", "sort", "exactness"],
    "stopWords": [],
    "synonyms": {},
    "distinctAttribute": None,
    "typoTolerance": {},
    "faceting": {},
    "pagination": {},
}


class Fault(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message

    def body(self) -> dict[str, str]:
        return {"message": self.message, "code": self.code, "type": KINDS.get(self.code, "invalid_request"), "link": ""}


class Store:
    """Indexes, documents and tasks in one file."""

    def __init__(self, file: str) -> None:
        self.db = sqlite3.connect(file, isolation_level=None)
        self.db.executescript(
            """PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;
            CREATE TABLE IF NOT EXISTS idx(uid TEXT PRIMARY KEY, pk TEXT, settings TEXT);
            CREATE TABLE IF NOT EXISTS doc(idx TEXT, id TEXT, body TEXT, PRIMARY KEY(idx, id)) WITHOUT ROWID;
            CREATE TABLE IF NOT EXISTS task(uid INTEGER PRIMARY KEY, idx TEXT, type TEXT, status TEXT, details TEXT,
              error TEXT, meta TEXT, payload BLOB, enqueued REAL, finished REAL, batch INTEGER);
            CREATE INDEX IF NOT EXISTS open_tasks ON task(status) WHERE status = 'enqueued';"""
        )

    def index(self, uid: str) -> tuple[str | None, dict[str, Any]] | None:
        row = self.db.execute("SELECT pk, settings FROM idx WHERE uid=?", (uid,)).fetchone()
        return (row[0], json.loads(row[1])) if row else None

    def add_task(self, idx: str | None, kind: str, payload: Any, details: Any = None, meta: str | None = None) -> Any:
        (newest,) = self.db.execute("SELECT coalesce(max(uid), -1) FROM task").fetchone()
        uid = newest + 1
        self.db.execute(
            "INSERT INTO task VALUES(?,?,?,'enqueued',?,NULL,?,?,?,NULL,NULL)",
            (uid, idx, kind, json.dumps(details), meta, json.dumps(payload), time.time()),
        )
        return {"taskUid": uid, "indexUid": idx, "status": "enqueued", "type": kind, "enqueuedAt": _stamp(time.time())}


def _stamp(at: float | None) -> str | None:
    if at is None:
        return None
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at % 1 * 1e6):06d}Z"


class Server:
    """The HTTP interface and the scheduler behind it."""

    def __init__(self, store: Store, key: str, limit: int) -> None:
        self.store, self.key, self.limit = store, key, limit
        self.faults: dict[str, Any] = {}
        self.news = asyncio.Event()
        self.requests = 0
        self.newest: int | None = None
        """The last task that the present batch may take; `per_document` seconds make it as slow as an engine."""

    # --- the scheduler -------------------------------------------------------------------------------------------

    async def schedule(self) -> None:
        while True:
            self.news.clear()
            if slow := float(self.faults.get("per_document", 0)):
                await self.work(slow)
            if self.faults.get("hold") or not self.batch():
                try:
                    async with asyncio.timeout(0.2):
                        await self.news.wait()
                except TimeoutError:
                    pass
                continue
            await asyncio.sleep(float(self.faults.get("delay", 0)))

    async def work(self, seconds: float) -> None:
        """Be as slow as an engine with what waits now; what comes meanwhile waits for the next batch."""
        rows = self.store.db.execute("SELECT uid, details FROM task WHERE status='enqueued' ORDER BY uid").fetchall()
        self.newest = rows[-1][0] if rows else None
        told = [(json.loads(details) or {}).get("receivedDocuments", 0) for _uid, details in rows]
        await asyncio.sleep(seconds * sum(told))

    def batch(self) -> bool:
        db = self.store.db
        first = db.execute(
            "SELECT uid, idx, type, payload FROM task WHERE status='enqueued' ORDER BY uid LIMIT 1"
        ).fetchone()
        if first is None:
            return False
        uid, idx, kind, payload = first
        db.execute("BEGIN")
        if kind not in ("documentAdditionOrUpdate", "documentDeletion"):
            try:
                self.alone(kind, idx, json.loads(payload))
                self.finish(uid, None, uid)
            except Fault as fault:
                self.finish(uid, fault, uid)
        else:
            self.together(idx)
        db.execute("COMMIT")
        return True

    def finish(self, uid: int, fault: Fault | None, batch: int) -> None:
        self.store.db.execute(
            "UPDATE task SET status=?, error=?, finished=?, batch=?, payload=NULL WHERE uid=?",
            ("failed" if fault else "succeeded", json.dumps(fault.body()) if fault else None, time.time(), batch, uid),
        )

    def alone(self, kind: str, idx: str | None, payload: Any) -> None:
        db = self.store.db
        if kind == "indexCreation":
            if self.store.index(str(idx)):
                raise Fault(200, "index_already_exists", f"Index `{idx}` already exists.")
            db.execute("INSERT INTO idx VALUES(?,?,?)", (idx, payload["primaryKey"], json.dumps(SETTINGS)))
        elif kind == "indexDeletion":
            if not self.store.index(str(idx)):
                raise Fault(200, "index_not_found", f"Index `{idx}` not found.")
            db.execute("DELETE FROM idx WHERE uid=?", (idx,))
            db.execute("DELETE FROM doc WHERE idx=?", (idx,))
        elif kind == "settingsUpdate":
            found = self.store.index(str(idx)) or (None, dict(SETTINGS))
            merged = {**found[1], **{name: SETTINGS[name] if v is None else v for name, v in payload.items()}}
            db.execute("INSERT OR REPLACE INTO idx VALUES(?,?,?)", (idx, found[0], json.dumps(merged)))
        elif kind == "indexSwap":
            for pair in payload:
                one, other = pair["indexes"]
                for uid in (one, other):
                    if not self.store.index(uid):
                        raise Fault(200, "index_not_found", f"Index `{uid}` not found.")
                for table, column in (("idx", "uid"), ("doc", "idx"), ("task", "idx")):
                    where = " AND status IN ('succeeded','failed','canceled')" if table == "task" else ""
                    for old, new in ((one, "\x00swap"), (other, one), ("\x00swap", other)):
                        db.execute(f"UPDATE {table} SET {column}=? WHERE {column}=?{where}", (new, old))

    def together(self, idx: str) -> None:
        """All enqueued tasks on documents of the index up to the first of another kind, as one batch."""
        db = self.store.db
        rows = db.execute(
            "SELECT uid, type, payload FROM task WHERE status='enqueued' AND (idx=? OR type='indexSwap') ORDER BY uid",
            (idx,),
        ).fetchall()
        most = int(self.faults.get("batch", 10_000))
        taken = []
        for row in rows:
            if row[1] not in ("documentAdditionOrUpdate", "documentDeletion") or len(taken) >= most:
                break
            if self.faults.get("per_document") and self.newest is not None and row[0] > self.newest and taken:
                break
            taken.append((row[0], row[1], json.loads(row[2])))
        batch = taken[0][0]
        db.execute("SAVEPOINT batch")
        outcomes: list[tuple[int, Fault | None]] = []
        try:
            for uid, kind, payload in taken:
                try:
                    self.apply(idx, kind, payload)
                    outcomes.append((uid, None))
                except Fault as fault:
                    if fault.code == "index_not_found" or fault.code.startswith("index_primary"):
                        outcomes.append((uid, fault))
                    elif fault.code in ("invalid_document_geo_field", "internal", "no_space_left_on_device"):
                        raise
                    else:
                        outcomes.append((uid, fault))
        except Fault as fault:
            db.execute("ROLLBACK TO batch")
            outcomes = [(uid, fault) for uid, _kind, _payload in taken]
        db.execute("RELEASE batch")
        for uid, fault_ in outcomes:
            self.finish(uid, fault_, batch)

    def apply(self, idx: str, kind: str, payload: Any) -> None:
        """One task's documents: all of them or, when one is bad, none."""
        db = self.store.db
        if int(self.faults.get("fail_batches", 0)) > 0:
            self.faults["fail_batches"] -= 1
            raise Fault(200, str(self.faults.get("fail_code", "internal")), "injected")
        found = self.store.index(idx)
        if kind == "documentDeletion":
            if found is None:
                raise Fault(200, "index_not_found", f"Index `{idx}` not found.")
            if payload is None:
                db.execute("DELETE FROM doc WHERE idx=?", (idx,))
            else:
                db.executemany("DELETE FROM doc WHERE idx=? AND id=?", [(idx, str(one)) for one in payload])
            return
        if found is None:
            found = (None, dict(SETTINGS))
            db.execute("INSERT INTO idx VALUES(?,NULL,?)", (idx, json.dumps(SETTINGS)))
        pk = found[0] or self.infer(idx, payload)
        bad = set(self.faults.get("refuse", []))
        made = []
        for body in payload["documents"]:
            id_ = body.get(pk)
            if pk not in body:
                raise Fault(200, "missing_document_id", f"Document doesn't have a `{pk}` attribute: `{body!r:.80}`.")
            good = (isinstance(id_, int) and not isinstance(id_, bool)) or (
                isinstance(id_, str) and LEGAL_ID.match(id_)
            )
            if not good:
                raise Fault(200, "invalid_document_id", f"Document identifier `{id_!r:.80}` is invalid.")
            if str(id_) in bad:
                raise Fault(200, "invalid_document_id", f"Document identifier `{id_}` is invalid (injected).")
            if len(body) > 65_535:
                raise Fault(200, "max_fields_limit_exceeded", "A document cannot contain more than 65,535 fields.")
            made.append((str(id_), body))
        geo = "_geo" in found[1]["filterableAttributes"] or "_geo" in found[1]["sortableAttributes"]
        for id_, given in made:
            body = given
            if geo and body.get("_geo") is not None:
                self.check_geo(id_, body["_geo"])
            old = db.execute("SELECT body FROM doc WHERE idx=? AND id=?", (idx, id_)).fetchone()
            if payload["merge"] and old:
                body = {**json.loads(old[0]), **body}
            elif payload["skip"] and not old:
                continue
            db.execute("INSERT OR REPLACE INTO doc VALUES(?,?,?)", (idx, id_, json.dumps(body)))

    @staticmethod
    def check_geo(id_: str, place: Any) -> None:
        def number(value: Any, most: float) -> bool:
            try:
                return not isinstance(value, bool) and -most <= float(value) <= most
            except (TypeError, ValueError):
                return False

        if not isinstance(place, dict) or set(place) != {"lat", "lng"}:
            raise Fault(
                200, "invalid_document_geo_field", f"The `_geo` field in the document `{id_}` is not an object."
            )
        if not (number(place["lat"], 90) and number(place["lng"], 180)):
            raise Fault(200, "invalid_document_geo_field", f"Could not parse `_geo` in the document `{id_}`.")

    def infer(self, idx: str, payload: Any) -> str:
        if payload["pk"]:
            found = str(payload["pk"])
        else:
            names = [name for name in (payload["documents"] or [{}])[0] if name.lower().endswith("id")]
            if not names:
                raise Fault(200, "index_primary_key_no_candidate_found", "The primary key inference failed.")
            if len(names) > 1:
                raise Fault(200, "index_primary_key_multiple_candidates_found", f"Found {names}.")
            found = names[0]
        self.store.db.execute("UPDATE idx SET pk=? WHERE uid=?", (found, idx))
        return found

    # --- HTTP ----------------------------------------------------------------------------------------------------

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        content = bytearray()
        while True:
            part = await receive()
            content += part.get("body", b"")
            if not part.get("more_body"):
                break
        status, body = 200, None
        try:
            status, body = await self.answer(scope, bytes(content))
        except Fault as fault:
            status, body = fault.status, fault.body()
        data = b"" if body is None else json.dumps(body).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": data})

    async def answer(self, scope: Any, content: bytes) -> tuple[int, Any]:
        method, path = scope["method"], scope["path"]
        headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
        query = {name: values[-1] for name, values in parse_qs(scope["query_string"].decode()).items()}
        parts = [unquote(part) for part in path.strip("/").split("/")]
        if parts == ["_test"]:
            given = json.loads(content or b"{}")
            if given.pop("reset", False):
                self.faults.clear()
            self.faults.update(given)
            self.news.set()
            return 200, self.faults
        if parts == ["health"]:
            return 200, {"status": "available"}
        if self.key:
            given = headers.get("authorization", "")
            if not given:
                raise Fault(401, "missing_authorization_header", "The Authorization header is missing.")
            if given != f"Bearer {self.key}":
                raise Fault(403, "invalid_api_key", "The provided API key is invalid.")
        self.requests += 1
        if int(self.faults.get("http_503", 0)) > 0:
            self.faults["http_503"] -= 1
            raise Fault(503, "internal", "injected")
        if headers.get("content-encoding") == "gzip":
            content = gzip.decompress(content)
        elif headers.get("content-encoding", "identity") not in ("identity",):
            raise Fault(415, "unsupported_media_type", "unknown encoding")
        if len(content) > self.limit:
            raise Fault(413, "payload_too_large", f"The provided payload reached the size limit of {self.limit} bytes.")
        kind = headers.get("content-type", "").partition(";")[0]
        made = self.route(method, parts, query, content, kind)
        if method != "GET":
            self.news.set()
        return made

    def body(self, content: bytes, kind: str) -> Any:
        if kind != "application/json":
            raise Fault(415, "invalid_content_type", f"The Content-Type `{kind}` is invalid.")
        try:
            return json.loads(content)
        except ValueError as fault:
            raise Fault(400, "malformed_payload", str(fault)) from fault

    def room(self) -> None:
        if self.faults.get("full"):
            raise Fault(
                422, "no_space_left_on_device", "Meilisearch cannot receive write operations: the task queue is full."
            )

    def route(self, method: str, parts: list[str], query: dict[str, str], content: bytes, kind: str) -> tuple[int, Any]:
        store = self.store
        match (method, parts):
            case ("GET", ["version"]):
                return 200, {
                    "commitSha": "stand-in",
                    "commitDate": "",
                    "pkgVersion": self.faults.get("version", "1.50.0"),
                }
            case ("GET", ["tasks"]):
                return 200, self.tasks(query)
            case ("GET", ["tasks", uid]):
                row = self.tasks({"uids": uid})["results"]
                if not row:
                    raise Fault(404, "task_not_found", f"Task `{uid}` not found.")
                return 200, row[0]
            case ("POST", ["swap-indexes"]):
                self.room()
                pairs = self.body(content, kind)
                names = [name for pair in pairs for name in pair["indexes"]]
                if len(set(names)) != len(names):
                    raise Fault(400, "invalid_swap_duplicate_index_found", "Indexes must be declared only once.")
                return 202, store.add_task(None, "indexSwap", pairs, {"swaps": pairs})
            case ("POST", ["indexes"]):
                self.room()
                given = self.body(content, kind)
                uid = given.get("uid", "")
                if not LEGAL_INDEX.match(uid):
                    raise Fault(400, "invalid_index_uid", f"`{uid}` is not a valid index uid.")
                return 202, store.add_task(uid, "indexCreation", {"primaryKey": given.get("primaryKey")})
            case ("GET", ["indexes"]):
                rows = store.db.execute("SELECT uid, pk FROM idx ORDER BY uid").fetchall()
                limit, offset = int(query.get("limit", 20)), int(query.get("offset", 0))
                results = [{"uid": uid, "primaryKey": pk} for uid, pk in rows[offset : offset + limit]]
                return 200, {"results": results, "offset": offset, "limit": limit, "total": len(rows)}
            case ("GET", ["indexes", uid]):
                found = self.needed(uid)
                return 200, {"uid": uid, "primaryKey": found[0]}
            case ("DELETE", ["indexes", uid]):
                return 202, store.add_task(uid, "indexDeletion", None)
            case ("GET", ["indexes", uid, "settings"]):
                return 200, self.needed(uid)[1]
            case ("PATCH", ["indexes", uid, "settings"]):
                self.room()
                given = self.body(content, kind)
                unknown = set(given) - set(SETTINGS)
                if unknown:
                    raise Fault(400, "bad_request", f"Unknown field `{sorted(unknown)[0]}`.")
                return 202, store.add_task(uid, "settingsUpdate", given)
            case ("GET", ["indexes", uid, "stats"]):
                self.needed(uid)
                (count,) = store.db.execute("SELECT count(*) FROM doc WHERE idx=?", (uid,)).fetchone()
                return 200, {"numberOfDocuments": count, "isIndexing": False, "fieldDistribution": {}}
            case ("GET", ["indexes", uid, "documents"]):
                self.needed(uid)
                limit, offset = int(query.get("limit", 20)), int(query.get("offset", 0))
                rows = store.db.execute(
                    "SELECT body FROM doc WHERE idx=? ORDER BY id LIMIT ? OFFSET ?", (uid, limit, offset)
                ).fetchall()
                (total,) = store.db.execute("SELECT count(*) FROM doc WHERE idx=?", (uid,)).fetchone()
                results = [json.loads(row[0]) for row in rows]
                return 200, {"results": results, "offset": offset, "limit": limit, "total": total}
            case ("GET", ["indexes", uid, "documents", id_]):
                self.needed(uid)
                row = store.db.execute("SELECT body FROM doc WHERE idx=? AND id=?", (uid, id_)).fetchone()
                if row is None:
                    raise Fault(404, "document_not_found", f"Document `{id_}` not found.")
                return 200, json.loads(row[0])
            case ("POST" | "PUT", ["indexes", uid, "documents"]):
                return 202, self.documents(method, uid, query, content, kind)
            case ("DELETE", ["indexes", uid, "documents"]):
                return 202, store.add_task(uid, "documentDeletion", None, meta=query.get("customMetadata"))
            case ("POST", ["indexes", uid, "documents", "delete-batch"]):
                self.room()
                given = self.body(content, kind)
                return 202, store.add_task(uid, "documentDeletion", given, meta=query.get("customMetadata"))
        raise Fault(404, "not_found", "/".join(parts))

    def needed(self, uid: str) -> tuple[str | None, dict[str, Any]]:
        found = self.store.index(uid)
        if found is None:
            raise Fault(404, "index_not_found", f"Index `{uid}` not found.")
        return found

    def documents(self, method: str, uid: str, query: dict[str, str], content: bytes, kind: str) -> Any:
        self.room()
        if not LEGAL_INDEX.match(uid):
            raise Fault(400, "invalid_index_uid", f"`{uid}` is not a valid index uid.")
        if set(query) - {"primaryKey", "customMetadata", "skipCreation"}:
            raise Fault(400, "bad_request", f"Unknown parameter in {sorted(query)}.")
        try:
            if kind == "application/x-ndjson":
                found = [json.loads(line) for line in content.splitlines() if line.strip()]
            else:
                found = self.body(content, kind)
        except ValueError as fault:
            raise Fault(400, "malformed_payload", f"The `ndjson` payload provided is malformed: {fault}") from fault
        if not found:
            raise Fault(400, "missing_payload", "A ndjson payload is missing.")
        if not all(isinstance(one, dict) for one in found):
            raise Fault(400, "malformed_payload", "The payload is not made of objects.")
        payload = {
            "documents": found,
            "merge": method == "PUT",
            "skip": query.get("skipCreation") == "true",
            "pk": query.get("primaryKey"),
        }
        return self.store.add_task(
            uid, "documentAdditionOrUpdate", payload, {"receivedDocuments": len(found)}, query.get("customMetadata")
        )

    def tasks(self, query: dict[str, str]) -> Any:
        if set(query) - {"uids", "types", "statuses", "indexUids", "limit", "from", "batchUids"}:
            raise Fault(400, "bad_request", f"Unknown parameter in {sorted(query)}.")
        where, given = [], []
        for name, column in (("uids", "uid"), ("types", "type"), ("statuses", "status"), ("indexUids", "idx")):
            if name in query:
                values = query[name].split(",")
                where.append(f"{column} IN ({','.join('?' * len(values))})")
                given += values
        if "from" in query:
            where.append("uid <= ?")
            given.append(query["from"])
        text = f"WHERE {' AND '.join(where)}" if where else ""
        rows = self.store.db.execute(
            "SELECT uid, idx, type, status, details, error, meta, enqueued, finished, batch FROM task"
            f" {text} ORDER BY uid DESC LIMIT ?",
            (*given, int(query.get("limit", 20))),
        ).fetchall()
        results = [
            {
                "uid": uid, "batchUid": batch, "indexUid": idx, "type": kind, "status": status,
                "details": json.loads(details), "error": json.loads(error) if error else None, "customMetadata": meta,
                "enqueuedAt": _stamp(enqueued), "finishedAt": _stamp(finished),
            }
            for uid, idx, kind, status, details, error, meta, enqueued, finished, batch in rows
        ]  # fmt: skip
        return {"results": results, "total": len(results), "limit": int(query.get("limit", 20))}


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--db", required=True)
    parser.add_argument("--key", default="")
    parser.add_argument("--limit", type=int, default=100 << 20)
    given = parser.parse_args()
    server = Server(Store(given.db), given.key, given.limit)
    config = uvicorn.Config(server, host="127.0.0.1", port=given.port, log_level="warning", lifespan="off")
    schedule = asyncio.create_task(server.schedule())
    await uvicorn.Server(config).serve()
    schedule.cancel()


if __name__ == "__main__":
    asyncio.run(main())
