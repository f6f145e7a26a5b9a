"""The action that checks hosts: reached, logged in, root when asked for, clock, disks, units."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from opsdeck.errors import OpsDeckError
from opsdeck.events import HostChanged
from opsdeck.manifest import Action, Finding, Receipt, Risk
from opsdeck.ssh.endpoint import Sudo

if TYPE_CHECKING:
    from opsdeck.inventory.facts.parsers import Value
    from opsdeck.inventory.reach import ReachSeen
    from opsdeck.jobs.context import StepRun

PARTS = ("clock", "filesystems", "uptime", "systemd", "failed", "login", "end")
SKEW_TOLD = 2.0
SKEW_BROKEN = 60.0
DISK_FULL = 98


class CheckFailed(OpsDeckError):
    """A host was reached, and something on it is broken."""


class CheckParams(BaseModel):
    """What counts as worth attention."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    disk: int = Field(90, ge=1, le=100, title="Disk use, percent", description="A fuller file system is told.")


async def check(step: StepRun, params: CheckParams) -> Receipt:
    """Look at one host; the step fails when something is broken, and only says so when it asks for attention."""
    from opsdeck.inventory.facts import sections
    from opsdeck.inventory.facts.catalogue import read
    from opsdeck.inventory.models import Reach
    from opsdeck.inventory.reach import ReachSeen, reach_of

    host = step.host
    mark = sections.new_mark()
    script = sections.script(mark, {name: sections.SECTIONS[name] for name in PARTS}, seconds=30.0)
    sent = time.time()
    try:
        done = await step.run(script, log=False, check=False)
    except OpsDeckError as fault:
        if seen := reach_of(host.name, fault):
            await _note(step, seen)
        raise
    took = time.time() - sent
    await _note(step, ReachSeen(host.name, Reach.OK))
    reading = read(done.stdout, mark, sent=sent, received=sent + took)
    findings = [
        Finding("login", "ok", f"as {reading.facts.get('login_user', host.user)} in {took * 1000:.0f} ms"),
        *await _sudo(step),
        *judge(reading.facts, params.disk),
    ]
    for finding in findings:
        step.log(f"{finding.subject}: {finding.text}", {"ok": "good", "broken": "bad"}.get(finding.state, "info"))
    broken = [finding for finding in findings if finding.state == "broken"]
    odd = [finding for finding in findings if finding.state == "attention"]
    step.note("; ".join(f"{finding.subject}: {finding.text}" for finding in broken or odd)[:120] or "all well")
    if broken:
        raise CheckFailed(
            "; ".join(f"{finding.subject}: {finding.text}" for finding in broken) + ".",
            host=host.name,
            hint=broken[0].hint or "see the log of this step",
        )
    return {
        "findings": [{"subject": item.subject, "state": item.state, "text": item.text} for item in findings],
        "milliseconds": round(took * 1000),
    }


async def _sudo(step: StepRun) -> list[Finding]:
    if step.host.sudo == Sudo.NONE or step.host.user == "root":
        return []
    done = await step.run(["id", "-u"], sudo=True, log=False, check=False, timeout=20.0)
    if done.stdout.strip() == b"0":
        return [Finding("sudo", "ok", "becomes root")]
    hint = f"see the sudo rules of {step.host.user} on the host"
    return [Finding("sudo", "broken", "does not become root", hint)]


def judge(facts: Mapping[str, Value], disk: int = 90) -> list[Finding]:
    """Say what the facts mean. A fact that is absent is no finding."""
    return [*_clock(facts.get("clock_skew")), *_disks(facts.get("disk_use"), disk), *_units(facts)]


def _clock(skew: Value | None) -> list[Finding]:
    if not isinstance(skew, int | float):
        return []
    if abs(skew) <= SKEW_TOLD:
        return [Finding("clock", "ok", "agrees with ours")]
    text = f"{abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} ours"
    state = "broken" if abs(skew) > SKEW_BROKEN else "attention"
    return [Finding("clock", state, text, "set up time synchronisation there: systemd-timesyncd or chrony")]


def _disks(use: Value | None, limit: int) -> list[Finding]:
    if not isinstance(use, list):
        return []
    shares = {mount: int(share.rstrip("%")) for mount, _, share in (row.rpartition(" ") for row in use) if share != "-"}
    full = {mount: share for mount, share in shares.items() if share >= limit}
    if not full:
        return [Finding("disk", "ok", f"at most {max(shares.values(), default=0)} % used")]
    text = ", ".join(f"{mount} {share} %" for mount, share in sorted(full.items(), key=lambda item: -item[1]))
    state = "broken" if max(full.values()) >= DISK_FULL else "attention"
    return [Finding("disk", state, f"{text} used", "free space there, or enlarge the disk")]


def _units(facts: Mapping[str, Value]) -> list[Finding]:
    if "systemd" not in facts:
        return [Finding("systemd", "ok", "not used on this host")]
    failed = facts.get("failed_units")
    if isinstance(failed, list) and failed:
        return [Finding("units", "attention", f"failed: {', '.join(failed[:5])}", f"systemctl status {failed[0]}")]
    return [Finding("units", "ok", f"none failed, system {facts.get('system_state', 'state unknown')}")]


async def _note(step: StepRun, seen: ReachSeen) -> None:
    from opsdeck.inventory.reach import note_reach

    if await note_reach(step.job.db, [seen]):
        step.job.publish(HostChanged(host=seen.host, what=f"reach {seen.reach}"))


hostcheck = Action(
    name="check",
    title="Check hosts",
    summary="Reach each host, log in, become root where that is set up, and look at clock, disks and units.",
    params=CheckParams,
    risk=Risk.READ,
    step=check,
    timeout=180.0,
    silence=60.0,
)
