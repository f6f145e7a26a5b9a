"""`opsdeck user` and `opsdeck token`: people and API tokens."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from opsdeck.actor import Role
from opsdeck.cli import frame
from opsdeck.cli.frame import json_option, print_json, print_table, with_deck

if TYPE_CHECKING:
    from opsdeck.accounts.accounts import Accounts
    from opsdeck.deck import Deck
    from opsdeck.secrets.sensitive import Sensitive

ROLES = click.Choice([role.value for role in Role])


@click.group()
def user() -> None:
    """People who may log in."""


def _new_password(name: str, generate: bool) -> Sensitive:
    from opsdeck.accounts.passwords import make_password

    return make_password() if generate else frame.new_password(f"Password for {name}")


def _told(name: str, text: str, password: Sensitive | None, as_json: bool) -> None:
    if as_json:
        print_json({"name": name} | ({"password": password.reveal()} if password else {}))
        return
    click.echo(text, err=True)
    if password:
        click.echo(password.reveal())


@user.command()
@click.argument("name")
@click.option("--role", type=ROLES, default=Role.VIEWER.value, show_default=True)
@click.option("--generate", is_flag=True, help="Make a password and print it once.")
@json_option
def add(name: str, role: str, generate: bool, as_json: bool) -> None:
    """Add a person. The password comes from a prompt or standard input."""
    password = _new_password(name, generate)
    with_deck(lambda deck: deck.accounts.create(name, password, Role(role), frame.actor()))
    _told(name, f"{name} is added as {role}", password if generate else None, as_json)


@user.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List people."""
    people = with_deck(lambda deck: deck.accounts.list())
    if as_json:
        print_json([asdict(person) for person in people])
        return
    print_table(
        ("name", "role", "state", "second factor", "last login"),
        [
            (
                person.name,
                person.role.value,
                "disabled" if person.disabled else "ok",
                "on" if person.totp else "off",
                frame.short(person.last_login),
            )
            for person in people
        ],
        empty="Nobody yet. Next: opsdeck init",
    )


def _do(work: Callable[[Accounts], Awaitable[object]], text: str) -> None:
    async def inside(deck: Deck) -> None:
        await work(deck.accounts)

    with_deck(inside)
    click.echo(text, err=True)


@user.command()
@click.argument("name")
@click.argument("role", type=ROLES)
def role(name: str, role: str) -> None:
    """Give a person another role; their logins end."""
    _do(lambda accounts: accounts.set_role(name, Role(role), frame.actor()), f"{name} is {role}")


@user.command()
@click.argument("name")
@click.option("--generate", is_flag=True, help="Make a password and print it once.")
@json_option
def passwd(name: str, generate: bool, as_json: bool) -> None:
    """Set a person's password; their logins end."""
    password = _new_password(name, generate)
    with_deck(lambda deck: deck.accounts.set_password(name, password, frame.actor()))
    _told(name, f"the password of {name} is set", password if generate else None, as_json)


@user.command()
@click.argument("name")
def disable(name: str) -> None:
    """Shut a person out, with their tokens."""
    _do(lambda accounts: accounts.set_disabled(name, True, frame.actor()), f"{name} is disabled")


@user.command()
@click.argument("name")
def enable(name: str) -> None:
    """Let a person in again."""
    _do(lambda accounts: accounts.set_disabled(name, False, frame.actor()), f"{name} is enabled")


@user.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
def rm(name: str, yes: bool) -> None:
    """Remove a person with their logins and tokens; the audit trail keeps the name."""
    frame.confirmed(f"Remove {name}?", yes)
    _do(lambda accounts: accounts.remove(name, frame.actor()), f"{name} is removed")


@user.command()
@click.argument("name")
@click.option("--off", is_flag=True, help="Turn the second factor off, for someone who lost their app.")
def totp(name: str, off: bool) -> None:
    """Set up a second factor: shows a picture for the app, then asks for its first code."""
    if off:
        _do(lambda accounts: accounts.remove_totp(name, frame.actor()), f"the second factor of {name} is off")
        return

    async def work(deck: Deck) -> None:
        import segno

        enrolment = await deck.accounts.enrol_totp(name, frame.actor())
        segno.make(enrolment.uri.reveal(), error="l").terminal(out=sys.stderr, compact=True)
        click.echo(f"Or type this into the app: {enrolment.seed.reveal()}", err=True)
        code = click.prompt("The app's code", err=True)
        await deck.accounts.confirm_totp(name, enrolment.ticket, code, frame.actor())

    with_deck(work)
    click.echo(f"{name} logs in with a code from now on", err=True)


@user.command("login-link")
@click.argument("name")
@click.option("--minutes", type=click.IntRange(1, 10_080), default=10, show_default=True, help="How long it is good.")
@json_option
def login_link(name: str, minutes: int, as_json: bool) -> None:
    """Print a link that logs a person in once, without password or code."""
    ttl = timedelta(minutes=minutes)
    token = with_deck(lambda deck: deck.accounts.make_login_link(name, frame.actor(), ttl))
    settings = frame.settings()
    host = f"[{settings.bind}]" if ":" in settings.bind else settings.bind
    base = settings.public_url.rstrip("/") or f"http://{host}:{settings.port}"
    link = f"{base}/login/link/{token.reveal()}"
    if as_json:
        print_json({"name": name, "link": link, "minutes": minutes})
    else:
        click.echo(link)
        if not settings.public_url:
            click.echo("If people reach the console elsewhere, set OPSDECK_PUBLIC_URL to that address.", err=True)


@click.group()
def token() -> None:
    """API tokens."""


@token.command("add")
@click.argument("owner")
@click.argument("name")
@click.option("--role", type=ROLES, default=Role.VIEWER.value, show_default=True, help="Up to the owner's.")
@click.option("--scope", "scopes", multiple=True, metavar="PLUGIN.ACTION", help="Only these actions; * and ? allowed.")
@click.option("--days", type=int, default=90, show_default=True, help="How long it lives.")
@json_option
def token_add(*, owner: str, name: str, role: str, scopes: tuple[str, ...], days: int, as_json: bool) -> None:
    """Make a token for OWNER, called NAME, and print it this once."""
    info, value = with_deck(
        lambda deck: deck.accounts.tokens.create(
            owner, name, role=Role(role), scopes=scopes, days=days, actor=frame.actor()
        )
    )
    if as_json:
        print_json(asdict(info) | {"token": value.reveal()})
    else:
        click.echo(value.reveal())


@token.command("list")
@click.option("--owner", default=None, help="Only this person's.")
@json_option
def token_list(owner: str | None, as_json: bool) -> None:
    """List tokens, without what proves them."""
    tokens = with_deck(lambda deck: deck.accounts.tokens.list(owner))
    if as_json:
        print_json([asdict(each) for each in tokens])
        return
    print_table(
        ("prefix", "name", "owner", "role", "scopes", "expires", "last used", "state"),
        [
            (
                f"opd_{each.prefix}",
                each.name,
                each.owner,
                each.role.value,
                " ".join(each.scopes) or "all",
                frame.short(each.expires),
                frame.short(each.last_used),
                "revoked" if each.revoked else "ok",
            )
            for each in tokens
        ],
        empty="No tokens yet. Next: opsdeck token add OWNER NAME",
    )


@token.command("revoke")
@click.argument("prefix")
def token_revoke(prefix: str) -> None:
    """End a token, given by its prefix (opd_…)."""
    with_deck(lambda deck: deck.accounts.tokens.revoke(prefix, frame.actor()))
    click.echo(f"{prefix} is revoked", err=True)
