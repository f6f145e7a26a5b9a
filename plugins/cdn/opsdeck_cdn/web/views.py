"""What the pages show, made of the rows: nothing here knows of HTML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from opsdeck.api import utcnow
from opsdeck_cdn import certificates, naming
from opsdeck_cdn.book import Model
from opsdeck_cdn.models import EdgeRow
from opsdeck_cdn.render.generation import generation
from opsdeck_cdn.sites import Edge, Life, Site


@dataclass(frozen=True)
class EdgeLine:
    """An edge as a table shows it. `state` is one of the console's; `word` says it in English."""

    edge: Edge
    row: EdgeRow
    state: str
    word: str
    named: bool
    behind: bool
    """Whether the next deploy would change it."""
    owing: int
    ends: datetime | None
    """End of the first of its certificates to end."""
    certificates: Mapping[str, datetime]
    """End of each name's certificate."""


def ends_of(row: EdgeRow) -> dict[str, datetime]:
    """Give when the certificates of an edge end, by name."""
    return {name: life.end for name, life in certificates.known(row.certificates).items()}


def edge_line(model: Model, edge: Edge, owing: int) -> EdgeLine:
    """Give one edge."""
    row = model.rows[edge.host]
    state, word = _state(edge, row, owing)
    ends = ends_of(row)
    made = generation(model.sites, model.setup, edge)
    return EdgeLine(
        edge, row, state, word, bool(row.generation) and edge.host in naming.up(model),
        dict(row.files) != made.digests, owing, min(ends.values(), default=None), ends,
    )  # fmt: skip


def _state(edge: Edge, row: EdgeRow, owing: int) -> tuple[str, str]:
    if not row.generation:
        return "idle", "not deployed"
    if row.health == "down":
        return "broken", "down"
    if owing:
        return "attention", "owes purges"
    if edge.drained:
        return "attention", "drained"
    if not edge.admitted:
        return "attention", "not admitted"
    return "ok", "serves"


@dataclass(frozen=True)
class SiteLine:
    """A site as a table shows it."""

    site: Site
    edges: int
    """Edges that serve it and may be named."""
    ends: datetime | None
    """End of the first of its certificates to end, over all edges."""
    late: bool
    """Whether one of them should have been renewed."""
    missing: int
    """Edges that serve and have no certificate for one of its names on record."""

    @property
    def state(self) -> tuple[str, str]:
        """Give its state and the word for it."""
        if not self.edges:
            return "idle", "not served"
        if self.late:
            return "broken", "certificate ends"
        if self.missing:
            return "attention", "certificate missing"
        return "ok", "served"


def site_line(model: Model, site: Site) -> SiteLine:
    """Give one site."""
    serving = [row for row in model.rows.values() if row.generation and row.admitted]
    known = [row.certificates for row in serving]
    lives = [Life.parse(held[name]) for held in known for name in site.names if name in held]
    missing = sum(any(name not in held for name in site.names) for held in known)
    ends = min((life.end for life in lives), default=None)
    return SiteLine(site, len(serving), ends, any(life.late(utcnow()) for life in lives), missing)
