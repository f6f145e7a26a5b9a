"""Alembic's environment for every owner: the core and each plugin, each with its own version table.

Always called from `opsdeck.db.migrate` or `opsdeck.db.revise`, which hand over an open connection and the owner.
"""

from alembic import context
from sqlmodel import SQLModel

config = context.config
connection = config.attributes["connection"]
owner: str = config.attributes["owner"]
owns = config.attributes["owns"]


def _include(_thing: object, name: str | None, kind: str, _reflected: bool, _compared: object) -> bool:
    return bool(owns(name)) if kind == "table" else True


context.configure(
    connection=connection,
    target_metadata=SQLModel.metadata,
    version_table=f"{owner}_alembic",
    compare_type=True,
    include_object=_include,
    render_as_batch=connection.dialect.name == "sqlite",
    user_module_prefix="sqlmodel.sql.sqltypes.",
)
with context.begin_transaction():
    context.run_migrations()
