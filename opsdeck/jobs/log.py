"""Reading a job's log back from its chunks."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sqlalchemy import func
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from opsdeck.jobs.lines import Line, storable
from opsdeck.jobs.models import LogChunk

CHUNK_LINES = 2000
"""Most lines in one chunk."""

CHUNK_BYTES = 512 * 1024
"""Bytes of text after which a chunk is closed."""

LAST = 2**31 - 1
"""Highest number that a line can have: the column's bound."""

Entry = tuple[int, str, str, str]
"""A line before it has a number: ms, host, stream, text."""


def chunks(job_id: int, first: int, entries: Sequence[Entry]) -> list[dict[str, object]]:
    """Pack entries into rows of `core_log_chunk`, numbered from `first`."""
    rows: list[dict[str, object]] = []
    start = size = 0
    for index, entry in enumerate(entries):
        size += len(entry[3])
        if index + 1 == len(entries) or index + 1 - start >= CHUNK_LINES or size >= CHUNK_BYTES:
            part = entries[start : index + 1]
            text = storable(json.dumps(part, ensure_ascii=False, separators=(",", ":")))
            rows.append({"job_id": job_id, "first": first + start, "count": len(part), "lines": text})
            start, size = index + 1, 0
    return rows


async def last_number(session: AsyncSession, job_id: int) -> int:
    """Give the number of the job's last line; 0 when it has none."""
    newest = select(LogChunk.first, LogChunk.count).where(LogChunk.job_id == job_id)
    row = (await session.exec(newest.order_by(col(LogChunk.first).desc()).limit(1))).first()
    return row[0] + row[1] - 1 if row else 0


async def read(
    session: AsyncSession, job_id: int, *, after: int = 0, host: str | None = None, limit: int = 1000
) -> tuple[Line, ...]:
    """Give up to `limit` lines with a number above `after`, of all lanes or of one host's (`""`: the job's own)."""
    after = max(0, min(after, LAST - 1))
    begin = select(func.max(LogChunk.first)).where(LogChunk.job_id == job_id, LogChunk.first <= after + 1)
    start = (await session.exec(begin)).one() or 0
    found: list[Line] = []
    many = 2 if host is None else 8
    while len(found) < limit:
        query = (
            select(LogChunk.first, LogChunk.count, LogChunk.lines)
            .where(LogChunk.job_id == job_id, LogChunk.first >= start)
            .order_by(col(LogChunk.first))
            .limit(many)
        )
        rows = (await session.exec(query)).all()
        for first, count, text in rows:
            start = first + count
            found += [
                Line(number, ms, lane, stream, line)
                for number, (ms, lane, stream, line) in enumerate(json.loads(text), first)
                if number > after and (host is None or lane == host)
            ]
        if len(rows) < many:
            break
    return tuple(found[:limit])
