"""Comparing and advancing positions."""

from __future__ import annotations

import pytest
from opsdeck_search_sync.sources import gtids


@pytest.mark.parametrize(
    ("position", "goal", "covers"),
    [("0-1-5", "0-1-5", True), ("0-2-6", "0-1-5", True), ("0-1-4", "0-1-5", False), ("0-1-9", "0-1-5,1-1-2", False),
     ("0-1-9,1-7-2", "0-1-5,1-1-2", True), ("0-1-1", "", True), ("", "0-1-1", False)],
)  # fmt: skip
def test_maria(position: str, goal: str, covers: bool) -> None:
    assert gtids.maria_covers(position, goal) is covers


@pytest.mark.parametrize(
    ("position", "goal", "covers"),
    [("a:1-5", "a:1-5", True), ("a:1-5", "a:1-6", False), ("a:1-3:5", "a:4", False), ("a:1-9,b:1-2", "b:2", True)],
)
def test_mysql(position: str, goal: str, covers: bool) -> None:
    assert gtids.mysql_covers(position, goal) is covers


def test_advancing() -> None:
    assert gtids.advanced("0-1-5,1-1-2", "0-9-6", maria=True) == "0-9-6,1-1-2"
    assert gtids.advanced("", "0-9-6", maria=True) == "0-9-6"
    assert gtids.advanced("a:1-3:5", "a:4", maria=False) == "a:1-5"
    assert gtids.advanced("a:1-3", "b:1", maria=False) == "a:1-3,b:1"
