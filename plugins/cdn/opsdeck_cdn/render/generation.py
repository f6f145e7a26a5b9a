"""A generation: all files that make a host an edge, under a name made of what they say."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from opsdeck_cdn.engines import ENGINES, Engine
from opsdeck_cdn.render import nginx
from opsdeck_cdn.sites import Edge, Setup, Site


@dataclass(frozen=True)
class Generation:
    """What an edge should have. `files` by name within the generation's folder; `epochs` by site."""

    engines: tuple[Engine, ...]
    id: str
    files: dict[str, bytes]
    epochs: dict[str, bytes]
    roots: bytes
    units: dict[str, bytes]

    @property
    def digests(self) -> dict[str, str]:
        """Give the sha256 of each file."""
        return {name: hashlib.sha256(data).hexdigest() for name, data in self.files.items()}


def generation(sites: Sequence[Site], setup: Setup, edge: Edge, engines: tuple[Engine, ...] = ENGINES) -> Generation:
    """Make an edge's generation. The same model gives the same one, so that nothing to do is seen as such."""

    def made(id_: str) -> dict[str, bytes]:
        return {engine.file: engine.config(sites, setup, edge, id_) for engine in engines}

    draft = made("0" * 12)
    digest = hashlib.sha256()
    for name, data in sorted(draft.items()):
        digest.update(name.encode() + b"\0" + data + b"\0")
    id_ = digest.hexdigest()[:12]
    return Generation(
        engines,
        id_,
        made(id_),
        {site.name: nginx.epoch(site) for site in sites},
        setup.acme_roots.encode(),
        {engine.unit: engine.service(setup) for engine in engines},
    )
