"""A certificate authority on a lab host: Pebble, the ACME test server, with a resolver that says what a test wants."""

from __future__ import annotations

import json
import ssl
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from opsdeck.lab.fleet.host import LabHost
from opsdeck.lab.fleet.machine import LabFault

PACKAGES = ("pebble",)


def self_signed(address: str) -> tuple[str, str]:
    """Make a certificate for an address that vouches for itself; give certificate and key as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "lab")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return made.public_bytes(serialization.Encoding.PEM).decode(), private.decode()


class Pebble:
    """One authority; a host may carry several on ports of their own, which share the resolver of the first.

    `directory` is the address of its ACME directory, `roots` the PEM that vouches for that address, `visitor_roots`
    the PEM that vouches for what it issues. `life` is how long a certificate lasts, in seconds. `resolver` is asked
    for the names to prove; as it stands that is a server on the same host which `point` teaches.
    Raises LabFault when it does not come up.
    """

    def __init__(
        self, host: LabHost, *, resolver: str = "127.0.0.1:8053", port: int = 14000, life: int = 90 * 86400
    ) -> None:
        self.host = host
        self.unit = f"pebble-{port}"
        self.directory = f"https://{host.address}:{port}/dir"
        self.roots, key = self_signed(host.address)
        self._management = f"https://{host.address}:{port + 1000}/roots/0"
        config = {
            "pebble": {
                "listenAddress": f"0.0.0.0:{port}", "managementListenAddress": f"0.0.0.0:{port + 1000}",
                "certificate": f"/root/{self.unit}.pem", "privateKey": f"/root/{self.unit}.key",
                "httpPort": 80, "tlsPort": 443, "ocspResponderURL": "", "externalAccountBindingRequired": False,
                "certificateValidityPeriod": life,
            }
        }  # fmt: skip
        for ending, text in (("pem", self.roots), ("key", key), ("json", json.dumps(config))):
            (host.root / "root" / f"{self.unit}.{ending}").write_text(text)
        run = ["systemd-run", "--quiet", "--collect", "-p", "Restart=always"]
        if port == 14000:
            host.execute(["systemctl", "stop", "challtestsrv"], check=False)
            host.execute([*run, "--unit=challtestsrv", "pebble-challtestsrv", "-dns01", ":8053",
                          "-management", ":8055", "-http01", "", "-https01", "", "-tlsalpn01", "",
                          "-defaultIPv6", ""])  # fmt: skip
        self.stop()
        host.execute([*run, f"--unit={self.unit}", "-E", "PEBBLE_VA_NOSLEEP=1", "-E", "PEBBLE_WFE_NONCEREJECT=0",
                      "pebble", "-config", f"/root/{self.unit}.json", "-dnsserver", resolver])  # fmt: skip
        self.visitor_roots = self._issuer()

    def _issuer(self) -> str:
        trust = ssl.create_default_context(cadata=self.roots)
        for _ in range(100):
            try:
                with urllib.request.urlopen(self._management, context=trust, timeout=2) as said:  # noqa: S310 - https
                    return str(said.read().decode())
            except OSError:
                time.sleep(0.1)
        raise LabFault("Pebble did not come up.", host=self.host.name, hint=f"journalctl -u {self.unit}")

    def stop(self) -> None:
        """Have it answer nobody any more."""
        self.host.execute(["systemctl", "stop", self.unit], check=False)

    def point(self, name: str, *addresses: str) -> None:
        """Have the resolver say where a name leads."""
        for path, data in (("clear-a", {"host": f"{name}."}), ("add-a", {"host": f"{name}.", "addresses": addresses})):
            body = json.dumps(data).encode()
            with urllib.request.urlopen(f"http://{self.host.address}:8055/{path}", data=body, timeout=5):
                pass
