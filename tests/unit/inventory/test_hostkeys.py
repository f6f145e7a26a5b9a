from __future__ import annotations

import base64
import hashlib
import hmac

import asyncssh
import pytest

from opsdeck.actor import SYSTEM, Actor, Door, Role
from opsdeck.audit.log import Filters
from opsdeck.deck import Deck
from opsdeck.errors import Invalid, NotFound, Refused
from opsdeck.inventory.hostkeys import ALL, KeyState, Trust
from opsdeck.lab.inprocess import PlayHosts
from opsdeck.ssh.command import Command
from opsdeck.ssh.errors import HostKeyChanged, HostKeyUnknown, Unreachable
from opsdeck.ssh.hostkeys import OfferedKey


async def say(deck: Deck, name: str) -> bytes:
    endpoint = (await deck.endpoints.resolve([name], actor=SYSTEM, purpose="test"))[name]
    return (await deck.ssh.run(endpoint, Command(("echo", "hello")))).stdout


async def test_first_contact_approval_and_work(deck: Deck, hosts: PlayHosts) -> None:
    with pytest.raises(HostKeyUnknown):
        await say(deck, "web1")
    contact = await deck.host_keys.contact("web1", SYSTEM)
    key = OfferedKey.of(hosts["web1"].host_key)
    assert (contact.trust, contact.offered, contact.pinned) == (Trust.NEW, (key,), ())
    assert (await deck.inventory.get("web1")).reach == "untrusted"
    assert [row.state for row in await deck.host_keys.list("web1")] == [KeyState.OFFERED]
    with pytest.raises(HostKeyUnknown):
        await say(deck, "web1")
    await deck.host_keys.approve("web1", key.fingerprint, SYSTEM)
    assert await say(deck, "web1") == b"hello\n"
    again = await deck.host_keys.contact("web1", SYSTEM)
    assert (again.trust, again.offered) == (Trust.TRUSTED, ())
    (entry,) = await deck.audit.list(Filters(verb="host_key.approved"))
    assert entry.target == "host:web1"
    assert key.fingerprint in entry.body
    assert await deck.incidents.open_now() == ()


async def test_a_changed_key_is_refused_raised_and_shown_until_a_person_decides(deck: Deck, pinned: PlayHosts) -> None:
    old = OfferedKey.of(pinned["web1"].host_key)
    assert await say(deck, "web1") == b"hello\n"
    new = OfferedKey.of(await pinned["web1"].change_host_key())
    await pinned["web1"].drop()
    with pytest.raises(HostKeyChanged) as fault:
        await say(deck, "web1")
    await deck.host_keys.report(fault.value)
    contact = await deck.host_keys.contact("web1", SYSTEM)
    assert (contact.trust, contact.offered, contact.pinned) == (Trust.CHANGED, (new,), (old,))
    (incident,) = await deck.incidents.open_now()
    assert (incident.key, incident.host, incident.severity) == ("host-key:web1", "web1", "broken")
    assert old.fingerprint in incident.detail
    assert new.fingerprint in incident.detail
    host = await deck.inventory.get("web1")
    assert host.reach == "key_changed"
    assert new.fingerprint in host.reach_detail
    with pytest.raises(HostKeyChanged):
        await say(deck, "web1")
    await deck.host_keys.approve("web1", new.fingerprint, SYSTEM)
    assert await say(deck, "web1") == b"hello\n"
    assert await deck.incidents.open_now() == ()
    await deck.host_keys.report(fault.value)
    assert await deck.incidents.open_now() == (), "told late, of a key that a person has approved since"
    states = {row.fingerprint: row.state for row in await deck.host_keys.list("web1")}
    assert states == {new.fingerprint: KeyState.PINNED, old.fingerprint: KeyState.RETIRED}


async def test_a_retired_key_that_comes_back_is_asked_about_again(deck: Deck, pinned: PlayHosts) -> None:
    first = pinned["web1"].host_key
    await pinned["web1"].change_host_key()
    await deck.host_keys.contact("web1", SYSTEM)
    await deck.host_keys.approve("web1", ALL, SYSTEM)
    await pinned["web1"]._use(asyncssh.read_private_key(pinned["web1"].folder / "host_key"))
    assert pinned["web1"].host_key == first
    contact = await deck.host_keys.contact("web1", SYSTEM)
    assert contact.trust is Trust.CHANGED
    assert contact.fingerprints == (OfferedKey.of(first).fingerprint,)


async def test_what_cannot_be_approved(deck: Deck, pinned: PlayHosts) -> None:
    fingerprint = OfferedKey.of(pinned["web1"].host_key).fingerprint
    with pytest.raises(Refused, match="pinned already"):
        await deck.host_keys.approve("web1", fingerprint, SYSTEM)
    with pytest.raises(NotFound, match="no other key"):
        await deck.host_keys.approve("web1", ALL, SYSTEM)
    with pytest.raises(NotFound, match="SHA256:none") as fault:
        await deck.host_keys.approve("web1", "SHA256:none", SYSTEM)
    assert fault.value.host == "web1"
    with pytest.raises(NotFound):
        await deck.host_keys.approve("web9", ALL, SYSTEM)
    with pytest.raises(Invalid, match="host key"):
        await deck.host_keys.pin("web1", "ssh-ed25519 nonsense", SYSTEM)
    viewer = Actor("vi", Role.VIEWER, Door.WEB)
    for work in (
        deck.host_keys.approve("web1", ALL, viewer),
        deck.host_keys.pin("web1", pinned["web2"].host_key, viewer),
        deck.host_keys.seed("", viewer),
    ):
        with pytest.raises(Refused):
            await work


async def test_a_host_that_is_off_shows_no_key(deck: Deck, hosts: PlayHosts) -> None:
    await hosts["web1"].stop()
    with pytest.raises(Unreachable) as fault:
        await deck.host_keys.contact("web1", SYSTEM)
    assert fault.value.host == "web1"


def hashed(name: str) -> str:
    salt = b"0123456789abcdefghij"
    digest = hmac.new(salt, name.encode(), hashlib.sha1).digest()
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


async def test_trust_is_seeded_from_known_hosts_with_hashed_names(deck: Deck, hosts: PlayHosts) -> None:
    one, two, three = hosts
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
    text = (
        f"# a comment\n{hashed(f'[{one.address}]:{one.port}')} {one.host_key}\n"
        f"[{two.address}]:{two.port} {two.host_key}\nbroken line here\n"
    )
    seeded = await deck.host_keys.seed(text, SYSTEM)
    assert (seeded.pinned, seeded.without, seeded.differ) == (("web1", "web2"), ("web3",), ())
    assert [item.line for item in seeded.skipped] == [4]
    assert await say(deck, "web1") == b"hello\n"
    again = await deck.host_keys.seed(f"[{two.address}]:{two.port} {other}\n", SYSTEM, "web2")
    assert (again.pinned, again.differ) == ((), ("web2",))
    assert await say(deck, "web2") == b"hello\n"
    forced = await deck.host_keys.seed(f"[{two.address}]:{two.port} {other}\n", SYSTEM, "web2", replace=True)
    assert forced.pinned == ("web2",)
    with pytest.raises(HostKeyChanged):
        await say(deck, "web2")
    assert three.name in seeded.without


async def test_pins_leave_as_known_hosts(deck: Deck, pinned: PlayHosts) -> None:
    text = await deck.host_keys.export("web1,web2")
    assert text == "".join(
        f"[{pinned[name].address}]:{pinned[name].port} {pinned[name].host_key}\n" for name in ("web1", "web2")
    )
    known = asyncssh.import_known_hosts(text)
    assert known.match("127.0.0.1", "127.0.0.1", pinned["web1"].port)[0]
