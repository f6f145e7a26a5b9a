"""Whether a key opens the backups, tried on what was sealed beside them."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import pyrage
from opsdeck_backup import catalogue, health, keys

from opsdeck.actor import Actor, Door, Role
from opsdeck.clock import utcnow

BOSS = Actor("boss@cli", Role.ADMIN, Door.CLI, stepped_up=True)
ZSTD = b"\x28\xb5\x2f\xfd" + b"the configuration"


def seal(shelf, manifest, *recipients, text=ZSTD):
    """Put a sealed configuration beside a backup, and its sha256 into the manifest."""
    sealed = pyrage.encrypt(text, [pyrage.x25519.Recipient.from_str(one) for one in recipients])
    (shelf.folder / f"{manifest.planned.object}.config").write_bytes(sealed)
    result = manifest.result.model_copy(update={"config_sha256": hashlib.sha256(sealed).hexdigest()})
    made = manifest.model_copy(update={"result": result})
    (shelf.folder / "manifests" / f"{manifest.id}.json").write_text(made.model_dump_json())


async def test_the_targets_key_and_the_copy_in_the_safe_are_proven(shelf):
    row = await catalogue.find(shelf.deck, "shop")
    spare, public = keys.new_identity()
    await shelf.deck.secrets.set("safe", spare, kind="age-identity", actor=BOSS)
    for hours in (30, 2):
        seal(shelf, shelf.put(utcnow() - timedelta(hours=hours), salt=hours), *row.recipients, public)
    told = await shelf.good("drill_key", target="shop")
    assert (len(told["opened"]), told["key"]) == (2, row.recipients[0][:20])
    assert (await shelf.good("drill_key", target="shop", key="safe"))["key"] == public[:20]
    proofs = await catalogue.proofs(shelf.deck, "shop")
    assert [(proof.depth, proof.ok, proof.detail["key"]) for proof in proofs] == [
        ("key", True, public[:20]),
        ("key", True, row.recipients[0][:20]),
    ]
    (standing,) = await health.standings(shelf.deck)
    assert standing.rto is None, "a key that opens is no restore"


async def test_a_wrong_key_a_changed_file_and_a_missing_one_are_named_and_open_an_incident(shelf):
    row = await catalogue.find(shelf.deck, "shop")
    other, _ = keys.new_identity()
    await shelf.deck.secrets.set("other", other, kind="age-identity", actor=BOSS)
    made = shelf.put(utcnow() - timedelta(hours=1))
    seal(shelf, made, *row.recipients)
    job = await shelf.run("drill_key", target="shop", key="other")
    assert "does not open" in job.error
    assert "backup:shop:key" in [one.key for one in await shelf.deck.incidents.open_now()]
    (standing,) = await health.standings(shelf.deck)
    assert standing.state == "broken"
    await shelf.good("drill_key", target="shop")
    assert "backup:shop:key" not in [one.key for one in await shelf.deck.incidents.open_now()]
    file = shelf.folder / f"{made.planned.object}.config"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b"x")
    assert "was changed" in (await shelf.run("drill_key", target="shop")).error
    file.unlink()
    assert "has no" in (await shelf.run("drill_key", target="shop")).error
    seal(shelf, made, *row.recipients, text=b"not compressed")
    await shelf.good("drop", target="shop")
    await shelf.good("target", name="shop", host="db", remote="store:backups", store_secret="s3", key_secret="key")
    assert "no zstd" in (await shelf.run("drill_key", target="shop")).error


async def test_a_target_without_a_backup_proves_nothing(shelf):
    assert "no backup to open" in (await shelf.run("drill_key", target="shop")).error
