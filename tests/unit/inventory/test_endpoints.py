from __future__ import annotations

from typing import Any

import pytest
from sqlmodel import select

from opsdeck.actor import SYSTEM
from opsdeck.db import Database
from opsdeck.errors import NotFound
from opsdeck.forms import checked
from opsdeck.inventory.endpoints import Endpoints
from opsdeck.inventory.forms import HostIn, HostPatch
from opsdeck.inventory.hosts import Inventory
from opsdeck.inventory.models import Host, HostKey
from opsdeck.secrets.models import Secret
from opsdeck.secrets.sensitive import Sensitive
from opsdeck.ssh.endpoint import Method, Sudo


def form(name: str, **given: Any) -> HostIn:
    return checked(HostIn, {"name": name, "address": f"{name}.example"} | given)


async def resolve(endpoints: Endpoints, *names: str) -> Any:
    return await endpoints.resolve(names, actor=SYSTEM, purpose="job:1")


async def test_a_chain_with_keys_and_pins(
    inventory: Inventory, endpoints: Endpoints, keys: Any, db: Database, heard: Any
) -> None:
    await keys.key("k")
    await keys.certificate("k-cert")
    await keys.password("k-passphrase", "open sesame")
    await keys.password("pw", "hunter22")
    await inventory.add(form("gate", credential="pw", sudo="password"), SYSTEM)
    await inventory.add(form("mid", jump="gate", user="ops", sudo="nopasswd"), SYSTEM)
    inner = await inventory.add(form("inner", jump="mid", credential="k", port=2222), SYSTEM)
    async with db.write() as session:
        for state, public in (("pinned", "ssh-ed25519 AAA"), ("offered", "ssh-rsa BBB"), ("pinned", "ecdsa CCC")):
            session.add(
                HostKey(host_id=inner.id, algorithm=public.split()[0], public=public, fingerprint=public, state=state)
            )
    found = (await resolve(endpoints, "inner"))["inner"]
    assert (found.address, found.port, found.user) == ("inner.example", 2222, "root")
    assert found.host_keys == ("ssh-ed25519 AAA", "ecdsa CCC")
    assert found.credential.method is Method.CERTIFICATE
    assert (found.credential.certificate or "").startswith("ssh-ed25519-cert")
    assert found.credential.passphrase == Sensitive("open sesame")
    assert found.via is not None
    assert found.via.credential.method is Method.AGENT
    assert (found.via.name, found.via.sudo) == ("mid", Sudo.NOPASSWD)
    assert found.via.via is not None
    assert found.via.via.credential.secret == Sensitive("hunter22")
    assert found.via.via.sudo_password == Sensitive("hunter22")
    opened = await heard.entries("secret.revealed")
    assert [entry["target"] for entry in opened] == ["secret:k", "secret:k-cert", "secret:k-passphrase", "secret:pw"]
    assert {entry["detail"]["purpose"] for entry in opened} == {"job:1"}


async def test_a_hundred_hosts_cost_one_opening(
    inventory: Inventory, endpoints: Endpoints, keys: Any, heard: Any
) -> None:
    await keys.key("k")
    await inventory.apply([form(f"h{number}", credential="k") for number in range(100)], {}, SYSTEM)
    found = await resolve(endpoints, *(f"h{number}" for number in range(100)))
    assert len(found) == 100
    assert len(await heard.entries("secret.revealed")) == 1


async def test_agents_open_nothing(inventory: Inventory, endpoints: Endpoints, keys: Any, heard: Any) -> None:
    await inventory.add(form("a"), SYSTEM)
    assert (await resolve(endpoints, "a"))["a"].credential.method is Method.AGENT
    assert await heard.entries("secret.revealed") == []


async def test_what_is_missing_is_named(inventory: Inventory, endpoints: Endpoints, db: Database, keys: Any) -> None:
    await keys.key("k")
    await inventory.add(form("web1", credential="k"), SYSTEM)
    with pytest.raises(NotFound, match=r"'web2'.*did you mean web1"):
        await resolve(endpoints, "web2")
    async with db.write() as session:
        await session.delete((await session.exec(select(Secret))).one())
    with pytest.raises(NotFound, match="secret 'k'") as fault:
        await resolve(endpoints, "web1")
    assert fault.value.host == "web1"
    async with db.write() as session:
        session.add(Host(name="lone", address="x", jump="nowhere"))
    with pytest.raises(NotFound, match="nowhere"):
        await resolve(endpoints, "lone")
    assert set(await endpoints.versions()) == {"web1", "lone"}


async def test_versions_change_with_what_an_endpoint_is_made_of(
    inventory: Inventory, endpoints: Endpoints, keys: Any, db: Database, heard: Any
) -> None:
    await keys.key("k")
    gate = await inventory.add(form("gate", credential="k"), SYSTEM)
    await inventory.add(form("inner", jump="gate"), SYSTEM)
    seen = [await endpoints.versions()]
    assert await endpoints.versions() == seen[0]
    await inventory.edit("inner", checked(HostPatch, {"region": "fra"}), SYSTEM)
    assert await endpoints.versions() == seen[0]
    await keys.key("k")
    seen.append(await endpoints.versions())
    async with db.write() as session:
        session.add(HostKey(host_id=gate.id, algorithm="a", public="a b", fingerprint="f", state="pinned"))
    seen.append(await endpoints.versions())
    assert len({one["inner"] for one in seen}) == 3
    await keys.certificate("k-cert")
    assert (await endpoints.versions())["gate"] != seen[-1]["gate"]
