"""What PostgreSQL must be, or should be, before a table of it can be followed."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from opsdeck_search_sync.changes import Column, Finding
from opsdeck_search_sync.sources.pglink import Link


def quoted(schema: str, table: str) -> sql.Composed:
    """Write a table's name as SQL."""
    return sql.SQL("{}.{}").format(sql.Identifier(schema), sql.Identifier(table))


async def findings(
    link: Link, user: str, schema: str, table: str, columns: Sequence[Column], needed: frozenset[str] | None
) -> list[Finding]:
    """Look at what would lose rows in silence, or stop us."""
    found: list[Finding] = []
    ((level, slots, senders, keep),) = await link.ask(
        "SELECT current_setting('wal_level'), current_setting('max_replication_slots')::int"
        " - (SELECT count(*) FROM pg_replication_slots), current_setting('max_wal_senders')::int"
        " - (SELECT count(*) FROM pg_stat_replication), current_setting('max_slot_wal_keep_size', true)"
    )
    if level != "logical":
        found.append(
            Finding(f"wal_level is {level}; it must be logical (needs a restart).", True,
                    "ALTER SYSTEM SET wal_level = 'logical';")
        )  # fmt: skip
    if slots < 2 or senders < 2:
        found.append(
            Finding("fewer than two replication slots or senders are free; a rebuild needs a second of each.",
                    slots < 1 or senders < 1,
                    "ALTER SYSTEM SET max_replication_slots = 20; ALTER SYSTEM SET max_wal_senders = 20;")
        )  # fmt: skip
    if keep == "-1":
        found.append(
            Finding("max_slot_wal_keep_size is unlimited; a sync that stands still could fill the disk (the"
                    " sync's own limit guards it while OpsDeck runs).", False,
                    "ALTER SYSTEM SET max_slot_wal_keep_size = '10GB'; SELECT pg_reload_conf();")
        )  # fmt: skip
    ((may,),) = await link.ask(
        "SELECT rolreplication OR rolsuper OR EXISTS (SELECT FROM pg_roles g WHERE g.rolname = 'rds_replication'"
        " AND pg_has_role(g.oid, 'MEMBER')) FROM pg_roles WHERE rolname = current_user"
    )  # a provider that gives nobody the attribute gives this role
    if not may:
        found.append(
            Finding("the user may not replicate.", True,
                    sql.SQL("ALTER ROLE {} REPLICATION;").format(sql.Identifier(user)).as_string())
        )  # fmt: skip
    return [*found, *await _of_table(link, user, schema, table, columns, needed)]


async def _of_table(
    link: Link, user: str, schema: str, name: str, columns: Sequence[Column], needed: frozenset[str] | None
) -> list[Finding]:
    rows = await link.ask(
        """SELECT c.relkind, c.relpersistence, c.relreplident, c.relrowsecurity,
        has_table_privilege(c.oid, 'SELECT'), pg_has_role(c.relowner, 'USAGE'),
        has_database_privilege(current_database(), 'CREATE'), quote_ident(current_database())
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s""",
        schema,
        name,
    )
    kind, persistence, replica, guarded, readable, owned, may_publish, database = rows[0]
    table = quoted(schema, name).as_string()
    user = sql.Identifier(user).as_string()
    found = []
    if kind not in ("r", "p"):
        found.append(Finding(f"{table} is no plain table: its changes are not in the log.", True))
    if persistence != "p":
        found.append(Finding(f"{table} is unlogged or temporary.", True, f"ALTER TABLE {table} SET LOGGED;"))
    if not any(column.key for column in columns):
        found.append(Finding(f"{table} has no primary key.", True, f"ALTER TABLE {table} ADD PRIMARY KEY (…);"))
    if replica in ("n", "i"):
        found.append(
            Finding("the replica identity is not the primary key; removed rows could not be told.", True,
                    f"ALTER TABLE {table} REPLICA IDENTITY DEFAULT;")
        )  # fmt: skip
    if guarded:
        found.append(Finding("row security is on; the copy sees only what the user may see.", False,
                             f"ALTER ROLE {user} BYPASSRLS;"))  # fmt: skip
    if not readable:
        found.append(Finding("the user may not read the table.", True, f"GRANT SELECT ON {table} TO {user};"))
    if not (owned and may_publish):
        found.append(
            Finding("the user may not publish the table: it must own it and may create in the database.", True,
                    f"GRANT CREATE ON DATABASE {database} TO {user};"
                    f" ALTER TABLE {table} OWNER TO {user};")
        )  # fmt: skip
    if kind == "p":
        found.append(
            Finding(f"{table} is partitioned: rows that go with a partition which is dropped or detached are not in"
                    " the log; rebuild after that.", False)
        )  # fmt: skip
    generated = await link.ask(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attgenerated <> ''", table
    )
    for (column,) in generated:
        if needed is not None and column in needed:
            found.append(Finding(f"{column} is generated and not in the log; leave it out of the mapping.", True))
    return found
