"""What a database engine's tools are called, take and say; nothing here runs anything."""

from opsdeck.api import NotFound
from opsdeck_backup.engines.engine import Engine, Order, Server
from opsdeck_backup.engines.mariadb import MariaDB

__all__ = ["ENGINES", "Engine", "MariaDB", "Order", "Server", "engine"]

ENGINES: dict[str, Engine] = {"mariadb": MariaDB()}


def engine(name: str) -> Engine:
    """Give the engine of that name. Raises `NotFound`."""
    found = ENGINES.get(name)
    if found is None:
        raise NotFound(f"there is no engine {name!r}.", field="engine", hint=f"one of {', '.join(ENGINES)}")
    return found
