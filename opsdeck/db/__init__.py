"""The database: one engine, short sessions, migrations per owner."""

from opsdeck.db.engine import Database as Database
from opsdeck.db.naming import Table as Table
