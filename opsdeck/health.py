"""Looking at this installation: what is well, what needs attention, what is broken, and the next step for each.

`opsdeck doctor` and the health page show the same findings. Each look stands alone, so that one that fails hides none.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import stat
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

from opsdeck.audit.chain import kept_heads
from opsdeck.clock import utcnow
from opsdeck.deck import Deck
from opsdeck.errors import OpsDeckError
from opsdeck.manifest import Finding

OK, ATTENTION, BROKEN = "ok", "attention", "broken"
HEADS = "audit.heads"
"""Name of the file in the data folder with the kept heads of the audit chain."""

LOW_BYTES, GONE_BYTES = 1 << 30, 64 << 20
CLOCK_SECONDS = 3.0


async def examine(deck: Deck) -> tuple[Finding, ...]:
    """Look at everything, plugins too; `deck` need not be open. Never raises what a look can name."""
    found = await look(deck)
    if all(finding.state != BROKEN for finding in found):
        for findings in (await deck.plugins.gather("opsdeck_health", deck=deck)).values():
            found += findings
    for told in deck.plugins.faults:
        hint = f"mend or remove it, or add {told.plugin!r} to OPSDECK_DISABLED_PLUGINS"
        found.append(Finding(f"plugin {told.plugin}", ATTENTION, f"{told.text} (in {told.where})", hint))
    return tuple(found)


async def look(deck: Deck) -> list[Finding]:
    """Look at what is the core's own: data folder, disk, clock, database, keys, secrets, audit trail."""
    found: list[Finding] = []
    for subject, glance in LOOKS:
        try:
            found += [finding async for finding in glance(deck)]
        except OpsDeckError as fault:
            if all(finding.text != fault.message for finding in found):
                found.append(Finding(subject, BROKEN, fault.message, fault.hint or ""))
    return found


async def _folder(deck: Deck) -> AsyncIterator[Finding]:
    home = deck.settings.home
    if not home.is_dir():
        yield Finding("data folder", BROKEN, f"{home} is not there.", "run `opsdeck init`, or check OPSDECK_HOME")
        return
    mode = stat.S_IMODE(home.stat().st_mode)
    if mode & 0o077:
        yield Finding("data folder", ATTENTION, f"{home} is open to others (mode {mode:04o}).", f"chmod 700 {home}")
    else:
        yield Finding("data folder", OK, str(home))


async def _disk(deck: Deck) -> AsyncIterator[Finding]:
    if not deck.settings.home.is_dir():
        return
    usage = shutil.disk_usage(deck.settings.home)
    state = BROKEN if usage.free < GONE_BYTES else ATTENTION if usage.free < LOW_BYTES else OK
    text = f"{usage.free / 1e9:.1f} GB of {usage.total / 1e9:.1f} GB free"
    yield Finding("disk", state, text, "" if state == OK else f"free space on the disk of {deck.settings.home}")


async def _database(deck: Deck) -> AsyncIterator[Finding]:
    from sqlalchemy import text

    from opsdeck.db.migrate import pending

    if deck.db.absent:
        yield Finding("database", BROKEN, f"{deck.db.name} is not there.", "run `opsdeck init`, or check OPSDECK_HOME")
        return
    async with deck.db.read() as session:
        question = "PRAGMA quick_check(1)" if deck.db.sqlite else "SELECT 'ok'"
        answer = str((await (await session.connection()).execute(text(question))).scalar())
    if answer == "ok":
        yield Finding("database", OK, deck.db.name)
    else:
        yield Finding("database", BROKEN, f"{deck.db.name}: {answer}", "put back the newest backup of the database")
    behind = await pending(deck.db, deck.plugins)
    for each in behind:
        text_ = f"tables of {each.owner} are at {each.found or 'nothing'}, the code wants {each.wanted}"
        yield Finding("migrations", BROKEN, text_, "run `opsdeck migrate`")
    if not behind:
        yield Finding("migrations", OK, "up to date")


async def _keys(deck: Deck) -> AsyncIterator[Finding]:
    from opsdeck.secrets.masterkey import load

    load(deck.settings.key_file)
    yield Finding("master key", OK, str(deck.settings.key_file))


async def _secrets(deck: Deck) -> AsyncIterator[Finding]:
    from opsdeck.secrets.rotation import Rotation

    await deck.keyring.open()
    report = await Rotation(deck.db, deck.keyring, deck.audit).check()
    for sentence in report.broken:
        yield Finding("secrets", BROKEN, sentence, "set it again; `opsdeck audit verify` may tell who changed it")
    if not report.broken:
        yield Finding("secrets", OK, f"{report.opened} sealed, each opens" if report.opened else "none yet")


async def _audit(deck: Deck) -> AsyncIterator[Finding]:
    await deck.keyring.open()
    verdict = await deck.audit.verify(kept_heads(deck.settings.home / HEADS))
    if verdict.bad is not None:
        hint = "keep a copy of the database as it is, and find out who wrote to it"
        yield Finding("audit trail", BROKEN, f"entry {verdict.bad}: {verdict.reason}", hint)
    else:
        yield Finding("audit trail", OK, f"{verdict.entries} entries, unbroken")
    newest = await deck.audit.list(limit=1)
    if newest and newest[0].at > utcnow() + timedelta(minutes=1):
        text = f"the newest audit entry is from {newest[0].at:%Y-%m-%d %H:%M} UTC, which is in the future"
        yield Finding("clock", BROKEN, text, "set this machine's clock")


async def _clock(_deck: Deck) -> AsyncIterator[Finding]:
    program = shutil.which("timedatectl")
    answer = ""
    if program:
        with contextlib.suppress(OSError, TimeoutError):  # no systemd to ask: then nothing is known of the clock
            process = await asyncio.create_subprocess_exec(
                program, "show", "-p", "NTPSynchronized", "--value", stdout=-1, stderr=-3, stdin=-3
            )
            try:
                async with asyncio.timeout(CLOCK_SECONDS):
                    answer = (await process.communicate())[0].decode().strip()
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
    now = f"{utcnow():%Y-%m-%d %H:%M:%S} UTC"
    if answer == "no":
        yield Finding("clock", ATTENTION, f"{now}; nothing keeps it right", "install systemd-timesyncd or chrony")
    else:
        yield Finding("clock", OK, now + ("; kept right by NTP" if answer == "yes" else ""))


LOOKS: tuple[tuple[str, Callable[[Deck], AsyncIterator[Finding]]], ...] = (
    ("data folder", _folder),
    ("disk", _disk),
    ("clock", _clock),
    ("database", _database),
    ("master key", _keys),
    ("secrets", _secrets),
    ("audit trail", _audit),
)
