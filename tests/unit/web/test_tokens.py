"""Every text stands on every ground it is used on with the contrast that WCAG AA asks for."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

CSS = (files("opsdeck_web") / "static" / "css" / "tokens.css").read_text()
TEXTS = ("text", "quiet", "faint", "accent", "ok", "attention", "broken", "running")
GROUNDS = ("ground", "surface", "side")
PAIRS = [(text, ground) for text in TEXTS for ground in GROUNDS] + [
    ("text", "raised"),
    ("quiet", "raised"),
    ("text", "wash-ok"),
    ("text", "wash-broken"),
    ("broken", "wash-broken"),
    ("faint", "wash-broken"),
    ("ok", "wash-ok"),
    ("attention", "wash-attention"),
    ("running", "wash-running"),
    ("quiet", "wash-broken"),
    ("on-accent", "accent"),
]
PICTURES = ("ok", "attention", "broken", "running", "edge", "bar-accent", "bar-attention", "bar-broken")


def themes() -> dict[str, dict[str, str]]:
    blocks = re.findall(r":root([^{]*)\{([^}]*)\}", CSS)
    read = [(selector.strip(), dict(re.findall(r"--([a-z-]+):\s*(#[0-9a-f]{6})", body))) for selector, body in blocks]
    light = next(colours for selector, colours in read if selector == "")
    dark = next(colours for selector, colours in read if selector == '[data-theme="dark"]')
    by_device = next(colours for selector, colours in read if selector.startswith(":not"))
    return {"light": light, "dark": dark, "dark by device": by_device}


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    r, g, b = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", themes())
def test_texts_reach_aa(theme: str) -> None:
    colours = themes()[theme]
    bad = {
        f"{text} on {ground}": round(contrast(colours[text], colours[ground]), 2)
        for text, ground in PAIRS
        if contrast(colours[text], colours[ground]) < 4.5
    }
    assert bad == {}


@pytest.mark.parametrize("theme", themes())
def test_dots_bars_and_edges_reach_three_to_one(theme: str) -> None:
    colours = themes()[theme]
    bad = {
        name: round(contrast(colours[name], colours["surface"]), 2)
        for name in PICTURES
        if contrast(colours[name], colours["surface"]) < 3
    }
    assert bad == {}


def test_both_dark_themes_are_one() -> None:
    assert themes()["dark"] == themes()["dark by device"]


def test_every_colour_that_is_used_is_defined() -> None:
    used: set[str] = set()
    for file in (files("opsdeck_web") / "static" / "css").iterdir():
        used |= set(re.findall(r"var\(--([a-z-]+)\)", file.read_text()))
    defined = set(re.findall(r"--([a-z-]+):", CSS))
    assert used <= defined
