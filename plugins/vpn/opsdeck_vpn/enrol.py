"""Taking in a tunnel: the profile is read, cleaned, sealed, and the row made. Used by the page and the command."""

from __future__ import annotations

import ipaddress
import re
import secrets as random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from opsdeck.api import Actor, Conflict, Deck, Invalid, NotFound, Sensitive, utcnow
from opsdeck_vpn import ovpn, tunnels, wgconf
from opsdeck_vpn.actions import NAME
from opsdeck_vpn.models import Driver, Kind, Otp, State, Tunnel
from opsdeck_vpn.ovpn import Profile


@dataclass(frozen=True)
class Wish:
    """What a person gives. `files` are those that the profile refers to, by their base names."""

    name: str
    host: str
    profile: Sensitive
    files: Mapping[str, str] = field(default_factory=dict, repr=False)
    username: str = ""
    password: Sensitive = field(default_factory=lambda: Sensitive(""))
    otp: str = Otp.NONE
    seed: Sensitive = field(default_factory=lambda: Sensitive(""))
    concat: bool = False
    listen: str = "127.0.0.1"
    port: int = 0
    """0 takes the first free one from 1080."""
    probe: str = ""
    passphrase: Sensitive = field(default_factory=lambda: Sensitive(""))
    """Of the profile's private key."""
    driver: str = Driver.NAMESPACE


def read(wish: Wish) -> tuple[Kind, Profile]:
    """Read the profile, whichever kind it is. Raises `Invalid`."""
    text = wish.profile.reveal()
    if re.search(r"(?im)^\s*\[interface\]\s*$", text):
        return Kind.WIREGUARD, wgconf.parse(text)
    return Kind.OPENVPN, ovpn.parse(text, wish.files)


def check_seed(text: str) -> None:
    """Raise `Invalid` when a text cannot be a seed of one-time codes (base32, RFC 4648)."""
    import base64
    import binascii

    plain = text.replace(" ", "").upper()
    try:
        whole = base64.b32decode(plain + "=" * (-len(plain) % 8))
    except binascii.Error:
        whole = b""
    if len(whole) < 10:
        raise Invalid("this is no seed of one-time codes.", field="seed", hint="the base32 text beside the QR code")


def check_port(port: int) -> None:
    """Raise `Invalid` when a number is no port."""
    if not 0 < port < 65536:
        raise Invalid(f"{port} is no port.", field="port", hint="1 to 65535")


def check_line(secret: Sensitive, name: str) -> None:
    """Raise `Invalid` for a secret that OpenVPN cannot be told: its management socket takes one line."""
    if any(ord(char) < 32 for char in secret.reveal()):
        raise Invalid(
            f"a {name} may not hold line breaks or control characters.", field=name, hint="check what was given"
        )


def check_probe(text: str) -> None:
    """Raise `Invalid` when a text is no `host:port`."""
    if text and not re.fullmatch(r"(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9._-]{1,253}):[0-9]{1,5}", text):
        raise Invalid(f"{text[:60]!r} is no address to probe.", field="probe", hint="HOST:PORT inside the office")


def check_listen(text: str) -> str:
    """Give the address to listen on. Raises `Invalid` when it is none, or every one."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise Invalid(
            f"{text[:60]!r} is no address.", field="listen", hint="127.0.0.1, or one of the gateway's"
        ) from None
    if address.is_unspecified:
        raise Invalid(
            "the port would be open on every address of the gateway.",
            field="listen",
            hint="name the one address that the devices reach",
        )
    return str(address)


async def enrol(deck: Deck, wish: Wish, actor: Actor) -> Tunnel:
    """Take a tunnel in; nothing happens on its gateway yet.

    Raises `Invalid` with the field, `NotFound` for the host, `Conflict` for a name or port in use.
    """
    if not re.fullmatch(NAME, wish.name):
        raise Invalid(f"{wish.name[:40]!r} cannot name a tunnel.", field="name", hint="a-z, 0-9, -, at most 11")
    check_probe(wish.probe)
    listen = check_listen(wish.listen)
    kind, profile = read(wish)
    if Driver(wish.driver) is Driver.COMPOSE and kind is Kind.WIREGUARD:
        raise Invalid(
            "the Compose form is for OpenVPN.", field="driver", hint="leave the driver as it is: it needs no Docker"
        )
    username, password = wish.username, wish.password
    if profile.inline_login and not username:
        username, password = profile.inline_login[0], Sensitive(profile.inline_login[1])
    if profile.wants_password and not (username and password):
        raise Invalid("the server wants a user name and a password.", field="username", hint="give both")
    if profile.locked and not wish.passphrase:
        raise Invalid("the private key has a passphrase.", field="passphrase", hint="give it; it is sealed")
    for secret, word in ((password, "password"), (wish.passphrase, "passphrase")):
        check_line(secret, word)
    otp = Otp(wish.otp)
    if profile.challenge and otp is Otp.NONE:
        otp = Otp.ASK
    if otp is Otp.SEED:
        check_seed(wish.seed.reveal())
    await deck.inventory.get(wish.host)
    rows = [row for row in await tunnels.every(deck.db) if row.name != wish.name]
    used = {row.port for row in rows if row.host == wish.host}
    port = wish.port or next(number for number in range(1080, 9999) if number not in used)
    check_port(port)
    if port in used:
        raise Conflict(f"port {port} is another tunnel's on {wish.host}.", field="port", hint="choose another")
    controls = {row.management_port for row in rows}
    tunnel = Tunnel(
        name=wish.name,
        host=wish.host,
        kind=kind,
        driver=Driver(wish.driver),
        config_secret=f"vpn-{wish.name}-profile",
        username=username,
        password_secret=f"vpn-{wish.name}-password" if password else "",
        otp=otp,
        seed_secret=f"vpn-{wish.name}-seed" if otp is Otp.SEED else "",
        concat=wish.concat,
        key_secret=f"vpn-{wish.name}-key" if profile.locked else "",
        asks_password=profile.wants_password,
        remotes=[f"{remote.host}:{remote.port}/{remote.proto}" for remote in profile.remotes],
        report=[{**asdict(remark), "weight": remark.weight.value} for remark in profile.remarks],
        listen=listen,
        port=port,
        socks_secret=f"vpn-{wish.name}-socks",
        management_port=next(number for number in range(17505, 18500) if number not in controls),
        probe=wish.probe,
    )
    values = {
        tunnel.config_secret: (Sensitive(profile.text), "vpn-profile"),
        tunnel.socks_secret: (Sensitive(random.token_urlsafe(18)), "text"),
    }
    if tunnel.password_secret:
        values[tunnel.password_secret] = (password, "text")
    if tunnel.key_secret:
        values[tunnel.key_secret] = (wish.passphrase, "text")
    if tunnel.seed_secret:
        values[tunnel.seed_secret] = (Sensitive(wish.seed.reveal().replace(" ", "")), "totp-seed")
    await _keep(deck, tunnel, values, actor)
    after = {"host": tunnel.host, "kind": str(tunnel.kind), "remotes": tunnel.remotes, "listen": f"{listen}:{port}"}
    await deck.audit.record(actor, "vpn.tunnel.added", f"tunnel:{tunnel.name}", after=after)
    return await tunnels.find(deck.db, wish.name)


async def _keep(deck: Deck, tunnel: Tunnel, secrets: Mapping[str, tuple[Sensitive, str]], actor: Actor) -> None:
    """Write the row and seal its secrets, or leave nothing of them."""
    name, sealed = tunnel.name, list[str]()
    async with deck.db.write() as session:
        if await session.get(Tunnel, name) is not None:
            raise Conflict(f"there is a tunnel {name!r} already.", field="name", hint="choose another name")
        session.add(tunnel)
    try:
        for each, (value, kind) in secrets.items():
            await deck.secrets.set(each, value, kind=kind, note=f"of the tunnel {name}", actor=actor)
            sealed.append(each)
    except BaseException:
        await tunnels.forget(deck.db, name)
        for each in sealed:
            await deck.secrets.remove(each, actor)
        raise


async def adjust(
    deck: Deck,
    name: str,
    actor: Actor,
    *,
    probe: str | None = None,
    listen: str | None = None,
    port: int | None = None,
    mtu: int | None = None,
) -> Tunnel:
    """Change where a tunnel is probed, where its port is and how large its packets are; the next `up` brings it there.

    Raises `Invalid` with the field, `NotFound`, `Conflict` for a port in use.
    """
    tunnel = await tunnels.find(deck.db, name)
    values: dict[str, str | int] = {}
    if probe is not None:
        check_probe(probe)
        values["probe"] = probe
    if listen is not None:
        values["listen"] = check_listen(listen)
    if port is not None:
        check_port(port)
        if any(
            row.host == tunnel.host and row.port == port and row.name != name for row in await tunnels.every(deck.db)
        ):
            raise Conflict(f"port {port} is another tunnel's on {tunnel.host}.", field="port", hint="choose another")
        values["port"] = port
    if mtu is not None:
        if mtu and not 576 <= mtu <= 9000:
            raise Invalid(
                f"{mtu} bytes are no packet.", field="mtu", hint="576 to 9000, or 0 for what the profile says"
            )
        values["mtu"] = mtu
    if values:
        before = {key: getattr(tunnel, key) for key in values}
        await tunnels.change(deck.db, name, **values)
        await deck.audit.record(actor, "vpn.tunnel.changed", f"tunnel:{name}", before=before, after=values)
    return await tunnels.find(deck.db, name)


async def give_code(deck: Deck, name: str, code: str, actor: Actor) -> None:
    """Hand a one-time code to whoever attends the tunnel.

    Raises `Invalid`, `NotFound`, `Conflict` when nobody waits for it.
    """
    tunnel = await tunnels.find(deck.db, name)
    plain = code.strip().replace(" ", "")
    if not re.fullmatch(r"[!-~]{1,64}", plain):
        raise Invalid("this is no code.", field="code", hint="the digits that your authenticator shows")
    if tunnel.otp == Otp.NONE and not tunnel.challenge:
        raise NotFound(f"tunnel {name!r} asks for no code.", field="tunnel")
    if tunnel.state in (State.DOWN, State.FAILED):
        why = f"tunnel {name!r} is {tunnel.state}, and nobody waits for a code."
        raise Conflict(why, field="tunnel", hint=f"opsdeck vpn up {name}")
    await deck.secrets.set(
        tunnels.code_secret(name), Sensitive(plain), kind="text", note=f"last code of the tunnel {name}", actor=actor
    )
    await tunnels.change(deck.db, name, code_given=utcnow())
