"""The part of Meilisearch's HTTP interface that a sync needs.

Source of the rules: Meilisearch's reference of tasks, documents, settings and errors.
"""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx

from opsdeck.api import Invalid, NotFound, OpsDeckError, Refused, Sensitive, Unavailable

LATER = frozenset(
    {"no_space_left_on_device", "io_error", "too_many_open_files", "database_size_limit_reached", "internal"}
)
"""Codes of faults that pass: the same documents may succeed later."""

LATE, GONE = 60.0, 15.0
"""Seconds after which a request that nobody answered is taken for lost: in general, and when its link broke, since what
was sent has left us and a part of a request is none."""

OLDEST = (1, 26)
"""The first version whose tasks tell the mark (`customMetadata`) of the request that they come from."""

RUNS = "see that it runs and that the address is right"

BISECT = frozenset(
    {
        "invalid_document_id",
        "missing_document_id",
        "invalid_document_geo_field",
        "invalid_document_geojson_field",
        "malformed_payload",
        "max_fields_limit_exceeded",
        "vector_embedding_error",
        "invalid_document_fields",
        "document_fields_limit_reached",
        "payload_too_large",
    }
)
"""Codes of faults that one document can cause for a whole batch."""


@dataclass(frozen=True)
class Problem:
    """Why a request or a task failed."""

    code: str
    type: str
    message: str

    @property
    def passes(self) -> bool:
        """Tell whether trying again later can help."""
        return self.code in LATER or self.type in {"internal", "system"}

    @property
    def bisects(self) -> bool:
        """Tell whether it may be the fault of one document among many."""
        return self.code in BISECT


@dataclass(frozen=True)
class Task:
    """A task as Meilisearch tells it."""

    uid: int
    status: str
    problem: Problem | None = None

    @property
    def over(self) -> bool:
        """Tell whether it has ended."""
        return self.status in {"succeeded", "failed", "canceled"}


class Rejected(OpsDeckError):
    """Meilisearch did not take a request."""

    def __init__(self, problem: Problem, status: int) -> None:
        super().__init__(f"Meilisearch refused ({status} {problem.code}): {problem.message}")
        self.problem = problem
        self.http = status


class Unanswered(Unavailable):
    """Nobody knows whether Meilisearch took a request; it may still come in for `seconds`."""

    def __init__(self, message: str, seconds: float, **more: str) -> None:
        super().__init__(message, **more)
        self.seconds = seconds


class Meilisearch:
    """A client of one Meilisearch. Use it as a context; every request has a bound."""

    def __init__(self, url: str, key: Sensitive | None = None, *, timeout: float = 60.0) -> None:
        headers = {"Authorization": f"Bearer {key.reveal()}"} if key is not None else {}
        self._http = httpx.AsyncClient(
            base_url=url.rstrip("/"),
            headers=headers,
            timeout=httpx.Timeout(timeout, connect=10.0),
            follow_redirects=False,
            trust_env=False,
        )
        self.url = url

    async def __aenter__(self) -> Meilisearch:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> Any:
        """Send a request; give the answer's JSON.

        Raises `Unavailable` when it cannot be reached or asks to come later, `Refused` for a key that is missing or
        wrong, and `Rejected` for the rest.
        """
        try:
            if body is not None:
                answer = await self._http.request(method, path, params=params, headers=headers, json=body)
            else:
                answer = await self._http.request(method, path, params=params, headers=headers, content=content)
        except httpx.InvalidURL as fault:
            raise Invalid(
                f"{self.url!r} is no address.", field="url", hint="write it like http://127.0.0.1:7700"
            ) from fault
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as fault:
            raise Unavailable(
                f"Meilisearch at {self.url} cannot be reached ({type(fault).__name__}).", hint=RUNS
            ) from fault
        except httpx.HTTPError as fault:
            raise Unanswered(
                f"Meilisearch at {self.url} does not answer ({type(fault).__name__}).",
                LATE if isinstance(fault, httpx.TimeoutException) else GONE,
                hint=RUNS,
            ) from fault
        if answer.is_success:
            return answer.json() if answer.content else None
        problem = _problem_of(answer)
        if answer.status_code in {502, 504}:
            raise Unanswered(f"the way to Meilisearch at {self.url} broke ({answer.status_code}).", LATE, hint=RUNS)
        if (
            answer.status_code in {408, 429}
            or answer.status_code >= 500
            or (problem.passes and answer.status_code != 404)
        ):
            raise Unavailable(
                f"Meilisearch at {self.url} wants it later ({answer.status_code} {problem.code}): {problem.message}",
                hint="see its log and the space on its disk",
            )
        if answer.status_code in {401, 403}:
            raise Refused(
                f"Meilisearch at {self.url} does not take the key ({problem.code}).",
                field="secret",
                hint="give a key with the rights documents.*, indexes.*, settings.*, tasks.get, stats.get and version",
            )
        raise Rejected(problem, answer.status_code)

    async def version(self) -> str:
        """Give the server's version. Raises `Refused` for one that does not mark its tasks as we ask it to."""
        version = str((await self.call("GET", "/version"))["pkgVersion"])
        if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < OLDEST:
            raise Refused(f"Meilisearch {version} is too old.", field="url", hint="update it to 1.26 or later")
        return version

    async def create(self, index: str, primary_key: str) -> int:
        """Make an index; give the task."""
        return _uid(await self.call("POST", "/indexes", body={"uid": index, "primaryKey": primary_key}))

    async def exists(self, index: str) -> bool:
        """Tell whether an index is there."""
        try:
            await self.call("GET", f"/indexes/{quote(index, safe='')}")
        except Rejected as fault:
            if fault.problem.code == "index_not_found":
                return False
            raise
        return True

    async def remove(self, index: str) -> None:
        """Remove an index if it is there, and see that it is gone."""
        if await self.exists(index):
            await self.done(_uid(await self.call("DELETE", f"/indexes/{quote(index, safe='')}")), gone_is_fine=True)

    async def settings(self, index: str, settings: Mapping[str, Any]) -> int:
        """Change an index's settings; give the task."""
        return _uid(await self.call("PATCH", f"/indexes/{quote(index, safe='')}/settings", body=dict(settings)))

    async def settings_of(self, index: str) -> dict[str, Any]:
        """Give an index's settings; none when there is no such index."""
        try:
            return dict(await self.call("GET", f"/indexes/{quote(index, safe='')}/settings"))
        except Rejected as fault:
            if fault.problem.code == "index_not_found":
                return {}
            raise

    async def documents(self, index: str, lines: Sequence[bytes], *, merge: bool, mark: str) -> int:
        """Replace whole documents (or merge fields into them); give the task, which carries `mark`.

        Raises `Rejected`, and `Unanswered` when it may still come in; so do all that write.
        """
        content = b"\n".join(lines)
        headers = {"Content-Type": "application/x-ndjson"}
        if len(content) > 64 * 1024:
            content = await asyncio.to_thread(gzip.compress, content, 1)
            headers["Content-Encoding"] = "gzip"
        return _uid(
            await self.call(
                "PUT" if merge else "POST",
                f"/indexes/{quote(index, safe='')}/documents",
                content=content,
                headers=headers,
                params={"customMetadata": mark},
            )
        )

    async def delete(self, index: str, ids: Sequence[int | str], *, mark: str) -> int:
        """Remove documents by their ids; give the task."""
        path = f"/indexes/{quote(index, safe='')}/documents/delete-batch"
        return _uid(await self.call("POST", path, body=list(ids), params={"customMetadata": mark}))

    async def clear(self, index: str, *, mark: str) -> int:
        """Remove all documents; give the task."""
        path = f"/indexes/{quote(index, safe='')}/documents"
        return _uid(await self.call("DELETE", path, params={"customMetadata": mark}))

    async def marks(self, index: str, after: int) -> list[tuple[int, str]]:
        """Give the tasks on an index's documents that came after the task `after`, each with its mark."""
        found: list[tuple[int, str]] = []
        params = {"indexUids": index, "types": "documentAdditionOrUpdate,documentDeletion", "limit": "500"}
        while True:
            results = (await self.call("GET", "/tasks", params=params))["results"]
            newer = [(int(one["uid"]), str(one.get("customMetadata") or "")) for one in results if one["uid"] > after]
            found += newer
            if len(newer) < 500:
                return found
            params["from"] = str(newer[-1][0] - 1)

    async def swap(self, one: str, other: str) -> int:
        """Swap two indexes; give the task."""
        return _uid(await self.call("POST", "/swap-indexes", body=[{"indexes": [one, other]}]))

    async def tasks(self, uids: Sequence[int]) -> dict[int, Task]:
        """Give the tasks of those numbers; one that Meilisearch no longer knows is left out."""
        if not uids:
            return {}
        answer = await self.call("GET", "/tasks", params={"uids": ",".join(map(str, uids)), "limit": str(len(uids))})
        return {task.uid: task for task in map(_task, answer["results"])}

    async def newest_task(self) -> int:
        """Give the number of the newest task; -1 when there is none."""
        found = (await self.call("GET", "/tasks", params={"limit": "1"}))["results"]
        return int(found[0]["uid"]) if found else -1

    async def swap_since(self, after: int, one: str, other: str) -> int | None:
        """Give the newest swap of two indexes that came after the task `after`."""
        answer = await self.call("GET", "/tasks", params={"types": "indexSwap", "limit": "100"})
        for task in answer["results"]:
            pairs = [set(pair["indexes"]) for pair in (task.get("details") or {}).get("swaps", [])]
            if int(task["uid"]) > after and {one, other} in pairs and task["status"] not in {"failed", "canceled"}:
                return int(task["uid"])
        return None

    async def done(self, uid: int, *, bound: float = 600.0, gone_is_fine: bool = False) -> None:
        """Wait until a task succeeded. Raises `Rejected` with its fault, `Unavailable` when it takes too long."""
        pause = 0.02
        try:
            async with asyncio.timeout(bound):
                while True:
                    task = (await self.tasks([uid])).get(uid)
                    if task is None:
                        raise Unavailable(f"Meilisearch no longer knows its task {uid}.", hint="was it restored?")
                    if task.status == "succeeded":
                        return
                    if task.over:
                        problem = task.problem or Problem(task.status, "invalid_request", f"the task was {task.status}")
                        if gone_is_fine and problem.code == "index_not_found":
                            return
                        raise Rejected(problem, 200)
                    await asyncio.sleep(pause)
                    pause = min(1.0, pause * 1.5)
        except TimeoutError as fault:
            raise Unavailable(
                f"Meilisearch's task {uid} did not end within {bound:g} s.", hint="see its tasks"
            ) from fault

    async def count(self, index: str) -> int:
        """Count an index's documents."""
        return int((await self.call("GET", f"/indexes/{quote(index, safe='')}/stats"))["numberOfDocuments"])

    async def page(self, index: str, offset: int, limit: int) -> list[dict[str, Any]]:
        """Give some documents of an index, in its own order."""
        answer = await self.call(
            "GET", f"/indexes/{quote(index, safe='')}/documents", params={"offset": str(offset), "limit": str(limit)}
        )
        return list(answer["results"])

    async def document(self, index: str, id_: int | str) -> dict[str, Any] | None:
        """Give one document; None when it is not there."""
        try:
            found = await self.call("GET", f"/indexes/{quote(index, safe='')}/documents/{quote(str(id_), safe='')}")
        except Rejected as fault:
            if fault.problem.code == "document_not_found":
                return None
            raise
        return dict(found)


def _uid(answer: Any) -> int:
    return int(answer["taskUid"])


def _task(data: Mapping[str, Any]) -> Task:
    error = data.get("error")
    return Task(
        int(data["uid"]),
        str(data["status"]),
        Problem(str(error.get("code")), str(error.get("type")), str(error.get("message"))[:2000]) if error else None,
    )


def _problem_of(answer: httpx.Response) -> Problem:
    try:
        data = answer.json()
        return Problem(str(data["code"]), str(data.get("type", "")), str(data.get("message", ""))[:2000])
    except (ValueError, KeyError, TypeError):
        if answer.status_code == 413:
            return Problem("payload_too_large", "invalid_request", "the payload is too large")
        return Problem(f"http_{answer.status_code}", "unknown", answer.text[:200])


async def require_index(client: Meilisearch, index: str) -> None:
    """Raise `NotFound` when an index is not there."""
    if not await client.exists(index):
        raise NotFound(f"the index {index!r} is not there.", field="index", hint="start the sync, which makes it")
