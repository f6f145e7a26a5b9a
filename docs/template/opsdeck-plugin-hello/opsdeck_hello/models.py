"""The greetings that were left, and where."""

from datetime import datetime

from sqlmodel import Field

from opsdeck.api import Table, utcnow


class Greeting(Table, table=True):
    """The last greeting on a host."""

    __tablename__ = "hello_greeting"

    host: str = Field(primary_key=True)
    text: str
    at: datetime = Field(default_factory=utcnow)
