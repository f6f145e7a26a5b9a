"""Fill a data folder for the benchmark from JSON on standard input: hosts, their key, the login's private key."""

from __future__ import annotations

import asyncio
import json
import sys

from opsdeck.actor import SYSTEM
from opsdeck.deck import Deck
from opsdeck.inventory.forms import HostIn
from opsdeck.secrets.sensitive import Sensitive
from opsdeck.settings import load


async def main() -> None:
    """Add every host with its key pinned."""
    given = json.load(sys.stdin)
    async with Deck.open(load()) as deck:
        await deck.secrets.set("bench", Sensitive(given["private_key"]), kind="ssh-key", actor=SYSTEM)
        forms = [HostIn.model_validate(host | {"credential": "bench"}) for host in given["hosts"]]
        await deck.inventory.apply(forms, {}, SYSTEM)
        for form in forms:
            await deck.host_keys.pin(form.name, given["host_key"], SYSTEM)


asyncio.run(main())
