"""`opsdeck audit`: who did what, and the proof that nobody changed it since."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from opsdeck.cli import frame
from opsdeck.cli.frame import json_option, print_json, print_table, with_deck
from opsdeck.errors import NotFound

if TYPE_CHECKING:
    from opsdeck.audit.chain import Head, Verdict
    from opsdeck.deck import Deck


@click.group()
def audit() -> None:
    """Who did what: list, verify, export."""


@audit.command("list")
@click.option("--actor", default="", help="Who; `ada*` by the beginning.")
@click.option("--verb", default="", help="What was done: host.added, job.*")
@click.option("--target", default="", help="To what: host:web1, job:17, secret:*")
@click.option("--since", default=None, help="From this time on (ISO 8601; UTC when no zone is given).")
@click.option("--until", default=None, help="Before this time.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@click.option("--before", type=int, default=None, metavar="SEQ", help="Go on before this entry.")
@json_option
def list_(
    *,
    actor: str,
    verb: str,
    target: str,
    since: str | None,
    until: str | None,
    limit: int,
    before: int | None,
    as_json: bool,
) -> None:
    """List entries, newest first."""
    from opsdeck.audit.log import Filters

    filters = Filters(actor, verb, target, frame.moment(since, "since"), frame.moment(until, "until"))
    entries = with_deck(lambda deck: deck.audit.list(filters, limit=limit, before_seq=before))
    if as_json:
        print_json([entry.as_dict() for entry in entries])
        return
    rows = []
    for entry in entries:
        body = entry.told()
        detail = {name: body[name] for name in ("detail", "before", "after") if name in body}
        rows.append(
            (
                entry.seq,
                frame.short(entry.at),
                entry.actor,
                entry.door,
                entry.verb,
                entry.target,
                json.dumps(detail, ensure_ascii=False)[:200] if detail else "",
            )
        )
    print_table(("seq", "time", "actor", "door", "verb", "target", "detail"), rows, empty="No entries.")


@audit.command()
@click.option("--file", "file", metavar="PATH", default=None, help="Verify an export instead of the database.")
@click.option("--head", "heads", multiple=True, metavar="SEQ:HASH", help="A head kept outside, to be found again.")
@json_option
def verify(file: str | None, heads: tuple[str, ...], as_json: bool) -> None:
    """Look at every entry; name the first that is bad. Exit status 1 when there is one.

    The heads kept in the data folder by `opsdeck audit head --keep` are held against it too.
    """

    async def work(deck: Deck) -> Verdict:
        from opsdeck.audit.chain import Head, kept_heads
        from opsdeck.health import HEADS

        wanted = [Head.parse(text) for text in heads]
        if file is None:
            return await deck.audit.verify([*wanted, *kept_heads(deck.settings.home / HEADS)])
        try:
            with Path(file).open() as lines:
                return await deck.audit.verify_lines(lines, file, wanted)
        except OSError as fault:
            raise NotFound(f"{file} cannot be read: {fault.strerror}.", file=file, hint="check the path") from fault

    verdict = with_deck(work)
    if as_json:
        print_json(
            {
                "ok": verdict.bad is None,
                "entries": verdict.entries,
                "head": str(verdict.head),
                "bad": verdict.bad,
                "reason": verdict.reason,
            }
        )
    elif verdict.bad is None:
        click.echo(f"{verdict.entries} entries, unbroken; head {verdict.head}")
    else:
        click.echo(f"entry {verdict.bad}: {verdict.reason}", err=True)
        click.echo("Next: keep a copy of the database as it is, and find out who wrote to it", err=True)
    if verdict.bad is not None:
        raise SystemExit(1)


@audit.command()
@click.argument("file", default="-")
def export(file: str) -> None:
    """Write the chain as JSON Lines to FILE, or to standard output."""

    async def work(deck: Deck) -> Head:
        if file == "-":
            return await deck.audit.export(sys.stdout)
        try:
            with Path(file).open("x") as out:
                return await deck.audit.export(out)
        except OSError as fault:
            raise NotFound(f"{file} cannot be written: {fault.strerror}.", file=file, hint="name another") from fault

    head = with_deck(work)
    click.echo(f"{head.seq} entries", err=True)


@audit.command()
@click.option("--keep", is_flag=True, help="Also append it to audit.heads in the data folder.")
@json_option
def head(keep: bool, as_json: bool) -> None:
    """Print the newest entry's number and hash. Keep it on another machine: it shows when the tail was cut."""

    async def work(deck: Deck) -> Head:
        from opsdeck.health import HEADS

        return await deck.audit.keep_head(deck.settings.home / HEADS) if keep else await deck.audit.head()

    found = with_deck(work)
    if as_json:
        print_json({"seq": found.seq, "hash": found.hash})
    else:
        click.echo(str(found))
