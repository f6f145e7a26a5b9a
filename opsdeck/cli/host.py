"""`opsdeck host`: the fleet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from opsdeck.cli import frame, hostfacts, hostimport, hostkeys
from opsdeck.cli.options import complete_hosts, complete_secrets
from opsdeck.errors import Invalid

if TYPE_CHECKING:
    from opsdeck.deck import Deck
    from opsdeck.inventory.models import Host, Sample
    from opsdeck.inventory.samples.book import MonthTraffic

name_argument = click.argument("name", shell_complete=complete_hosts)

OPTIONS: dict[str, tuple[str, str, str]] = {
    "address": ("address", "ADDRESS", "Host name or IP address."),
    "port": ("port", "PORT", "SSH port; 22 unless said."),
    "user": ("user", "USER", "Login; root unless said."),
    "credential": ("credential", "SECRET", "Secret that logs in (a key or password), or agent."),
    "jump": ("jump", "HOST", "Host to go through; '' for none."),
    "sudo": ("sudo", "HOW", "How commands become root: none, nopasswd or password."),
    "sudo_secret": ("sudo-secret", "SECRET", "Secret with the password of sudo."),
    "region": ("region", "TEXT", "Region, such as tokyo."),
    "latitude": ("latitude", "DEGREES", "Where it stands, for the map."),
    "longitude": ("longitude", "DEGREES", "Where it stands, for the map."),
    "provider": ("provider", "TEXT", "Whom it is rented from."),
    "price": ("price", "PRICE", "What it costs: '4.99 EUR/month', '48 EUR/year'."),
    "renewal": ("renewal", "DATE", "Day of the next renewal: 2027-01-31."),
    "quota_bytes": ("quota", "AMOUNT", "Traffic paid for each month: 1TB, 500GB."),
    "quota_reset_day": ("reset-day", "DAY", "Day of the month on which traffic counts anew, 1 to 31."),
    "quota_counts": ("counts", "HOW", "Traffic that counts: in, out, both or max."),
    "notes": ("notes", "TEXT", "Anything else."),
}
"""Field of the form → (option, what it takes, its help). The form checks the values."""

_SECRETS = frozenset({"credential", "sudo_secret"})


def _fields(command: Callable[..., Any]) -> Callable[..., Any]:
    for field, (option, metavar, help) in reversed(OPTIONS.items()):
        complete = complete_secrets if field in _SECRETS else complete_hosts if field == "jump" else None
        command = click.option(f"--{option}", field, metavar=metavar, help=help, shell_complete=complete)(command)
    tag = click.option(
        "--tag", "tags", metavar="TAG", multiple=True, help="A tag: role=edge, or prod. Repeat for more."
    )
    return tag(command)


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name in OPTIONS and value is not None}


@click.group()
def host() -> None:
    """Know the fleet: add, list, check, import hosts."""


host.add_command(hostkeys.approve_key)
host.add_command(hostkeys.known_hosts)
host.add_command(hostfacts.check)
host.add_command(hostfacts.facts)
host.add_command(hostimport.import_)


@host.command()
@click.argument("name")
@_fields
@click.option("--host-key", metavar="KEY", help="Its public host key, or a file with it: trusted without asking.")
@click.option("--approve", is_flag=True, help="Trust the key that it shows now, without asking.")
@click.option("--no-contact", is_flag=True, help="Do not ask it for its key now.")
@frame.json_option
def add(
    name: str,
    *,
    tags: tuple[str, ...],
    host_key: str | None,
    approve: bool,
    no_contact: bool,
    as_json: bool,
    **fields: Any,
) -> None:
    """Add a host, and look at the key that it shows."""
    from opsdeck.forms import checked
    from opsdeck.inventory.forms import HostIn
    from opsdeck.ssh.hostkeys import OfferedKey

    form = checked(HostIn, {"name": name, "tags": list(tags), **_given(fields)}, host=name)
    public = hostkeys.read_key(host_key) if host_key else None
    if public is not None:
        OfferedKey.of(public)

    async def work(deck: Deck) -> None:
        added = await deck.inventory.add(form, frame.actor())
        if not as_json:
            click.echo(f"Added {added.name} ({added.user}@{added.address}:{added.port}).")
        contact = None
        if public is not None:
            await deck.host_keys.pin(added.name, public, frame.actor(), source="--host-key")
        elif not no_contact:
            contact = await hostkeys.first_contact(deck, added.name, approve=approve, quiet=as_json)
        if as_json:
            frame.print_json(host_data(await deck.inventory.get(added.name)) | {"contact": contact})

    frame.with_deck(work)


@host.command("list")
@click.argument("selector", nargs=-1, shell_complete=complete_hosts)
@frame.json_option
def list_(selector: tuple[str, ...], as_json: bool) -> None:
    """List hosts, all or those that SELECTOR means."""
    from opsdeck.inventory.forms import tag_words

    async def work(deck: Deck) -> None:
        hosts = await deck.inventory.list(",".join(selector) or "all")
        samples = await deck.samples.latest([item.name for item in hosts])
        traffic = await deck.samples.month(hosts)
        if as_json:
            frame.print_json([host_data(item, samples.get(item.name), traffic[item.name]) for item in hosts])
            return
        rows = [
            (
                item.name,
                f"{item.user}@{item.address}" + (f":{item.port}" if item.port != 22 else ""),
                item.reach,
                ", ".join(tag_words(item.tags)),
                item.region,
                f"{sample.load1:.2f}" if (sample := samples.get(item.name)) else "",
                percent(sample.disk_used, sample.disk_total) if sample else "",
                traffic_text(traffic[item.name]),
            )
            for item in hosts
        ]
        columns = ("name", "login", "reach", "tags", "region", "load", "disk", "traffic")
        empty = "No host matches." if selector else "There are no hosts. Add one with `opsdeck host add`."
        frame.print_table(columns, rows, empty=empty)

    frame.with_deck(work)


@host.command()
@name_argument
@frame.json_option
def show(name: str, as_json: bool) -> None:
    """Show all that is known of a host."""
    from opsdeck.inventory.forms import tag_words

    async def work(deck: Deck) -> None:
        item = await deck.inventory.get(name)
        sample = (await deck.samples.latest([item.name])).get(item.name)
        traffic = (await deck.samples.month([item]))[item.name]
        keys = await deck.host_keys.list(item.name)
        facts = await deck.facts.latest(item.name)
        if as_json:
            data = host_data(item, sample, traffic)
            data["host_keys"] = [key.model_dump(exclude={"id", "host_id", "public"}) for key in keys]
            data["facts"] = None if facts is None else {"confirmed": facts.confirmed, **facts.facts}
            frame.print_json(data)
            return
        hidden = {"id", "created", "updated"}
        hidden |= set() if item.price is not None else {"price_period", "currency"}
        hidden |= set() if item.quota_bytes else {"quota_reset_day", "quota_counts"}
        every = {field: getattr(item, field) for field in type(item).model_fields if field not in hidden}
        shown = {field: value for field, value in every.items() if value not in (None, "", {})}
        shown["tags"] = ", ".join(tag_words(item.tags))
        if item.quota_bytes:
            shown["quota_bytes"] = size(item.quota_bytes)
        if sample:
            memory = percent(sample.memory_used, sample.memory_total)
            disk = percent(sample.disk_used, sample.disk_total)
            shown["load"] = f"{sample.load1:.2f}, memory {memory}, disk {disk} at {frame.short(sample.at)}"
        shown["traffic"] = traffic_text(traffic)
        for key in keys:
            shown[f"key {key.state}"] = f"{key.algorithm} {key.fingerprint}"
        frame.print_facts({field: value for field, value in shown.items() if value != ""})
        if facts is None:
            click.echo(f"No facts were read yet: `opsdeck host facts {item.name}`.", err=True)

    frame.with_deck(work)


@host.command()
@name_argument
@click.option("--name", "new_name", metavar="NAME", help="Another name.")
@_fields
@click.option("--untag", multiple=True, metavar="TAG", help="Take a tag away. Repeat for more.")
@frame.json_option
def edit(
    name: str, new_name: str | None, tags: tuple[str, ...], untag: tuple[str, ...], as_json: bool, **fields: Any
) -> None:
    """Change what is given and leave the rest; '' empties a field that may be empty."""
    from opsdeck.forms import checked
    from opsdeck.inventory.forms import HostPatch

    given = _given(fields) | ({"name": new_name} if new_name is not None else {})

    async def work(deck: Deck) -> None:
        before = await deck.inventory.get(name)
        if tags or untag:
            new = checked(HostPatch, {"tags": list(tags)}, host=name).tags or {}
            given["tags"] = {key: value for key, value in {**before.tags, **new}.items() if key not in untag}
        if not given:
            raise Invalid("nothing was given to change.", host=name, hint="see `opsdeck host edit --help`")
        patch = checked(HostPatch, given, host=name)
        after = await deck.inventory.edit(name, patch, frame.actor())
        deck.ssh.drop(before.name)
        if as_json:
            frame.print_json(host_data(after))
            return
        differ = [field for field in patch.changes() if getattr(before, field) != getattr(after, field)]
        click.echo(f"Changed {after.name}: {', '.join(differ)}." if differ else f"{after.name} is so already.")

    frame.with_deck(work)


@host.command()
@name_argument
@click.option("--force", is_flag=True, help="Also when others are reached through it; these are then reached directly.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@frame.json_option
def rm(name: str, force: bool, yes: bool, as_json: bool) -> None:
    """Forget a host with its keys, facts and samples; nothing happens on the host itself."""

    async def work(deck: Deck) -> None:
        item = await deck.inventory.get(name)
        frame.confirmed(f"Forget {item.name} with its keys, facts and samples?", yes)
        await deck.inventory.remove(item.name, frame.actor(), force=force)
        if as_json:
            frame.print_json({"removed": item.name})
        else:
            click.echo(f"Removed {item.name}.")

    frame.with_deck(work)


def host_data(item: Host, sample: Sample | None = None, traffic: MonthTraffic | None = None) -> dict[str, Any]:
    """Give a host as JSON-ready data."""
    data: dict[str, Any] = item.model_dump(exclude={"id"})
    if sample is not None:
        data["sample"] = sample.model_dump(exclude={"host_id", "boot_id", "interfaces", "cpu_busy", "cpu_total"})
    if traffic is not None:
        names = ("begins", "ends", "received", "sent", "used", "quota", "share")
        data["traffic"] = {name: getattr(traffic, name) for name in names}
    return data


def percent(part: int, whole: int) -> str:
    """Give a share in percent, "" when there is no whole."""
    return f"{part / whole:.0%}" if whole else ""


def traffic_text(traffic: MonthTraffic) -> str:
    """Give the month's traffic beside its quota."""
    if not traffic.quota:
        return size(traffic.used) if traffic.used else ""
    return f"{size(traffic.used)} of {size(traffic.quota)} ({traffic.share:.0%}) until {traffic.ends}"


def size(amount: float) -> str:
    """Give bytes in decimal units, as traffic is sold."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} PB"
