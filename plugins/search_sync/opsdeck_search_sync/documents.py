"""Ids that Meilisearch takes, made of keys of any kind.

Source of the rule: an id is an integer, or a text of `A-Z a-z 0-9 - _` of 1 to 511 bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence

from opsdeck_search_sync.changes import Json

_LEGAL = re.compile(r"[A-Za-z0-9_-]{1,511}\Z")
_PLAIN = re.compile(r"[A-Za-z0-9]{1,200}\Z")


def document_id(key: Sequence[Json]) -> int | str:
    """Make the id of a row's key: the same for the same key, different for different ones.

    A single integer or legal text stays as it is. Parts of a composite key are joined by `-` where they are plain;
    everything else becomes a hash, which begins with `h_` or `k_`.
    """
    if len(key) == 1:
        (value,) = key
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, str) and _LEGAL.match(value) and not value.startswith("h_"):
            return value
        return "h_" + _hash(key)
    parts = [str(value) if isinstance(value, int) and not isinstance(value, bool) else value for value in key]
    if all(isinstance(part, str) and _PLAIN.match(part) for part in parts):
        joined = "-".join(str(part) for part in parts)
        if len(joined) <= 511:
            return joined
    return "k_" + _hash(key)


def _hash(key: Sequence[Json]) -> str:
    canonical = json.dumps(list(key), ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return base64.urlsafe_b64encode(hashlib.sha256(canonical.encode()).digest()).decode().rstrip("=")
