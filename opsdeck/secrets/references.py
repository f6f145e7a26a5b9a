"""What refers to a secret by its name: any text column that says so by its own name, and the parameters of schedules.

A column refers to a secret when it is called `credential`, `secret` or `…_secret`, in a table of the core or of a
plugin. So a plugin's rows are guarded without a word from it.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Column, String, Table, inspect
from sqlmodel import AutoString, SQLModel, select
from sqlmodel.ext.asyncio.session import AsyncSession

from opsdeck.jobs.models import Schedule

MOST = 50
"""How many users of one secret are listed per column."""


def columns() -> Iterator[tuple[Table, Column[str]]]:
    """Give every column that holds the name of a secret."""
    import opsdeck.db.tables  # noqa: F401 - the metadata must be whole

    for table in SQLModel.metadata.sorted_tables:
        for column in table.columns:
            named = column.name in ("credential", "secret") or column.name.endswith("_secret")
            if named and isinstance(column.type, String | AutoString):
                yield table, column


async def find(session: AsyncSession, name: str) -> tuple[str, ...]:
    """Give what names the secret `name`, as a person would say it."""
    connection = await session.connection()
    there = set(await connection.run_sync(lambda sync: inspect(sync).get_table_names()))
    found: list[str] = []
    for table, column in columns():
        if table.name not in there:
            continue  # of a plugin that is installed and switched off
        label = table.c.name if "name" in table.c else next(iter(table.primary_key.columns))
        noun = table.name.partition("_")[2].replace("_", " ")
        rows = await session.exec(select(label).where(column == name).order_by(label).limit(MOST))
        found += [f"{noun} {shown} ({column.name})" for shown in rows.all()]
    for schedule in (await session.exec(select(Schedule))).all():
        found += [
            f"schedule {schedule.name} ({field})" for field, value in schedule.params.items() if _names(value, name)
        ]
    return tuple(found)


def _names(value: object, name: str) -> bool:
    if isinstance(value, list):
        return any(_names(each, name) for each in value)
    if isinstance(value, dict):
        return any(_names(each, name) for each in value.values())
    return value == name
