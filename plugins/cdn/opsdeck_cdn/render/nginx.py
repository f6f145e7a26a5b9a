"""The configuration of the cache: one server for each static rule, told apart by the name that the front sends.

The front decides which rule a request fits; here is only how it is kept. Nothing of a visitor's request becomes part
of this text. Facts: nginx's documentation of its proxy and slice modules.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from opsdeck_cdn.render import layout
from opsdeck_cdn.sites import Policy, Rule, Site

HOST = "$cdn_host"
STALE = "error timeout updating invalid_header http_500 http_502 http_503 http_504 http_429"
"""When something too old is better than nothing; what an origin says of `stale-if-error` covers no 5xx in nginx."""
UNKEYED = (
    "Forwarded", "X-Host", "X-Original-Host", "X-Original-URI", "X-Original-URL", "X-Rewrite-URI", "X-Rewrite-URL",
    "X-HTTP-Method", "X-HTTP-Method-Override", "X-Method-Override", "X-Forwarded-For", "X-Forwarded-Host",
    "X-Forwarded-Path", "X-Forwarded-Port", "X-Forwarded-Prefix", "X-Forwarded-Proto", "X-Forwarded-Scheme",
    "X-Forwarded-Server", "X-Forwarded-Ssl", "X-Url-Scheme", "Front-End-Https",
)  # fmt: skip
"""What some origins heed and no cache key has: one visitor's word must not become all visitors' page."""
LOCK = 5
"""Seconds for which requests wait for the one that fetches. They wait one after another when its answer may not be
kept, so this is also how long a rule that is wrong about that may cost."""
LOCK_ENDING = 1
"""The same for rules by ending, which fit much that is not kept."""
_SAFE = re.compile(r"[A-Za-z0-9._:/|=*-]+")


def server_name(site: str, place: int) -> str:
    """Give the name by which the front asks for a rule."""
    return f"{site}.{place}.rule"


def text(value: str) -> str:
    """Quote a value for nginx. Raises `ValueError` for what must not come here."""
    if not _SAFE.fullmatch(value):
        raise ValueError(f"{value!r} does not belong into a configuration of nginx")
    return value


def over(limit: int) -> str:
    """Give a regular expression for decimal numbers above `limit`, without leading zeros."""
    digits = str(limit)
    longer = f"[1-9][0-9]{{{len(digits)},}}"
    parts = [longer]
    for place, digit in enumerate(digits):
        if digit != "9":
            rest = len(digits) - place - 1
            parts.append(f"{digits[:place]}[{int(digit) + 1}-9]" + (f"[0-9]{{{rest}}}" if rest else ""))
    return f"(?:{'|'.join(parts)})"


def render(sites: Sequence[Site], *, generation: str, quota_percent: int = 100) -> bytes:
    """Give nginx.conf for the sites."""
    lines = [
        "# Made by OpsDeck (plugin cdn). A change by hand holds until the next deploy, whose plan shows it.",
        f"user {layout.USER} {layout.USER};",
        "worker_processes auto;",
        f"pid {layout.CACHE_PID};",
        "error_log stderr warn;",
        "worker_rlimit_nofile 65536;",
        "events { worker_connections 4096; }",
        "http {",
        "  access_log off;",
        "  server_tokens off;",
        "  sendfile on;",
        "  tcp_nopush on;",
        "  keepalive_timeout 75s;",
        "  keepalive_requests 100000;",
        "  server_names_hash_bucket_size 128;",
        "  server_names_hash_max_size 16384;",
        "  map_hash_bucket_size 512;",
        "  map_hash_max_size 16384;",
        "  client_body_temp_path /var/cache/opsdeck-cdn/.body;",
        "  proxy_temp_path /var/cache/opsdeck-cdn/.temp;",
        "  large_client_header_buffers 8 32k;",
        "  proxy_buffer_size 32k;",
        "  proxy_buffers 16 32k;",
        "  proxy_busy_buffers_size 128k;",
        '  map $request_uri $cdn_path { default "/"; "~^(?<cdn_raw>/[^?]*)" $cdn_raw; }',
        '  map $upstream_http_cache_control $cdn_not_public { default 1; "~*(^|[ ,])public([ ,;]|$)" 0; }',
        # The word of the last purge as the request left, and as the answer came.
        '  map $upstream_http_x_opsdeck_purge $cdn_purged { default 1; "" 0; "~^([^ ]+) \\1$" 0; }',
        f"  upstream origin {{ server unix:{layout.ORIGIN_SOCKET}; keepalive 64; }}",
    ]
    # Names of a map are compared without regard to case, so one object has one key however its host was written.
    lines.append('  map $http_x_opsdeck_host $cdn_host {\n    default "";')
    lines += [f"    {text(name)} {name};" for site in sites for name in site.names]
    lines.append("  }")
    for site in sites:
        if site.static_rules:
            megabytes = max(16, site.quota_mb * quota_percent // 100)
            lines.append(
                f"  proxy_cache_path {layout.cache_folder(text(site.name))} levels=1:2 use_temp_path=off"
                f" keys_zone=site-{site.name}:{min(64, max(2, megabytes // 128))}m"
                f" inactive=30d max_size={megabytes}m min_free=64m;"
            )
    lines += [
        "  server {",
        f"    listen unix:{layout.CACHE_SOCKET} default_server;",
        "    server_name _;",
        "    return 421;",
        "  }",
        "  server {",
        f"    listen unix:{layout.CACHE_SOCKET};",
        "    server_name health.rule;",
        f"    location / {{ default_type text/plain; return 200 {text(generation)}; }}",
        "  }",
    ]
    for site in sites:
        for place, rule in site.static_rules:
            lines += _server(site, place, rule)
    lines.append("}")
    return ("\n".join(lines) + "\n").encode()


def _server(site: Site, place: int, rule: Rule) -> list[str]:
    name = server_name(site.name, place)
    variable = f"$cdn_big_{site.name.replace('-', '_')}_{place}"
    before = []
    if rule.max_bytes:
        # Of a slice, what its range says of the whole counts, and not its own length.
        size = '"$upstream_http_content_range/$upstream_http_content_length"'
        before = [f'  map {size} {variable} {{ default 0; "~^[^/]*/{over(rule.max_bytes)}(?:/|$)" 1; }}']
    target = _target(rule)
    # The front gives up on the origins first, and says so in its answer.
    longest = site.origin_timeout * len(site.origins) + 10
    never = ["$http_authorization", "$cdn_purged"]
    if rule.by_ending:
        never.append("$cdn_not_public")
    if rule.max_bytes:
        never.append(variable)
    key = f'"{text(site.name)}|$cdn_epoch|{HOST}|{target}"'
    if rule.big:
        key = f'"{text(site.name)}|$cdn_epoch|{HOST}|{target}|$slice_range"'
    lines = [
        *before,
        "  server {",
        f"    listen unix:{layout.CACHE_SOCKET};",
        f"    server_name {name};",
        f"    include {layout.epoch_file(site.name)};",
        f'    if ({HOST} = "") {{ return 421; }}',
        "    location / {",
        # A URI with variables is worked out for every hit as well.
        f"      proxy_pass http://origin{'' if rule.query is Policy.ALL and not rule.big else target};",
        "      proxy_http_version 1.1;",
        '      proxy_set_header Connection "";',
        f"      proxy_set_header Host {HOST};",
        '      proxy_set_header X-OpsDeck-Host "";',
        '      proxy_set_header Cookie "";',
        '      proxy_set_header Accept-Encoding "";',
        *(f'      proxy_set_header {header} "";' for header in UNKEYED),
        "      proxy_connect_timeout 5s;",
        f"      proxy_read_timeout {longest}s;",
        f"      proxy_cache site-{site.name};",
        f"      proxy_cache_key {key};",
        "      proxy_cache_methods GET HEAD;",
        "      proxy_cache_lock on;",
        f"      proxy_cache_lock_age {longest}s;",
        f"      proxy_cache_lock_timeout {LOCK_ENDING if rule.by_ending else LOCK}s;",
        "      proxy_cache_revalidate on;",
        f"      proxy_cache_use_stale {STALE};",
        f"      proxy_no_cache {' '.join(never)};",
        "      proxy_cache_bypass $http_authorization;",
        "      proxy_ignore_client_abort on;",
        "      proxy_hide_header X-Cache;",
        "      proxy_hide_header X-OpsDeck-Purge;",
        "      add_header X-Cache $upstream_cache_status always;",
    ]
    if rule.big:
        # Background updates are made without the range, so the two exclude each other (nginx, slice module).
        lines += ["      slice 1m;", "      proxy_set_header Range $slice_range;"]
    else:
        lines.append("      proxy_cache_background_update on;")
    if not rule.by_ending:
        lines.append(f"      proxy_cache_valid 200 206 301 302 308 {rule.ttl}s;")
        lines.append("      proxy_cache_valid 404 410 30s;")
    else:
        # `public` without a life of its own: the rule's.
        lines.append(f"      proxy_cache_valid 200 206 {rule.ttl}s;")
    lines += ["    }", "  }"]
    return lines


def _target(rule: Rule) -> str:
    if rule.query is Policy.ALL:
        return "$request_uri"
    if rule.query is Policy.IGNORE:
        return "$cdn_path"
    return "$cdn_path?" + "&".join(f"{name}=$arg_{name}" for name in rule.arguments)


def epoch(site: Site) -> bytes:
    """Give the file that says which epoch of a site counts."""
    return f"set $cdn_epoch {site.epoch};\n".encode()
