"""The chain: added to, never changed; a flipped byte, a removed row, a cut tail and a forged chain all show."""

from __future__ import annotations

import asyncio
import io
import json
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from opsdeck.accounts.models import User
from opsdeck.actor import SYSTEM, Actor, Door, Role
from opsdeck.audit.chain import Head, kept_heads
from opsdeck.audit.entry import GENESIS, LONGEST, Record
from opsdeck.audit.log import AuditLog, Filters
from opsdeck.clock import utcnow
from opsdeck.db import Database
from opsdeck.errors import Invalid
from opsdeck.secrets.keyring import Keyring
from opsdeck.secrets.sensitive import MASK, Sensitive

ADA = Actor("ada", Role.ADMIN, Door.WEB, "192.0.2.7")


async def fill(audit: AuditLog, count: int = 10) -> None:
    await audit.record_many([Record(ADA, "host.added", f"host:web{n}", {"n": n}) for n in range(1, count + 1)])


async def tamper(db: Database, *queries: str) -> None:
    """Change the table as someone who may also drop triggers."""
    if db.sqlite:
        drops = [f"DROP TRIGGER IF EXISTS core_audit_no_{verb}" for verb in ("update", "delete")]
    else:
        drops = ["ALTER TABLE core_audit DISABLE TRIGGER ALL"]
    async with db.write() as session:
        for query in (*drops, *queries):
            await (await session.connection()).execute(text(query))


async def test_an_entry_tells_all(audit: AuditLog) -> None:
    number = await audit.record(
        ADA, "host.changed", "host:web1", detail={"via": "form"}, before={"port": 22}, after={"port": 2222}
    )
    assert number == 1
    (entry,) = await audit.list()
    shown = entry.as_dict()
    assert {name: shown[name] for name in ("actor", "role", "door", "source", "verb", "target")} == {
        "actor": "ada",
        "role": "admin",
        "door": "web",
        "source": "192.0.2.7",
        "verb": "host.changed",
        "target": "host:web1",
    }
    assert (shown["detail"], shown["before"], shown["after"]) == ({"via": "form"}, {"port": 22}, {"port": 2222})
    assert entry.previous == GENESIS
    assert (await audit.head()) == Head(1, entry.hash)


async def test_what_does_not_fit_is_made_to_fit(audit: AuditLog) -> None:
    odd = {
        "secret": Sensitive("hunter22"),
        "bytes": b"\xff\x00",
        "surrogate": "\udcff",
        "nul": "a\0b",
        "float": float("nan"),
        "long": "x" * (LONGEST + 1),
        "time": utcnow(),
        "role": Role.ADMIN,
        "set": {1},
    }
    await audit.record(Actor("a\0\udcff", Role.VIEWER, Door.API), "x.done", "t:" + "y" * 900, detail=odd)
    (entry,) = await audit.list()
    detail = json.loads(entry.body)["detail"]
    assert detail["secret"] == MASK
    assert "hunter22" not in entry.body
    assert len(detail["long"]) < LONGEST + 120
    assert "sha256" in detail["long"]
    assert (await audit.verify()).bad is None


async def test_it_is_kept_or_lost_with_the_change(db: Database, audit: AuditLog) -> None:
    with pytest.raises(ZeroDivisionError):
        async with db.write() as session:
            session.add(User(name="ada"))
            await audit.append(session, ADA, "user.added", "user:ada")
            raise ZeroDivisionError
    assert await audit.head() == Head(0, GENESIS)
    await audit.record(ADA, "user.added", "user:ada")
    assert (await audit.verify()).entries == 1


@pytest.mark.parametrize(
    "query", ["UPDATE core_audit SET actor = 'eve'", "DELETE FROM core_audit", "DELETE FROM core_audit WHERE seq = 3"]
)
async def test_triggers_refuse(db: Database, audit: AuditLog, query: str) -> None:
    await fill(audit)
    with pytest.raises((IntegrityError, DBAPIError), match="append-only"):
        async with db.write() as session:
            await (await session.connection()).execute(text(query))
    assert (await audit.verify()).entries == 10


async def test_triggers_refuse_truncate(db: Database, audit: AuditLog) -> None:
    if db.sqlite:
        pytest.skip("SQLite has no TRUNCATE")
    await fill(audit)
    with pytest.raises(DBAPIError, match="append-only"):
        async with db.write() as session:
            await (await session.connection()).execute(text("TRUNCATE core_audit"))


@pytest.mark.parametrize(
    ("query", "bad", "reason"),
    [
        ("UPDATE core_audit SET body = replace(body, 'web4', 'web5') WHERE seq = 4", 4, "content was changed"),
        ("UPDATE core_audit SET actor = 'eve' WHERE seq = 4", 4, "column 'actor' was changed"),
        ("UPDATE core_audit SET target = 'host:x' WHERE seq = 4", 4, "column 'target' was changed"),
        ("UPDATE core_audit SET verb = 'x.y' WHERE seq = 4", 4, "column 'verb' was changed"),
        ("UPDATE core_audit SET at = '2020-01-01 00:00:00+00:00' WHERE seq = 4", 4, "column 'at' was changed"),
        ("DELETE FROM core_audit WHERE seq = 4", 4, "entry 4 is missing"),
        ("DELETE FROM core_audit WHERE seq <= 3", 1, "entry 1 is missing"),
        ("UPDATE core_audit SET hash = repeat_f WHERE seq = 10", 10, "content was changed"),
        ("UPDATE core_audit SET previous = repeat_f WHERE seq = 5", 5, "does not follow"),
    ],
)
async def test_what_was_changed_is_named(db: Database, audit: AuditLog, query: str, bad: int, reason: str) -> None:
    await fill(audit)
    await tamper(db, query.replace("repeat_f", f"'{'f' * 64}'"))
    verdict = await audit.verify()
    assert verdict.bad == bad
    assert reason in verdict.reason
    assert verdict.entries == bad - 1


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("at", "'last Tuesday'"),
        ("at", "5"),
        ("hash", f"'{'é' * 64}'"),
        ("hash", "x'ffff'"),
        ("target", "CAST(x'ff' AS TEXT)"),
        ("body", "CAST(x'ff' AS TEXT)"),
        ("body", "'[]'"),
        ("previous", "x'ff'"),
    ],
)
async def test_what_no_column_should_hold_is_named_and_still_listed(
    db: Database, audit: AuditLog, column: str, value: str
) -> None:
    if not db.sqlite:
        pytest.skip("PostgreSQL refuses what is not of the column's type")
    await fill(audit)
    await tamper(db, f"UPDATE core_audit SET {column} = {value} WHERE seq = 4")  # noqa: S608 - both come from the list above
    assert (await audit.verify()).bad == 4
    listed = [entry.as_dict() for entry in await audit.list()]
    assert [entry["seq"] for entry in listed] == list(range(10, 0, -1))
    assert all({"at", "actor", "verb", "target"} <= set(entry) for entry in listed)


async def test_a_removed_row_that_was_closed_up_shows(db: Database, audit: AuditLog) -> None:
    await fill(audit)
    await tamper(
        db,
        "DELETE FROM core_audit WHERE seq = 4",
        *(f"UPDATE core_audit SET seq = {seq - 1} WHERE seq = {seq}" for seq in range(5, 11)),  # noqa: S608
    )
    verdict = await audit.verify()
    assert verdict.bad == 4


async def test_a_cut_tail_shows_against_a_kept_head(db: Database, audit: AuditLog, tmp_path: Path) -> None:
    file = tmp_path / "audit.heads"
    await fill(audit)
    head = await audit.keep_head(file)
    await tamper(db, "DELETE FROM core_audit WHERE seq > 7")
    assert (await audit.verify()).bad is None, "without a head kept outside nothing can show"
    verdict = await audit.verify(kept_heads(file))
    assert verdict.bad == 8
    assert "tail was cut" in verdict.reason
    await fill(audit, 5)
    verdict = await audit.verify([head])
    assert verdict.bad == 10
    assert "written anew" in verdict.reason


async def test_a_chain_forged_without_the_key_shows(db: Database, audit: AuditLog, tmp_path: Path) -> None:
    await fill(audit, 3)
    await tamper(db, "DELETE FROM core_audit")
    forged = Keyring(db, audit._keyring.key_file)
    await forged.open()
    forged._root = b"guessed" * 5
    await fill(AuditLog(db, forged), 3)
    verdict = await audit.verify()
    assert verdict.bad == 1


async def test_many_writers_make_one_chain(db: Database, audit: AuditLog) -> None:
    other = Database(db.url)
    logs = [audit, AuditLog(other, audit._keyring)]
    await asyncio.gather(*(logs[n % 2].record(ADA, "x.done", f"t:{n}") for n in range(30)))
    await other.close()
    verdict = await audit.verify()
    assert (verdict.entries, verdict.bad) == (30, None)


async def test_a_long_chain_is_read_in_pages(audit: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opsdeck.audit.log.PAGE", 7)
    for count in (0, 7, 6, 1):
        await fill(audit, count)
        verdict = await audit.verify()
        assert verdict.bad is None
    assert verdict.entries == 14
    assert await audit.count() == 14


async def test_filters_and_pages(audit: AuditLog) -> None:
    await fill(audit, 12)
    await audit.record(SYSTEM, "host_key.pinned", "host:web1_x")
    assert [entry.seq for entry in await audit.list(limit=3)] == [13, 12, 11]
    assert [entry.seq for entry in await audit.list(limit=3, before_seq=11)] == [10, 9, 8]
    assert [entry.seq for entry in await audit.list(Filters(target="host:web1"))] == [1]
    assert [entry.seq for entry in await audit.list(Filters(target="host:web1*"))] == [13, 12, 11, 10, 1]
    assert [entry.seq for entry in await audit.list(Filters(target="host:web1_*"))] == [13]
    assert [entry.seq for entry in await audit.list(Filters(verb="host.*", actor="ada"), limit=1)] == [12]
    assert await audit.list(Filters(since=utcnow() + timedelta(hours=1))) == ()
    assert len(await audit.list(Filters(until=utcnow() + timedelta(hours=1)))) == 13


async def exported(audit: AuditLog) -> list[str]:
    out = io.StringIO()
    await audit.export(out)
    return out.getvalue().splitlines(keepends=True)


async def test_export_verifies_without_the_rows(db: Database, audit: AuditLog) -> None:
    await fill(audit)
    lines = await exported(audit)
    await tamper(db, "DELETE FROM core_audit")
    verdict = await audit.verify_lines(lines, "e.jsonl")
    assert (verdict.entries, verdict.bad) == (10, None)
    assert (await audit.verify_lines(lines, "e.jsonl", [Head(11, "0" * 64)])).bad == 11


@pytest.mark.parametrize(
    ("change", "bad"),
    [
        (lambda lines: lines[:-1], 10),
        (lambda lines: lines[:1], 1),
        (lambda lines: [*lines[:4], *lines[5:]], 4),
        (lambda lines: [*lines[:4], lines[4].replace("web4", "web5"), *lines[5:]], 4),
        (lambda lines: [lines[0].replace('"entries": 10', '"entries": 9'), *lines[1:-1]], 1),
        (lambda lines: [*lines, lines[-1]], 11),
    ],
)
async def test_a_changed_export_shows(audit: AuditLog, change: object, bad: int) -> None:
    await fill(audit)
    verdict = await audit.verify_lines(change(await exported(audit)), "e.jsonl")  # type: ignore[operator]
    assert verdict.bad == bad
    assert verdict.reason


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([], "line 1 of e is not JSON"),
        (["{}"], "no export"),
        (["[]"], "no JSON object"),
        (["words"], "line 1 of e is not JSON"),
    ],
)
async def test_no_export_at_all(audit: AuditLog, lines: list[str], why: str) -> None:
    with pytest.raises(Invalid, match=why) as caught:
        await audit.verify_lines(lines, "e")
    assert caught.value.file == "e"


async def test_an_export_with_a_broken_line(audit: AuditLog) -> None:
    await fill(audit, 2)
    lines = await exported(audit)
    for broken in ("{", '{"seq": 2}', '{"seq": "x", "body": "{}", "previous": "", "hash": ""}', "7"):
        with pytest.raises(Invalid, match="line 3 of e"):
            await audit.verify_lines([*lines[:2], broken], "e")


@pytest.mark.parametrize("given", ["", "1", "x:" + "0" * 64, "1:abc", "-1:" + "0" * 64])
def test_heads_that_are_none(given: str, tmp_path: Path) -> None:
    with pytest.raises(Invalid):
        Head.parse(given)
    file = tmp_path / "audit.heads"
    file.write_text(json.dumps({"head": given}) + "\n")
    with pytest.raises(Invalid, match="line 1"):
        kept_heads(file)
    assert kept_heads(tmp_path / "none") == ()
