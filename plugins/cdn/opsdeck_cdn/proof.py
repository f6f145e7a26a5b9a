"""The proof that an edge works: asked from outside by its own address, site by site."""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from opsdeck.api import ProbeFailed
from opsdeck_cdn.probing import Answer, NoAnswer, ask, certificate, context
from opsdeck_cdn.sites import HEALTH_HOST, Edge, Life, Setup, Site

HELD = ("HIT", "STALE", "UPDATING", "REVALIDATED")
"""The words of nginx for an answer from the cache."""


@dataclass
class Proof:
    """What a probe saw. `lives` maps each name to its certificate's; `notes` is for people."""

    lives: dict[str, Life] = field(default_factory=dict)
    sites: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def as_receipt(self) -> dict[str, Any]:
        """Give it as plain data."""
        lives = {name: str(life) for name, life in self.lives.items()}
        return {"certificates": lives, "sites": self.sites, "notes": self.notes}


class NoCertificate(ProbeFailed):
    """An edge has no good certificate for a name yet."""


async def serves(edge: Edge, generation: str) -> str:
    """Ask front and cache which generation they serve; give "" when it is this one, else what they said."""
    try:
        front = await ask(edge.v4, HEALTH_HOST, "/edge", timeout=4)
        cache = await ask(edge.v4, HEALTH_HOST, "/cache", timeout=4)
    except NoAnswer as fault:
        return fault.message
    if front.body.split()[-1:] == [generation.encode()] and cache.body.strip() == generation.encode():
        return ""
    return f"front {front.status} {front.body[:60]!r}, cache {cache.status} {cache.body[:60]!r}"


async def alive(edge: Edge, generation: str, *, seconds: float = 10.0) -> None:
    """Wait until front and cache both serve `generation`. Raises `ProbeFailed`."""
    for _ in range(max(1, int(seconds / 0.2))):
        told = await serves(edge, generation)
        if not told:
            return
        await asyncio.sleep(0.2)
    raise ProbeFailed(
        f"it does not serve generation {generation}: {told}", host=edge.host,
        hint="see that ports 80 and 443 are let in, then `journalctl -u opsdeck-cdn-front`",
    )  # fmt: skip


async def prove(
    edge: Edge, sites: tuple[Site, ...], setup: Setup, *, wait: float, say: Callable[[str], None] = lambda text: None
) -> Proof:
    """Ask for everything that must hold on an edge; `wait` s for certificates. Raises `ProbeFailed`."""
    proof = Proof()
    await _refuses(edge)
    trust = context(setup.visitor_roots)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait
    for site in sites:
        for name in site.names:
            proof.lives[name] = await _certificate(edge, name, trust, deadline, say)
        proof.sites[site.name] = await _site(edge, site, trust, proof.notes)
    return proof


async def _refuses(edge: Edge) -> None:
    unknown = f"{secrets.token_hex(6)}.invalid"
    try:
        answer = await ask(edge.v4, unknown, timeout=5)
    except NoAnswer as fault:
        raise ProbeFailed(fault.message, host=edge.host) from fault
    if answer.status != 421:
        raise ProbeFailed(f"it answers {answer.status} for a name that is not ours, not 421.", host=edge.host)


async def _certificate(
    edge: Edge, name: str, trust: ssl.SSLContext, deadline: float, say: Callable[[str], None]
) -> Life:
    loop = asyncio.get_running_loop()
    told = False
    while True:
        try:
            return await certificate(edge.v4, name, trust)
        except NoAnswer as fault:
            text = fault.message
        if loop.time() > deadline:
            raise NoCertificate(
                text, host=edge.host, field="names",
                hint=f"see that {name} leads to an edge in DNS, then deploy again; "
                "`journalctl -u opsdeck-cdn-front` has the CA's words",
            )  # fmt: skip
        if not told:
            say(f"waiting for the certificate of {name}")
            told = True
        await asyncio.sleep(0.5)


async def _site(edge: Edge, site: Site, trust: ssl.SSLContext, notes: list[str]) -> dict[str, Any]:
    name = site.names[0]

    async def get(path: str) -> Answer:
        try:
            return await ask(edge.v4, name, path, tls=trust, timeout=35)
        except NoAnswer as fault:
            raise ProbeFailed(fault.message, host=edge.host) from fault

    seen: dict[str, Any] = {}
    dynamic = await get(site.probe_dynamic)
    seen["dynamic"] = dynamic.status
    if dynamic.header("x-edge") != edge.host:
        raise ProbeFailed(f"{name}{site.probe_dynamic} is answered by something else than this edge.", host=edge.host)
    if dynamic.status in (502, 503, 504, 508) or dynamic.header("x-cache") in HELD:
        raise ProbeFailed(
            f"{name}{site.probe_dynamic} does not reach the origin: {dynamic.status} {dynamic.header('x-cache')}.",
            host=edge.host, hint=f"see that the edge can reach {', '.join(map(str, site.origins))}",
        )  # fmt: skip
    path, sure = _static_path(site)
    if not path:
        notes.append(f"{site.name} has no static rule to try")
        return seen
    first, second = await get(path), await get(path)
    words = [first.header("x-cache"), second.header("x-cache")]
    seen["static"] = {"path": path, "status": second.status, "cache": words}
    if words[1] not in HELD:
        if sure:
            raise ProbeFailed(
                f"{name}{path} is not kept: {' then '.join(word or 'nothing' for word in words)}, {second.status}, "
                f"Cache-Control {second.header('cache-control') or 'none'}.", host=edge.host,
                hint="see that a static rule fits it and that the origin lets it be kept",
            )  # fmt: skip
        notes.append(f"{site.name}: {path} answers {second.status} and is not kept; give probe_static to be sure")
    return seen


def _static_path(site: Site) -> tuple[str, bool]:
    """Give the path to try, and whether it must be kept: a made-up one may be answered in any way."""
    if site.probe_static:
        return site.probe_static, True
    for _, rule in site.static_rules:
        if not rule.by_ending and rule.paths[0].endswith("*"):
            return rule.paths[0].removesuffix("*") + f"opsdeck-probe-{secrets.token_hex(4)}", False
    return "", False
