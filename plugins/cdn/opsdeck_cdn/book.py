"""The rows as the plugin's own types, and the few writes that more than one action needs."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select

from opsdeck.api import NotFound, utcnow
from opsdeck_cdn.models import DebtRow, EdgeRow, NameServerRow, SetupRow, SiteRow
from opsdeck_cdn.sites import CaddySource, Edge, Life, Origin, Rule, Setup, Site

LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"


@dataclass(frozen=True)
class Geoip:
    """Where the data about addresses comes from; an empty `sha256` means there is none."""

    name: str = ""
    source: str = ""
    sha256: str = ""
    member: str = ""


@dataclass(frozen=True)
class Model:
    """Everything that is rendered, as it stood at one moment."""

    setup: Setup
    sites: tuple[Site, ...]
    edges: tuple[Edge, ...]
    rows: Mapping[str, EdgeRow]
    """By host: what was last put on each edge, and how it does."""
    servers: tuple[NameServerRow, ...]
    geoip: Geoip

    @property
    def new_names(self) -> frozenset[str]:
        """Give the names of sites for which no edge ever had a certificate."""
        known = {name for row in self.rows.values() for name in row.certificates}
        return frozenset(name for site in self.sites for name in site.names) - known

    def edge(self, host: str) -> Edge:
        """Find an edge. Raises `NotFound`."""
        for edge in self.edges:
            if edge.host == host:
                return edge
        names = ", ".join(edge.host for edge in self.edges) or "none yet"
        raise NotFound(f"{host!r} is no edge.", field="edge", hint=f"edges are: {names}")

    def site(self, name: str) -> Site:
        """Find a site. Raises `NotFound`."""
        for site in self.sites:
            if site.name == name:
                return site
        names = ", ".join(site.name for site in self.sites) or "none yet"
        raise NotFound(f"there is no site {name!r}.", field="site", hint=f"sites are: {names}")

    def site_of(self, host: str) -> Site:
        """Find the site that a name belongs to. Raises `NotFound`."""
        for site in self.sites:
            if host in site.names:
                return site
        raise NotFound(f"no site has the name {host!r}.", field="urls", hint="see the names of the sites")


async def load(db: Any) -> Model:
    """Read all of it."""
    async with db.read() as session:
        setup = (await session.exec(select(SetupRow))).first()
        sites = (await session.exec(select(SiteRow).order_by(col(SiteRow.name)))).all()
        edges = (await session.exec(select(EdgeRow).order_by(col(EdgeRow.host)))).all()
        servers = (await session.exec(select(NameServerRow).order_by(col(NameServerRow.host)))).all()
    if setup is None:
        setup = await _first_setup(db)
    return Model(
        setup_of(setup), tuple(map(site_of, sites)), tuple(map(edge_of, edges)),
        {row.host: row for row in edges}, tuple(servers),
        Geoip(setup.geoip_name, setup.geoip_source, setup.geoip_sha256, setup.geoip_member),
    )  # fmt: skip


async def _first_setup(db: Any) -> SetupRow:
    row = SetupRow(id=1, mark=f"opsdeck-{secrets.token_hex(5)}", acme_directory=LETS_ENCRYPT)
    # On PostgreSQL another node may have been first; then its row counts.
    with contextlib.suppress(IntegrityError):
        async with db.write() as session:
            session.add(row)
    async with db.read() as session:
        return (await session.exec(select(SetupRow))).one()  # type: ignore[no-any-return]


def setup_of(row: SetupRow) -> Setup:
    """Give a row of settings as the plugin works with it."""
    caddy = CaddySource(row.caddy_version, row.caddy_source, row.caddy_sha256, row.caddy_member, row.caddy_arch)
    return Setup(
        row.mark,
        row.acme_directory,
        row.acme_email,
        row.acme_roots,
        row.visitor_roots,
        row.zone,
        row.ttl,
        row.parent,
        caddy,
    )


def site_of(row: SiteRow) -> Site:
    """Give a row as a site. Raises `Invalid` when it no longer fits what a site must be."""
    return Site(
        row.name,
        tuple(row.names),
        tuple(map(Origin.parse, row.origins)),
        tuple(map(Rule.parse, row.rules)),
        row.host_header,
        row.tls_name,
        row.quota_mb,
        row.origin_timeout,
        row.epoch,
        row.probe_static,
        row.probe_dynamic,
    )


def edge_of(row: EdgeRow) -> Edge:
    """Give a row as an edge."""
    return Edge(
        row.host, row.latitude, row.longitude, row.v4, row.v6, row.quota_percent, row.drained, row.bind, row.admitted
    )


async def change_edge(db: Any, host: str, **values: object) -> None:
    """Change an edge's row."""
    async with db.write() as session:
        await session.exec(update(EdgeRow).where(col(EdgeRow.host) == host).values(**values))


async def deployed(db: Any, host: str, generation: str, files: Mapping[str, str], lives: Mapping[str, Life]) -> None:
    """Note that a generation works on an edge, and let it into DNS."""
    certificates = {name: str(life) for name, life in lives.items()}
    await change_edge(
        db, host, generation=generation, files=dict(files), deployed=utcnow(), admitted=True,
        owing=False, health="up", health_text="", health_at=utcnow(), certificates=certificates,
    )  # fmt: skip


@dataclass(frozen=True)
class Debt:
    """A purge that an edge owes: of one `url` (host and target), of a `prefix`, or of a whole `site`."""

    edge: str
    site: str
    what: str
    argument: str


async def owe(db: Any, debts: Sequence[Debt]) -> None:
    """Put debts on record; one that is there already stays one."""
    async with db.write() as session:
        for debt in debts:
            known = select(DebtRow).where(
                DebtRow.edge == debt.edge, DebtRow.site == debt.site,
                DebtRow.what == debt.what, DebtRow.argument == debt.argument,
            )  # fmt: skip
            if (await session.exec(known)).first() is None:
                session.add(DebtRow(edge=debt.edge, site=debt.site, what=debt.what, argument=debt.argument))


async def owed(db: Any, edge: str = "") -> tuple[Debt, ...]:
    """Give the debts of an edge, or of all."""
    query = select(DebtRow).order_by(col(DebtRow.id))
    if edge:
        query = query.where(DebtRow.edge == edge)
    async with db.read() as session:
        return tuple(Debt(row.edge, row.site, row.what, row.argument) for row in (await session.exec(query)).all())


OVERDUE = timedelta(minutes=2)
"""After which a debt is one that no purge under way is about to pay."""


async def overdue(db: Any) -> frozenset[str]:
    """Give the edges that have to settle: out of DNS for it, or left with debts by a purge that broke off."""
    old = select(DebtRow.edge).where(col(DebtRow.made) < utcnow() - OVERDUE)
    async with db.read() as session:
        late = (await session.exec(old)).all()
        owing = (await session.exec(select(EdgeRow.host).where(col(EdgeRow.owing)))).all()
    return frozenset((*late, *owing))


async def paid(db: Any, debts: Sequence[Debt]) -> None:
    """Take debts off the record."""
    async with db.write() as session:
        for debt in debts:
            await session.exec(
                delete(DebtRow).where(
                    col(DebtRow.edge) == debt.edge,
                    col(DebtRow.site) == debt.site,
                    col(DebtRow.what) == debt.what,
                    col(DebtRow.argument) == debt.argument,
                )
            )
