"""The built-in actions through the whole way on real hosts: packages, units, a reboot, and their faults."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

from opsdeck.actor import Actor, Door, Role
from opsdeck.deck import Deck
from opsdeck.jobs.jobs import Submission

BOSS = Actor("boss@cli", Role.ADMIN, Door.CLI, stepped_up=True)


async def run(deck: Deck, action: str, on: str = "all", **params: Any) -> Any:
    job = await deck.jobs.run(Submission("core", action, params, on, confirm="2"), BOSS)
    assert job.id
    return job, {step.host: step for step in await deck.jobs.steps(job.id)}, await deck.jobs.log(job.id)


async def test_packages_are_planned_and_installed_on_many(deck):
    job, steps, _ = await run(deck, "packages", what="install", names=["hello"])
    assert job.state == "succeeded", [step.error for step in steps.values()]
    assert {step.receipt["changed"][0]["name"] for step in steps.values()} == {"hello"}
    shown = await deck.jobs.plan(Submission("core", "packages", {"what": "purge", "names": ["hello"]}, "all"), BOSS)
    assert [(change.host, change.verb, change.target) for change in shown.changes] == [
        ("web1", "remove", "hello"),
        ("web2", "remove", "hello"),
    ]
    job, steps, _ = await run(deck, "packages", what="purge", names=["hello"])
    assert job.state == "succeeded"
    job, steps, _ = await run(deck, "packages", what="install", names=["no-such-package-x"], on="web1")
    assert job.state == "failed"
    assert "no-such-package-x" in steps["web1"].error


async def test_a_unit_is_restarted_and_a_sick_one_shows_its_journal(deck, fleet):
    job, steps, _ = await run(deck, "restart", unit="ssh", settle=0.5)
    assert job.state == "succeeded", [step.error for step in steps.values()]
    assert steps["web2"].receipt["active"] == "active"
    unit = "[Service]\nExecStart=/bin/sh -c 'echo no config found; exit 2'\n"
    job, _, _ = await run(deck, "copy", path="/etc/systemd/system/sick.service", content=unit, sudo=True)
    assert job.state == "succeeded"
    job, steps, _ = await run(deck, "restart", unit="sick")
    assert job.state == "failed"
    assert ["no config found" in step.error for step in steps.values()] == [True, True], [steps["web1"].error]
    fleet.host("web1").execute(["systemctl", "reset-failed"], check=False)
    job, steps, _ = await run(deck, "restart", unit="nothere", on="web1")
    assert "no unit nothere.service" in steps["web1"].error


async def test_hosts_reboot_one_after_another(deck):
    job, steps, lines = await run(deck, "reboot", limit=90)
    assert job.state == "succeeded", [step.error for step in steps.values()]
    assert all(step.receipt["seconds"] > 0 for step in steps.values())
    first, second = sorted(steps.values(), key=lambda step: step.started)
    assert first.finished <= second.started
    assert [line.text for line in lines if line.text == "told to reboot"] == ["told to reboot"] * 2


async def test_a_detached_script_as_root_outlives_a_cut_link(deck, fleet):
    fleet_host = fleet.host("web2")
    job, steps, lines = await run(
        deck, "script", text="echo begun; id -un; sleep 2; echo ended", sudo=True, detach=True, on="web2"
    )
    assert job.state == "succeeded", steps["web2"].error
    assert [line.text for line in lines if line.stream == "out"] == ["begun", "root", "ended"]
    assert fleet_host.state()


def wheel(folder: Path, version: str, text: str) -> dict[str, str]:
    """Make a wheel with a program in it; give the parameters that name it."""
    path = folder / f"ticker-{version}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ticker/ticker", text)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"version": version, "sha256": digest, "source": str(path), "member": "ticker/ticker", "arch": "all"}


async def test_a_program_is_upgraded_on_one_host_first_and_put_back_when_its_unit_fails(deck, fleet, tmp_path):
    run_it = "/opt/opsdeck/artefacts/ticker/current/ticker"
    unit = f"[Service]\nExecStart={run_it}\n"
    job, _, _ = await run(deck, "copy", path="/etc/systemd/system/ticker.service", content=unit, sudo=True)
    assert job.state == "succeeded"
    good = wheel(tmp_path, "1.0", "#!/bin/sh\nexec sleep 1000\n")
    job, steps, _ = await run(deck, "artefact", name="ticker", unit="ticker", **good)
    assert job.state == "succeeded", [step.error for step in steps.values()]
    assert steps["web2"].receipt["probe"] == {"unit": "ticker.service", "active": "active"}
    bad = wheel(tmp_path, "1.1", "#!/bin/sh\necho missing library\nexit 127\n")
    job, steps, _ = await run(deck, "artefact", name="ticker", unit="ticker", **bad)
    assert job.state == "failed"
    assert "missing library" in steps["web1"].error
    assert (steps["web1"].note, steps["web2"].state) == ("put back", "skipped")
    for name in ("web1", "web2"):
        assert fleet.host(name).execute(["readlink", "/opt/opsdeck/artefacts/ticker/current"]) == "1.0\n"
        assert fleet.host(name).execute(["systemctl", "is-active", "ticker"]) == "active\n"
    job, _, _ = await run(deck, "artefact", name="ticker", what="hold", why="until Monday")
    assert job.state == "succeeded"
    job, steps, _ = await run(deck, "artefact", name="ticker", **bad)
    assert "until Monday" in steps["web1"].error
    good |= {"sha256": "0" * 64, "version": "2"}
    job, _, _ = await run(deck, "artefact", name="ticker", **good)
    assert "sha256" in job.error
    job, _, _ = await run(deck, "artefact", name="ticker", what="let_go")
    await run(deck, "restart", unit="ticker", how="stop")
