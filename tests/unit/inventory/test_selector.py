from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsdeck.errors import Invalid, NotFound
from opsdeck.inventory.names import host_name
from opsdeck.inventory.selector import Selector


@dataclass
class Stub:
    name: str
    tags: dict[str, str] = field(default_factory=dict)
    region: str = ""


FLEET = (
    Stub("db1", {"role": "db", "prod": ""}, "fra"),
    Stub("edge-fra", {"role": "edge", "prod": ""}, "fra"),
    Stub("edge-tyo", {"role": "edge"}, "Tokyo"),
    Stub("web1", {"role": "web"}, "new york"),
)
NAMES = [host.name for host in FLEET]


def names(text: str) -> list[str]:
    return [host.name for host in Selector.parse(text).match(FLEET)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", NAMES),
        ("web1", ["web1"]),
        ("WEB1", ["web1"]),
        ("edge-*", ["edge-fra", "edge-tyo"]),
        ("edge-[tx]*", ["edge-tyo"]),
        ("tag:role=edge", ["edge-fra", "edge-tyo"]),
        ("tag:role", NAMES),
        ("tag:prod", ["db1", "edge-fra"]),
        ("tag:role=e*", ["edge-fra", "edge-tyo"]),
        ("tag: role = edge", ["edge-fra", "edge-tyo"]),
        ("region:tokyo", ["edge-tyo"]),
        ("region:new york", ["web1"]),
        ("web1,db1", ["db1", "web1"]),
        (" web1 , db1, ", ["db1", "web1"]),
        ("!web1", ["db1", "edge-fra", "edge-tyo"]),
        ("! web1", ["db1", "edge-fra", "edge-tyo"]),
        ("edge-*,!edge-fra", ["edge-tyo"]),
        ("!edge-fra,edge-*", ["edge-tyo"]),
        ("!all", []),
        ("nothing-*", []),
        ("tag:none", []),
        ("web1,web1", ["web1"]),
    ],
)
def test_what_is_meant(text: str, expected: list[str]) -> None:
    assert names(text) == expected


@pytest.mark.parametrize(
    "text", ["", " ", ",", "!", "a b", "$(id)", "tag:", "tag:=x", "region:", "x:y", "-x", "!!a", "a/b"]
)
def test_no_selector(text: str) -> None:
    with pytest.raises(Invalid) as fault:
        Selector.parse(text)
    assert fault.value.field == "selector"
    assert fault.value.hint


@pytest.mark.parametrize("text", ["web2", "web1,web2", "!web2"])
def test_an_unknown_host_is_named_with_names_like_it(text: str) -> None:
    with pytest.raises(NotFound) as fault:
        names(text)
    assert fault.value.host == "web2"
    assert "web1" in (fault.value.hint or "")


def test_an_unknown_host_in_an_empty_fleet() -> None:
    with pytest.raises(NotFound, match="opsdeck host add"):
        Selector.parse("web1").match(())


terms = st.one_of(
    st.sampled_from([*NAMES, "all", "edge-*", "*", "tag:role=edge", "tag:prod", "region:fra", "db?"]),
).flatmap(lambda word: st.sampled_from([word, f"!{word}", f" {word} "]))
selectors = st.lists(terms, min_size=1, max_size=5).map(",".join)
plain = selectors.filter(lambda text: "!" not in text)


@given(selectors)
def test_the_plain_form_means_the_same(text: str) -> None:
    once = Selector.parse(text)
    assert Selector.parse(str(once)) == once
    assert once.match(FLEET) == Selector.parse(str(once)).match(FLEET)
    assert names(f"{text},{text}") == names(text)


@given(plain, plain)
def test_a_comma_is_a_union(one: str, other: str) -> None:
    assert set(names(f"{one},{other}")) == set(names(one)) | set(names(other))


@given(
    selectors.filter(lambda text: "!" not in text), st.sampled_from(["db1", "edge-*", "tag:prod", "region:fra", "all"])
)
def test_an_exclusion_takes_away(text: str, out: str) -> None:
    assert set(names(f"{text},!{out}")) == set(names(text)) - set(names(out))
    assert names(f"!{out},{text}") == names(f"{text},!{out}")
    assert set(names(f"!{out}")) == set(NAMES) - set(names(out))


@given(st.text(max_size=30))
def test_any_text_is_a_selector_or_a_clear_error(text: str) -> None:
    try:
        selector = Selector.parse(text)
    except Invalid as fault:
        assert fault.hint
        return
    assert Selector.parse(str(selector)) == selector


def test_of_names() -> None:
    assert str(Selector.of(["b", "a", "b"])) == "b,a"


@pytest.mark.parametrize("text", ["web1", "1a", "a.b-c_d", "x" * 63, " Web1 "])
def test_good_names(text: str) -> None:
    assert host_name(text) == text.strip().lower()
    assert Selector.parse(host_name(text)).terms[0].kind == "name"


@pytest.mark.parametrize(
    "text", ["", "all", "ALL", "-a", "!a", ".a", "a b", "a,b", "tag:x", "ä", "x" * 64, "a\nb", "a*"]
)
def test_bad_names(text: str) -> None:
    with pytest.raises(Invalid) as fault:
        host_name(text)
    assert fault.value.field == "name"
