"""Watching that edges renew their certificates: by the hand they shake, not by what they were given once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from opsdeck_cdn.probing import NoAnswer, certificate, context
from opsdeck_cdn.sites import Edge, Life


async def look(edge: Edge, names: Iterable[str], roots: str) -> tuple[dict[str, Life], dict[str, str]]:
    """Give the life of each name's certificate on an edge, and by name what is wrong with those that are none."""
    trust = context(roots)
    lives: dict[str, Life] = {}
    wrong: dict[str, str] = {}
    for name in names:
        try:
            lives[name] = await certificate(edge.v4, name, trust)
        except NoAnswer as fault:
            if fault.tls:
                wrong[name] = fault.message
    return lives, wrong


def known(texts: Mapping[str, str]) -> dict[str, Life]:
    """Read the lives that are on an edge's row."""
    return {name: Life.parse(text) for name, text in sorted(texts.items())}
