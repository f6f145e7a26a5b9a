"""A server under constant writes is lost; its newest backup comes back on a new host, row by row."""

from __future__ import annotations

import subprocess
import threading
import time
from typing import Any

ROUNDS = 5


def sql(host: Any, text: str) -> str:
    return str(host.execute(["mariadb", "-N", "-B"], stdin=text, timeout=120)).strip()


class Client(threading.Thread):
    """Writes one row after another and notes each commit that the server confirmed, with its time."""

    def __init__(self, host: Any) -> None:
        super().__init__(daemon=True)
        quiet = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR")
        words = ["ssh", "-i", str(host.private_key), *(word for option in quiet for word in ("-o", option))]
        words += [f"root@{host.address}", "mariadb -N -B -n shop"]
        self._talk = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.confirmed: list[tuple[int, float]] = []
        self._go = True

    def run(self) -> None:
        number = 0
        talk = self._talk
        assert talk.stdin is not None and talk.stdout is not None
        while self._go:
            number += 1
            text = f"INSERT INTO ledger VALUES ({number}, REPEAT(MD5({number}), 4)); SELECT {number};\n"  # noqa: S608
            try:
                talk.stdin.write(text)
                talk.stdin.flush()
                if talk.stdout.readline().strip() != str(number):
                    return
            except (BrokenPipeError, ValueError):
                return
            self.confirmed.append((number, time.time()))
            time.sleep(0.005)

    def stop(self) -> None:
        """Write no more."""
        self._go = False
        self.join(10)
        self._talk.kill()
        self._talk.wait()


async def test_a_lost_server_comes_back_as_it_was_when_its_newest_backup_was_taken(world):
    sql(world.db, "CREATE TABLE shop.ledger (id INT PRIMARY KEY, what CHAR(128)) ENGINE=InnoDB")
    client = Client(world.db)
    client.start()
    try:
        made = []
        for _ in range(ROUNDS):
            began = time.time()
            made.append((await world.good("run", target="shop"), began, time.time()))
        assert [one["kind"] for one, _, _ in made] == ["full"] + ["incremental"] * (ROUNDS - 1)
        world.db.kill()
    finally:
        client.stop()
    try:
        told = await world.good("restore", target="shop", onto="bk-spare")
        last, began, ended = made[-1]
        assert (told["backup"], told["links"]) == (last["backup"], ROUNDS)
        rows = [
            line.split("\t")
            for line in sql(world.spare, "SELECT id, what = REPEAT(MD5(id), 4) FROM shop.ledger ORDER BY id").split(
                "\n"
            )
        ]
        there = [int(number) for number, _ in rows]
        assert all(right == "1" for _, right in rows)
        assert there == list(range(1, len(there) + 1)), "a commit is missing between others"
        before = sum(1 for _, at in client.confirmed if at < began)
        after = sum(1 for _, at in client.confirmed if at <= ended) + 1
        assert 0 < before <= len(there) <= after
    finally:
        world.db.start()
