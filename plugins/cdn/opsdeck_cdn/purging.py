"""Forgetting what edges keep: by URL with all its variants, by prefix, or a whole site at once.

A purge is owed by every edge from the moment it is asked for until the edge has done it, so one that was away cannot
come back with what was to be forgotten.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import update
from sqlmodel import col

from opsdeck.api import (
    Action,
    Command,
    HostName,
    Invalid,
    JobRun,
    NotDone,
    Receipt,
    Refused,
    StepRun,
    Targets,
    as_value_error,
)
from opsdeck_cdn import book, edgehost
from opsdeck_cdn.book import Debt, Model
from opsdeck_cdn.models import SiteRow
from opsdeck_cdn.render import layout, nginx
from opsdeck_cdn.sites import Policy, Rule, Site, domain

LONGEST = 2000
"""Characters of a URL, so that an edge can owe it: what is owed is unique in the database."""
_TARGET = re.compile(r"/[!-~]*")
"""What may stand in a request line after the host: visible ASCII (RFC 9112 §3.2)."""


class PurgeParams(BaseModel):
    """What to forget."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    what: Literal["urls", "prefix", "site"] = Field(
        "urls", title="What", description="Single URLs, all below a prefix, or a whole site at once."
    )
    urls: list[str] = Field(
        default_factory=list, title="URLs", max_length=500,
        description="As visitors ask for them: https://www.example.com/app.css. For a prefix: what they begin with.",
    )  # fmt: skip
    site: str = Field("", title="Site", description="For a whole site.", max_length=40)

    @model_validator(mode="after")
    def _whole(self) -> PurgeParams:
        if self.what == "site" and not self.site:
            raise ValueError("say which site")
        if self.what != "site" and not self.urls:
            raise ValueError("say which URLs")
        with as_value_error():
            for url in self.urls:
                split(url)
        return self


def split(url: str) -> tuple[str, str]:
    """Give a URL's host and the rest as a visitor's request names it. Raises `Invalid`."""
    if len(url) > LONGEST:
        raise Invalid(
            f"the URL {url[:60]}… is longer than {LONGEST} characters.", field="urls", hint="purge a prefix of it"
        )
    try:
        parts = urlsplit(url)
        named = parts.scheme in ("http", "https") and bool(parts.hostname) and url.isascii()
    except ValueError:
        named = False
    if not named:
        raise Invalid(
            f"{url!r} is no URL.", field="urls", hint="write it as https://www.example.com/path, percent-encoded"
        )
    host = domain(parts.hostname or "", "urls")
    rest = parts.path or "/"
    if parts.query:
        rest += f"?{parts.query}"
    if not _TARGET.fullmatch(rest):
        raise Invalid(f"{url!r} cannot be asked for.", field="urls", hint="percent-encode it, as a browser does")
    return host, rest


def keys(site: Site, host: str, target: str) -> tuple[str, ...]:
    """Give the keys under which any of the site's rules would keep a URL in the epoch in force."""
    found = dict.fromkeys(_key(rule, target) for _, rule in site.static_rules)
    return tuple(f"{site.name}|{site.epoch}|{host}|{kept}" for kept in found)


def _key(rule: Rule, target: str) -> str:
    path, _, query = target.partition("?")
    if rule.query is Policy.IGNORE:
        return path
    if rule.query is Policy.ONLY:
        given: dict[str, str] = {}
        for pair in query.split("&"):
            name, equals, value = pair.partition("=")
            if equals:
                # nginx finds the first, without regard to case.
                given.setdefault(name.lower(), value)
        return path + "?" + "&".join(f"{name}={given.get(name, '')}" for name in rule.arguments)
    return target


async def settle(step: StepRun) -> int:
    """Do what an edge owes; give how many files went. What is done is taken off the record."""
    db = step.job.db
    debts = await book.owed(db, step.host.name)
    gone = await _pay(step, debts) if debts else 0
    await book.change_edge(db, step.host.name, owing=False)
    return gone


async def _pay(step: StepRun, debts: Sequence[Debt]) -> int:
    db = step.job.db
    model = await book.load(db)
    known = {site.name: site for site in model.sites}
    gone = 0
    for name in dict.fromkeys(debt.site for debt in debts):
        site = known.get(name)
        mine = [debt for debt in debts if debt.site == name]
        if site is not None:
            if any(debt.what == "site" for debt in mine):
                await edgehost.take_epochs(step, {site.name: nginx.epoch(site)})
            gone += await _forget(step, site, mine)
        await book.paid(db, mine)
    return gone


async def _forget(step: StepRun, site: Site, debts: Sequence[Debt]) -> int:
    gone = 0
    wholes: list[str] = []
    prefixes: list[str] = []
    for debt in debts:
        host, slash, rest = debt.argument.partition("/")
        if debt.what == "url":
            wholes += keys(site, host, slash + rest)
        elif debt.what == "prefix":
            prefixes.append(f"{site.name}|{site.epoch}|{host}|{slash}{rest}")
    for what, wanted in (("whole", wholes), ("prefix", prefixes)):
        if wanted:
            gone += await _remove(step, site.name, what, wanted)
    return gone


async def _remove(step: StepRun, site: str, what: str, wanted: Sequence[str]) -> int:
    body = "\n".join((layout.cache_folder(site), layout.purge_word(site), what, *wanted)) + "\n"
    command = Command(("perl", "-e", edgehost.shell("purge.pl")), sudo=True)
    done = await step.run(command, stdin=body.encode(), log=False, timeout=300)
    found = re.fullmatch(rb"seen (\d+) gone (\d+)\s*", done.stdout)
    if not found:
        raise NotDone(f"the cache of {site} gave no count: {done.last_words()}", host=step.host.name)
    step.log(f"{site}: {int(found[2])} of {int(found[1])} kept files removed", "good")
    return int(found[2])


async def bring_epochs(step: StepRun, model: Model) -> None:
    """Have an edge forget the sites that were purged as a whole while it was away."""
    await edgehost.take_epochs(step, {site.name: nginx.epoch(site) for site in model.sites})


async def _run(job: JobRun, params: PurgeParams) -> Receipt:
    model = await book.load(job.db)
    hosts = [edge.host for edge in model.edges if model.rows[edge.host].generation]
    if not hosts:
        raise Refused("no edge keeps anything yet.", field="what", hint="`opsdeck plugin run cdn deploy` comes first")
    if params.what == "site":
        return await _whole_site(job, model, params.site, hosts)
    debts = []
    for url in params.urls:
        host, rest = split(url)
        site = model.site_of(host)
        what = "url" if params.what == "urls" else "prefix"
        debts += [Debt(edge, site.name, what, host + rest) for edge in hosts]
    await book.owe(job.db, debts)

    async def work(step: StepRun) -> Receipt:
        gone = await settle(step)
        step.note(f"{gone} removed")
        return {"removed": gone}

    failed = await job.each(work, hosts, parallel=16)
    return {"failed": failed, "edges": hosts, "owing": await _left(job)}


async def _left(job: JobRun) -> list[str]:
    """Keep out of DNS who owes something still, and give them."""
    still = sorted({debt.edge for debt in await book.owed(job.db)})
    for name in still:
        job.log(f"{name} owes it: it stays out of DNS until it has done it", "bad")
        await book.change_edge(job.db, name, owing=True)
    return still


async def _whole_site(job: JobRun, model: Model, name: str, hosts: Sequence[str]) -> Receipt:
    site = model.site(name)
    await book.owe(job.db, [Debt(host, name, "site", "") for host in hosts])
    async with job.db.write() as session:
        await session.exec(update(SiteRow).where(col(SiteRow.name) == name).values(epoch=SiteRow.epoch + 1))
    site = (await book.load(job.db)).site(site.name)

    async def work(step: StepRun) -> Receipt:
        await settle(step)
        step.note(f"epoch {site.epoch}")
        return {"epoch": site.epoch}

    failed = await job.each(work, hosts, parallel=16)
    return {"failed": failed, "edges": list(hosts), "epoch": site.epoch, "owing": await _left(job)}


class SettleParams(BaseModel):
    """Which edge."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: HostName = Field(title="Edge")


async def _settle(job: JobRun, params: SettleParams) -> Receipt:
    """Do what an edge owes: its purges, and the epochs of all sites; only then may it be named again.

    It is not let in by this when it is out for another reason, such as a deploy that failed.
    """
    model = await book.load(job.db)
    edge = model.edge(params.host)
    gone = 0
    async with job.step(edge.host) as step:
        await bring_epochs(step, model)
        gone = await settle(step)
    return {"edge": edge.host, "removed": gone}


def _touches(_params: PurgeParams, _hosts: Sequence[str]) -> list[str]:
    return ["cdn:purge"]


purge = Action(
    "purge", "Purge", "Have all edges forget URLs, a prefix or a whole site; an edge that is away owes it.",
    params=PurgeParams, targets=Targets.CONSOLE, run=_run, touches=_touches, timeout=900.0,
)  # fmt: skip

settle_debts = Action(
    "settle", "Catch up on purges", "Have an edge that was away do the purges it owes, and let it into DNS again.",
    params=SettleParams, targets=Targets.CONSOLE, run=_settle, touches=_touches, timeout=900.0,
)  # fmt: skip

__all__ = ["PurgeParams", "bring_epochs", "keys", "purge", "settle", "settle_debts", "split"]
