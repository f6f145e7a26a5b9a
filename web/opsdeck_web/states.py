"""The states of things as a dot and a word."""

from __future__ import annotations

from opsdeck_web.language import _, marked

State = tuple[str, str]
"""Class of the dot (`ok`, `attention`, `broken`, `running`, `idle`) and the word beside it."""

_JOBS: dict[str, State] = {
    "queued": ("idle", marked("waiting")),
    "running": ("running", marked("running")),
    "succeeded": ("ok", marked("succeeded")),
    "failed": ("broken", marked("failed")),
    "cancelled": ("attention", marked("cancelled")),
    "lost": ("broken", marked("lost")),
    "skipped": ("idle", marked("not started")),
}
_REACH: dict[str, State] = {
    "unknown": ("idle", marked("not seen yet")),
    "ok": ("ok", marked("reachable")),
    "unreachable": ("broken", marked("unreachable")),
    "refused": ("broken", marked("login refused")),
    "key_changed": ("broken", marked("host key changed")),
    "untrusted": ("attention", marked("host key not approved")),
}
_SLOTS: dict[str, State] = {
    "due": ("idle", marked("planned")),
    "fired": ("ok", marked("ran")),
    "missed": ("broken", marked("missed")),
    "skipped": ("attention", marked("skipped")),
}
_FINDINGS: dict[str, State] = {
    "ok": ("ok", marked("well")),
    "attention": ("attention", marked("needs attention")),
    "broken": ("broken", marked("broken")),
}


def _state(table: dict[str, State], state: str) -> State:
    dot, word = table.get(state, ("idle", state))
    return dot, _(word)


def job(state: str) -> State:
    """Give the state of a job or step."""
    return _state(_JOBS, state)


def reach(state: str) -> State:
    """Give what the last contact with a host showed."""
    return _state(_REACH, state)


def slot(state: str) -> State:
    """Give what became of a planned time."""
    return _state(_SLOTS, state)


def finding(state: str) -> State:
    """Give the state of a health finding or card."""
    return _state(_FINDINGS, state)
