"""`opsdeck search-sync`: thin doors to the actions and rows of search sync. What a command needs is imported in it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from opsdeck.api import Invalid, NotFound, frame

if TYPE_CHECKING:
    from opsdeck.api import Deck
    from opsdeck_search_sync.bringing import Wish


@click.group("search-sync")
def search_sync() -> None:
    """Databases' tables, live in Meilisearch: list, start, pause, rebuild, check, import."""


@search_sync.command("list")
@frame.json_option
def list_(as_json: bool) -> None:
    """List the syncs and how each does."""
    from opsdeck_search_sync import standing

    rows = frame.with_deck(lambda deck: standing.every(deck.db))
    if as_json:
        frame.print_json([row.model_dump() for row in rows])
        return
    table = [
        (row.name, f"{row.source} {row.table}", f"{row.instance} {row.index}", row.word, row.behind, row.dead or "")
        for row in rows
    ]
    frame.print_table(
        ("sync", "from", "into", "state", "seconds behind", "dead letters"), table,
        empty="No table is kept in an index yet: opsdeck search-sync import config.yml, or the page Search sync.",
    )  # fmt: skip


@search_sync.command()
@click.argument("name")
@frame.json_option
def show(name: str, as_json: bool) -> None:
    """Show one sync: its ends, its mapping, how far it is, documents per minute, dead letters."""
    from opsdeck_search_sync import standing

    row, letters, minutes = frame.with_deck(lambda deck: standing.one(deck.db, name))
    if as_json:
        told = row.model_dump() | {
            "dead_letters": [each.model_dump(exclude={"body"}) for each in letters],
            "minutes": [each.model_dump(exclude={"sync"}) for each in minutes],
        }
        frame.print_json(told)
        return
    facts = row.model_dump(exclude={"mapping", "settings"})
    facts |= {"last hour": f"{sum(m.written for m in minutes)} written, {sum(m.removed for m in minutes)} removed"}
    frame.print_facts({name: "" if value is None else value for name, value in facts.items()})
    rows = [(frame.short(each.at), each.document, each.code, each.reason) for each in letters]
    if rows:
        frame.print_table(("refused", "document", "code", "reason"), rows, empty="")


def _run(action: str, confirm: str | None = None, **params: Any) -> int:
    return frame.run_action("search_sync", action, params, confirm=confirm)


def _each(action: str, names: Sequence[str], **params: Any) -> None:
    """Run an action on each of some syncs; end with the first exit code that is none of success."""
    sys.exit(next((code for code in [_run(action, sync=name, **params) for name in names] if code), 0))


def _chosen(names: Sequence[str], tables: Sequence[str]) -> tuple[str, ...]:
    """Give the syncs named, those of the tables named, or all. Raises `NotFound`."""
    from opsdeck_search_sync import standing

    rows = frame.with_deck(lambda deck: standing.every(deck.db))
    known = {row.name for row in rows}
    for name in names:
        if name not in known:
            raise NotFound(f"there is no sync {name!r}.", field="sync", hint="see `opsdeck search-sync list`")
    for table in tables:
        if not any(table in {row.table, row.table.rpartition(".")[2]} for row in rows):
            raise NotFound(f"no sync reads a table {table!r}.", field="table", hint="see `opsdeck search-sync list`")
    found = [
        row.name
        for row in rows
        if row.name in names or {row.table, row.table.rpartition(".")[2]} & set(tables) or not (names or tables)
    ]
    if not found:
        raise NotFound("there is no sync yet.", field="sync", hint="opsdeck search-sync import config.yml")
    return tuple(found)


def _text(path: str) -> str:
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text("utf-8")
    except OSError as fault:
        raise NotFound(f"{path} cannot be read: {fault.strerror}.", file=path, hint="check the path") from fault
    except UnicodeDecodeError as fault:
        raise Invalid(f"{path} is not text in UTF-8.", file=path, hint="give the file that is asked for") from fault


def _import_options(command: Any) -> Any:
    for option in (
        click.option("--hook", "hooks", multiple=True, metavar="MODULE.CLASS=NAME", help="The hook for a plugin."),
        click.option("--via", default="", metavar="HOST", help="The host from which the file's addresses are meant."),
        click.option("--tls-ca", default="", metavar="FILE", help="Check the database's certificate against this one."),
        click.option("--meilisearch", "instance", default="search", help="Name for the Meilisearch."),
        click.option("--source", default="", help="Name for the database; its own name unless said."),
    ):
        command = option(command)
    return command


def _wish(file: str, given: dict[str, Any]) -> Wish:
    from opsdeck_search_sync.bringing import Wish

    hooks = dict(pair.partition("=")[::2] for pair in given["hooks"])
    ca = _text(given["tls_ca"]) if given["tls_ca"] else ""
    return Wish(_text(file), given["source"], given["instance"], given["via"], hooks, ca)


@search_sync.command("import")
@click.argument("file", type=click.Path())
@_import_options
@click.option("--dry-run", is_flag=True, help="Only say what would become of each field.")
@frame.json_option
def import_(file: str, dry_run: bool, as_json: bool, **given: Any) -> None:
    """Take over the config.yml of meilisync: its database, its Meilisearch, its tables. Nothing is started."""
    sys.exit(_import(_wish(file, given), dry_run=dry_run, as_json=as_json))


def _import(wish: Wish, *, dry_run: bool, as_json: bool) -> int:
    from opsdeck_search_sync import bringing

    brought = bringing.plan(wish)
    if as_json:
        frame.print_json(brought.as_data())
    else:
        rows = [(one.field, one.what, one.why) for one in brought.seed.outcomes]
        frame.print_table(("field", "what", "why"), rows, empty="")
    brought.must_be_whole()
    if dry_run:
        return 0

    async def prepare(deck: Deck) -> list[tuple[str, dict[str, Any]]]:
        return await bringing.prepare(deck, brought, frame.actor())

    for action, params in frame.with_deck(prepare):
        if code := _run(action, **params):
            return code
    names = " ".join(sync.name for sync in brought.seed.syncs)
    click.echo(f"Next: opsdeck search-sync start {names}", err=True)
    return 0


@search_sync.command()
@click.argument("names", nargs=-1)
@click.option(
    "--config", type=click.Path(), help="Take over this config.yml of meilisync first, then start its tables."
)
@_import_options
def start(names: tuple[str, ...], config: str | None, **given: Any) -> None:
    """Start syncs: the first time each copies its table, later it goes on where it was.

    They run in `opsdeck serve` or `opsdeck worker`. Without a name it starts all.
    """
    if config:
        wish = _wish(config, given)
        if code := _import(wish, dry_run=False, as_json=False):
            sys.exit(code)
        from opsdeck_search_sync import bringing

        names = tuple(sync.name for sync in bringing.plan(wish).seed.syncs)
    chosen = _chosen(names, ())
    codes = [_run("start", sync=name) for name in chosen]
    click.echo("They run in `opsdeck serve` or `opsdeck worker`. Next: opsdeck search-sync list", err=True)
    sys.exit(next((code for code in codes if code), 0))


@search_sync.command()
@click.argument("name")
def pause(name: str) -> None:
    """Stop a sync for a while; its source keeps its log for it."""
    sys.exit(_run("pause", sync=name))


@search_sync.command()
@click.argument("name")
def resume(name: str) -> None:
    """Let a sync go on where it was."""
    sys.exit(_run("resume", sync=name))


@search_sync.command()
@click.argument("name")
def rebuild(name: str) -> None:
    """Copy a table anew beside the live index, then swap the two; search goes on all the time."""
    sys.exit(_run("rebuild", sync=name))


@search_sync.command()
@click.argument("names", nargs=-1)
@click.option("-t", "--table", "tables", multiple=True, help="All syncs of this table. Repeat.")
def refresh(names: tuple[str, ...], tables: tuple[str, ...]) -> None:
    """Rebuild several syncs, or all: what meilisync calls refresh. Nothing has to be stopped for it."""
    _each("rebuild", _chosen(names, tables))


@search_sync.command()
@click.argument("names", nargs=-1)
@click.option("-t", "--table", "tables", multiple=True, help="All syncs of this table. Repeat.")
@click.option("--sample", type=int, default=1000, help="Rows whose content is compared.")
def check(names: tuple[str, ...], tables: tuple[str, ...], sample: int) -> None:
    """Compare tables with their indexes: the counts, and the content of sampled rows."""
    _each("check", _chosen(names, tables), sample=sample)


@search_sync.command("swap-back")
@click.argument("name")
def swap_back(name: str) -> None:
    """Let people search what there was before the last rebuild; once more shows the newest again."""
    sys.exit(_run("swap_back", sync=name))


@search_sync.command()
@click.argument("name")
def retry(name: str) -> None:
    """Try the dead letters of a sync again."""
    sys.exit(_run("retry_dead", sync=name))


@search_sync.command()
@click.argument("name")
@click.option("--confirm", metavar="TEXT", help="The consent that is asked for: drop.")
def drop(name: str, confirm: str | None) -> None:
    """Remove a sync and what it made at its source; the index stays."""
    sys.exit(_run("drop", confirm, sync=name))
