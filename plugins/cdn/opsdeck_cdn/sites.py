"""What the operator works in: sites with origins and rules, edges, and how certificates are ordered.

Everything here is checked where it is made, so a value of these types can be rendered as it is.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from urllib.parse import urlsplit

from opsdeck.api import Invalid

# RFC 1123 §2.1: labels of letters, digits and hyphens; at least two of them, so that a CA can certify the name.
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})+")
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")
# RFC 3986 §3.3: what a path may be made of. Nothing of it needs quoting in nginx or JSON.
_PATH = re.compile(r"/[A-Za-z0-9._~!$&'()+,;=:@%/-]*")
_EXTENSION = re.compile(r"\*\.[A-Za-z0-9]{1,10}")
_TOKEN = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_ARGUMENT = re.compile(r"[a-z0-9_]{1,64}")
"""nginx finds `$arg_NAME` without regard to case, and only such names."""
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_LENGTH = re.compile(r"(\d{1,9})(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
MOST_TTL = 3650 * 86400
_SIZE = re.compile(r"([1-9]\d{0,8})(kB|MB|GB)")
_BYTES = {"kB": 10**3, "MB": 10**6, "GB": 10**9}

HEALTH_HOST = "opsdeck-cdn.invalid"
"""The name under which an edge tells of itself; RFC 2606 keeps `.invalid` free, so no visitor asks for it."""


def slug(text: str, field: str = "name") -> str:
    """Give a name made of a-z, 0-9 and `-`, at most 40. Raises `Invalid`."""
    if not _SLUG.fullmatch(text):
        raise Invalid(f"{text!r} cannot be a name.", field=field, hint="use a-z, 0-9 and -, at most 40")
    return text


def domain(text: str, field: str = "names") -> str:
    """Give a domain name in small letters, without the last dot. Raises `Invalid`."""
    name = text.strip().lower().removesuffix(".")
    if not _DOMAIN.fullmatch(name) or name.rpartition(".")[2].isdigit():
        hint = "wildcards are not served" if "*" in name else "write it as www.example.com"
        raise Invalid(f"{text!r} is no domain name.", field=field, hint=hint)
    return name


def outside_servers(names: Iterable[str], zone: str) -> None:
    """Raise `Invalid` for a site's name that is a name server's in the zone: `ns1` and so on are made there."""
    for name in names:
        label, _, rest = name.partition(".")
        if zone and rest == zone and re.fullmatch(r"ns\d+", label):
            raise Invalid(f"{name} is the name of a name server of {zone}.", field="names", hint="choose another name")


@dataclass(frozen=True)
class Life:
    """From when to when a certificate counts."""

    begin: datetime
    end: datetime

    @classmethod
    def parse(cls, text: str) -> Life:
        """Read what `str` gave."""
        begin, _, end = text.partition("/")
        return cls(datetime.fromisoformat(begin), datetime.fromisoformat(end))

    def __str__(self) -> str:
        """Give it as an interval of ISO 8601."""
        return f"{self.begin.isoformat()}/{self.end.isoformat()}"

    def late(self, now: datetime) -> bool:
        """Tell whether it should have been renewed: Caddy does so with a third of the life left."""
        return self.end - now < (self.end - self.begin) / 5


class Policy(StrEnum):
    """What of a query string counts for the cache."""

    ALL = "all"
    IGNORE = "ignore"
    ONLY = "only"


@dataclass(frozen=True)
class Origin:
    """Where a site comes from: one server."""

    host: str
    port: int
    tls: bool

    @classmethod
    def parse(cls, text: str) -> Origin:
        """Read `https://origin.example:8443`. Raises `Invalid`."""
        try:
            parts = urlsplit(text.strip())
            port = parts.port
        except ValueError:
            raise Invalid(
                f"{text!r} is no origin.", field="origins", hint="write https://HOST or http://HOST:PORT"
            ) from None
        host = (parts.hostname or "").lower()
        if parts.scheme not in ("http", "https") or not host or parts.username or parts.query or parts.fragment:
            raise Invalid(f"{text!r} is no origin.", field="origins", hint="write https://HOST or http://HOST:PORT")
        if parts.path not in ("", "/"):
            raise Invalid(
                f"the origin {text!r} has a path.", field="origins", hint="leave it off: paths go through as they are"
            )
        if not _HOST.fullmatch(host):
            host = address(host, "origins")
        tls = parts.scheme == "https"
        return cls(host, port or (443 if tls else 80), tls)

    @property
    def dial(self) -> str:
        """Give it as `host:port`."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        """Give it as a person writes it."""
        return f"{'https' if self.tls else 'http'}://{self.dial}"


def address(text: str, field: str) -> str:
    """Give an IP address in its usual form, which an address of one link only is not. Raises `Invalid`."""
    try:
        if "%" in text:
            raise ValueError(text)
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise Invalid(f"{text!r} is no address.", field=field, hint="an IP address, or a host name") from None


@dataclass(frozen=True)
class Rule:
    """What happens to the requests that fit: straight to the origin, or through the cache.

    `paths` are prefixes (`/static/*`), whole paths (`/favicon.ico`) or endings (`*.css`). Objects found by an ending
    are kept only when the origin calls them public, since such a rule also fits pages that are none.
    `ttl` (s) counts where the origin gives no life of its own. A request with one of `cookies`, or with
    `Authorization`, goes to the origin and is never stored. `big` fetches and keeps slices of 1 MB.
    """

    static: bool
    paths: tuple[str, ...]
    host: str = ""
    methods: tuple[str, ...] = ()
    ttl: int = 3600
    query: Policy = Policy.ALL
    arguments: tuple[str, ...] = ()
    cookies: tuple[str, ...] = ()
    max_bytes: int = 0
    big: bool = False

    @property
    def by_ending(self) -> bool:
        """Tell whether it goes by the ending of the path."""
        return self.paths[0].startswith("*.")

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Read one line, such as `static /assets/* ttl=1d query=ignore`. Raises `Invalid` naming the word."""
        words = text.split()
        if len(words) < 2 or words[0] not in ("static", "dynamic"):
            raise _bad(text, "begin it with static or dynamic, then a path")
        paths = tuple(words[1].split(","))
        endings = [path for path in paths if _EXTENSION.fullmatch(path)]
        for path in paths:
            if path not in endings and not _PATH.fullmatch(path.removesuffix("*")):
                raise _bad(text, f"{path!r} is no path: write /static/*, /favicon.ico or *.css")
        if endings and len(endings) != len(paths):
            raise _bad(text, "give paths and endings in rules of their own")
        static = words[0] == "static"
        given: dict[str, str] = {}
        for word in words[2:]:
            key, equals, value = word.partition("=")
            if not equals and key == "big":
                value = "yes"
            elif not equals or not value or key not in ("ttl", "query", "cookie", "max", "host", "method"):
                raise _bad(text, f"{word!r} says nothing here: ttl=, query=, cookie=, max=, host=, method=, big")
            if key in given:
                raise _bad(text, f"{key} is there twice")
            if not static and key not in ("host", "method"):
                raise _bad(text, f"{key} is for static rules")
            given[key] = value
        query, arguments = _query(text, given.get("query", "all"))
        ttl = _measure(text, given.get("ttl", "1h"), _LENGTH, _SECONDS, "ttl=10m, 1h or 30d")
        if ttl > MOST_TTL:
            raise _bad(text, "ttl is at most 3650d")
        methods = tuple(given["method"].upper().split(",")) if "method" in given else ()
        if any(method not in _METHODS for method in methods):
            raise _bad(text, f"methods are {', '.join(_METHODS)}")
        if static and any(method not in ("GET", "HEAD") for method in methods):
            raise _bad(text, "only GET and HEAD are kept")
        return cls(
            static,
            paths,
            domain(given["host"], "rules") if "host" in given else "",
            methods,
            ttl,
            query,
            arguments,
            _tokens(text, given["cookie"]) if "cookie" in given else (),
            _measure(text, given["max"], _SIZE, _BYTES, "max=500kB, 100MB or 2GB") if "max" in given else 0,
            "big" in given,
        )


def _bad(text: str, why: str) -> Invalid:
    return Invalid(f"the rule {text!r} cannot be used: {why}.", field="rules", hint="such as: static /assets/* ttl=1d")


def _query(text: str, value: str) -> tuple[Policy, tuple[str, ...]]:
    kind, _, names = value.partition(":")
    if kind == "only" and names:
        arguments = tuple(sorted(set(names.split(","))))
        if not all(_ARGUMENT.fullmatch(name) for name in arguments):
            raise _bad(text, "names of arguments are made of a-z, 0-9 and _")
        return Policy.ONLY, arguments
    if value in ("all", "ignore"):
        return Policy(value), ()
    raise _bad(text, "query is all, ignore or only:NAME,NAME")


def _tokens(text: str, value: str) -> tuple[str, ...]:
    names = tuple(value.split(","))
    for name in names:
        if not _TOKEN.fullmatch(name):
            raise _bad(text, f"{name!r} is no name")
    return names


def _measure(text: str, value: str, pattern: re.Pattern[str], units: dict[str, int], how: str) -> int:
    found = pattern.fullmatch(value)
    if not found:
        raise _bad(text, how)
    return int(found[1]) * units[found[2]]


DEFAULT_RULES = (
    "static /static/*,/assets/* ttl=1h",
    "static *.mp4,*.webm,*.zip,*.iso,*.gz big",
    "static *.css,*.js,*.mjs,*.png,*.jpg,*.jpeg,*.gif,*.webp,*.avif,*.svg,*.ico,*.woff,*.woff2,*.ttf",
)
"""What a site has until its operator says otherwise; endings count only for what the origin calls public."""


@dataclass(frozen=True)
class Site:
    """A site of the CDN. `epoch` is part of every cache key: another one, and all that was kept is forgotten."""

    name: str
    names: tuple[str, ...]
    origins: tuple[Origin, ...]
    rules: tuple[Rule, ...]
    host_header: str = ""
    tls_name: str = ""
    quota_mb: int = 1024
    origin_timeout: int = 30
    """Seconds that an origin has to begin its answer."""
    epoch: int = 1
    probe_static: str = ""
    probe_dynamic: str = "/"

    def __post_init__(self) -> None:
        slug(self.name)
        if not self.names:
            raise Invalid(f"the site {self.name} has no name that visitors use.", field="names", hint="www.example.com")
        if not self.origins:
            raise Invalid(f"the site {self.name} has no origin.", field="origins", hint="https://origin.example.com")
        if len({origin.tls for origin in self.origins}) > 1:
            raise Invalid("origins of one site are all https or all http.", field="origins", hint="use one of the two")
        if len(set(self.names)) != len(self.names):
            raise Invalid("a name is there twice.", field="names", hint="give each name once")
        for rule in self.rules:
            if rule.host and rule.host not in self.names:
                raise Invalid(
                    f"a rule is for {rule.host}, which the site is not.", field="rules", hint="add it to names"
                )
        for path, where in ((self.probe_static, "probe_static"), (self.probe_dynamic, "probe_dynamic")):
            if path and not _PATH.fullmatch(path):
                raise Invalid(f"{path!r} is no path.", field=where, hint="write it as /assets/app.css")

    @property
    def static_rules(self) -> tuple[tuple[int, Rule], ...]:
        """Give the rules that keep something, with their places."""
        return tuple((place, rule) for place, rule in enumerate(self.rules) if rule.static)


@dataclass(frozen=True)
class Edge:
    """A host that serves the sites."""

    host: str
    latitude: float
    longitude: float
    v4: str = ""
    v6: str = ""
    quota_percent: int = 100
    """Share of each site's cache quota that this edge keeps, for one with a small disk."""
    drained: bool = False
    bind: bool = False
    """Whether it listens on its own addresses only, where other programs use the same ports on other ones."""
    admitted: bool = False
    """Whether it may be named in DNS: it had its certificates and a green probe after its last deploy."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Give its addresses for visitors."""
        return tuple(text for text in (self.v4, self.v6) if text)


@dataclass(frozen=True)
class CaddySource:
    """Where Caddy comes from; all empty takes the one that was installed beside this plugin."""

    version: str = ""
    source: str = ""
    sha256: str = ""
    member: str = ""
    arch: str = "amd64"


@dataclass(frozen=True)
class Setup:
    """What is the same for all edges."""

    id: str
    """Marks requests that went through this CDN (`CDN-Loop`)."""
    acme_directory: str
    acme_email: str = ""
    acme_roots: str = ""
    """PEM of the CA behind the directory's own HTTPS, where the public ones do not know it."""
    visitor_roots: str = ""
    """PEM that a probe trusts beside nothing else; "" takes the public ones."""
    zone: str = ""
    ttl: int = 30
    parent: str = ""
    """Address of a name server of the zone above; "" finds it."""
    caddy: CaddySource = CaddySource()
