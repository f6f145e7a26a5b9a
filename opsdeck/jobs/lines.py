"""From the bytes of a host to lines of a log: bounded, always valid text, nothing interpreted.

Pure: what a host sends is data. Bytes that are no UTF-8 become `\\xNN`; escape sequences stay as they are in the log
and are taken out by `plain` where a terminal would obey them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

LINE_LIMIT = 64 * 1024
"""Bytes of a line that are kept; the rest is counted."""

_HOLD = 2 * LINE_LIMIT
"""Bytes of a line that are held, so that a secret across the cut is masked whole before the cut is made."""


@dataclass(frozen=True)
class Line:
    """One line of a job's log. `number` counts from 1 in the job; `ms` is since the epoch; `host` is "" for the job."""

    number: int
    ms: int
    host: str
    stream: str
    text: str

    @property
    def at(self) -> datetime:
        """Give the time as an aware datetime in UTC."""
        return datetime.fromtimestamp(self.ms / 1000, UTC)


class Splitter:
    """Cuts one stream into lines.

    `position` is the number of bytes of all complete lines so far: where to begin again after a restart so that no
    line is lost and none is there twice.
    """

    def __init__(self, position: int = 0) -> None:
        self.position = position
        self._held = bytearray()
        self._dropped = 0

    def feed(self, data: bytes) -> list[str]:
        """Take bytes; give the lines that they complete, not longer than `_HOLD` each."""
        if b"\n" not in data:
            self._hold(data)
            return []
        head, *rest = data.split(b"\n")
        tail = rest.pop()
        self._hold(head)
        self.position += len(self._held) + self._dropped + 1
        lines = [self._take()]
        for line in rest:
            self.position += len(line) + 1
            lines.append(_text(line[:_HOLD], max(0, len(line) - _HOLD)))
        self._hold(tail)
        return lines

    def end(self) -> list[str]:
        """Give what is left when the stream is over."""
        if not self._held:
            return []
        self.position += len(self._held) + self._dropped
        return [self._take()]

    def _hold(self, data: bytes) -> None:
        room = _HOLD - len(self._held)
        self._held += data[:room]
        self._dropped += max(0, len(data) - room)

    def _take(self) -> str:
        text = _text(bytes(self._held), self._dropped)
        self._held.clear()
        self._dropped = 0
        return text


def _text(data: bytes, dropped: int) -> str:
    text = data.removesuffix(b"\r").decode("utf-8", "backslashreplace")
    return text + mark(dropped) if dropped else text


def mark(dropped: int) -> str:
    """Give the words that stand for what was not kept."""
    return f" …[{dropped} more bytes of this line were not kept]"


def cut(text: str) -> str:
    """Shorten a line to what is kept, saying so. Call it after secrets were masked."""
    if len(text) <= LINE_LIMIT:
        return text
    found = _MARK.search(text)
    dropped = int(found[1]) if found else 0
    whole = text[: found.start()] if found else text
    return whole[:LINE_LIMIT] + mark(dropped + len(whole) - LINE_LIMIT)


_MARK = re.compile(r" …\[(\d+) more bytes of this line were not kept\]\Z")


def storable(text: str) -> str:
    """Make any text of an action fit for every database: no NUL byte, no half of a surrogate pair."""
    if "\0" in text:
        text = text.replace("\0", "\\0")
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|\x1b[\]PX^_].*?(?:\x07|\x1b\\|\Z)"  # OSC, DCS, SOS, PM, APC: titles, clipboards
    r"|\x1b[ -/]*[0-~]"  # the short ones
    r"|[\x00-\x08\x0a-\x1f\x7f-\x9f]",  # every other control character but the tab
    re.DOTALL,
)


def plain(text: str) -> str:
    """Take out everything that a terminal would obey rather than show."""
    return _ESCAPES.sub("", text)
