"""The way to a database is kept: encrypted, checked against an authority of one's own, and each fault is named."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from opsdeck_search_sync import reaching
from opsdeck_search_sync.ends import SourceIn
from opsdeck_search_sync.looking import on_the_way
from opsdeck_search_sync.models import Source
from opsdeck_search_sync.sources import mongodb
from opsdeck_search_sync.sources.place import Place, Tls, tls_hint

from opsdeck.api import OpsDeckError, Sensitive

pytestmark = pytest.mark.timeout(180)

NAME = "localhost"
KINDS = ["postgres", "mariadb", pytest.param("mysql", marks=pytest.mark.campaign)]


class Authority:
    """An authority of one's own with a certificate for `NAME`, as files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        key, name = ec.generate_private_key(ec.SECP256R1()), _named("an authority")
        root = _signed(_built(name, name, key).add_extension(x509.BasicConstraints(True, None), True), key)
        self.ca = root.public_bytes(serialization.Encoding.PEM).decode()
        own = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.DNSName(NAME)])
        leaf = _signed(_built(_named(NAME), name, own).add_extension(names, False), key)
        (folder / "server.pem").write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
        plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (folder / "server.key").write_bytes(own.private_bytes(*plain))

    def hand(self, folder: Path) -> None:
        """Lay certificate and key into a server's folder, as its own."""
        owner = folder.stat()
        for name, mode in (("server.pem", 0o644), ("server.key", 0o600)):
            shutil.copyfile(self.folder / name, folder / name)
            os.chown(folder / name, owner.st_uid, owner.st_gid)
            (folder / name).chmod(mode)


def _named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _built(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    made = made.serial_number(x509.random_serial_number())
    return made.not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(9))


def _signed(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    return builder.sign(key, hashes.SHA256())


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(params=KINDS)
def shop(request: pytest.FixtureRequest) -> Any:
    """A database of each kind that speaks SQL."""
    return request.getfixturevalue(f"{request.param}_shop")


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextlib.contextmanager
def encrypted(shop: Any, authority: Authority) -> Iterator[None]:
    """Have a server show a certificate of the authority, and take nothing in the clear."""
    server = shop.server
    if shop.kind == "postgres":
        authority.hand(server.folder)
        rules = server.folder / "data" / "pg_hba.conf"
        before = rules.read_text()
        options = {"ssl_cert_file": server.folder / "server.pem", "ssl_key_file": server.folder / "server.key"}
        for name, value in {**options, "ssl": "on"}.items():
            shop.sql(f"ALTER SYSTEM SET {name} = '{value}'")
        rules.write_text("".join(f"hostssl {what} all all trust\n" for what in ("all", "replication")))
        shop.sql("SELECT pg_reload_conf()")
        until(lambda: shop.sql("SHOW ssl") == [("on",)])
        yield
        rules.write_text(before)
        shop.sql("ALTER SYSTEM RESET ALL")
        shop.sql("SELECT pg_reload_conf()")
        until(lambda: shop.sql("SHOW ssl") == [("off",)])
        return
    authority.hand(server.folder)
    inside = f"/tmp/{server.folder.name}" if shop.kind == "mysql" else str(server.folder)
    more = {"ssl-cert": f"{inside}/server.pem", "ssl-key": f"{inside}/server.key", "require-secure-transport": "ON"}
    server.kill(signal.SIGTERM)
    server.options |= more
    server.start()
    yield
    server.kill(signal.SIGTERM)
    for name in more:
        del server.options[name]
    server.start()


def place(shop: Any, tls: Tls, **more: Any) -> Place:
    login = ("postgres", None) if shop.kind == "postgres" else ("sync", Sensitive("s3cret"))
    return replace(Place("127.0.0.1", shop.server.port, shop.name, *login, tls), **more)


async def identity(kind: str, where: Place) -> str:
    reader = reaching.reader(kind, where, "item", "tls_1")
    try:
        return await reader.identity()
    finally:
        await reader.close()


async def fault(kind: str, where: Place) -> str:
    with pytest.raises(OpsDeckError) as caught:
        await identity(kind, where)
    return str(caught.value)


async def test_the_way_to_a_server_is_kept(shop: Any, authority: Authority) -> None:
    # MySQL makes a certificate for itself, and so does MariaDB from 11.4 on.
    if shop.kind == "postgres" or (shop.kind == "mariadb" and shop.sql("SELECT @@have_ssl") == [("DISABLED",)]):
        assert "turn TLS on" in await fault(shop.kind, place(shop, Tls.REQUIRE))
        assert "turn TLS on" in await fault(shop.kind, place(shop, Tls.VERIFY, ca=authority.ca, address=NAME))
    with encrypted(shop, authority):
        who = await identity(shop.kind, place(shop, Tls.PREFER))
        assert "tls = verify" in await fault(shop.kind, place(shop, Tls.OFF))
        assert await identity(shop.kind, place(shop, Tls.REQUIRE)) == who
        assert await identity(shop.kind, place(shop, Tls.VERIFY, address=NAME, ca=authority.ca)) == who
        assert "tls_ca" in await fault(shop.kind, place(shop, Tls.VERIFY, address=NAME))
        assert "address" in await fault(shop.kind, place(shop, Tls.VERIFY, ca=authority.ca))
        through = place(shop, Tls.VERIFY, name=NAME, ca=authority.ca)
        assert await identity(shop.kind, through) == who
        assert "address" in await fault(shop.kind, replace(through, name="elsewhere.test"))
        reader = reaching.reader(shop.kind, through, "item", "tls_1")
        position = await reader.begin()
        shop.put(1)
        async with asyncio.timeout(30), aclosing(reader.read(position)) as parts:
            async for part in parts:
                if part.changes:
                    break
        await reader.end()
        await reader.close()


@pytest.mark.parametrize(
    "shop",
    ["postgres", *(pytest.param(kind, marks=pytest.mark.campaign) for kind in ("mariadb", "mysql"))],
    indirect=True,
)
async def test_a_sync_over_a_way_that_is_kept(bench: Any, authority: Authority) -> None:
    bench.shop.fill(50)
    await bench.define()
    where = place(bench.shop, Tls.VERIFY)
    login = {"user": where.user} | ({"secret": "db"} if where.password else {})
    source = {"name": "shop", "kind": bench.shop.kind, "port": where.port, "database": where.database, **login}
    with encrypted(bench.shop, authority):
        said = await bench.refused("save_source", address=NAME, tls="verify", **source)
        assert "certificate verify failed" in said and "tls_ca" in said
        await bench.act("save_source", address=NAME, tls="verify", tls_ca=authority.ca, **source)
        await bench.act("start", sync="items")
        bench.run()
        await bench.until(bench.equal)
        bench.shop.put(1001)
        await bench.until(bench.equal)
        await bench.halt()


async def test_the_way_to_a_mongodb_is_kept(
    mongodb_shop: Any, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mongodb, "REACH", 2.0)
    shop, who = mongodb_shop, await identity("mongodb", mongodb_shop.server.place(mongodb_shop.name))
    plain = shop.server.place(shop.name)
    assert "offers TLS" in await fault("mongodb", replace(plain, tls=Tls.REQUIRE))
    async with terminated(shop.server, authority) as port:
        there = replace(plain, address=NAME, port=port)
        assert await identity("mongodb", replace(there, tls=Tls.REQUIRE)) == who
        assert await identity("mongodb", replace(there, tls=Tls.VERIFY, ca=authority.ca)) == who
        assert "tls_ca" in await fault("mongodb", replace(there, tls=Tls.VERIFY))
        wrong = replace(there, tls=Tls.VERIFY, ca=authority.ca, address="127.0.0.1")
        assert "address" in await fault("mongodb", wrong)


@contextlib.asynccontextmanager
async def terminated(server: Any, authority: Authority) -> AsyncIterator[int]:
    """Speak TLS before a server that does not; give the port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.folder / "server.pem", authority.folder / "server.key")

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind = await asyncio.open_connection(server.address, server.port)
        await asyncio.gather(pump(reader, behind[1]), pump(behind[0], writer))

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as proxy:
        yield proxy.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("certificate verify failed: certificate has expired (_ssl.c:1006)", "renew"),
        ("certificate verify failed: IP address mismatch", "address"),
        ('server certificate for "a" does not match host name "b"', "address"),
        ("SSL error: certificate verify failed", "tls_ca"),
        ('no pg_hba.conf entry for host "192.0.2.1", user "u", database "d", no encryption', "tls = verify"),
        ("Connections using insecure transport are prohibited", "tls = verify"),
        ("server does not support SSL, but SSL was required", "turn TLS on"),
        ("Connection refused", ""),
    ],
)
def test_each_fault_of_tls_has_its_next_step(said: str, hint: str) -> None:
    assert hint in tls_hint(said) and bool(tls_hint(said)) == bool(hint)


def test_an_authority_that_nobody_asks_is_refused(authority: Authority) -> None:
    with pytest.raises(ValueError, match="tls = verify"):
        SourceIn(name="shop", database="shop", user="sync", tls=Tls.REQUIRE, tls_ca=authority.ca)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tls": "verify", "tls_ca": "no certificate"}, "PEM"),
        ({"tls": "verify", "kind": "mongodb", "host": "db1"}, "through a host"),
        ({"tls": "sometimes"}, "prefer"),
    ],
)
def test_what_makes_no_sense_is_refused(given: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SourceIn.model_validate({"name": "shop", "database": "shop", "user": "sync", **given})


@pytest.mark.parametrize(
    ("tls", "address", "told"), [("prefer", "db.test", 1), ("require", "db.test", 0), ("off", "::1", 0)]
)
def test_a_way_that_others_may_read_is_told(tls: str, address: str, told: int) -> None:
    source = Source(name="shop", kind="postgres", address=address, port=1, database="d", user="u", tls=tls)
    assert len(on_the_way(source)) == told
