"""`opsdeck vpn`: tunnels, the rule list, devices and their profiles. Thin doors to the same rooms as the pages."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from opsdeck.api import Invalid, NotFound, Sensitive, frame

if TYPE_CHECKING:
    from opsdeck.api import Deck
    from opsdeck_vpn.models import Tunnel


@click.group()
def vpn() -> None:
    """The office network: tunnels, rules, devices."""


def _text(path: str) -> str:
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text()
    except OSError as fault:
        raise NotFound(f"{path} cannot be read: {fault.strerror}.", file=path, hint="check the path") from fault
    except UnicodeDecodeError as fault:
        raise Invalid(
            "the file is not text.", file=path, field="file", hint="give the .ovpn or .conf itself"
        ) from fault


@vpn.command("import")
@click.argument("name")
@click.argument("profile", type=click.Path())
@click.option("--host", required=True, help="The host that dials.")
@click.option("--file", "files", multiple=True, type=click.Path(), help="A file that the profile refers to. Repeat.")
@click.option("--user", default="", help="User name for the server.")
@click.option("--password-file", type=click.Path(), help="File with the password; else it is asked for.")
@click.option("--otp", type=click.Choice(["none", "ask", "seed"]), default="none", help="Where a code comes from.")
@click.option("--seed-file", type=click.Path(), help="File with the seed (base32) of the codes.")
@click.option("--concat", is_flag=True, help="The server wants password and code as one word.")
@click.option("--listen", default="127.0.0.1", help="Address of the SOCKS port on the host.")
@click.option("--port", type=int, default=0, help="Its port; the first free one from 1080 unless said.")
@click.option("--probe", default="", help="HOST:PORT inside the office; its name server unless said.")
def import_(name: str, profile: str, host: str, files: Sequence[str], **given: Any) -> None:
    """Take in an .ovpn or a WireGuard configuration, and say what was left out and why."""
    from opsdeck_vpn.enrol import Wish, enrol, read

    text = Sensitive(_text(profile))
    inline = {Path(file).name: _text(file) for file in files}
    wish = Wish(name, host, text, inline)
    _kind, seen = read(wish)
    password = Sensitive("")
    if given["user"] or (seen.wants_password and not seen.inline_login):
        password = _line(frame.read_value(given["password_file"], "Password", confirm=False))
    seed = (
        _line(frame.read_value(given["seed_file"], "Seed", confirm=False)) if given["otp"] == "seed" else Sensitive("")
    )
    wish = Wish(
        name, host, text, inline, given["user"], password, given["otp"], seed, given["concat"],
        given["listen"], given["port"], given["probe"],
    )  # fmt: skip
    tunnel = frame.with_deck(lambda deck: enrol(deck, wish, frame.actor()))
    _print_report(tunnel)
    click.echo(f"Next: opsdeck vpn up {name}", err=True)


def _line(value: Sensitive) -> Sensitive:
    return Sensitive(value.reveal().split("\n")[0].removesuffix("\r"))


def _print_report(tunnel: Tunnel) -> None:
    rows = [(item["weight"], item["what"], item["line"] or "", item["why"]) for item in tunnel.report]
    frame.print_table(("", "what", "line", "why"), rows, empty="Nothing was left out.")


@vpn.command("list")
@frame.json_option
def list_(as_json: bool) -> None:
    """List the tunnels and how they are."""
    from opsdeck_vpn import tunnels

    rows = frame.with_deck(lambda deck: tunnels.every(deck.db))
    if as_json:
        frame.print_json([row.model_dump() for row in rows])
        return
    table = [
        (row.name, row.host, row.state, f"{row.listen}:{row.port}", row.latency_ms or "", row.reason) for row in rows
    ]
    frame.print_table(
        ("tunnel", "host", "state", "SOCKS port", "ms", "why"), table, empty="No tunnel yet: opsdeck vpn import"
    )


@vpn.command()
@click.argument("name")
@frame.json_option
def show(name: str, as_json: bool) -> None:
    """Show one tunnel: state, what the office pushed, what was left out of its profile."""
    from opsdeck_vpn import tunnels

    row = frame.with_deck(lambda deck: tunnels.find(deck.db, name))
    if as_json:
        frame.print_json(row.model_dump())
        return
    frame.print_facts(
        {
            "state": row.state, "why": row.reason, "since": row.since, "host": row.host, "kind": row.kind,
            "servers": row.remotes, "SOCKS port": f"{row.listen}:{row.port}", "address inside": row.local,
            "pushed networks": row.pushed.get("route", []), "name servers": row.pushed.get("dns", []),
            "names": row.pushed.get("domain", []), "latency ms": row.latency_ms,
        }
    )  # fmt: skip
    _print_report(row)


@vpn.command()
@click.argument("name")
@click.option("--wait", type=int, default=60, help="Seconds for the office to answer.")
def up(name: str, wait: int) -> None:
    """Bring a tunnel up; when the office asks for a code, so does this."""
    code = _up(name, wait)
    if code == 0 and sys.stdin.isatty():
        from opsdeck_vpn import tunnels
        from opsdeck_vpn.models import State

        row = frame.with_deck(lambda deck: tunnels.find(deck.db, name))
        if row.state == State.WAIT_OTP:
            _give(name, click.prompt(f"{row.challenge} (a new one in {_left()} s)", err=True))
            code = _up(name, wait)
    sys.exit(code)


def _up(name: str, wait: int) -> int:
    return frame.run_action("vpn", "up", {"tunnel": name, "wait": wait})


def _left() -> int:
    import time

    return 30 - int(time.time()) % 30


def _give(name: str, code: str) -> None:
    from opsdeck_vpn.enrol import give_code

    frame.with_deck(lambda deck: give_code(deck, name, code, frame.actor()))


@vpn.command()
@click.argument("name")
@click.option("--wait", type=int, default=60, help="Seconds for the office to answer.")
def code(name: str, wait: int) -> None:
    """Give the one-time code that the office asks for; it is read from the terminal or standard input."""
    value = (
        sys.stdin.readline() if not sys.stdin.isatty() else click.prompt(f"Code (a new one in {_left()} s)", err=True)
    )
    _give(name, value.strip())
    sys.exit(_up(name, wait))


@vpn.command("set")
@click.argument("name")
@click.option("--probe", help="HOST:PORT inside the office; '' for its first name server.")
@click.option("--listen", help="Address of the SOCKS port on the host.")
@click.option("--port", type=int, help="Its port.")
def set_(name: str, probe: str | None, listen: str | None, port: int | None) -> None:
    """Change where a tunnel is probed and where its port is; `up` brings the port there."""
    from opsdeck_vpn.enrol import adjust

    frame.with_deck(lambda deck: adjust(deck, name, frame.actor(), probe=probe, listen=listen, port=port))


@vpn.command()
@click.argument("name")
def down(name: str) -> None:
    """Take a tunnel down, also for the next boot."""
    sys.exit(frame.run_action("vpn", "down", {"tunnel": name}))


@vpn.command()
@click.argument("name")
def check(name: str) -> None:
    """Reach the office through the SOCKS port, and look whom it asks for names."""
    sys.exit(frame.run_action("vpn", "check", {"tunnel": name}))


@vpn.command("leak-test")
@click.argument("name")
def leak_test(name: str) -> None:
    """Kill the tunnel for some seconds and try to get out through its port."""
    sys.exit(frame.run_action("vpn", "leak_test", {"tunnel": name}))


@vpn.command()
@click.argument("name")
@click.option("--confirm", metavar="TEXT", help="The consent that is asked for: remove.")
def remove(name: str, confirm: str | None) -> None:
    """Remove a tunnel: its files on the host, its rules, its row."""
    sys.exit(frame.run_action("vpn", "remove", {"tunnel": name}, confirm=confirm))


@vpn.group()
def rules() -> None:
    """The rule list: one rule a line, the first that fits wins."""


@rules.command("show")
def rules_show() -> None:
    """Print the list as it is written."""
    from opsdeck_vpn import book
    from opsdeck_vpn.rules import text_of

    click.echo(text_of(frame.with_deck(book.rules)), nl=False)


@rules.command("set")
@click.argument("file", type=click.Path())
def rules_set(file: str) -> None:
    """Replace the list by a file (- is standard input), once both cores accepted it."""
    from opsdeck_vpn import book

    text = _text(file)
    done = frame.with_deck(lambda deck: book.set_rules(deck, text, frame.actor()))
    click.echo(f"{len(done)} rules", err=True)


@rules.command("pushed")
@click.argument("name")
def rules_pushed(name: str) -> None:
    """Put what an office pushed (networks, names, name servers) before the list."""
    from opsdeck_vpn import book

    done = frame.with_deck(lambda deck: book.take_over(deck, name, frame.actor()))
    click.echo(f"{len(done)} rules", err=True)


@vpn.group()
def device() -> None:
    """Devices, and the profiles they fetch."""


@device.command("add")
@click.argument("name")
def device_add(name: str) -> None:
    """Make a device; print the addresses of its profiles, once."""
    from opsdeck_vpn import book
    from opsdeck_vpn.cores import Core

    async def work(deck: Deck) -> tuple[str, Sensitive]:
        return deck.settings.public_url, await book.add_device(deck, name, frame.actor())

    base, token = frame.with_deck(work)
    for core in Core:
        click.echo(f"{core.value:<9} {base.rstrip('/') or 'CONSOLE'}/p/vpn/profile/{token.reveal()}/{core.file}")
    click.echo("Keep them like a password: they are not shown again.", err=True)


@device.command("list")
@frame.json_option
def device_list(as_json: bool) -> None:
    """List the devices and what they fetched last."""
    from opsdeck_vpn import book

    found = frame.with_deck(book.devices)
    if as_json:
        frame.print_json(
            [
                {"name": row.name, "created": row.created, "revoked": row.revoked, "last": last and last.model_dump()}
                for row, last in found
            ]
        )
        return
    table = [
        (
            row.name,
            "revoked" if row.revoked else "counts",
            frame.short(last.at) if last else "never",
            last.core if last else "",
            last.source if last else "",
        )
        for row, last in found
    ]
    frame.print_table(
        ("device", "token", "fetched", "core", "from"), table, empty="No device yet: opsdeck vpn device add"
    )


@device.command("revoke")
@click.argument("name")
def device_revoke(name: str) -> None:
    """End a device's token at once."""
    from opsdeck_vpn import book

    frame.with_deck(lambda deck: book.revoke(deck, name, frame.actor()))


@vpn.command()
@click.argument("core", type=click.Choice(["mihomo", "sing-box"]))
def profile(core: str) -> None:
    """Print the profile that devices are served, once the core accepted it."""
    from opsdeck_vpn import book
    from opsdeck_vpn.cores import Core

    served = frame.with_deck(lambda deck: book.profile(deck, Core(core), frame.actor(), "shown on the command line"))
    click.echo(served.text, nl=False)
    if served.stale:
        click.echo(f"This is the last good one: {served.stale}", err=True)


@vpn.group()
def proxy() -> None:
    """Other proxies that rules may name as proxy:NAME."""


@proxy.command("add")
@click.argument("name")
@click.argument("kind", type=click.Choice(["socks5", "http"]))
@click.argument("server")
@click.argument("port", type=click.IntRange(1, 65535))
@click.option("--user", default="")
@click.option("--password-secret", default="", help="Name of the secret with its password.")
def proxy_add(name: str, kind: str, server: str, port: int, user: str, password_secret: str) -> None:
    """Add a proxy."""
    from opsdeck_vpn import book
    from opsdeck_vpn.models import Proxy

    row = Proxy(name=name, kind=kind, server=server, port=port, username=user, password_secret=password_secret)
    frame.with_deck(lambda deck: book.add_proxy(deck, row, frame.actor()))


@proxy.command("list")
def proxy_list() -> None:
    """List the proxies."""
    from opsdeck_vpn import book

    table = [(row.name, row.kind, row.server, row.port) for row in frame.with_deck(book.proxies)]
    frame.print_table(("proxy", "kind", "server", "port"), table, empty="No other proxy is there.")


@proxy.command("remove")
@click.argument("name")
def proxy_remove(name: str) -> None:
    """Remove a proxy that no rule names."""
    from opsdeck_vpn import book

    frame.with_deck(lambda deck: book.remove_proxy(deck, name, frame.actor()))
