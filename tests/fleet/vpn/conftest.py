"""An office on the fleet: a real OpenVPN server, name servers, and a site that only the inside has."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from opsdeck_vpn import tunnels
from opsdeck_vpn.enrol import Wish, enrol
from opsdeck_vpn.models import Tunnel

from opsdeck.actor import Actor, Door, Role
from opsdeck.clock import utcnow
from opsdeck.db import Database, migrate
from opsdeck.deck import Deck
from opsdeck.inventory.models import Host, HostKey
from opsdeck.jobs.jobs import Submission
from opsdeck.jobs.models import Job
from opsdeck.lab.fleet import Fleet, HostSpec, LabHost
from opsdeck.plugins import Plugins
from opsdeck.secrets.keyring import Keyring
from opsdeck.secrets.sensitive import Sensitive
from opsdeck.settings import Settings

PACKAGES = (
    *("busybox", "curl", "dnsmasq-base", "nftables", "openvpn", "python3-minimal", "socat"),
    *("wireguard-go", "wireguard-tools"),
)
BOSS = Actor("boss@cli", Role.ADMIN, Door.CLI, stepped_up=True)
SITE = "the intranet says hello"


def script(name: str) -> str:
    """Give a program that runs on a lab host."""
    return (Path(__file__).parent / "scripts" / f"{name}.sh").read_text()


def _pem(key: ec.EllipticCurvePrivateKey, passphrase: str = "") -> str:
    form = serialization.PrivateFormat.PKCS8
    lock: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        lock = serialization.BestAvailableEncryption(passphrase.encode())
    return key.private_bytes(serialization.Encoding.PEM, form, lock).decode()


@dataclass
class Authority:
    """A certificate authority of one office."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def make(cls) -> Authority:
        """Make one."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "office ca")])
        made = cls._build(name, name, key, days=100).add_extension(x509.BasicConstraints(True, None), critical=True)
        return cls(key, made.sign(key, hashes.SHA256()))

    @staticmethod
    def _build(
        subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(utcnow() - timedelta(days=200))
            .not_valid_after(utcnow() + timedelta(days=days))
        )

    @property
    def pem(self) -> str:
        """Give its certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def issue(self, name: str, *, server: bool, days: int = 30, passphrase: str = "") -> tuple[str, str]:
        """Give a certificate and its key; `days` below 0 are over."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        use = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        usage = x509.KeyUsage(True, False, False, False, True, False, False, False, False)
        made = (
            self._build(subject, self.certificate.subject, key, days)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
            .add_extension(usage, critical=True)
        ).sign(self.key, hashes.SHA256())
        return made.public_bytes(serialization.Encoding.PEM).decode(), _pem(key, passphrase)


class Office:
    """The office on one lab host."""

    def __init__(self, host: LabHost) -> None:
        self.host = host
        self.authority = Authority.make()
        self.tls_auth = ""

    def sh(self, text: str, *, check: bool = True, stdin: str = "") -> str:
        """Run shell text on the office's machine."""
        return self.host.execute(["sh", "-c", text], check=check, stdin=stdin, timeout=60)

    def write(self, path: str, text: str, mode: int = 0o600) -> None:
        """Put a file there."""
        place = self.host.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(mode)

    def open(
        self,
        *,
        login: bool = False,
        push: str = 'push "route 10.78.0.0 255.255.0.0"',
        days: int = 30,
        net: str = "10.77.0.0",
        extra: str = "",
        domain: str = "corp.test",
    ) -> None:
        """Start the server, the name server and the site, afresh."""
        self.close()
        first = net.rsplit(".", 1)[0] + ".1"
        certificate, key = self.authority.issue("server", server=True, days=days)
        self.write("/etc/office/ca.pem", self.authority.pem)
        self.write("/etc/office/server.pem", certificate)
        self.write("/etc/office/server.key", key)
        self.write("/etc/office/verify.sh", script("verify"), 0o755)
        self.write("/etc/office/codes", "")
        self.write("/etc/office/attempts", "", 0o666)
        (self.host.root / "etc/office/asks-back").unlink(missing_ok=True)
        if not self.tls_auth:
            self.sh("openvpn --genkey tls-auth /etc/office/ta.key")
            self.tls_auth = (self.host.root / "etc/office/ta.key").read_text()
        lines = f"""
dev tun0
proto udp
port 1194
topology subnet
server {net} 255.255.255.0
ca /etc/office/ca.pem
cert /etc/office/server.pem
key /etc/office/server.key
tls-auth /etc/office/ta.key 0
dh none
keepalive 2 6
explicit-exit-notify 1
duplicate-cn
{push}
push "dhcp-option DNS {first}"
push "dhcp-option DOMAIN {domain}"
{"script-security 2" if login else ""}
{"auth-user-pass-verify /etc/office/verify.sh via-file" if login else ""}
{"auth-gen-token 3600" if login else ""}
{extra}
verb 3
"""
        self.write("/etc/office/server.conf", lines)
        self.write("/srv/site/index.html", SITE, 0o644)
        self.sh("chmod 755 /srv /srv/site; ip address replace 10.78.0.1/32 dev lo")
        self.serve()
        self.sh("systemd-run -q --unit=office-web busybox httpd -f -p 10.78.0.1:80 -h /srv/site")
        names = f"--address=/intra.{domain}/10.78.0.1 --no-resolv --no-hosts --bind-dynamic"
        self.sh(f"systemd-run -q --unit=office-dns dnsmasq -k --listen-address={first} {names}")

    def tells_who(self) -> None:
        """Serve a page outside of the VPN that says from which address it was asked."""
        self.write("/etc/office/who", script("who"), 0o755)
        self.sh("systemd-run -q --unit=office-who socat TCP-LISTEN:8081,fork,reuseaddr EXEC:/etc/office/who")

    def serve(self) -> None:
        """Start the VPN server alone."""
        self.sh("systemd-run -q --unit=office-vpn openvpn --config /etc/office/server.conf")

    def close(self) -> None:
        """Stop all of it."""
        units = "office-vpn office-web office-dns office-wg office-who"
        self.sh(f"systemctl stop {units} 2>/dev/null; systemctl reset-failed {units} 2>/dev/null", check=False)

    def codes(self, *codes: str) -> None:
        """Say which one-time codes count; none means that none is asked for."""
        (self.host.root / "etc/office/codes").write_text("".join(f"{code}\n" for code in codes))

    def asks_back(self) -> None:
        """Answer a right password with a challenge of its own (CRV1)."""
        self.write("/etc/office/asks-back", "")

    @property
    def tried(self) -> list[str]:
        """What was tried as a password, as far as its first colon."""
        lines = (self.host.root / "etc/office/attempts").read_text().splitlines()
        return [line.removeprefix("try ") for line in lines]

    @property
    def attempts(self) -> int:
        """How often a password was tried."""
        return len(self.tried)

    @property
    def rekeys(self) -> int:
        """How often keys were made anew since the server was started."""
        return self._log.count("TLS: soft reset")

    @property
    def logins(self) -> int:
        """How often somebody connected since the server was started."""
        return self._log.count("Peer Connection Initiated with")

    @property
    def _log(self) -> str:
        return self.sh("journalctl _SYSTEMD_INVOCATION_ID=$(systemctl show -P InvocationID office-vpn) -o cat")

    def profile(self, *, extra: str = "", login: bool = False, passphrase: str = "") -> str:
        """Give the `.ovpn` that a person would get from the office."""
        certificate, key = self.authority.issue("alice", server=False, passphrase=passphrase)
        return f"""
client
dev tun
proto udp
remote {self.host.address} 1194
nobind
remote-cert-tls server
{"auth-user-pass" if login else ""}
{extra}
key-direction 1
<ca>
{self.authority.pem}</ca>
<cert>
{certificate}</cert>
<key>
{key}</key>
<tls-auth>
{self.tls_auth}</tls-auth>
"""


@pytest.fixture(scope="session")
def machines(lab: Fleet) -> Iterator[dict[str, LabHost]]:
    """The office's machine, the gateway and the laptop, one image for all."""
    names = ("vpn-office", "vpn-gw", "vpn-laptop")
    lab.up([HostSpec(name, PACKAGES, tun=True) for name in names])
    yield {name: lab.host(name) for name in names}


@pytest.fixture
def office(machines: dict[str, LabHost], fleet: Fleet) -> Iterator[Office]:
    """An office that is not open yet."""
    office = Office(machines["vpn-office"])
    yield office
    office.close()


@dataclass
class Gateway:
    """The console, the machine that dials, and what is done with both."""

    deck: Deck
    host: LabHost

    async def take_in(self, name: str, profile: str, **wish: object) -> Tunnel:
        """Take a profile in."""
        given = Wish(name=name, host=self.host.name, profile=Sensitive(profile), **wish)  # type: ignore[arg-type]
        return await enrol(self.deck, given, BOSS)

    async def run(self, action: str, tunnel: str, **params: object) -> Job:
        """Run an action to its end."""
        confirm = action if action == "remove" else None
        wish = Submission("vpn", action, {"tunnel": tunnel, **params}, confirm=confirm)
        try:
            async with asyncio.timeout(200):
                return await self.deck.jobs.run(wish, BOSS)
        except TimeoutError:
            (job,) = await self.deck.jobs.list(plugin="vpn", limit=1)
            raise AssertionError(f"{action} {tunnel} does not end: {await self.said(job)}") from None

    async def said(self, job: Job) -> str:
        """Give all that a job said."""
        lines = await self.deck.jobs.log(job.id or 0)
        steps = await self.deck.jobs.steps(job.id or 0)
        return "\n".join([*(line.text for line in lines), *(step.error for step in steps), job.error])

    async def row(self, name: str) -> Tunnel:
        """Give a tunnel's row."""
        return await tunnels.find(self.deck.db, name)

    async def comes(self, name: str, wanted: Callable[[Tunnel], bool], seconds: float = 60) -> Tunnel:
        """Wait until the row is as wanted."""
        end = time.monotonic() + seconds
        while not wanted(row := await self.row(name)):
            if time.monotonic() > end:
                raise AssertionError(f"it stays {row.state}: {row.reason}")
            await asyncio.sleep(0.2)
        return row

    async def tells(self, seconds: float = 30) -> None:
        """Wait until there is an incident."""
        end = time.monotonic() + seconds
        while not await self.deck.incidents.open_now():
            assert time.monotonic() < end, "nobody is told"
            await asyncio.sleep(0.2)

    async def curl(self, tunnel: Tunnel, url: str, *words: str, seconds: int = 15) -> str:
        """Fetch a page on the gateway through the tunnel's SOCKS port; "" when it is not reached."""
        from opsdeck_vpn.render.gateway import SOCKS_USER

        password = await self.deck.secrets.reveal(tunnel.socks_secret, actor=BOSS, purpose="test")
        proxy = f"socks5h://{SOCKS_USER}:{password.reveal()}@{tunnel.listen}:{tunnel.port}"
        argv = ["curl", "-s", "--max-time", str(seconds), "--proxy", proxy, *words, url]
        return await asyncio.to_thread(self.host.execute, argv, check=False)

    async def reaches(self, tunnel: Tunnel, seconds: float = 90) -> None:
        """Wait until the office's site is reached through the tunnel: a row may be a moment behind."""
        end = time.monotonic() + seconds
        while SITE not in await self.curl(tunnel, "http://intra.corp.test/"):
            assert time.monotonic() < end, f"not reached; it is {(await self.row(tunnel.name)).state}"
            await asyncio.sleep(0.5)

    async def cli(self, *words: str, typed: str = "", code: int = 0) -> str:
        """Run `opsdeck` beside the console, on its data folder; `code` is how it must end."""
        program = str(Path(sys.executable).with_name("opsdeck"))
        environment = os.environ | {"OPSDECK_HOME": str(self.deck.settings.home), "OPSDECK_NODE": "second"}
        done = await asyncio.to_thread(
            subprocess.run, [program, *words], input=typed, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + (done.stderr if code else "")

    def sh(self, text: str) -> str:
        """Run shell text on the gateway."""
        return self.host.execute(["sh", "-c", text], check=False)

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Run the console's services for a while."""
        stop = asyncio.Event()
        work = asyncio.create_task(self.deck.jobs.serve(stop))
        try:
            yield
        finally:
            stop.set()
            await work


@pytest.fixture
def dialler(machines: dict[str, LabHost]) -> LabHost:
    """The machine that dials; a module may bring another."""
    return machines["vpn-gw"]


@pytest.fixture
async def gateway(dialler: LabHost, fleet: Fleet, tmp_path: Path) -> AsyncIterator[Gateway]:
    """A console that knows the gateway, with nothing on it."""
    settings = Settings(home=tmp_path / "deck", node="first")
    settings.home.mkdir(mode=0o700)
    Keyring.create(settings.key_file)
    plugins = Plugins()
    plugins.load({"web"})
    assert not plugins.faults
    database = Database(settings.url)
    await migrate.upgrade(database, plugins)
    await database.close()
    host = dialler
    host.execute(["sh", "-c", script("clean")], check=False)
    async with Deck.open(settings, plugins=plugins, kind="server") as deck:
        endpoint = host.endpoint("root")
        await deck.secrets.set("login", endpoint.credential.secret, kind="ssh-key", actor=BOSS)
        row = Host(name=host.name, address=endpoint.address, port=endpoint.port, user="root", credential="login")
        async with deck.db.write() as session:
            session.add(row)
            await session.flush()
            for key in endpoint.host_keys:
                kind = key.split()[0]
                session.add(HostKey(host_id=row.id, algorithm=kind, public=key, fingerprint=kind, state="pinned"))
        yield Gateway(deck, host)
    host.execute(["sh", "-c", script("clean")], check=False)
