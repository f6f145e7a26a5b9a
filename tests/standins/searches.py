"""The Meilisearch that tests write to: the strict stand-in in a process of its own, or a real server that is named.

`OPSDECK_TEST_MEILISEARCH_URL` (and `OPSDECK_TEST_MEILISEARCH_KEY`) name a real one.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from databases import free_port

STANDIN = Path(__file__).with_name("meilisearch.py")


class Meili:
    """The Meilisearch under test."""

    def __init__(self, url: str, key: str, folder: Path | None) -> None:
        self.url, self.key, self._folder = url, key, folder
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def stand_in(self) -> bool:
        return self._folder is not None

    def start(self) -> None:
        assert self._folder is not None
        port = self.url.rpartition(":")[2]
        words = [sys.executable, STANDIN, "--port", port, "--db", self._folder / "meili.db", "--limit", str(2 << 20)]
        words += ["--key", self.key] if self.key else []
        with (self._folder / "meili.log").open("ab") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/health", timeout=2).is_success:
                    return
            assert time.monotonic() < deadline and self.process.poll() is None, (self._folder / "meili.log").read_text()
            time.sleep(0.05)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)

    def rekey(self, key: str) -> None:
        """Start again with another key; "" takes everybody."""
        if not self.stand_in:
            pytest.skip("a real Meilisearch keeps its key")
        self.kill()
        self.key = key
        self.start()

    def fault(self, **faults: Any) -> None:
        if not self.stand_in:
            pytest.skip("a real Meilisearch takes no faults")
        httpx.post(f"{self.url}/_test", json=faults, timeout=5).raise_for_status()

    def get(self, path: str) -> Any:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        answer = httpx.get(f"{self.url}{path}", headers=headers, timeout=10)
        return answer.json() if answer.is_success else None

    def documents(self, index: str) -> dict[str, Any]:
        """Give all documents by their id."""
        found: dict[str, Any] = {}
        offset = 0
        while True:
            page = self.get(f"/indexes/{index}/documents?limit=10000&offset={offset}")
            if page is None or not page["results"]:
                return found
            offset += len(page["results"])
            found |= {str(one["id"]): one for one in page["results"]}

    def empty(self) -> None:
        """Remove every index, and every fault."""
        if self.stand_in:
            if self.process is None or self.process.poll() is not None:
                self.start()
            self.fault(reset=True)
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        for index in self.get("/indexes?limit=1000")["results"]:
            httpx.delete(f"{self.url}/indexes/{index['uid']}", headers=headers, timeout=10).raise_for_status()
        deadline = time.monotonic() + 30
        while self.get("/tasks?statuses=enqueued,processing&limit=1")["results"]:
            assert time.monotonic() < deadline, "Meilisearch does not end its tasks"
            time.sleep(0.02)


@contextlib.contextmanager
def a_meilisearch(folder: Path) -> Iterator[Meili]:
    """A Meilisearch; the stand-in keeps its files in the folder."""
    if url := os.environ.get("OPSDECK_TEST_MEILISEARCH_URL"):
        yield Meili(url.rstrip("/"), os.environ.get("OPSDECK_TEST_MEILISEARCH_KEY", ""), None)
        return
    server = Meili(f"http://127.0.0.1:{free_port()}", "", folder)
    server.start()
    yield server
    server.kill()
