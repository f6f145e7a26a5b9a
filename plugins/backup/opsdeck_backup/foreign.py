"""Chains that another made: folders `base` and `inc-…` of XtraBackup or mariadb-backup on a store, as plain files.

They are taken over where they lie: read once whole, each file's sha256 kept, and put into the catalogue as a chain of
their own. Nothing of them is ever changed, moved or removed by us, and no backup of ours follows on one.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from opsdeck.api import Action, OpsDeckError, Receipt, Refused, Risk, Script, Targets, stamp
from opsdeck_backup import catalogue, look, targets
from opsdeck_backup.manifests import Manifest, Planned, Result
from opsdeck_backup.stores import DATA, MANIFESTS, Store

if TYPE_CHECKING:
    from opsdeck.api import JobRun, StepRun
    from opsdeck_backup.look import Place
    from opsdeck_backup.targets import Opened

_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9:._-]{0,100}")
_STAMP = re.compile(r"(\d{4}-\d\d-\d\d)[ _T](\d\d[:.-]?\d\d[:.-]?\d\d)")
_SEALED = (".qp", ".lz4", ".xbcrypt")
UNPACKED = 6
"""How much larger compressed files are taken to be when unpacked, to ask for room."""
NEVER = datetime(1970, 1, 1, tzinfo=UTC)
EMPTY = hashlib.sha256(b"").hexdigest()


class AdoptParams(targets.NameParams):
    """Which chain, for which target."""

    folder: Annotated[str, AfterValidator(targets.remote_place)] = Field(
        title="Folder",
        description="Where `base` and `inc-…` lie, in rclone's words.",
        examples=["store:backup/mysql/prod"],
    )


@dataclass(frozen=True)
class Found:
    """One foreign backup: its folder's name, its own words, its files' number and bytes."""

    name: str
    checkpoints: Mapping[str, str]
    info: Mapping[str, str]
    files: int
    size: int
    packed: bool
    texts: tuple[str, str]
    """The two files as they are, base64."""
    began: datetime = NEVER
    """By its own word or its name's, taken as UTC."""

    def lsn(self, name: str) -> int:
        """Give a log position; -1 when it says none."""
        text = self.checkpoints.get(name, "")
        return int(text) if text.isdigit() else -1


@dataclass(frozen=True)
class Chain:
    """What of a folder makes a chain, in order, and why the rest does not."""

    links: tuple[Found, ...]
    left: Mapping[str, str]


def _lines(text: str) -> dict[str, str]:
    try:
        plain = base64.b64decode(text, validate=True).decode("utf-8", "replace")
    except binascii.Error:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in plain.splitlines())}


def began(*texts: str) -> datetime:
    """Give the first moment that one of the texts has; `NEVER` when none has."""
    for text in texts:
        if seen := _STAMP.search(text):
            plain = re.sub("[^0-9]", "", seen[1] + seen[2])
            with contextlib.suppress(ValueError):
                return datetime.strptime(plain, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    return NEVER


def parse(output: bytes, files: Mapping[str, int]) -> tuple[Found, ...]:
    """Read what the look at the folder printed. Raises `Refused` when it broke off."""
    lines = output.decode("utf-8", "replace").splitlines()
    if not lines or lines[-1] != "end":
        raise Refused("the look at the folder broke off.", hint="try again")
    found = []
    for line in lines[:-1]:
        name, checkpoints, info = (*line.split(" "), "-", "-")[:3]
        mine = {path: size for path, size in files.items() if path.startswith(f"{name}/")}
        packed = any(path.endswith(".zst") for path in mine)
        said = _lines(info)
        found.append(
            Found(
                name,
                _lines(checkpoints),
                said,
                len(mine),
                sum(mine.values()),
                packed,
                (checkpoints, info),
                began(said.get("start_time", ""), name),
            )
        )
    return tuple(found)


def order(found: Sequence[Found], files: Mapping[str, int]) -> Chain:
    """Put backups in order: a full one, then those that each begin where the one before ended, by their names.

    A name alone is not believed, nor a position alone. What was prepared already takes no increments any more.
    """
    left: dict[str, str] = {}
    usable = []
    for one in found:
        sealed = next((path for path in files if path.startswith(f"{one.name}/") and path.endswith(_SEALED)), "")
        if not one.checkpoints or one.lsn("to_lsn") < 0:
            left[one.name] = "it has no checkpoints: it was broken off"
        elif sealed:
            left[one.name] = f"{sealed} is of a kind that is not read here"
        elif not one.info.get("server_version") or one.began == NEVER:
            left[one.name] = "it does not say which server it is of, or when it was taken"
        else:
            usable.append(one)
    full = [one for one in usable if one.checkpoints.get("backup_type", "").startswith(("full", "log-applied"))]
    if len(full) != 1:
        left |= {one.name: "there are several full backups" for one in full}
        return Chain((), left | {one.name: "there is no full backup" for one in usable if one not in full})
    links = full
    prepared = full[0].checkpoints["backup_type"] != "full-backuped"
    for one in sorted((one for one in usable if one not in full), key=lambda one: one.name):
        if prepared:
            left[one.name] = f"{full[0].name} was prepared: nothing can be added to it"
        elif one.lsn("from_lsn") != links[-1].lsn("to_lsn"):
            left[one.name] = (
                f"it begins at {one.lsn('from_lsn')}, and {links[-1].name} ends at {links[-1].lsn('to_lsn')}"
            )
        else:
            links = [*links, one]
    return Chain(tuple(links), left)


def identity(folder: str, found: Found) -> str:
    """Name a foreign backup: the same each time it is taken over."""
    return f"{stamp(found.began)}-{hashlib.sha256(f'{folder}/{found.name}'.encode()).hexdigest()[:8]}"


def planned(target: str, engine: str, folder: str, chain: Chain) -> tuple[Planned, ...]:
    """Give what the manifests of a chain say."""
    names = [identity(folder, one) for one in chain.links]
    return tuple(
        Planned(
            id=name,
            target=target,
            chain=names[0],
            parent=names[number - 1] if number else "",
            number=number,
            kind="incremental" if number else "full",
            reason=f"taken over from {folder}/{one.name}",
            engine=engine,
            server=one.info["server_version"],
            tool=one.info.get("tool_version", ""),
            identity="",
            data="",
            host="",
            object=f"{DATA}/{name}.list",
            recipients=(),
            foreign=f"{folder}/{one.name}",
        )
        for number, (name, one) in enumerate(zip(names, chain.links, strict=True))
    )


async def _look(step: StepRun, found: Opened, folder: str, rclone: str) -> Chain:
    files = await Store(found.store.config, folder).files()
    names = sorted({path.partition("/")[0] for path in files if "/" in path})
    if not names or (bad := [name for name in names if not _FOLDER.fullmatch(name)]):
        what = f"{bad[0]!r} in it is no folder of a backup" if names else "it holds no backups"
        raise Refused(f"{folder}: {what}.", field="folder", hint="name the folder that holds `base`")
    script = Script(look.shell("common", "foreign_look"), ("adopt", rclone, folder, *names))
    done = await step.run(script, sudo=True, log=False, timeout=600, stdin=look.sealed(found.store.config, None, None))
    return order(parse(done.stdout, files), files)


async def _adopt(job: JobRun, params: AdoptParams) -> Receipt:
    found = await targets.opened(job, params.target)
    row, there = found.row, {manifest.id for manifest in (await _holding(job, found)).manifests}
    where = row.drill_host or row.host
    async with job.step(where) as step:
        rclone = await look.tools(step)
        chain = await _look(step, found, params.folder, rclone)
        for name, why in chain.left.items():
            step.log(f"{name} is left: {why}", "bad")
        if not chain.links:
            raise Refused(f"{params.folder} holds no chain that restores.", field="folder", hint="see the log for why")
        taken = planned(row.name, row.engine, params.folder, chain)
        for number, (plan, link) in enumerate(zip(taken, chain.links, strict=True)):
            if plan.id in there:
                continue
            step.note(f"reading {number + 1} of {len(taken)}")
            await _take_over(step, found, plan, link, rclone)
    holding = await _holding(job, found)
    mine = [manifest.id for manifest in holding.manifests if manifest.planned.foreign]
    job.log(f"{len(taken)} backups of {params.folder} are in the catalogue, and lie where they lay", "good")
    return {"backups": [plan.id for plan in taken if plan.id in mine], "left": dict(chain.left)}


async def _holding(job: JobRun, found: Opened) -> catalogue.Holding:
    return await catalogue.sync(job, found.row.name, found.store)


async def _take_over(step: StepRun, found: Opened, plan: Planned, link: Found, rclone: str) -> None:
    """Read one backup whole, keep the list of its files, and write its manifest last."""
    words = (plan.id, rclone, plan.foreign, f"{found.store.root}/{plan.object}")
    secrets = look.sealed(found.store.config, None, None)
    script = Script(look.shell("common", "inventory"), words, f"reading {plan.foreign}")
    done = await step.detached(f"inventory-{plan.number}", script, sudo=True, stdin=secrets)
    word, sha, size = (*done.stdout.decode("utf-8", "replace").split()[-3:], "", "", "")[:3]
    if word != "inventory" or not size.isdigit():
        raise OpsDeckError(f"the list of {plan.foreign} was not written.", hint="try again")
    result = Result(
        started=link.began,
        finished=link.began,
        raw=link.size * (UNPACKED if link.packed else 1),
        stored=link.size,
        sha256=sha,
        config_sha256=EMPTY,
        checkpoints=link.texts[0],
        checkpoints_name="xtrabackup_checkpoints",
        info=link.texts[1],
        listed=int(size),
    )
    manifest = Manifest(planned=plan, result=result)
    await found.store.write(f"{MANIFESTS}/{plan.id}.json", manifest.model_dump_json().encode())


async def fetch(step: Place, store: Store, links: Sequence[Manifest], folders: Sequence[str], rclone: str) -> None:
    """Fetch foreign backups into a folder each, and compare every file with what it was when it was taken over."""
    secrets = look.sealed(store.config, None, None)
    for number, (link, folder) in enumerate(zip(links, folders, strict=True)):
        step.note(f"fetching {number + 1} of {len(links)}")
        words = (folder, link.planned.foreign, f"{store.root}/{link.planned.object}", link.result.sha256)
        script = Script(look.shell("common", "fetch_foreign"), (link.id, rclone, *words), f"fetching {words[1]}")
        await step.detached(f"fetch-{number}", script, sudo=True, stdin=secrets)


adopt = Action(
    "adopt",
    "Take over a chain",
    "Put backups that XtraBackup or mariadb-backup made as plain folders (base, inc-…) into a target's catalogue. "
    "They are read once whole, and stay where they lie.",
    params=AdoptParams,
    risk=Risk.CHANGE,
    targets=Targets.CONSOLE,
    run=_adopt,
    touches=targets.touches,
    timeout=24 * 3600,
    silence=3600,
)
