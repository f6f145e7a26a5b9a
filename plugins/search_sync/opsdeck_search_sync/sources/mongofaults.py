"""MongoDB's faults in our words. Source: its list of error codes, and its manual's page on change streams."""

from __future__ import annotations

from bson.errors import BSONError
from pymongo.errors import NetworkTimeout, OperationFailure

from opsdeck.api import Invalid, NotFound, OpsDeckError, Refused, Unavailable
from opsdeck_search_sync.changes import LoginRefused, LogLost
from opsdeck_search_sync.sources.place import Place, Tls, tls_hint

LOST = {286, 280, 260}
"""The log no longer reaches back to a token, has no such token, or the token closed its stream."""
LOGIN = {18, 8000}
UNAUTHORISED = LOGIN | {13}
OURS = {2, 9, 40415, 40324}


def translated(fault: Exception, place: Place, collection: str) -> OpsDeckError:
    """Give the error of ours for one of the driver's."""
    where = f"{place.address}:{place.port}"
    if isinstance(fault, BSONError):
        return Refused(f"a document of {collection} cannot be read: {fault}", hint="report it")
    if isinstance(fault, TimeoutError | NetworkTimeout):
        return Unavailable(f"MongoDB at {where} said nothing for too long.", hint="see that it runs; the link is cut")
    if not isinstance(fault, OperationFailure):
        text = str(fault).split(", Timeout:", maxsplit=1)[0]
        more = "that it offers TLS" if place.tls in {Tls.REQUIRE, Tls.VERIFY} else "whether it asks for TLS"
        hint = tls_hint(text) or f"check address and port, and {more}"
        return Unavailable(f"MongoDB at {where} cannot be reached: {text}", hint=hint)
    text = str((fault.details or {}).get("errmsg") or fault)
    if fault.code in LOST:
        return LogLost(
            f"MongoDB cannot go on from our place in its log ({fault.code}): {text}",
            hint="rebuild the sync; the index stays as it is until then",
        )
    if fault.code == 10334:
        return Refused(
            f"an event is larger than MongoDB sends ({fault.code}): {text}",
            hint="update MongoDB to 6.0.9 or later, which sends such events in pieces, or rebuild the sync",
        )
    if fault.code == 40573:
        return Refused(f"MongoDB tells nobody of changes ({fault.code}): {text}", hint="make it a replica set")
    if fault.code in UNAUTHORISED:
        kind = LoginRefused if fault.code in LOGIN else Refused
        return kind(
            f"MongoDB refuses ({fault.code}): {text}",
            hint="check user and password; the user lives in the database `admin` and needs the role `read`",
        )
    if fault.code == 26:
        return NotFound(f"MongoDB: {text}", field="table")
    if fault.code in OURS:
        return Invalid(f"MongoDB does not take a command of ours ({fault.code}): {text}", hint="report it")
    return Unavailable(f"MongoDB ({fault.code}): {text}", hint="it is tried again by itself")
