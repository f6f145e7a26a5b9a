"""Small pictures as SVG geometry: numbers only, so that no style attribute is needed."""

from __future__ import annotations

from collections.abc import Sequence


def line(values: Sequence[float | None], width: int = 88, height: int = 22, *, top: float | None = None) -> list[str]:
    """Give the `points` of the polylines through `values`, broken where values are missing.

    The scale goes from 0 to `top`, or to the largest value with some air above it.
    """
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return []
    peak = top if top is not None else max(known) * 1.15
    peak = peak or 1.0
    step = width / (len(values) - 1)
    runs: list[str] = []
    run: list[str] = []
    for place, value in enumerate(values):
        if value is None:
            if len(run) > 1:
                runs.append(" ".join(run))
            run = []
            continue
        y = height - 1 - min(value / peak, 1.0) * (height - 2)
        run.append(f"{place * step:.1f},{y:.1f}")
    if len(run) > 1:
        runs.append(" ".join(run))
    return runs


def area(points: str, height: int = 22) -> str:
    """Give the polygon under one polyline."""
    first, last = points.split(" ", 1)[0], points.rsplit(" ", 1)[-1]
    return f"{first.split(',')[0]},{height} {points} {last.split(',')[0]},{height}"


def share(part: float | None, whole: float | None) -> float | None:
    """Give `part / whole` between 0 and 1; None when one is not known."""
    if part is None or not whole:
        return None
    return max(0.0, min(part / whole, 1.0))


def level(value: float | None, attention: float = 0.8, broken: float = 0.95) -> str:
    """Give the state of a bar: `calm` under a quarter, `data`, `attention` or `broken`."""
    if value is None:
        return "calm"
    if value >= broken:
        return "broken"
    if value >= attention:
        return "attention"
    return "data" if value >= 0.25 else "calm"
