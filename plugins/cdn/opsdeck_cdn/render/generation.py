"""A generation: all files that make a host an edge, under a name made of what they say."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from opsdeck_cdn.render import caddy, layout, nginx
from opsdeck_cdn.sites import Edge, Setup, Site


@dataclass(frozen=True)
class Generation:
    """What an edge should have. `files` by name within the generation's folder; `epochs` by site."""

    id: str
    files: dict[str, bytes]
    epochs: dict[str, bytes]
    roots: bytes
    units: dict[str, bytes]

    @property
    def digests(self) -> dict[str, str]:
        """Give the sha256 of each file."""
        return {name: hashlib.sha256(data).hexdigest() for name, data in self.files.items()}


def generation(sites: Sequence[Site], setup: Setup, edge: Edge) -> Generation:
    """Make an edge's generation. The same model gives the same one, so that nothing to do is seen as such."""
    draft = _files(sites, setup, edge, "0" * 12)
    digest = hashlib.sha256()
    for name, data in sorted(draft.items()):
        digest.update(name.encode() + b"\0" + data + b"\0")
    id_ = digest.hexdigest()[:12]
    return Generation(
        id_,
        _files(sites, setup, edge, id_),
        {site.name: nginx.epoch(site) for site in sites},
        setup.acme_roots.encode(),
        {layout.CACHE_UNIT: layout.cache_unit(), layout.FRONT_UNIT: layout.front_unit()},
    )


def _files(sites: Sequence[Site], setup: Setup, edge: Edge, id_: str) -> dict[str, bytes]:
    return {
        "nginx.conf": nginx.render(sites, generation=id_, quota_percent=edge.quota_percent),
        "caddy.json": caddy.render(sites, setup, edge=edge.host, generation=id_),
    }
