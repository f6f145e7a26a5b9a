"""The store: set, reveal, remove; what is refused; what is written of it."""

from __future__ import annotations

import asyncssh
import pytest
from sqlmodel import select, update

from opsdeck.actor import SYSTEM, Actor, Door, Role
from opsdeck.audit.log import AuditLog
from opsdeck.db import Database
from opsdeck.errors import Conflict, Invalid, NotFound, Refused, Unavailable
from opsdeck.inventory.models import Host
from opsdeck.jobs.models import Schedule
from opsdeck.manifest import SecretKind
from opsdeck.secrets.keyring import Keyring
from opsdeck.secrets.models import Secret
from opsdeck.secrets.sensitive import Sensitive
from opsdeck.secrets.store import SecretStore

OPERATOR = Actor("olga", Role.OPERATOR, Door.WEB)
VIEWER = Actor("vera", Role.VIEWER, Door.WEB)


async def test_set_again_grows_the_version_and_keeps_the_note(store: SecretStore) -> None:
    assert await store.set("db/root", Sensitive("hunter22"), kind="password", note="shop", actor=OPERATOR) == 1
    assert await store.set("db/root", Sensitive("hunter33"), kind="password", actor=OPERATOR) == 2
    info = await store.show("db/root")
    assert (info.kind, info.version, info.note, info.updated_by) == ("password", 2, "shop", "olga")
    assert await store.version("db/root") == 2
    assert (await store.reveal("db/root", actor=OPERATOR, purpose="job:1")).reveal() == "hunter33"
    assert (await store.show("db/root")).last_used is not None


async def test_nothing_is_kept_in_clear(store: SecretStore, db: Database, audit: AuditLog) -> None:
    await store.set("a", Sensitive("hunter22-needle"), actor=OPERATOR)
    await store.reveal("a", actor=OPERATOR, purpose="job:1")
    async with db.read() as session:
        rows = (await session.exec(select(Secret))).all()
    assert b"needle" not in rows[0].blob
    assert all("needle" not in entry.body for entry in await audit.list())
    assert "needle" not in repr(await store.list())


async def test_every_touch_is_audited_once(store: SecretStore, audit: AuditLog) -> None:
    await store.set("a", Sensitive("hunter22"), actor=OPERATOR)
    await store.set("a", Sensitive("hunter23"), actor=OPERATOR)
    await store.reveal_many(["a", "a", "a"], actor=OPERATOR, purpose="job:7")
    await store.remove("a", OPERATOR)
    entries = [(entry.verb, entry.target, entry.actor) for entry in await audit.list()]
    assert entries == [
        (verb, "secret:a", "olga") for verb in ("secret.removed", "secret.revealed", "secret.changed", "secret.added")
    ]
    assert (await audit.verify()).bad is None


async def test_many_are_one_transaction(store: SecretStore, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        await store.set(f"s{number}", Sensitive(f"value-{number}"), actor=OPERATOR)
    opened = []
    for way in ("read", "write"):
        real = getattr(db, way)
        monkeypatch.setattr(db, way, lambda real=real: opened.append(1) or real())
    found = await store.reveal_many([f"s{n % 5}" for n in range(100)], actor=OPERATOR, purpose="job:1")
    assert {name: value.reveal() for name, value in found.items()} == {f"s{n}": f"value-{n}" for n in range(5)}
    assert len(opened) == 1


async def test_a_missing_one_opens_none(store: SecretStore, audit: AuditLog) -> None:
    await store.set("a", Sensitive("hunter22"), actor=OPERATOR)
    with pytest.raises(NotFound, match="no secret is called 'b', 'c'") as caught:
        await store.reveal_many(["a", "b", "c"], actor=OPERATOR, purpose="x")
    assert "opsdeck secret set b" in str(caught.value.hint)
    assert "secret.revealed" not in [entry.verb for entry in await audit.list()]
    for call in (store.show("b"), store.version("b"), store.remove("b", OPERATOR)):
        with pytest.raises(NotFound):
            await call
    assert await store.reveal_many([], actor=OPERATOR, purpose="x") == {}


async def test_a_blob_moved_to_another_row_does_not_open(store: SecretStore, db: Database) -> None:
    await store.set("low", Sensitive("low-value"), actor=OPERATOR)
    await store.set("high", Sensitive("high-value"), actor=OPERATOR)
    async with db.write() as session:
        blob = (await session.exec(select(Secret.blob).where(Secret.name == "high"))).one()
        await session.exec(update(Secret).where(Secret.name == "low").values(blob=blob))  # type: ignore[arg-type]
    with pytest.raises(Unavailable, match="core_secret:low:1 does not open"):
        await store.reveal("low", actor=OPERATOR, purpose="x")


async def test_an_older_value_put_back_does_not_open(store: SecretStore, db: Database) -> None:
    await store.set("a", Sensitive("old-value"), actor=OPERATOR)
    async with db.read() as session:
        old = (await session.exec(select(Secret.blob))).one()
    await store.set("a", Sensitive("new-value"), actor=OPERATOR)
    async with db.write() as session:
        await session.exec(update(Secret).values(blob=old))
    with pytest.raises(Unavailable):
        await store.reveal("a", actor=OPERATOR, purpose="x")


@pytest.mark.parametrize("name", ["", "agent", " a", "a b", "-x", "a\n", "ä", "a" * 101, "$(id)", "<b>"])
async def test_names_that_cannot_be(store: SecretStore, name: str) -> None:
    with pytest.raises(Invalid) as caught:
        await store.set(name, Sensitive("hunter22"), actor=OPERATOR)
    assert caught.value.field == "name"


@pytest.mark.parametrize(
    ("kind", "value", "why"),
    [
        ("text", "", "fewer than 6"),
        ("text", "12345\n", "fewer than 6"),
        ("text", "x" * 65_537, "more than 65536"),
        ("text", "abc\0defg", "NUL"),
        ("password", "two\nlines of it", "several lines"),
        ("token", "two\nlines of it", "several lines"),
        ("nonsense", "hunter22", "no kind of secret"),
        ("ssh-key", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA me", "no private key"),
        ("ssh-key", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----", "cannot be read"),
        ("ssh-certificate", "hunter22", "certificate cannot be read"),
        ("certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "certificate cannot be read"),
    ],
)
async def test_values_that_cannot_be(store: SecretStore, kind: str, value: str, why: str) -> None:
    with pytest.raises(Invalid, match=why) as caught:
        await store.set("a", Sensitive(value), kind=kind, actor=OPERATOR)
    if value.strip():
        assert value.strip() not in str(caught.value)
    assert await store.names() == ()


async def test_newlines_of_files_and_pipes(store: SecretStore) -> None:
    await store.set("p", Sensitive(" hunter22 \r\n"), kind="password", actor=OPERATOR)
    assert (await store.reveal("p", actor=OPERATOR, purpose="x")).reveal() == " hunter22 "
    key = asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()
    await store.set("k", Sensitive("\n" + key.strip() + "\r\n\n"), kind="ssh-key", actor=OPERATOR)
    assert (await store.reveal("k", actor=OPERATOR, purpose="x")).reveal() == key.strip() + "\n"


async def test_an_encrypted_key_is_taken(store: SecretStore) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519").export_private_key(passphrase="correct horse").decode()
    assert await store.set("k", Sensitive(key), kind="ssh-key", actor=OPERATOR) == 1


async def test_generated_keys_log_in(store: SecretStore) -> None:
    public = await store.generate_ssh_key("deploy", actor=OPERATOR)
    private = asyncssh.import_private_key((await store.reveal("deploy", actor=OPERATOR, purpose="x")).reveal())
    assert private.export_public_key().decode().split()[:2] == public.split()[:2]
    assert public.endswith(" deploy")
    with pytest.raises(Conflict, match="exists"):
        await store.generate_ssh_key("deploy", actor=OPERATOR)


async def test_kinds_of_plugins(db: Database, keyring: Keyring, audit: AuditLog) -> None:
    def only_hex(text: str) -> None:
        if not all(letter in "0123456789abcdef" for letter in text):
            raise Invalid("not hex.", field="value")

    store = SecretStore(db, keyring, audit, lambda: [SecretKind("hex", "Hex", only_hex), SecretKind("any", "Any")])
    assert {"hex", "any"} < set(store.kinds)
    await store.set("a", Sensitive("abcdef01"), kind="hex", actor=OPERATOR)
    with pytest.raises(Invalid, match="not hex"):
        await store.set("a", Sensitive("zzzzzzzz"), kind="hex", actor=OPERATOR)
    assert await store.names("hex") == ("a",)
    assert await store.names("any") == ()


async def test_who_may(store: SecretStore) -> None:
    with pytest.raises(Refused, match="vera is viewer and may not set secrets"):
        await store.set("a", Sensitive("hunter22"), actor=VIEWER)
    await store.set("a", Sensitive("hunter22"), actor=OPERATOR)
    with pytest.raises(Refused):
        await store.remove("a", VIEWER)
    with pytest.raises(Refused, match="that takes admin"):
        await store.disclose("a", actor=OPERATOR)
    token = Actor("ci", Role.ADMIN, Door.API, scopes=("core.*",))
    with pytest.raises(Refused, match="limited to core"):
        await store.disclose("a", actor=token)
    assert (await store.disclose("a", actor=SYSTEM)).reveal() == "hunter22"


async def test_what_is_used_is_not_removed(store: SecretStore, db: Database) -> None:
    await store.set("key", Sensitive("hunter22"), actor=OPERATOR)
    async with db.write() as session:
        session.add(Host(name="web1", address="192.0.2.1", credential="key"))
        session.add(Host(name="web2", address="192.0.2.2", sudo_secret="key"))
        params = {"targets": [{"password": "key"}], "other": "keys"}
        session.add(Schedule(name="nightly", plugin="x", action="y", actor="a", role="admin", params=params))
    users = ("host web1 (credential)", "host web2 (sudo_secret)", "schedule nightly (targets)")
    assert await store.used_by("key") == users
    with pytest.raises(Conflict, match=r"in use by host web1 \(credential\), host web2") as caught:
        await store.remove("key", OPERATOR)
    assert caught.value.hint
    assert await store.names() == ("key",)


async def test_setting_while_another_process_rotates(store: SecretStore, keyring: Keyring, db: Database) -> None:
    from opsdeck.secrets.rotation import Rotation

    await store.set("a", Sensitive("hunter22"), actor=OPERATOR)
    other = Keyring(db, keyring.key_file)
    await other.open()
    log = AuditLog(db, other)
    await Rotation(db, other, log).data_key(SYSTEM)
    stale = keyring.current
    await store.set("b", Sensitive("hunter33"), actor=OPERATOR)
    assert keyring.current == other.current != stale
    found = await store.reveal_many(["a", "b"], actor=OPERATOR, purpose="x")
    assert [found["a"].reveal(), found["b"].reveal()] == ["hunter22", "hunter33"]
