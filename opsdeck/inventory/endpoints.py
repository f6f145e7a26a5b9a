"""Hosts as SSH needs them: credentials opened, keys pinned, jump chains joined."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlmodel import col, select

from opsdeck.actor import Actor
from opsdeck.errors import Invalid, NotFound
from opsdeck.inventory.forms import AGENT
from opsdeck.inventory.hosts import MAX_HOPS
from opsdeck.inventory.models import Host, HostKey
from opsdeck.inventory.selector import unknown_host
from opsdeck.secrets.models import Secret
from opsdeck.secrets.sensitive import Sensitive
from opsdeck.ssh.endpoint import Credential, Endpoint, Method, Sudo

if TYPE_CHECKING:
    from opsdeck.inventory.hosts import Inventory
    from opsdeck.secrets.store import SecretStore

CERTIFICATE = "-cert"
PASSPHRASE = "-passphrase"  # noqa: S105 - the ending of a secret's name
"""A key `web` may have the companions `web-cert` and `web-passphrase`."""


@dataclass(frozen=True)
class _Known:
    """What the database says of the hosts asked for and of those on the way to them."""

    hosts: Mapping[str, Host]
    pins: Mapping[int, tuple[str, ...]]
    secrets: Mapping[str, tuple[str, int]]
    """Kind and version by name."""

    def credential_names(self, host: Host) -> set[str]:
        names = {name for name in (host.credential, host.sudo_secret) if name and name != AGENT}
        if self.secrets.get(host.credential, ("", 0))[0] == "ssh-key":
            companions = {host.credential + CERTIFICATE, host.credential + PASSPHRASE}
            names |= companions & self.secrets.keys()
        return names


class Endpoints:
    """Resolves hosts for SSH, many at once: one read for the rows, one for the secrets."""

    def __init__(self, inventory: Inventory, secrets: SecretStore) -> None:
        self._inventory = inventory
        self._secrets = secrets

    async def resolve(self, names: Iterable[str], *, actor: Actor, purpose: str) -> dict[str, Endpoint]:
        """Give an endpoint for each name; `purpose` goes to the audit trail beside each secret that is opened.

        Raises `NotFound` for a host, jump host or secret that is not there, `Invalid` for a secret that cannot log in.
        """
        wanted = tuple(dict.fromkeys(names))
        known = await self._read()
        for name in wanted:
            if name not in known.hosts:
                raise unknown_host(name, known.hosts)
        involved = {name: known.hosts[name] for first in wanted for name in _chain(first, known.hosts)}
        needed = sorted({name for host in involved.values() for name in known.credential_names(host)})
        for host in involved.values():
            for missing in known.credential_names(host) - known.secrets.keys():
                raise NotFound(
                    f"The secret {missing!r} that logs in there is gone.",
                    host=host.name,
                    hint=f"set it with `opsdeck secret set {missing}`, or name another with `opsdeck host edit`",
                )
        values = await self._secrets.reveal_many(needed, actor=actor, purpose=purpose) if needed else {}
        made: dict[str, Endpoint] = {}
        for name in wanted:
            for hop in reversed(_chain(name, known.hosts)):
                if hop not in made:
                    made[hop] = _endpoint(known.hosts[hop], known, values, made)
        return {name: made[name] for name in wanted}

    async def versions(self) -> dict[str, tuple[object, ...]]:
        """Give by host name what its endpoint is made of, secrets by version: unchanged means that it still holds."""
        known = await self._read()
        parts = {
            name: (
                host.address,
                host.port,
                host.user,
                host.sudo,
                known.pins.get(host.id or 0, ()),
                tuple(sorted((secret, known.secrets.get(secret)) for secret in known.credential_names(host))),
            )
            for name, host in known.hosts.items()
        }
        return {name: tuple(parts.get(hop) for hop in _chain(name, known.hosts, strict=False)) for name in parts}

    async def _read(self) -> _Known:
        async with self._inventory.db.read() as session:
            hosts = {host.name: host for host in (await session.exec(select(Host))).all()}
            rows = await session.exec(
                select(HostKey.host_id, HostKey.public).where(HostKey.state == "pinned").order_by(col(HostKey.id))
            )
            pins: dict[int, tuple[str, ...]] = {}
            for host_id, public in rows.all():
                pins[host_id] = (*pins.get(host_id, ()), public)
            metas = await session.exec(select(Secret.name, Secret.kind, Secret.version))
            secrets = {name: (kind, version) for name, kind, version in metas.all()}
        return _Known(hosts, pins, secrets)


def _chain(name: str, hosts: Mapping[str, Host], *, strict: bool = True) -> list[str]:
    """Give the host and the hops towards it, the nearest to us last."""
    chain = [name]
    hop = hosts[name].jump
    while hop is not None and len(chain) <= MAX_HOPS:
        if hop not in hosts or hop in chain:
            if not strict:
                break
            fault = "is gone" if hop not in hosts else "leads in a circle"
            raise NotFound(f"Its jump host {hop} {fault}.", host=name, hint=f"run `opsdeck host edit {name} --jump …`")
        chain.append(hop)
        hop = hosts[hop].jump
    return chain


def _endpoint(host: Host, known: _Known, values: Mapping[str, Sensitive], made: Mapping[str, Endpoint]) -> Endpoint:
    credential = _credential(host, known, values)
    password = values[host.sudo_secret] if host.sudo_secret else None
    if password is None and host.sudo == Sudo.PASSWORD and credential.method is Method.PASSWORD:
        password = credential.secret
    return Endpoint(
        name=host.name,
        address=host.address,
        port=host.port,
        user=host.user,
        credential=credential,
        host_keys=known.pins.get(host.id or 0, ()),
        via=made[host.jump] if host.jump else None,
        sudo=Sudo(host.sudo),
        sudo_password=password,
    )


def _credential(host: Host, known: _Known, values: Mapping[str, Sensitive]) -> Credential:
    if host.credential == AGENT:
        import os

        return Credential(Method.AGENT, AGENT, agent_path=os.environ.get("SSH_AUTH_SOCK"))
    name = host.credential
    kind, version = known.secrets[name]
    if kind == "password":
        return Credential(Method.PASSWORD, name, version, values[name])
    if kind != "ssh-key":
        raise Invalid(
            f"The secret {name!r} is of the kind {kind}, which does not log in.",
            host=host.name,
            field="credential",
            hint="name a secret of the kind ssh-key or password with `opsdeck host edit`",
        )
    certificate = values.get(name + CERTIFICATE)
    companions = sum(known.secrets[name + end][1] for end in (CERTIFICATE, PASSPHRASE) if name + end in known.secrets)
    return Credential(
        Method.CERTIFICATE if certificate else Method.KEY,
        name,
        version + companions,
        values[name],
        values.get(name + PASSPHRASE),
        certificate.reveal() if certificate else None,
    )
