"""Name servers: given the zone and its states, so that each visitor is led to the nearest edge that is well.

gdnsd keeps what it has when a new configuration is refused, and never gives an empty answer: with every edge down it
still names the nearest.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from sqlalchemy import delete
from sqlmodel import col, select

from opsdeck.api import (
    Action,
    Artefact,
    Change,
    Depot,
    Directory,
    Door,
    File,
    Host,
    HostAccess,
    HostName,
    Invalid,
    JobRun,
    NoParams,
    NotFound,
    OpsDeckError,
    Plan,
    PlanRun,
    ProbeFailed,
    Receipt,
    Refused,
    Risk,
    StepRun,
    Targets,
    artefacts,
    directories,
    files,
    packages,
    units,
)
from opsdeck_cdn import book, resolving
from opsdeck_cdn.book import Model
from opsdeck_cdn.models import NameServerRow, SetupRow
from opsdeck_cdn.render import gdnsd
from opsdeck_cdn.sites import Edge

LICENCES = {
    "dbip-city-lite": "IP Geolocation by DB-IP (https://db-ip.com), CC BY 4.0",
    "geolite2-city": "GeoLite2 by MaxMind (https://www.maxmind.com), GeoLite2 EULA; keep it current",
    "other": "as its maker says",
}
"""What must be said where the data is used."""


@dataclass(frozen=True)
class Wanted:
    """What one name server should have."""

    host: str
    address: str
    files: tuple[File, ...]
    states: File
    names_edges: bool


def nameable(model: Model, also: str = "") -> tuple[Edge, ...]:
    """Give the edges that may ever be named: those that serve, and one that is about to."""
    return tuple(edge for edge in model.edges if edge.host == also or model.rows[edge.host].generation)


def up(model: Model, also: str = "") -> frozenset[str]:
    """Give the edges to be named now; when none is well, all that may be, since any answer is better than none."""
    good = {
        edge.host
        for edge in model.edges
        if edge.admitted
        and not edge.drained
        and not model.rows[edge.host].owing
        and model.rows[edge.host].health != "down"
    }
    if not good:
        good = {edge.host for edge in model.edges if edge.admitted and not edge.drained}
    return frozenset(good or ({also} if also else {edge.host for edge in nameable(model) if not edge.drained}))


def wanted(model: Model, row: NameServerRow, also: str = "") -> Wanted:
    """Give what a name server should have. Raises `Invalid` without a zone."""
    setup = model.setup
    if not setup.zone:
        raise Invalid(
            "there is no DNS zone.", field="zone", hint="`opsdeck plugin run cdn setup --zone cdn.example.net`"
        )
    edges, geoip = nameable(model, also), bool(model.geoip.sha256)
    servers = [(f"ns{server.number}", server.address) for server in model.servers]
    made = (
        File(f"{gdnsd.ZONES}/{setup.zone}", gdnsd.zone(model.sites, setup, servers, edges=edges, geoip=geoip),
             owner="root:root"),
        File(gdnsd.CONFIG, gdnsd.config(edges, address=row.address, geoip=model.geoip.sha256), owner="root:root"),
    )  # fmt: skip
    return Wanted(row.host, row.address, made, states(model, also), bool(edges))


def states(model: Model, also: str = "") -> File:
    """Give the file that says which edges are well."""
    return File(gdnsd.STATES, gdnsd.states(nameable(model, also), up(model, also), model.setup.ttl), owner="root:root")


def artefact(model: Model) -> Artefact:
    """Give the GeoIP data as an artefact."""
    given = model.geoip
    return Artefact(
        gdnsd.GEOIP, given.sha256[:12], given.sha256, given.source, "all", given.member, f"{gdnsd.GEOIP}.mmdb", 0o644
    )


async def serve(step: StepRun, model: Model, want: Wanted) -> Receipt:
    """Bring a name server to what it should be, and ask it. Raises `ProbeFailed`, and puts back what was there."""
    seen = await packages.look(step, ["gdnsd"])
    found = seen.packages.get("gdnsd")
    if found is None or not found.installed:
        step.note("installing gdnsd")
        await packages.apply(step, packages.Request(packages.Intent.INSTALL, ("gdnsd",)), update=True)
    if model.geoip.sha256:
        program = await Depot(step.job.home).obtain(artefact(model))
        await artefacts.install(step, program)
    await directories.apply(
        step, [Directory(path, 0o755, None) for path in (gdnsd.FOLDER, gdnsd.ZONES, gdnsd.STATES_FOLDER)]
    )
    await files.apply(step, [want.states], keep_previous=False)
    changed = await files.apply(step, want.files, validate=("gdnsd", "-c", gdnsd.FOLDER, "checkconf"))
    await units.act(step, units.Act.ENABLE, "gdnsd")
    try:
        # `replace` hands the sockets over: no question is lost, and a configuration it cannot use changes nothing.
        await units.act(step, units.Act.RELOAD if changed else units.Act.START, "gdnsd", settle=0.3, limit=180)
        answer = await _answers(model, want)
    except OpsDeckError:
        if changed:
            step.log("it does not answer: putting back what was there", "bad")
            await files.put_back(step, list(changed))
            await units.act(step, units.Act.RELOAD, "gdnsd", settle=0.3, limit=180)
        raise
    step.note(f"answers for {model.setup.zone}")
    return {"changed": list(changed), "answer": answer}


async def _answers(model: Model, want: Wanted) -> str:
    # Before there is a site and an edge to name, the zone itself is all there is to ask for.
    ready = bool(model.sites) and want.names_edges
    name, kind = (f"{model.sites[0].name}.{model.setup.zone}", "A") if ready else (model.setup.zone, "SOA")
    found = await resolving.ask(want.address, name, kind)
    if not found:
        raise ProbeFailed(f"it gives no answer for {name}.", host=want.host, hint="`journalctl -u gdnsd` on it")
    return ", ".join(found)


async def announce(job: JobRun, *, also: str = "") -> int:
    """Bring all name servers to what the model says now; give how many failed. Nothing happens without any."""
    model = await book.load(job.db)
    if not model.servers or not model.setup.zone:
        return 0

    async def work(step: StepRun) -> Receipt:
        row = next(row for row in model.servers if row.host == step.host.name)
        return await serve(step, model, wanted(model, row, also))

    return await job.each(work, [row.host for row in model.servers], parallel=4)


class ServerParams(BaseModel):
    """A host that answers for the zone."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: HostName = Field(title="Host")
    address: str = Field("", title="IPv4 address", description="Of its own; empty takes the host's.")

    @field_validator("address")
    @classmethod
    def _ip(cls, value: str) -> str:
        if value:
            try:
                ipaddress.IPv4Address(value)
            except ValueError:
                raise ValueError(f"{value!r} is no IPv4 address") from None
        return value


async def _server(run: JobRun, params: ServerParams) -> Receipt:
    async with run.db.write() as session:
        host = (await session.exec(select(Host).where(Host.name == params.host))).first()
        if host is None:
            raise NotFound(f"there is no host {params.host!r}.", field="host", hint="`opsdeck host add` it first")
        address = params.address or host.address
        try:
            ipaddress.IPv4Address(address)
        except ValueError:
            raise Invalid(
                f"{params.host} is reached by the name {address}; say which address it answers on.", field="address",
                hint="--address ADDRESS",
            ) from None  # fmt: skip
        row = (await session.exec(select(NameServerRow).where(NameServerRow.host == params.host))).first()
        if row is None:
            used = set((await session.exec(select(NameServerRow.number))).all())
            free = next(number for number in range(1, len(used) + 2) if number not in used)
            session.add(NameServerRow(host=params.host, address=address, number=free))
        else:
            row.address = address
    run.log(f"{params.host} is a name server; it answers after `dns` or the next deploy", "good")
    return {"host": params.host, "address": address}


class ServerName(BaseModel):
    """Which name server."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: HostName = Field(title="Name server")


async def _remove_server(run: JobRun, params: ServerName) -> Receipt:
    async with run.db.write() as session:
        row = (await session.exec(select(NameServerRow).where(NameServerRow.host == params.host))).first()
        if row is None:
            raise NotFound(f"{params.host!r} is no name server.", field="host", hint="see the name servers")
        await session.exec(delete(NameServerRow).where(col(NameServerRow.host) == params.host))
    return {"host": params.host}


async def _dns(job: JobRun, _params: NoParams) -> Receipt:
    model = await book.load(job.db)
    if not model.servers:
        raise Invalid("there is no name server.", field="host", hint="`opsdeck plugin run cdn nameserver --host HOST`")
    wanted(model, model.servers[0])
    return {"failed": await announce(job), "servers": [row.host for row in model.servers]}


async def _plan_dns(run: PlanRun, _params: NoParams) -> Plan:
    model = await book.load(run.db)
    notes = [f"Where visitors are: {LICENCES[model.geoip.name]}"] if model.geoip.sha256 else [
        "Without GeoIP data everyone is given every edge."
    ]  # fmt: skip

    async def look(host: HostAccess) -> tuple[Change, ...]:
        row = next(row for row in model.servers if row.host == host.host.name)
        want = wanted(model, row)
        changes = list(await files.plan(host, [want.states, *want.files]))
        if model.geoip.sha256:
            made = artefact(model)
            changes += await artefacts.plan(host, made, Depot(run.home).has(made))
        return tuple(changes)

    found = await run.gather(look, [row.host for row in model.servers], parallel=4)
    return Plan(tuple(change for changes in found.values() for change in changes), tuple(notes))


class GeoipParams(BaseModel):
    """Where the data about addresses comes from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["dbip-city-lite", "geolite2-city", "other"] = Field(
        title="Data", description="Its licence is shown wherever it is used."
    )
    source: str = Field(
        title="Source", max_length=2000,
        description="A web address, or a file below `files` in the data folder; a MaxMind DB of the City kind.",
    )  # fmt: skip
    sha256: str = Field(title="SHA-256", description="Of the source as it is fetched.", pattern=r"^[0-9a-f]{64}$")
    member: str = Field("", title="File inside", description="Where it lies in a wheel, zip or tar.", max_length=200)


def _source(text: str, door: Door, home: Path) -> str:
    """Give a source that this door may read. Raises `Refused`."""
    if text.startswith(("https://", "http://")):
        return text
    path = Path(text)
    inside = (home / "files" / text).resolve()
    if not path.is_absolute() and inside.is_relative_to((home / "files").resolve()):
        return str(inside)
    if door is Door.CLI:
        return str(path.resolve())
    raise Refused(f"{text} may not be read from here.", field="source", hint="put it below `files` in the data folder")


async def _geoip(job: JobRun, params: GeoipParams) -> Receipt:
    before = (await book.load(job.db)).geoip
    given = book.Geoip(params.name, _source(params.source, job.actor.door, job.home), params.sha256, params.member)
    await _keep_geoip(job.db, given)
    try:
        model = await book.load(job.db)
        await Depot(job.home).obtain(artefact(model))
        failed = await announce(job)
        if failed:
            raise ProbeFailed(
                f"{failed} of {len(model.servers)} name servers do not take this data.", field="source",
                hint="see their steps; the data before stays in force",
            )  # fmt: skip
    except OpsDeckError:
        await _keep_geoip(job.db, before)
        if before.sha256:
            await announce(job)
        raise
    job.log(LICENCES[params.name])
    return {"data": params.name, "licence": LICENCES[params.name], "servers": [row.host for row in model.servers]}


async def _keep_geoip(db: Any, given: book.Geoip) -> None:
    async with db.write() as session:
        row = (await session.exec(select(SetupRow))).one()
        row.geoip_name, row.geoip_source = given.name, given.source
        row.geoip_sha256, row.geoip_member = given.sha256, given.member


def _touches(_params: BaseModel, _hosts: Sequence[str]) -> Sequence[str]:
    return ["cdn:dns"]


nameserver = Action(
    "nameserver", "Add a name server", "Have a host answer for the zone.",
    params=ServerParams, targets=Targets.CONSOLE, run=_server, touches=_touches, timeout=60.0,
)  # fmt: skip
remove_nameserver = Action(
    "remove_nameserver", "Remove a name server", "Take a host out of the zone's name servers.",
    params=ServerName, risk=Risk.DESTROY, targets=Targets.CONSOLE, run=_remove_server, touches=_touches, timeout=60.0,
)  # fmt: skip
dns = Action(
    "dns", "Bring DNS to the name servers", "Zone and states, checked by gdnsd, then asked from outside.",
    params=NoParams, targets=Targets.CONSOLE, run=_dns, plan=_plan_dns, touches=_touches, timeout=900.0,
)  # fmt: skip
geoip = Action(
    "geoip", "Update the GeoIP data", "Tell the name servers where addresses are; kept only if they take the data.",
    params=GeoipParams, targets=Targets.CONSOLE, run=_geoip, touches=_touches, timeout=1800.0,
)  # fmt: skip
