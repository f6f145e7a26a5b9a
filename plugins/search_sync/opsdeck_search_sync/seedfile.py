"""Reading the `config.yml` of meilisync, so that who used it can go on from there.

Every field is taken over, left out with the reason, or refused by name; nothing is passed over in silence. Source of
the fields: meilisync 0.1.3's own settings, and the connection arguments of the drivers that it hands them to.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import yaml

from opsdeck.api import Invalid, Sensitive

_LEFT_OUT: dict[str, str] = {
    "debug": "the log of a sync is on its page",
    "progress": "positions are kept in OpsDeck's own database; each table is copied once, so none is taken over",
    "sentry": "faults are incidents of OpsDeck, which tells them",
}
_HARMLESS = frozenset(
    {"charset", "connect_timeout", "read_timeout", "autocommit", "application_name", "client_encoding", "keepalives",
     "keepalives_idle", "keepalives_interval", "keepalives_count", "appname", "serverselectiontimeoutms",
     "connecttimeoutms", "sockettimeoutms", "maxpoolsize", "directconnection", "replicaset"}
)  # fmt: skip
_TLS = frozenset({"ssl", "sslmode", "sslrootcert", "sslcert", "sslkey", "tls", "tlscafile"})
_SAME: dict[str, dict[str, str]] = {
    "mysql": {"host": "address", "port": "port", "user": "user", "password": "password", "database": "database",
              "db": "database", "passwd": "password"},
    "postgres": {"host": "address", "port": "port", "user": "user", "password": "password", "database": "database",
                 "dbname": "database"},
    "mongo": {"host": "address", "port": "port", "username": "user", "password": "password", "database": "database"},
}  # fmt: skip
_PORTS = {"mysql": 3306, "postgres": 5432, "mongo": 27017}
KINDS = {"mysql": "mysql", "postgres": "postgres", "mongo": "mongodb"}
"""The kinds of sources here. Whether `mysql` is a MariaDB is asked of the server."""
NOTHING = "meilisync.plugin.Plugin"
"""The plugin of the seed's examples, which does nothing."""
_TOP = ("debug", "plugins", "progress", "source", "meilisearch", "sync", "sentry")
_SYNC = ("table", "index", "pk", "full", "fields", "plugins")


@dataclass(frozen=True)
class Outcome:
    """What becomes of one field."""

    field: str
    what: str
    """`taken`, `left out` or `refused`."""
    why: str


@dataclass(frozen=True)
class SeedSync:
    """One table, as `save_sync` takes it."""

    name: str
    table: str
    index: str
    mapping: dict[str, Any]


@dataclass(frozen=True)
class Seed:
    """A whole file."""

    kind: str
    source: dict[str, Any]
    """Parameters of `save_source` without name, kind and secret."""
    password: Sensitive | None
    instance: dict[str, Any]
    """Parameters of `save_instance` without name and secret."""
    key: Sensitive | None
    syncs: tuple[SeedSync, ...]
    outcomes: tuple[Outcome, ...]

    @property
    def refused(self) -> tuple[Outcome, ...]:
        """Give what cannot be taken over."""
        return tuple(one for one in self.outcomes if one.what == "refused")


@dataclass
class _Told:
    outcomes: list[Outcome] = field(default_factory=list)

    def taken(self, place: str, why: str) -> None:
        self.outcomes.append(Outcome(place, "taken", why))

    def left(self, place: str, why: str) -> None:
        self.outcomes.append(Outcome(place, "left out", why))

    def refused(self, place: str, why: str) -> None:
        self.outcomes.append(Outcome(place, "refused", why))

    def unknown(self, given: Mapping[str, Any], known: tuple[str, ...], before: str = "") -> None:
        """Refuse the fields that the seed does not know either, with the nearest that it does."""
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, 1, 0.5)
                hint = f"; did you mean {near[0]}?" if near else ""
                self.refused(f"{before}{name}", f"meilisync knows no such field{hint}")


def read(text: str, hooks: Mapping[str, str] | None = None, ca: str = "") -> Seed:
    """Read a file. `hooks` names the hook that stands for each plugin, `ca` is the certificate of the authority that
    the database's is checked against. Raises `Invalid` for what is no such file."""
    given = _loaded(text)
    told = _Told()
    told.unknown(given, _TOP)
    for name, why in _LEFT_OUT.items():
        if name in given:
            told.left(name, why)
    kind, source, password = _source(_mapping(given, "source"), ca, told)
    instance, key = _instance(_mapping(given, "meilisearch"), told)
    everywhere = _hooks(given.get("plugins"), "plugins", hooks or {}, told)
    rows = given.get("sync")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise Invalid("sync must be a list of tables.", field="sync", hint="see meilisync's example of config.yml")
    syncs = [_sync(row, f"sync[{number}].", everywhere, hooks or {}, told) for number, row in enumerate(rows)]
    for number, sync in enumerate(syncs):
        if sync.index in [other.index for other in syncs[:number]]:
            told.refused(f"sync[{number}].index", f"another sync writes to {sync.index!r} already; name another index")
    return Seed(kind, source, password, instance, key, tuple(_named(syncs)), tuple(told.outcomes))


def _loaded(text: str) -> dict[str, Any]:
    try:
        given = yaml.safe_load(text)
    except yaml.YAMLError as fault:
        mark = getattr(fault, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise Invalid(f"this is no YAML{where}.", field="config", hint="give meilisync's config.yml") from fault
    if not isinstance(given, dict):
        raise Invalid("this is no config.yml of meilisync.", field="config", hint="it has source, meilisearch and sync")
    return given


def _mapping(given: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = given.get(name)
    if not isinstance(found, dict):
        raise Invalid(f"{name} is missing or no object.", field=name, hint="see meilisync's example of config.yml")
    return {str(key): value for key, value in found.items()}


def _tls(place: str, value: Any, made: dict[str, Any], told: _Told) -> None:
    """Take over how the link is kept; a file with an authority's certificate is given anew, by `--tls-ca`."""
    name, word = place.rpartition(".")[2].lower(), str(value).lower()
    asked = {"disable": "off", "allow": "prefer", "prefer": "prefer", "require": "require", "true": "verify"}
    if name in {"sslcert", "sslkey"}:
        told.refused(place, "logging in by a certificate is not known here; give the user a password")
    elif made.get("tls_ca"):
        told.taken(place, "the certificate is checked against --tls-ca")
    elif name in {"sslmode", "ssl", "tls"} and word in asked:
        made["tls"] = asked[word]
        told.taken(place, f"tls = {asked[word]}")
    else:
        told.refused(place, "name the file with the authority's certificate by --tls-ca; then it is checked")


def _source(given: dict[str, Any], ca: str, told: _Told) -> tuple[str, dict[str, Any], Sensitive | None]:
    kind = str(given.pop("type", ""))
    if kind not in KINDS:
        raise Invalid(f"source.type is {kind!r}.", field="source.type", hint=f"one of {', '.join(KINDS)}")
    told.taken("source.type", kind)
    made: dict[str, Any] = {"address": "127.0.0.1", "port": _PORTS[kind], "user": "", "database": ""}
    if ca:
        made |= {"tls": "verify", "tls_ca": ca}
    password = None
    for name, value in given.items():
        place, same = f"source.{name}", _SAME[kind].get(name)
        if same == "password":
            password = Sensitive(str(value)) if value not in (None, "") else None
            told.taken(place, "sealed as a secret")
        elif same == "address" and "://" in str(value):
            told.refused(place, "an address with a scheme; write host, port, username and password one by one")
        elif same == "port":
            made["port"] = _number(place, value, 1, 65535)
            told.taken(place, str(made["port"]))
        elif same is not None:
            made[same] = str(value if value is not None else "")
            told.taken(place, made[same])
        elif name == "server_id" and kind == "mysql":
            told.left(place, "each sync reads under a number of its own; two readers under one end each other")
        elif name.lower() in _TLS:
            _tls(place, value, made, told)
        elif name.lower() in _HARMLESS:
            told.left(place, "OpsDeck sets its own")
        else:
            known = tuple({*_SAME[kind], "server_id"} if kind == "mysql" else _SAME[kind])
            near = difflib.get_close_matches(name, known, 1, 0.6)
            told.refused(place, "not known here" + (f"; did you mean {near[0]}?" if near else ""))
    if not made["database"]:
        told.refused("source.database", "is missing")
    if not made["user"] and kind != "mongo":
        told.refused("source.user", "is missing")
    return kind, made, password


def _instance(given: dict[str, Any], told: _Told) -> tuple[dict[str, Any], Sensitive | None]:
    told.unknown(given, ("api_url", "api_key", "insert_size", "insert_interval"), "meilisearch.")
    url = str(given.get("api_url") or "")
    if urlsplit(url).scheme not in {"http", "https"}:
        raise Invalid(f"meilisearch.api_url is {url!r}.", field="meilisearch.api_url", hint="http://127.0.0.1:7700")
    told.taken("meilisearch.api_url", url)
    made: dict[str, Any] = {"url": url}
    key = Sensitive(str(given["api_key"])) if given.get("api_key") else None
    if "api_key" in given:
        told.taken("meilisearch.api_key", "sealed as a secret" if key else "none")
    if given.get("insert_size"):
        made["batch"] = _number("meilisearch.insert_size", given["insert_size"], 1, 50_000)
        told.taken("meilisearch.insert_size", f"at most {made['batch']} documents at once")
    if given.get("insert_interval"):
        made["wait"] = _number("meilisearch.insert_interval", given["insert_interval"], 1, 60)
        told.taken("meilisearch.insert_interval", f"a change waits at most {made['wait']} s for company")
    return made, key


def _hooks(given: Any, place: str, hooks: Mapping[str, str], told: _Told) -> list[str]:
    names = given or []
    if not isinstance(names, list):
        raise Invalid(f"{place} must be a list.", field=place, hint="of names like module.Class")
    made = []
    for number, name in enumerate(names):
        at = f"{place}[{number}]"
        if name == NOTHING:
            told.left(at, "it does nothing")
        elif name in hooks:
            made.append(hooks[name])
            told.taken(at, f"the hook {hooks[name]}")
        else:
            told.refused(at, f"{name}: write it as a hook and name that with --hook {name}=NAME")
    return made


def _sync(
    given: Mapping[str, Any], before: str, everywhere: list[str], hooks: Mapping[str, str], told: _Told
) -> SeedSync:
    told.unknown(given, _SYNC, before)
    table = str(given.get("table") or "")
    if not table:
        raise Invalid(f"{before}table is missing.", field=f"{before}table", hint="name the table")
    index, key = str(given.get("index") or table), str(given.get("pk") or "id")
    told.taken(f"{before}table", table)
    told.taken(f"{before}index", index)
    told.taken(f"{before}pk", key)
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,200}", index):
        told.refused(f"{before}index", "Meilisearch takes letters, digits, - and _ in an index's name")
    if "full" in given and not given["full"]:
        told.left(f"{before}full", "the table is copied in any case: without it nobody knows what the index lacks")
    elif "full" in given:
        told.taken(f"{before}full", "the table is copied, then followed")
    mapping: dict[str, Any] = {"id": key}
    fields = given.get("fields")
    if fields is not None and not isinstance(fields, dict):
        raise Invalid(f"{before}fields must be an object.", field=f"{before}fields", hint="column: name, or column:")
    if fields:
        mapping["fields"] = [
            {"column": str(column)} | ({"name": str(name)} if name not in (None, "", column) else {})
            for column, name in fields.items()
        ]
        told.taken(f"{before}fields", ", ".join(map(str, fields)))
        if key in fields and fields[key] not in (None, "", key):
            told.refused(f"{before}fields.{key}", f"{key} is the primary key and keeps its name; take pk out of fields")
    own = _hooks(given.get("plugins"), f"{before}plugins", hooks, told)
    if everywhere or own:
        mapping["hooks"] = [*everywhere, *own]
    return SeedSync("", table, index, mapping)


def _number(place: str, value: Any, least: int, most: int) -> int:
    try:
        number = int(str(value))
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        raise Invalid(f"{place} is {value!r}.", field=place, hint=f"a whole number from {least} to {most}")
    return number


def _named(syncs: list[SeedSync]) -> list[SeedSync]:
    """Name syncs after their indexes, each once."""
    made: list[SeedSync] = []
    for sync in syncs:
        base = name = plain(sync.index)
        number = 2
        while name in {other.name for other in made}:
            name, number = f"{base[:36]}_{number}", number + 1
        made.append(SeedSync(name, sync.table, sync.index, sync.mapping))
    return made


def plain(text: str) -> str:
    """Make a name of a text: small letters, digits and _."""
    made = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:40]
    return made if made and made[0].isalpha() else f"s_{made}"[:40].rstrip("_")
