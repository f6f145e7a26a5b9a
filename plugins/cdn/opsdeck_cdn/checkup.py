"""Looking after what a deploy needs and time spoils: ports, clocks, room, Caddy, certificates, the zone's delegation.

What is found stands in rows, where `opsdeck doctor` and the pages read it; each look replaces the one before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete
from sqlmodel import col, select

from opsdeck.api import (
    Action,
    HostAccess,
    JobRun,
    NoParams,
    OpsDeckError,
    Receipt,
    Risk,
    Service,
    ServiceRun,
    StepRun,
    Targets,
    utcnow,
)
from opsdeck_cdn import book, caddy, certificates, delegation, edgehost
from opsdeck_cdn.book import Model
from opsdeck_cdn.models import FaultRow
from opsdeck_cdn.sites import Edge

EVERY = 600.0
FIRST = 20.0
"""Seconds before the first look, when a deploy may still be under way."""
ZONE = ""
"""The place of what is wrong with the zone."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: `state` is `attention` or `broken`."""

    subject: str
    state: str
    text: str
    hint: str = ""


async def keep(db: Any, place: str, faults: Sequence[Fault]) -> None:
    """Replace what the look before found."""
    async with db.write() as session:
        await session.exec(delete(FaultRow).where(col(FaultRow.place) == place))
        session.add_all(
            FaultRow(place=place, subject=one.subject, state=one.state, text=one.text[:600], hint=one.hint[:600])
            for one in faults
        )


async def kept(db: Any) -> tuple[FaultRow, ...]:
    """Give what the last looks found."""
    async with db.read() as session:
        return tuple((await session.exec(select(FaultRow).order_by(col(FaultRow.place), col(FaultRow.id)))).all())


async def tend(run: JobRun | ServiceRun, access: HostAccess, model: Model, edge: Edge) -> list[Fault]:
    """Look at one edge, keep what is wrong and give it. Raises the errors of its link."""
    state = await edgehost.look(access, caddy=True)
    subject = f"edge {edge.host}"
    found = [Fault(subject, "broken", fault.message, fault.hint or "") for fault in edgehost.wrong(edge, state)]
    if state.caddy:
        try:
            caddy.check_version(state.caddy)
        except OpsDeckError as fault:
            found.append(Fault(subject, "broken", fault.message, "`opsdeck plugin run cdn deploy` brings a newer one"))
    own = list(found)
    row = model.rows[edge.host]
    if row.generation and row.health != "down":
        found += await _certificates(run, model, edge)
    await keep(run.db, edge.host, found)
    await _tell(run, f"cdn:checkup:{edge.host}", f"{edge.host} will not do as an edge", own, host=edge.host)
    return found


async def _tell(run: JobRun | ServiceRun, key: str, title: str, faults: Sequence[Fault], *, host: str = "") -> None:
    broken = [fault.text for fault in faults if fault.state == "broken"]
    if broken:
        await run.open_incident(key, title, detail=" ".join(broken), host=host, severity="attention")
    else:
        await run.close_incident(key)


async def _certificates(run: JobRun | ServiceRun, model: Model, edge: Edge) -> list[Fault]:
    """Look at the certificates; one that is missing or was not renewed opens an incident."""
    hint = f"`journalctl -u opsdeck-cdn-front` on {edge.host} has the CA's words"
    row = model.rows[edge.host]
    served = {name for site in model.sites for name in site.names}
    # Those that a deploy has proven: what it has not brought yet is not missed.
    proven = {name: text for name, text in row.certificates.items() if name in served}
    lives, wrong = await certificates.look(edge, proven, model.setup.visitor_roots)
    texts = proven | {name: str(life) for name, life in lives.items()}
    if texts != row.certificates:
        await book.change_edge(run.db, edge.host, certificates=texts)
    now = utcnow()
    known = certificates.known(texts)
    late = {name: life for name, life in known.items() if life.late(now)}
    told = [*wrong.values(), *(f"{name} ends on {life.end:%Y-%m-%d %H:%M} UTC." for name, life in late.items())]
    key = f"cdn:certificate:{edge.host}"
    if told:
        title = f"edge {edge.host} has a certificate that is missing or not renewed"
        detail = f"{' '.join(told)} {hint}."
        await run.open_incident(key, title, detail=detail, host=edge.host, severity="attention")
    else:
        await run.close_incident(key)
    # What has ended is said by the lives that are on record.
    ended = {name for name, life in late.items() if life.end < now}
    return [Fault(f"certificate {name}", "broken", text, hint) for name, text in wrong.items() if name not in ended]


async def zone_faults(model: Model) -> list[Fault]:
    """Look at the delegation of the zone."""
    if not model.setup.zone or not model.servers:
        return []
    subject = f"delegation of {model.setup.zone}"
    try:
        seen = await delegation.look(model.setup.zone, model.setup.parent)
    except OpsDeckError as fault:
        return [Fault(subject, "attention", f"it cannot be seen: {fault.message}", fault.hint or "")]
    wanted = {f"ns{row.number}.{model.setup.zone}": row.address for row in model.servers}
    records = ", ".join(f"NS {name} with the address {address}" for name, address in wanted.items())
    hint = f"where {model.setup.zone.partition('.')[2]} is kept: {records}"
    return [Fault(subject, state, text, hint) for state, text in delegation.judge(wanted, seen)]


async def _tend_zone(run: JobRun | ServiceRun, model: Model) -> None:
    found = await zone_faults(model)
    await keep(run.db, ZONE, found)
    await _tell(run, "cdn:delegation", f"the zone {model.setup.zone} is not delegated as it should be", found)
    async with run.db.write() as session:
        places = [ZONE, *(edge.host for edge in model.edges)]
        await session.exec(delete(FaultRow).where(col(FaultRow.place).not_in(places)))


async def _service(run: ServiceRun) -> None:
    await asyncio.sleep(FIRST)
    while True:
        model = await book.load(run.db)
        for edge in model.edges:
            try:
                async with asyncio.timeout(120), run.on(edge.host) as access:
                    await tend(run, access, model, edge)
            except (OpsDeckError, TimeoutError) as fault:
                # Whether it serves is the prober's to say, and whether it is reached the inventory's.
                run.log(f"{edge.host}: {fault or 'no answer in time'}", "bad")
        await _tend_zone(run, model)
        await asyncio.sleep(EVERY)


async def _instances(run: ServiceRun) -> Sequence[str]:
    model = await book.load(run.db)
    return ("",) if model.edges or model.servers else ()


async def _run(job: JobRun, _params: NoParams) -> Receipt:
    model = await book.load(job.db)

    async def work(step: StepRun) -> Receipt:
        faults = await tend(job, step, model, model.edge(step.host.name))
        for fault in faults:
            step.log(f"{fault.subject}: {fault.text}", "bad")
        step.note(f"{len(faults)} faults" if faults else "well")
        return {"faults": [f"{fault.subject}: {fault.text}" for fault in faults]}

    failed = await job.each(work, [edge.host for edge in model.edges], parallel=8)
    await _tend_zone(job, model)
    found = await kept(job.db)
    for row in found:
        if row.place == ZONE:
            job.log(f"{row.subject}: {row.text}", "bad")
    return {"failed": failed, "faults": [f"{row.subject}: {row.text}" for row in found]}


def _touches(_params: NoParams, _hosts: Sequence[str]) -> Sequence[str]:
    return ["cdn:checkup"]


check = Action(
    "check", "Check edges and zone",
    "Look for taken ports, wrong clocks, full disks, old Caddy, certificates that end, and a wrong delegation.",
    params=NoParams, risk=Risk.READ, targets=Targets.CONSOLE, run=_run, touches=_touches, timeout=900.0,
)  # fmt: skip
checkup = Service("checkup", "Looks after edges and zone", _service, _instances)
