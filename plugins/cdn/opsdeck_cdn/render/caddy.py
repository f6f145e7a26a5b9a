"""The configuration of the front: which names are served, which rule a request fits, and the way to the origin.

Three servers: `edge` (HTTPS), `plain` (HTTP: redirects, ACME, health) and `origin`, on a unix socket, through which
the cache fetches what it lacks. So the way to an origin is written in one place. Facts: Caddy's documentation of its
JSON configuration. Any edge answers an ACME challenge for any other, by a route: Caddy itself does not answer for a
name that it orders at the same time, since it knows the token of its own order only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from opsdeck_cdn.render import layout
from opsdeck_cdn.render.nginx import server_name
from opsdeck_cdn.sites import HEALTH_HOST, Edge, Rule, Setup, Site

Node = dict[str, Any]
"""A part of Caddy's JSON: free-form by nature, made here and nowhere carried on."""


def render(sites: Sequence[Site], setup: Setup, *, edge: Edge, generation: str) -> bytes:
    """Give caddy.json for the sites on one edge."""
    names = [name for site in sites for name in site.names]
    servers: Node = {
        "plain": {
            "listen": _listen(edge, 80),
            "automatic_https": {"disable": True},
            "routes": [_health(generation, edge.host), _loop(setup.id), _challenge(), *_redirects(names), _refused()],
        },
        "origin": {
            "listen": [f"unix/{layout.ORIGIN_SOCKET}|0660"],
            "automatic_https": {"disable": True},
            "routes": [*(_origin_route(site) for site in sites), _refused()],
        },
    }
    if names:
        servers["edge"] = {
            "listen": _listen(edge, 443),
            "automatic_https": {"disable_redirects": True},
            "logs": {"default_logger_name": "edge"},
            "routes": [_loop(setup.id), *(_site(site, setup, edge.host) for site in sites), _refused()],
            "errors": {"routes": [*(_pass_through(site) for site in sites), _failed()]},
        }
    config: Node = {
        "admin": {"listen": f"unix/{layout.ADMIN}"},
        "storage": {"module": "file_system", "root": layout.STORE},
        "logging": {
            "logs": {
                "default": {"exclude": ["http.log.access.edge"]},
                "edge": {
                    "writer": {
                        "output": "file",
                        "filename": layout.LOG_FILE,
                        "roll_size_mb": 50,
                        "roll_keep": 4,
                        "roll_gzip": False,
                    },
                    "encoder": {"format": "json"},
                    "include": ["http.log.access.edge"],
                },
            }
        },
        "apps": {"http": {"grace_period": "10s", "servers": servers}},
    }
    if names:
        config["apps"]["tls"] = {"automation": {"policies": [{"subjects": names, "issuers": [_issuer(setup)]}]}}
    return (json.dumps(config, indent=1, sort_keys=True) + "\n").encode()


def _listen(edge: Edge, port: int) -> list[str]:
    if not edge.bind:
        return [f":{port}"]
    return [f"[{text}]:{port}" if ":" in text else f"{text}:{port}" for text in edge.addresses]


def _issuer(setup: Setup) -> Node:
    issuer: Node = {
        "module": "acme",
        "ca": setup.acme_directory,
        "challenges": {"tls-alpn": {"disabled": True}},
    }
    if setup.acme_email:
        issuer["email"] = setup.acme_email
    if setup.acme_roots:
        issuer["trusted_roots_pem_files"] = [layout.ROOTS]
    return issuer


def _health(generation: str, edge: str) -> Node:
    told = {"handler": "static_response", "status_code": 200, "body": f"{edge} {generation}\n"}
    cache = {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": f"unix/{layout.CACHE_SOCKET}"}],
        "headers": {"request": {"set": {"Host": ["health.rule"]}}},
        "transport": {"protocol": "http", "dial_timeout": "1s", "response_header_timeout": "2s"},
    }
    return {
        "match": [{"host": [HEALTH_HOST]}],
        "terminal": True,
        "handle": [
            {
                "handler": "subroute",
                "routes": [
                    {"match": [{"path": ["/edge"]}], "handle": [told], "terminal": True},
                    {"match": [{"path": ["/cache"]}], "handle": [cache], "terminal": True},
                    _refused(),
                ],
            }
        ],
    }


def _challenge() -> Node:
    """Answer the CA for whatever name: its token, and the thumbprint of the one account of all edges."""
    pattern = r"^/\.well-known/acme-challenge/([A-Za-z0-9_-]{1,200})$"
    return {
        "match": [{"method": ["GET"], "path_regexp": {"name": "acme", "pattern": pattern}}],
        "terminal": True,
        "handle": [
            {
                "handler": "static_response",
                "status_code": 200,
                "headers": {"Content-Type": ["application/octet-stream"]},
                "body": f"{{http.regexp.acme.1}}.{{file.{layout.THUMBPRINT}}}",
            }
        ],
    }


def _redirects(names: Sequence[str]) -> list[Node]:
    if not names:
        return []
    to = {"Location": ["https://{http.request.host}{http.request.uri}"]}
    return [
        {
            "match": [{"host": list(names)}],
            "terminal": True,
            "handle": [{"handler": "static_response", "status_code": 308, "headers": to}],
        }
    ]


def _refused() -> Node:
    """Answer whoever asks for a name that is not ours: 421, and nothing else."""
    return {"handle": [{"handler": "static_response", "status_code": 421}], "terminal": True}


def _failed() -> Node:
    return {"handle": [{"handler": "static_response", "status_code": "{http.error.status_code}"}], "terminal": True}


def _loop(mark: str) -> Node:
    """Refuse what went through this CDN already (RFC 8586)."""
    return {
        "match": [{"header": {"CDN-Loop": [f"*{mark}*"]}}],
        "terminal": True,
        "handle": [{"handler": "static_response", "status_code": 508}],
    }


def _site(site: Site, setup: Setup, edge: str) -> Node:
    headers = {
        "handler": "headers",
        "request": {"add": {"CDN-Loop": [setup.id]}, "delete": ["X-OpsDeck-Host", "X-Cache"]},
        # Set ahead, and no origin's own comes after it: a deferred one would cost every hit a writer of its own.
        "response": {"set": {"X-Edge": [edge]}},
    }
    encode = {"handler": "encode", "encodings": {"gzip": {}, "zstd": {}}, "prefer": ["zstd", "gzip"]}
    routes = [_rule(site, place, rule) for place, rule in enumerate(site.rules)]
    routes.append({"handle": [_to_origin(site, mark=True)], "terminal": True})
    return {
        "match": [{"host": list(site.names)}],
        "terminal": True,
        "handle": [headers, encode, {"handler": "subroute", "routes": routes}],
    }


def _rule(site: Site, place: int, rule: Rule) -> Node:
    """Give the route of a rule. What must not be kept goes to the origin here and not on to a later rule."""
    match: Node = {"path": list(rule.paths)}
    if rule.host:
        match["host"] = [rule.host]
    methods = rule.methods or (("GET", "HEAD") if rule.static else ())
    if methods:
        match["method"] = list(methods)
    if not rule.static:
        return {"match": [match], "handle": [_to_origin(site, mark=True)], "terminal": True}
    past: list[Node] = [{"header": {"Authorization": ["*"]}}]
    for cookie in rule.cookies:
        pattern = rf"(^|;\s*){re.escape(cookie)}="
        past.append({"header_regexp": {"Cookie": {"pattern": pattern}}})
    cache = {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": f"unix/{layout.CACHE_SOCKET}"}],
        "headers": {
            "request": {
                "set": {"Host": [server_name(site.name, place)], "X-OpsDeck-Host": ["{http.request.host}"]},
            }
        },
        "transport": {
            "protocol": "http",
            "dial_timeout": "2s",
            # One that is frozen is as good as dead; one that waits for the origins is not.
            "response_header_timeout": f"{site.origin_timeout * len(site.origins) + 20}s",
            "keep_alive": {"max_idle_conns_per_host": 256, "idle_timeout": "60s"},
            "compression": False,
        },
    }
    kept = [{"handler": "vars", "opsdeck_route": f"static-{site.name}"}, cache]
    ways = [{"match": past, "handle": [_to_origin(site, mark=True)], "terminal": True}, {"handle": kept}]
    return {"match": [match], "handle": [{"handler": "subroute", "routes": ways}], "terminal": True}


def _pass_through(site: Site) -> Node:
    """Serve from the origin while the cache does not answer."""
    return {
        "match": [{"vars": {"opsdeck_route": [f"static-{site.name}"]}}],
        "terminal": True,
        "handle": [
            {"handler": "headers", "response": {"set": {"X-Cache": ["PASS"]}, "deferred": True}},
            _to_origin(site),
        ],
    }


def _origin_route(site: Site) -> Node:
    """Fetch for the cache. What comes over a socket has no visitor's address, so Caddy says nothing of the visitor."""
    handler = _to_origin(site)
    told = {"X-Forwarded-Proto": ["https"], "X-Forwarded-Host": ["{http.request.host}"]}
    handler["headers"].setdefault("request", {"set": {}})["set"] |= told
    # Read as the request leaves and again as the answer comes: the cache keeps nothing that a purge came between.
    word = f"{{file.{layout.purge_word(site.name)}}}"
    handler["headers"]["response"]["set"] = {"X-OpsDeck-Purge": [f"{{http.vars.opsdeck_purge}} {word}"]}
    noted = {"handler": "vars", "opsdeck_purge": word}
    # What has begun reaches the cache at once, where a purge finds it, however slowly the rest comes.
    handler["flush_interval"] = "20ms"
    return {"match": [{"host": list(site.names)}], "terminal": True, "handle": [noted, handler]}


def _to_origin(site: Site, *, mark: bool = False) -> Node:
    patience = f"{site.origin_timeout}s"
    transport: Node = {"protocol": "http", "dial_timeout": "4s", "response_header_timeout": patience}
    if site.origins[0].tls:
        name = site.tls_name or site.host_header
        transport["tls"] = {"server_name": name} if name else {}
    made: Node = {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": origin.dial} for origin in site.origins],
        "transport": transport,
        "load_balancing": {"selection_policy": {"policy": "first"}},
        "headers": {"response": {"delete": ["X-Edge"]}},
        # Without it a reload would cut every WebSocket at once.
        "stream_close_delay": "5m",
    }
    if len(site.origins) > 1:
        # Each origin gets its whole time; one that failed is left alone for a while.
        made["load_balancing"] |= {"retries": len(site.origins), "try_interval": "100ms"}
        made["health_checks"] = {"passive": {"fail_duration": "5s", "max_fails": 1}}
    if site.host_header:
        made["headers"]["request"] = {"set": {"Host": [site.host_header]}}
    if mark:
        made["headers"]["response"]["set"] = {"X-Cache": ["DYNAMIC"]}
    return made
