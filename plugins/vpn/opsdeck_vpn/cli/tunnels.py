"""Tunnels."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from opsdeck.api import Refused, Sensitive, frame
from opsdeck_vpn.cli.group import text_of, vpn

if TYPE_CHECKING:
    from opsdeck.api import Deck
    from opsdeck_vpn.models import Proof, Tunnel


@vpn.command("import")
@click.argument("name")
@click.argument("profile", type=click.Path())
@click.option("--host", required=True, help="The host that dials.")
@click.option("--file", "files", multiple=True, type=click.Path(), help="A file that the profile refers to. Repeat.")
@click.option("--user", default="", help="User name for the server.")
@click.option("--password-file", type=click.Path(), help="File with the password; else it is asked for.")
@click.option("--otp", type=click.Choice(["none", "ask", "seed"]), default="none", help="Where a code comes from.")
@click.option("--passphrase-file", type=click.Path(), help="File with the passphrase of the private key.")
@click.option("--seed-file", type=click.Path(), help="File with the seed (base32) of the codes.")
@click.option("--concat", is_flag=True, help="The server wants password and code as one word.")
@click.option(
    "--driver", type=click.Choice(["namespace", "compose"]), default="namespace", help="How it is kept apart."
)
@click.option("--listen", default="127.0.0.1", help="Address of the SOCKS port on the host.")
@click.option("--port", type=int, default=0, help="Its port; the first free one from 1080 unless said.")
@click.option("--probe", default="", help="HOST:PORT inside the office; its name server unless said.")
def import_(name: str, profile: str, host: str, files: Sequence[str], **given: Any) -> None:
    """Take in an .ovpn or a WireGuard configuration, and say what was left out and why."""
    from opsdeck_vpn.enrol import Wish, enrol, read

    text = Sensitive(text_of(profile))
    inline = {Path(file).name: text_of(file) for file in files}
    wish = Wish(name, host, text, inline)
    _kind, seen = read(wish)
    password = Sensitive("")
    if given["user"] or (seen.wants_password and not seen.inline_login):
        password = _line(frame.read_value(given["password_file"], "Password", confirm=False))
    seed = (
        _line(frame.read_value(given["seed_file"], "Seed", confirm=False)) if given["otp"] == "seed" else Sensitive("")
    )
    passphrase = (
        _line(frame.read_value(given["passphrase_file"], "Passphrase of the key", confirm=False))
        if seen.locked
        else Sensitive("")
    )
    wish = Wish(
        name, host, text, inline, given["user"], password, given["otp"], seed, given["concat"],
        given["listen"], given["port"], given["probe"], passphrase, given["driver"],
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

    async def work(deck: Deck) -> tuple[Tunnel, list[Proof]]:
        return await tunnels.find(deck.db, name), await tunnels.proofs(deck.db, name)

    row, proofs = frame.with_deck(work)
    if as_json:
        frame.print_json(row.model_dump() | {"proofs": [proof.model_dump() for proof in proofs]})
        return
    frame.print_facts(
        {
            "state": row.state, "why": row.reason, "since": row.since, "host": row.host, "kind": row.kind,
            "kept apart by": row.driver, "servers": row.remotes, "SOCKS port": f"{row.listen}:{row.port}",
            "address inside": row.local, "pushed networks": row.pushed.get("route", []),
            "name servers": row.pushed.get("dns", []), "names": row.pushed.get("domain", []),
            "latency ms": row.latency_ms,
        }
    )  # fmt: skip
    for proof in proofs:
        click.echo(f"{'passed' if proof.passed else 'FAILED'}  {proof.kind}: {proof.text} ({frame.short(proof.at)})")
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
            code = _answer(name, click.prompt(f"{row.challenge} (a new one in {_left()} s)", err=True), wait)
    sys.exit(code)


def _up(name: str, wait: int) -> int:
    return frame.run_action("vpn", "up", {"tunnel": name, "wait": wait})


def _left() -> int:
    import time

    return 30 - int(time.time()) % 30


def _answer(name: str, code: str, wait: int) -> int:
    """Give a code and see what becomes of it. Raises `Refused` when the office asks again."""
    from opsdeck_vpn import tunnels
    from opsdeck_vpn.enrol import give_code
    from opsdeck_vpn.models import State

    frame.with_deck(lambda deck: give_code(deck, name, code, frame.actor()))
    status = _up(name, wait)
    row = frame.with_deck(lambda deck: tunnels.find(deck.db, name))
    if status == 0 and row.state == State.WAIT_OTP:
        why = row.reason or "the office asks for another code"
        raise Refused(f"{why}.", host=row.host, hint=f"opsdeck vpn code {name}")
    return status


@vpn.command()
@click.argument("name")
@click.option("--wait", type=int, default=60, help="Seconds for the office to answer.")
def code(name: str, wait: int) -> None:
    """Give the one-time code that the office asks for; it is read from the terminal or standard input."""
    value = (
        sys.stdin.readline() if not sys.stdin.isatty() else click.prompt(f"Code (a new one in {_left()} s)", err=True)
    )
    sys.exit(_answer(name, value.strip(), wait))


@vpn.command("set")
@click.argument("name")
@click.option("--probe", help="HOST:PORT inside the office; '' for its first name server.")
@click.option("--listen", help="Address of the SOCKS port on the host.")
@click.option("--port", type=int, help="Its port.")
@click.option("--mtu", type=int, help="The largest packet that the way to the server bears; 0 for the profile's own.")
def set_(name: str, probe: str | None, listen: str | None, port: int | None, mtu: int | None) -> None:
    """Change where a tunnel is probed, where its port is, how large its packets are; `up` brings it there."""
    from opsdeck_vpn.enrol import adjust

    frame.with_deck(lambda deck: adjust(deck, name, frame.actor(), probe=probe, listen=listen, port=port, mtu=mtu))


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
@click.option("--gone", is_flag=True, help="The host is gone for good: forget the tunnel without reaching it.")
@click.option("--confirm", metavar="TEXT", help="The consent that is asked for: remove.")
def remove(name: str, gone: bool, confirm: str | None) -> None:
    """Remove a tunnel: its files on the host, its rules, its secrets, its row."""
    sys.exit(frame.run_action("vpn", "remove", {"tunnel": name, "gone": gone}, confirm=confirm))
