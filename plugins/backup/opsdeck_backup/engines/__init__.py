"""What a database engine's tools are called, take and say; nothing here runs anything."""

from opsdeck.api import NotFound
from opsdeck_backup.engines.engine import Engine, Order, Server, Tool
from opsdeck_backup.engines.mariadb import MariaDB
from opsdeck_backup.engines.xtrabackup import XtraBackup

__all__ = ["ENGINES", "Engine", "MariaDB", "Order", "Server", "Tool", "XtraBackup", "engine"]

ENGINES: dict[str, Engine] = {"mariadb": MariaDB(), "mysql": XtraBackup()}


def engine(name: str) -> Engine:
    """Give the engine of that name. Raises `NotFound`."""
    found = ENGINES.get(name)
    if found is None:
        raise NotFound(f"there is no engine {name!r}.", field="engine", hint=f"one of {', '.join(ENGINES)}")
    return found
