"""How long one waits for a command to begin: wall clock and CPU time of whole processes, the median of several.

    ./run bench startup --repeat 10

`serve` is timed until a request is answered. Prints Markdown.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

BAR = {"--help": 0.4, "serve": 2.0}
"""Seconds that a command may take, where that was promised."""


def command(argv: list[str], env: dict[str, str]) -> tuple[float, float]:
    """Run to the end; give seconds of wall clock and of CPU."""
    before, began = os.times(), time.perf_counter()
    done = subprocess.run(argv, env=env, capture_output=True, check=False)
    wall, after = time.perf_counter() - began, os.times()
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{argv} ended with {done.returncode}: {done.stderr.decode(errors='replace')[-400:]}")
    return wall, after.children_user + after.children_system - before.children_user - before.children_system


def serve(argv: list[str], env: dict[str, str]) -> tuple[float, float]:
    """Start the console; give seconds until a page is answered, and of CPU until it has ended again."""
    before, began = os.times(), time.perf_counter()
    with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout
        url = server.stdout.readline().rsplit(" ", 1)[-1].strip()
        with urllib.request.urlopen(url + "login") as answer:  # noqa: S310 - the address the console printed
            assert answer.status == 200
        wall = time.perf_counter() - began
        server.send_signal(signal.SIGTERM)
        server.wait(30)
    after = os.times()
    return wall, after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    """Measure in turns and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=10)
    given = parser.parse_args()
    deck = str(Path(sys.executable).parent / "opsdeck")
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"OPSDECK_HOME": f"{folder}/home", "OPSDECK_NODE": "bench"}
        subprocess.run([deck, "init", "--yes"], env=env, check=True, capture_output=True)
        rows = {
            "--help": [deck, "--help"],
            "plugin list": [deck, "plugin", "list"],
            "job list": [deck, "job", "list"],
            "doctor": [deck, "doctor"],
            "serve": [deck, "serve", "--port", "0"],
            "(Python alone)": [sys.executable, "-c", "pass"],
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in rows}
        for _ in range(given.repeat):
            for name, argv in rows.items():
                found[name].append((serve if name == "serve" else command)(argv, env))
    print("| command | wall, s | CPU, s | at most, s |\n|---|--:|--:|--:|")
    for name, figures in found.items():
        wall, cpu = (statistics.median(figure[at] for figure in figures) for at in (0, 1))
        print(f"| `{name}` | {wall:.2f} | {cpu:.2f} | {BAR.get(name, '')} |")


if __name__ == "__main__":
    main()
