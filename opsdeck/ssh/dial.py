"""Opening one SSH connection: what is offered, what is believed, and what the failures mean.

Nothing is taken from the console's own surroundings: no `~/.ssh/config`, no known_hosts file, no agent unless the
credential is the agent. A host key is compared with the endpoint's pins, and nothing else; without a match nothing is
sent that could be of use to the other side.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import OrderedDict
from dataclasses import dataclass

import asyncssh

from opsdeck.errors import Invalid
from opsdeck.ssh.endpoint import Credential, Endpoint, Method
from opsdeck.ssh.errors import HostKeyChanged, HostKeyUnknown, Unreachable
from opsdeck.ssh.hostkeys import OfferedKey, families, signature_algorithms

# AES-GCM is about 1.5 times as fast here as ChaCha20 for bulk; the rest is for servers without it.
_CIPHERS = [
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes128-ctr",
    "aes256-ctr",
]
# The hybrid costs some 0.2 ms of CPU over curve25519 alone, and keeps recorded traffic from being read later.
KEX = [
    "mlkem768x25519-sha256",
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
    "ecdh-sha2-nistp256",
    "ecdh-sha2-nistp384",
    "ecdh-sha2-nistp521",
    "diffie-hellman-group16-sha512",
    "diffie-hellman-group14-sha256",
]
_KEYS_KEPT = 256


class Refusal(Exception):
    """The server accepted none of the credential's methods."""


class Transient(Exception):
    """The server dropped the connection before it was set up, as one does that has too many starts."""


@dataclass(frozen=True)
class Patience:
    """How long to wait for a TCP connection, for the whole login, and between and for keepalives (s, count)."""

    connect: float
    login: float
    keepalive: tuple[float, int]


class _Believer(asyncssh.SSHClient):
    """Compares the key shown with the pins, and remembers it."""

    def __init__(self, pinned: tuple[OfferedKey, ...]) -> None:
        self._pinned = {key.openssh for key in pinned}
        self.shown: OfferedKey | None = None

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Tell whether the key is one of the pinned ones."""
        self.shown = OfferedKey.of(key.export_public_key("openssh").decode())
        return self.shown.openssh in self._pinned


class PrivateKeys:
    """Private keys as asyncssh wants them, opened once each and kept in memory only."""

    def __init__(self) -> None:
        self._opened: OrderedDict[bytes, asyncssh.SSHKey] = OrderedDict()

    async def key(self, credential: Credential) -> asyncssh.SSHKey:
        """Open a credential's key; `Invalid` names the secret if it cannot be."""
        text = credential.secret.reveal()
        passphrase = credential.passphrase.reveal() if credential.passphrase else None
        name = hashlib.sha256(f"{len(text)}\0{text}{passphrase}".encode()).digest()
        if name in self._opened:
            self._opened.move_to_end(name)
            return self._opened[name]
        try:
            # In a thread: the passphrase's key derivation is meant to take long.
            key = await asyncio.to_thread(asyncssh.import_private_key, text, passphrase)
        except asyncssh.KeyEncryptionError:
            raise Invalid(
                f"the passphrase does not open the private key {credential.name}.",
                field="passphrase",
                hint="set the secret again with the right passphrase.",
            ) from None
        except asyncssh.KeyImportError as error:
            if passphrase is None and "assphrase" in str(error):
                raise Invalid(
                    f"the private key {credential.name} needs a passphrase.",
                    field="passphrase",
                    hint="set the secret again with its passphrase.",
                ) from None
            raise Invalid(
                f"the secret {credential.name} is not a private key ({error}).",
                field="credential",
                hint="set it from a file such as id_ed25519 (OpenSSH or PEM form).",
            ) from None
        self._opened[name] = key
        while len(self._opened) > _KEYS_KEPT:
            self._opened.popitem(last=False)
        return key


async def dial(
    endpoint: Endpoint, tunnel: asyncssh.SSHClientConnection | None, private_keys: PrivateKeys, patience: Patience
) -> asyncssh.SSHClientConnection:
    """Connect and log in, through `tunnel` if given.

    Raises `HostKeyUnknown`, `HostKeyChanged`, `Unreachable`, `Invalid` (a credential that is none), and the inner
    signals `Refusal` and `Transient`.
    """
    pinned = tuple(OfferedKey.of(text) for text in endpoint.host_keys)
    believer = _Believer(pinned)
    options = await _login(endpoint.credential, private_keys)
    if pinned:
        options["server_host_key_algs"] = signature_algorithms(pinned)
    try:
        async with asyncio.timeout(patience.connect):  # the library's own bound would drop a cancelling on Python 3.11
            return await asyncssh.connect(
                endpoint.address,
                endpoint.port,
                username=endpoint.user,
                tunnel=tunnel,
                config=None,
                known_hosts=([], [], []),
                x509_trusted_certs=None,
                client_factory=lambda: believer,
                disable_trivial_auth=True,
                kex_algs=KEX,
                encryption_algs=_CIPHERS,
                compression_algs=["none"],
                login_timeout=patience.login,
                keepalive_interval=patience.keepalive[0],
                keepalive_count_max=patience.keepalive[1],
                **options,
            )
    except asyncssh.HostKeyNotVerifiable:
        shown = believer.shown
        if shown is None:
            raise _unreachable(endpoint, "it shows no host key that can be checked") from None
        if pinned:
            raise HostKeyChanged(endpoint.name, pinned, shown) from None
        raise HostKeyUnknown(endpoint.name, shown) from None
    except asyncssh.KeyExchangeFailed as error:
        other = await _other_key(endpoint, tunnel, patience) if pinned else None
        if other is not None and other not in pinned:
            raise HostKeyChanged(endpoint.name, pinned, other) from None
        raise _unreachable(endpoint, f"no common way to encrypt was found ({error.reason})") from None
    except asyncssh.PermissionDenied as error:
        raise Refusal(error.reason) from None
    except asyncssh.ChannelOpenError as error:
        if tunnel is not None and tunnel.is_closed():  # the way there ended meanwhile: it is asked for anew
            raise Transient("the connection to its jump host ended") from None
        raise _unreachable(endpoint, f"its jump host cannot connect to it ({error.reason})") from None
    except ConnectionRefusedError:
        raise _unreachable(endpoint, "nothing listens on that port") from None
    except (ConnectionResetError, BrokenPipeError, asyncssh.ConnectionLost) as error:
        if "timeout" in str(error).lower():
            raise _unreachable(endpoint, f"it did not let us in within {patience.login:g} s") from None
        raise Transient(str(error) or type(error).__name__) from None
    except TimeoutError:
        raise _unreachable(endpoint, f"no answer within {patience.connect:g} s") from None
    except asyncssh.DisconnectError as error:
        raise _unreachable(endpoint, error.reason) from None
    except OSError as error:
        raise _unreachable(endpoint, error.strerror or str(error)) from None


async def offered(
    address: str, port: int, tunnel: asyncssh.SSHClientConnection | None, bound: float
) -> tuple[OfferedKey, ...]:
    """Ask a server for all its host keys, one kind after another, without logging in. OSError or asyncssh.Error."""
    keys: list[OfferedKey] = []
    dropped: Exception | None = None
    for kinds in families():
        try:
            async with asyncio.timeout(bound):
                key = await asyncssh.get_server_host_key(
                    address,
                    port,
                    tunnel=tunnel,
                    config=None,
                    options=asyncssh.SSHClientConnectionOptions(config=None, client_keys=None, agent_path=None),
                    kex_algs=KEX,
                    server_host_key_algs=list(kinds),
                )
        except asyncssh.KeyExchangeFailed:
            continue
        except (ConnectionResetError, asyncssh.ConnectionLost) as error:
            # A server without a key of that kind may hang up before its reason is read.
            dropped = error
            continue
        if key is not None:
            keys.append(OfferedKey.of(key.export_public_key("openssh").decode()))
    if not keys and dropped is not None:
        raise dropped
    return tuple(keys)


def _unreachable(endpoint: Endpoint, why: str) -> Unreachable:
    message = f"{endpoint.address}:{endpoint.port} cannot be reached: {why.rstrip('.')}."
    return Unreachable(message, host=endpoint.name, hop=endpoint.name)


async def _other_key(
    endpoint: Endpoint, tunnel: asyncssh.SSHClientConnection | None, patience: Patience
) -> OfferedKey | None:
    try:
        keys = await offered(endpoint.address, endpoint.port, tunnel, patience.connect)
    except (OSError, asyncssh.Error):
        return None
    return keys[0] if keys else None


async def _login(credential: Credential, private_keys: PrivateKeys) -> dict[str, object]:
    """Give the arguments of `asyncssh.connect` that offer this credential and no other."""
    options: dict[str, object] = {"agent_path": None, "client_keys": None, "preferred_auth": "publickey"}
    if credential.method is Method.PASSWORD:
        options["password"] = credential.secret.reveal()
        options["preferred_auth"] = "password,keyboard-interactive"
    elif credential.method is Method.KEY:
        options["client_keys"] = [(await private_keys.key(credential), None)]
    elif credential.method is Method.CERTIFICATE:
        options["client_keys"] = [(await private_keys.key(credential), _certificate(credential))]
    else:
        options["client_keys"] = await _agent_keys(credential)
    return options


def _certificate(credential: Credential) -> asyncssh.SSHCertificate:
    try:
        return asyncssh.import_certificate(credential.certificate or "")
    except asyncssh.KeyImportError as error:
        raise Invalid(
            f"the certificate of {credential.name} cannot be read ({error}).",
            field="certificate",
            hint="give the text of the file that ends in -cert.pub.",
        ) from None


async def _agent_keys(credential: Credential) -> list[asyncssh.SSHKeyPair]:
    """Ask the agent for its keys; a public key as the credential's secret chooses one of them."""
    path = credential.agent_path or os.environ.get("SSH_AUTH_SOCK", "")
    hint = "start the console with SSH_AUTH_SOCK set, add the key with ssh-add, or use a key from the secret store."
    if not path:
        raise Invalid("no SSH agent is known.", field="credential", hint=hint)
    try:
        keys = list(await asyncssh.SSHAgentClient(path).get_keys())
    except (OSError, ValueError) as error:
        raise Invalid(f"the SSH agent at {path} gives no keys ({error}).", field="credential", hint=hint) from None
    if wanted := credential.secret.reveal():
        chosen = asyncssh.import_public_key(OfferedKey.of(wanted).openssh).public_data
        keys = [key for key in keys if key.public_data == chosen]
    if not keys:
        raise Invalid(f"the SSH agent at {path} does not have the key.", field="credential", hint=hint)
    return keys
