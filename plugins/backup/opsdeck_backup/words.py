"""Sentences that pages show in the reader's language and everything else in English."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Said:
    """A sentence of the catalogue and the values in it; false when nothing is said."""

    text: str = ""
    values: Mapping[str, str | int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.text)

    def __str__(self) -> str:
        """Give the sentence in English."""
        return self.text % self.values if self.text else ""


def marked(text: str) -> str:
    """Mark a sentence for the catalogue."""
    return text
