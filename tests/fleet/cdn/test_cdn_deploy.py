"""From bare edges to a site that is served from caches: with real certificates, proven from outside."""

from __future__ import annotations

import secrets
from typing import Any

EDGES = ("cdn-e1", "cdn-e2", "cdn-e3")


async def test_edges_become_a_cdn(cdn: Any) -> None:
    token = secrets.token_hex(4)
    await cdn.fresh_site(probe_static=f"/assets/{token}/a.css", rules=["static /assets/* ttl=77m"])
    cdn.pebble.point("www.site.test", cdn.fleet.host("cdn-e1").address)
    planned = await cdn.plan("deploy")
    assert {change.host for change in planned.changes} == set(EDGES)
    assert any("server_name site.0.rule" in (change.after or "") for change in planned.changes)
    _, steps = await cdn.good("deploy")
    for name in EDGES:
        receipt = steps[name].receipt
        assert receipt["probe"]["sites"]["site"]["static"]["cache"] == ["MISS", "HIT"], receipt
        assert receipt["probe"]["certificates"]["www.site.test"]
        answer = await cdn.get(name, f"/assets/{token}/b.css")
        assert (answer.status, answer.header("x-cache"), answer.header("x-edge")) == (200, "MISS", name)
        assert (await cdn.get(name, f"/assets/{token}/b.css")).header("x-cache") == "HIT"
        assert (await cdn.get(name, "/page")).header("x-cache") == "DYNAMIC"
    assert cdn.origin.hits[f"/assets/{token}/b.css"] == 3
    assert (await cdn.plan("deploy")).empty
