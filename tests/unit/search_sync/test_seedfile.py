"""The `config.yml` of meilisync: each of its fields is taken, left out or refused, and always named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from opsdeck_search_sync import bringing, seedfile
from opsdeck_search_sync.bringing import Wish
from opsdeck_search_sync.rules import MappingRules

from opsdeck.api import Invalid, Refused

SEEDS = Path(__file__).parent / "seeds"
BASE: dict[str, Any] = {
    "progress": {"type": "file"},
    "source": {"type": "mysql", "host": "db", "user": "u", "password": "p", "database": "shop"},
    "meilisearch": {"api_url": "http://m:7700", "api_key": None},
    "sync": [{"table": "item"}],
}


def read(name: str, **hooks: str) -> seedfile.Seed:
    return seedfile.read((SEEDS / name).read_text(), hooks)


def with_(place: str, value: Any) -> str:
    """The base file with one field set; `place` like `source.port` or `sync.0.pk`."""
    made: Any = yaml.safe_load(yaml.safe_dump(BASE))
    *path, last = place.split(".")
    at = made
    for part in path:
        at = at[int(part)] if part.isdigit() else at[part]
    at[last] = value
    return yaml.safe_dump(made)


def leaves(data: Any, place: str = "") -> set[str]:
    """Every field of a file as outcomes name it."""
    if isinstance(data, dict) and place in {"", "source", "meilisearch"} | {f"sync[{n}]" for n in range(9)}:
        return {leaf for key, value in data.items() for leaf in leaves(value, f"{place}.{key}".lstrip("."))}
    if isinstance(data, list) and (place == "sync" or place.endswith("plugins")):
        return {leaf for number, value in enumerate(data) for leaf in leaves(value, f"{place}[{number}]")}
    return {place} if data not in (None, []) or not place.endswith("fields") else set()


@pytest.mark.parametrize("name", ["readme.yml", "postgres.yml", "mongo.yml"])
def test_every_field_of_real_files_is_named(name: str) -> None:
    seed = read(name)
    assert not seed.refused
    assert leaves(yaml.safe_load((SEEDS / name).read_text())) <= {one.field for one in seed.outcomes}
    for sync in seed.syncs:
        MappingRules.model_validate(sync.mapping)
    assert "s3cret" not in str(seed) + str(bringing.plan(Wish((SEEDS / name).read_text())).as_data())


def test_the_example_of_the_readme() -> None:
    seed = read("readme.yml")
    assert seed.source == {"address": "192.0.2.205", "port": 3306, "user": "root", "database": "beauty"}
    assert seed.password is not None and seed.password.reveal() == "123456" and seed.key is None
    assert seed.instance == {"url": "http://192.0.2.205:7700", "batch": 1000, "wait": 10}
    one, two = seed.syncs
    assert (one.name, one.table, one.index) == ("beauty_collections", "collection", "beauty-collections")
    assert one.mapping == {
        "id": "id",
        "fields": [{"column": "id"}, {"column": "title", "name": "name"}, {"column": "description"}],
    }
    assert two.mapping == {"id": "id"}, "no fields takes every column"
    left = {each.field for each in seed.outcomes if each.what == "left out"}
    assert left == {"debug", "progress", "sentry", "plugins[0]", "sync[0].plugins[0]", "sync[1].full"}


def test_postgres_and_mongo() -> None:
    seed = read("postgres.yml")
    assert (seed.kind, seed.source["port"], seed.syncs[0].mapping) == ("postgres", 5432, {"id": "uid"})
    assert seed.key is not None and seed.key.reveal() == "aSampleMasterKey"
    seed = read("mongo.yml")
    assert (seed.kind, seed.source["user"], seed.syncs[0].mapping["id"]) == ("mongo", "root", "_id")


@pytest.mark.parametrize(
    ("place", "value", "field", "said"),
    [
        ("fields_mapping", {}, "fields_mapping", "no such field"),
        ("sync.0.fields_mapping", {}, "sync[0].fields_mapping", "no such field"),
        ("sync.0.ful", True, "sync[0].ful", "did you mean full"),
        ("sync.0.index", "a b", "sync[0].index", "letters, digits"),
        ("sync.0.fields", {"id": "key", "t": None}, "sync[0].fields.id", "keeps its name"),
        ("sync.0.plugins", ["my.Plugin"], "sync[0].plugins[0]", "--hook my.Plugin=NAME"),
        ("plugins", ["my.Plugin"], "plugins[0]", "write it as a hook"),
        ("sync", [{"table": "a", "index": "x"}, {"table": "b", "index": "x"}], "sync[1].index", "writes to 'x'"),
        ("source.passwrd", "x", "source.passwrd", "did you mean passw"),
        ("source.ssl", {"ca": "/x"}, "source.ssl", "--tls-ca"),
        ("source.sslkey", "/x", "source.sslkey", "by a certificate"),
        ("source.unix_socket", "/run/x", "source.unix_socket", "not known"),
        ("source.host", "mongodb://a,b/", "source.host", "one by one"),
        ("source.user", "", "source.user", "missing"),
        ("source.database", "", "source.database", "missing"),
        ("meilisearch.insert_sise", 1, "meilisearch.insert_sise", "did you mean insert_size"),
    ],
)
def test_what_cannot_be_taken_over_is_refused_by_name(place: str, value: Any, field: str, said: str) -> None:
    brought = bringing.plan(Wish(with_(place, value)))
    (refused,) = brought.seed.refused
    assert refused.field == field and said in refused.why
    with pytest.raises(Refused, match=re.escape(said)):
        brought.must_be_whole()


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("[1, 2]", "config"),
        ("a: [", "config"),
        ("", "config"),
        (with_("source", None), "source"),
        (with_("source.type", "oracle"), "source.type"),
        (with_("source.port", 70000), "source.port"),
        (with_("meilisearch.api_url", "m:7700"), "meilisearch.api_url"),
        (with_("meilisearch.insert_size", "many"), "meilisearch.insert_size"),
        (with_("meilisearch.insert_interval", 3600), "meilisearch.insert_interval"),
        (with_("sync", []), "sync"),
        (with_("sync.0.table", ""), "sync[0].table"),
        (with_("sync.0.fields", ["id"]), "sync[0].fields"),
        (with_("sync.0.plugins", "x"), "sync[0].plugins"),
    ],
)
def test_what_is_no_such_file_is_refused_with_its_place(text: str, field: str) -> None:
    with pytest.raises(Invalid) as caught:
        seedfile.read(text)
    assert caught.value.field == field and caught.value.hint


@pytest.mark.parametrize(
    ("name", "value", "ca", "tls"),
    [("sslmode", "disable", "", "off"), ("sslmode", "require", "", "require"), ("ssl", True, "", "verify"),
     ("sslmode", "verify-full", "PEM", "verify"), ("sslrootcert", "/x", "PEM", "verify")],
)  # fmt: skip
def test_how_the_link_is_kept_is_taken_over(name: str, value: Any, ca: str, tls: str) -> None:
    seed = seedfile.read(with_(f"source.{name}", value), ca=ca)
    assert not seed.refused and seed.source["tls"] == tls and seed.source.get("tls_ca", "") == ca


def test_plugins_become_hooks_in_their_order() -> None:
    text = yaml.safe_dump(BASE | {"plugins": ["a.All"], "sync": [{"table": "t", "plugins": ["b.One"]}, {"table": "u"}]})
    seed = seedfile.read(text, {"a.All": "everywhere", "b.One": "own"})
    assert [sync.mapping.get("hooks") for sync in seed.syncs] == [["everywhere", "own"], ["everywhere"]]
    with pytest.raises(Invalid, match="small letters"):
        bringing.plan(Wish(text, hooks={"a.All": "../x"}))


def test_names_are_made_of_indexes_each_once() -> None:
    text = with_("sync", [{"table": "t", "index": name} for name in ("Foo-Bar", "foo_bar", "9lives")])
    assert [sync.name for sync in seedfile.read(text).syncs] == ["foo_bar", "foo_bar_2", "s_9lives"]
