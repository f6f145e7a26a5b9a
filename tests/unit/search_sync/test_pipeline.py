"""The way into an index, against Meilisearch at its worst: nothing is lost, nothing overtakes, the mark never lies."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opsdeck_search_sync.changes import Counts, Json
from opsdeck_search_sync.documents import document_id
from opsdeck_search_sync.lane import beside
from opsdeck_search_sync.meilisearch import Meilisearch, Problem
from opsdeck_search_sync.pipeline import Id, Limits, Op, Pipeline, Verb, coalesced

from opsdeck.api import Refused, Unavailable

pytestmark = pytest.mark.timeout(60)


class Way:
    """A pipeline with what it told."""

    def __init__(self, client: Meilisearch, **limits: Any) -> None:
        self.marks: list[int] = []
        self.dead: dict[Id, str] = {}
        limits = {"documents": 50, "age": 0.02, "patience": 2.0, "retry_first": 0.05} | limits
        self.pipeline: Pipeline[int] = Pipeline(
            client, "it", on_mark=self._mark, on_dead=self._dead, limits=Limits(**limits)
        )

    async def _mark(self, mark: int, _counts: Counts) -> None:
        self.marks.append(mark)

    async def _dead(self, id_: Id, _op: Op, problem: Problem) -> None:
        self.dead[id_] = problem.code

    async def send(self, batches: Sequence[Sequence[tuple[Id, Op]]]) -> None:
        async def work() -> None:
            for number, ops in enumerate(batches, 1):
                await self.pipeline.put(ops, number, bytes_=100)
            await self.pipeline.drain()

        await beside(work, self.pipeline.run)


def put(id_: int, **fields: Json) -> tuple[Id, Op]:
    return id_, Op(Verb.REPLACE, {"id": id_, **fields})


@pytest.fixture
async def index(client: Meilisearch) -> Meilisearch:
    await client.done(await client.create("it", "id"))
    return client


async def test_the_last_of_each_document_counts(index: Meilisearch, meili: Any) -> None:
    way = Way(index)
    await way.send([[put(number % 30, v=number)] for number in range(300)])
    assert {int(id_): body["v"] for id_, body in meili.documents("it").items()} == {n: 270 + n for n in range(30)}
    assert way.marks[-1] == 300 and way.marks == sorted(way.marks)


async def test_one_refused_document_stops_no_other(index: Meilisearch, meili: Any) -> None:
    meili.fault(refuse=["7", "123"])
    way = Way(index)
    await way.send([[put(n, v=1) for n in range(start, start + 50)] for start in range(0, 200, 50)])
    assert set(way.dead) == {7, 123}
    assert len(meili.documents("it")) == 198 and way.marks[-1] == 4


async def test_a_bad_place_fails_a_whole_batch_and_is_found(index: Meilisearch, meili: Any) -> None:
    await index.done(await index.settings("it", {"filterableAttributes": ["_geo"]}))
    way = Way(index)
    ops = [put(n, v=1) for n in range(100)]
    ops[40] = (40, Op(Verb.REPLACE, {"id": 40, "_geo": {"lat": "x", "lng": 1}}))
    await way.send([ops])
    assert way.dead == {40: "invalid_document_geo_field"} and len(meili.documents("it")) == 99


async def test_nothing_overtakes_after_a_failure(index: Meilisearch, meili: Any) -> None:
    meili.fault(fail_batches=3, fail_code="internal", batch=1)
    way = Way(index, documents=1)
    await way.send([[put(1, v=n)] for n in range(40)])
    assert meili.documents("it")["1"]["v"] == 39 and way.dead == {}


async def test_it_waits_while_meilisearch_is_full_or_away(index: Meilisearch, meili: Any) -> None:
    meili.fault(http_503=4)
    way = Way(index)
    await way.send([[put(n, v=1)] for n in range(20)])
    meili.fault(full=True)
    late = asyncio.create_task(Way(index).send([[put(100 + n, v=1)] for n in range(5)]))
    await asyncio.sleep(0.6)
    meili.fault(full=False)
    await late
    assert len(meili.documents("it")) == 25


async def test_the_mark_stands_still_while_it_waits_and_the_wait_ends(index: Meilisearch, meili: Any) -> None:
    meili.fault(full=True)
    way = Way(index, patience=0.5)
    with pytest.raises(Unavailable):
        await way.send([[put(1, v=1)]])
    assert way.marks == []


async def test_what_no_document_is_guilty_of_stops_the_sync(index: Meilisearch, meili: Any) -> None:
    meili.fault(fail_batches=10_000, fail_code="index_primary_key_no_candidate_found")
    with pytest.raises(Refused, match="index_primary_key"):
        await Way(index).send([[put(1, v=1)]])


async def test_too_large_for_one_request_is_halved(index: Meilisearch, meili: Any) -> None:
    if not meili.stand_in:
        pytest.skip("its limit is that of the stand-in")
    way = Way(index)
    await way.send([[put(n, text="x" * 300_000) for n in range(20)]])
    assert len(meili.documents("it")) == 20 and way.dead == {}


async def test_merges_keep_the_other_fields_and_deletes_come_last(index: Meilisearch, meili: Any) -> None:
    way = Way(index)
    await way.send([[put(1, a=1, b=2), put(2, a=1)], [(1, Op(Verb.MERGE, {"id": 1, "a": 9}))], [(2, Op(Verb.DELETE))]])
    await Way(index).send([[(1, Op(Verb.MERGE, {"id": 1, "b": 8}))]])
    assert meili.documents("it") == {"1": {"id": 1, "a": 9, "b": 8}}


OPS = st.one_of(
    st.builds(Op, st.just(Verb.DELETE)),
    st.builds(Op, st.sampled_from([Verb.REPLACE, Verb.MERGE]), st.dictionaries(st.sampled_from("abc"), st.integers())),
)


@given(
    st.lists(OPS, min_size=1, max_size=6), st.one_of(st.none(), st.dictionaries(st.sampled_from("abc"), st.integers()))
)
def test_coalescing_changes_nothing(ops: list[Op], before: dict[str, int] | None) -> None:
    def apply(state: Any, op: Op) -> Any:
        if op.verb is Verb.DELETE:
            return None
        return {**(state or {}), **op.body} if op.verb is Verb.MERGE else dict(op.body)

    one_by_one: Any = before
    joined: Op | None = None
    for op in ops:
        one_by_one = apply(one_by_one, op)
        joined = coalesced(joined, op)
    assert joined is not None and apply(before, joined) == one_by_one


@given(st.lists(st.one_of(st.integers(), st.text(), st.booleans()), min_size=1, max_size=4))
def test_every_key_becomes_a_legal_id(key: list[Any]) -> None:
    made = document_id(key)
    assert isinstance(made, int) or (
        0 < len(made) <= 511 and made.replace("-", "").replace("_", "").isalnum() and made.isascii()
    )


@given(
    st.lists(st.text(alphabet="ab-_1", min_size=1), min_size=2, max_size=2),
    st.lists(st.text(alphabet="ab-_1", min_size=1), min_size=2, max_size=2),
)
def test_different_keys_have_different_ids(one: list[str], other: list[str]) -> None:
    assert (document_id(one) == document_id(other)) == (one == other)
