"""Python of a person between row and document: what it may do, what it may not break, and whose file it must be."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from opsdeck_search_sync import hooks
from opsdeck_search_sync.changes import Column, Put
from opsdeck_search_sync.mapping import Mapper
from opsdeck_search_sync.pipeline import Verb
from opsdeck_search_sync.rules import MappingRules

from opsdeck.api import Invalid, NotFound, Refused

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def shop(one_shop: Any) -> Any:
    """What is tested here does not depend on the kind of source."""
    return one_shop


COLUMNS = (Column("id", "int8", key=True), Column("title", "text"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / hooks.FOLDER
    made.mkdir(mode=0o755)
    return made


def mapper(folder: Path, *texts: str) -> Mapper:
    names = [f"h{number}" for number, _text in enumerate(texts)]
    for name, text in zip(names, texts, strict=True):
        (folder / f"{name}.py").write_text(text)
    return Mapper(MappingRules(hooks=names), COLUMNS, hooks.load(folder.parent, names))


def test_hooks_change_documents_one_after_the_other(folder: Path) -> None:
    made = mapper(
        folder,
        "def document(row, document):\n    return document | {'upper': row['title'].upper(), 'id': 'mine'}",
        "def document(row, document):\n    document['long'] = len(document['upper'])\n    return document",
    ).op({"id": 7, "title": "abc"})
    assert (made.verb, made.body) == (Verb.REPLACE, {"id": 7, "title": "abc", "upper": "ABC", "long": 3})


def test_none_leaves_a_row_out(folder: Path) -> None:
    one = mapper(folder, "def document(row, document):\n    return None if row['title'] == 'x' else document")
    ops = list(one.operations([Put({"id": 1, "title": "x"}), Put({"id": 2, "title": "y"})]))
    assert [(id_, op.verb) for id_, op in ops] == [(1, Verb.DELETE), (2, Verb.REPLACE)]  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def document(row, document):\n    return row['nope']", "KeyError in line 2"),
        ("def document(row, document):\n    return 7", "gave a int"),
        ("def document(row, document):\n    raise SystemError('no')", "SystemError in line 2: no"),
    ],
)
def test_a_hook_that_fails_holds_back_its_document_and_no_other(folder: Path, text: str, said: str) -> None:
    op = mapper(folder, text).op({"id": 1, "title": "x"})
    assert op.verb is Verb.HOLD and said in op.why and op.body == {"id": 1, "title": "x"}


def test_a_broken_place_from_a_hook_spoils_no_batch(folder: Path) -> None:
    op = mapper(folder, "def document(row, document):\n    return document | {'_geo': {'lat': 91, 'lng': 0}}").op(
        {"id": 1, "title": "x"}
    )
    assert op.body["_geo"] is None


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("def document(row, document)\n    return 1", Invalid, "line 1"),
        ("1 / 0", Invalid, "ZeroDivisionError in line 1"),
        ("x = 1", Invalid, "neither document nor after"),
        ("async def document(row, document):\n    return 1", Invalid, "no plain function"),
        ("document = 7", Invalid, "no plain function"),
    ],
)
def test_what_is_no_hook_is_refused_with_its_line(folder: Path, text: str, error: type, said: str) -> None:
    with pytest.raises(error, match=said):
        mapper(folder, text)


def test_a_hook_that_others_may_write_is_not_run(folder: Path) -> None:
    file = folder / "h0.py"
    mapper(folder, "def document(row, document):\n    return document")
    file.chmod(0o666)
    with pytest.raises(Refused, match=f"others may write to {file}"):
        hooks.load(folder.parent, ["h0"])
    file.chmod(0o644)
    folder.chmod(0o777)
    with pytest.raises(Refused, match="others may write"):
        hooks.load(folder.parent, ["h0"])


def test_a_hook_is_named_and_never_a_path(folder: Path) -> None:
    with pytest.raises(NotFound, match="no hook 'away'"):
        hooks.load(folder.parent, ["away"])
    for name in ("../x", "a.b", "/etc/passwd", ""):
        with pytest.raises(ValueError, match="small letters"):
            MappingRules(hooks=[name])


async def test_a_hook_that_hangs_is_not_waited_for(monkeypatch: Any) -> None:
    monkeypatch.setattr(hooks, "BOUND", 0.1)
    stop = asyncio.Event()
    with pytest.raises(Refused, match="did not come back"):
        await hooks.bounded(lambda: __import__("time").sleep(0.5))
    stop.set()


HOOK = """
def document(row, document):
    if row["title"] == "bad":
        raise ValueError("no such title")
    document["words"] = row["title"].split()
    return None if row["title"] == "secret" else document

def after(written, removed):
    with open(__file__ + ".log", "a") as log:
        print(sorted(written), sorted(removed), file=log)
"""


async def test_a_sync_with_a_hook_copies_follows_and_retries(bench: Any) -> None:
    folder = bench.deck.settings.home / hooks.FOLDER
    folder.mkdir(mode=0o755)
    (folder / "words.py").write_text(HOOK)
    bench.shop.sql("INSERT INTO item (id, title, price) VALUES (1, 'a b', 1), (2, 'bad', 1), (3, 'secret', 1)")
    mapping = {"fields": [{"column": "id"}, {"column": "title"}], "hooks": ["words"]}
    receipt = await bench.define(mapping=mapping)
    assert {"id": 1, "title": "a b", "words": ["a", "b"]} in receipt["preview"]
    assert any("no such title" in str(one.get("!")) for one in receipt["preview"])
    await bench.act("start", sync="items")
    bench.run()
    await bench.until(lambda: list(bench.meili.documents("items")) == ["1"])
    bench.shop.sql("UPDATE item SET title = 'c' WHERE id = 1")
    bench.shop.sql("INSERT INTO item (id, title, price) VALUES (4, 'd', 1)")
    bench.shop.sql("UPDATE item SET title = 'secret' WHERE id = 4")
    await bench.until(lambda: bench.meili.documents("items") == {"1": {"id": 1, "title": "c", "words": ["c"]}})
    checked = await bench.act("check", sync="items")
    assert checked["equal"] and checked["dead_letters"] == 1
    assert "[1]" in (folder / "words.py.log").read_text() and "[4]" in (folder / "words.py.log").read_text()
    (folder / "words.py").write_text(HOOK.replace('"bad"', '"worse"'))
    await bench.act("pause", sync="items")
    await bench.until(lambda: not bench.services())
    await bench.act("resume", sync="items")
    await bench.until(bench.services)
    await bench.act("retry_dead", sync="items")
    await bench.until(lambda: set(bench.meili.documents("items")) == {"1", "2"})
    assert "neither document nor after" in await bench.refused(
        "save_sync", name="other", source="shop", instance="search", table="item", index="other",
        mapping=json.dumps({"hooks": [_empty(folder)]}),
    )  # fmt: skip


def _empty(folder: Path) -> str:
    (folder / "empty.py").write_text("")
    return "empty"
