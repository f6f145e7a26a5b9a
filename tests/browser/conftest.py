"""Chromium for the tests of the console."""

from __future__ import annotations

import shutil
from typing import Any

import pytest


@pytest.fixture(scope="session")
def chromium(absent: Any) -> str:
    """The path of Chromium, for Playwright's `executable_path`."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path:
        return path
    absent("there is no Chromium here (package chromium)")
    raise AssertionError("not reached")
