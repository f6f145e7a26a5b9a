"""Taking over a `config.yml` of meilisync: what it says becomes a source, a Meilisearch and syncs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from opsdeck.api import Actor, Invalid, Refused
from opsdeck_search_sync import hooks, seedfile
from opsdeck_search_sync.seedfile import KINDS, Seed

if TYPE_CHECKING:
    from opsdeck.api import Deck


@dataclass(frozen=True)
class Wish:
    """A file, and how what it holds is to be called here."""

    text: str = field(repr=False)
    source: str = ""
    instance: str = "search"
    via: str = ""
    """The host from which the file's addresses are meant; "" when they are meant from the console."""
    hooks: Mapping[str, str] = field(default_factory=dict)
    ca: str = ""
    """Certificate of the authority that the database's is checked against, as PEM."""


@dataclass(frozen=True)
class Brought:
    """A file that was read, with the names that its parts get."""

    seed: Seed
    source: str
    instance: str
    via: str

    def must_be_whole(self) -> None:
        """Raise `Refused` where a field cannot be taken over."""
        if refused := self.seed.refused:
            more = f" ({len(refused) - 1} more are refused)" if len(refused) > 1 else ""
            raise Refused(
                f"{refused[0].field}: {refused[0].why}{more}.", field=refused[0].field, hint="mend the file, then again"
            )

    def as_data(self) -> dict[str, Any]:
        """Give what would be made, without secrets, JSON-ready."""
        return {
            "fields": [asdict(one) for one in self.seed.outcomes],
            "source": {"name": self.source, "kind": KINDS[self.seed.kind], "host": self.via, **self.seed.source},
            "meilisearch": {"name": self.instance, "host": self.via, **self.seed.instance},
            "syncs": [asdict(one) for one in self.seed.syncs],
        }


def plan(wish: Wish) -> Brought:
    """Read a file and name its parts. Raises `Invalid`."""
    for plugin, name in wish.hooks.items():
        try:
            hooks.check_name(name)
        except ValueError as fault:
            raise Invalid(f"{plugin}: {fault}.", field="hook", hint="--hook module.Class=name") from fault
    seed = seedfile.read(wish.text, wish.hooks, wish.ca)
    return Brought(seed, wish.source or seedfile.plain(str(seed.source["database"])), wish.instance, wish.via)


async def prepare(deck: Deck, brought: Brought, actor: Actor) -> list[tuple[str, dict[str, Any]]]:
    """Seal the file's secrets, look at the server; give the actions that make the rest, in their order."""
    seed = brought.seed
    source = seed.source | {"name": brought.source, "host": brought.via, "secret": ""}
    instance = seed.instance | {"name": brought.instance, "host": brought.via, "secret": ""}
    for value, row, kind in ((seed.password, source, "password"), (seed.key, instance, "meilisearch-key")):
        if value is not None:
            row["secret"] = f"search-sync-{row['name']}"
            note = "taken over from meilisync's config.yml"
            await deck.secrets.set(row["secret"], value, kind=kind, note=note, actor=actor)
    source["kind"] = KINDS[seed.kind]
    made: list[tuple[str, dict[str, Any]]] = [("save_source", source), ("save_instance", instance)]
    for sync in seed.syncs:
        mapping = yaml.safe_dump(sync.mapping, allow_unicode=True, sort_keys=False)
        made.append(
            ("save_sync", {"name": sync.name, "source": brought.source, "instance": brought.instance,
                           "table": sync.table, "index": sync.index, "mapping": mapping})
        )  # fmt: skip
    return made
