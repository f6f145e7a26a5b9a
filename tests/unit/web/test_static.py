"""What the console ships to browsers: vendored files as they were fetched, nothing inline, nothing from elsewhere."""

from __future__ import annotations

import hashlib
import re
from importlib.resources import files
from pathlib import Path

ROOT = Path(str(files("opsdeck_web")))
TEMPLATES = sorted((ROOT / "templates").rglob("*.html"))


def test_vendored_files_are_the_ones_that_were_fetched() -> None:
    vendor = ROOT / "static" / "vendor"
    sums = dict(reversed(line.split("  ")) for line in (vendor / "SHA256SUMS").read_text().splitlines())
    found = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in vendor.iterdir()
        if file.name != "SHA256SUMS"
    }
    assert found == sums
    assert any("LICENSE" in name for name in sums)


def test_templates_hold_nothing_that_the_policy_forbids() -> None:
    for file in TEMPLATES:
        text = file.read_text()
        assert not re.search(r"\sstyle=", text), file
        assert not re.search(r"\son[a-z]+=", text), file
        assert not re.search(r"<script(?![^>]*\ssrc=)", text), file
        assert not re.search(r"hx-on|hx-vals=['\"]js:|hx-trigger=\"[^\"]*\[", text), file
        assert not re.search(r"(?:src|href|action)=\"https?:", text), file


def test_every_form_that_posts_carries_the_token() -> None:
    for file in TEMPLATES:
        for form in re.findall(r"<form[^>]*method=\"post\"[^>]*>.*?</form>", file.read_text(), re.S):
            assert "csrf_input" in form, file


def test_scripts_never_write_markup() -> None:
    for file in (ROOT / "static" / "js").iterdir():
        text = file.read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            file
        )
