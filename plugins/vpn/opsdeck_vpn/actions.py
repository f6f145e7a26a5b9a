"""What can be done with a tunnel: up, down, checked, tested for leaks, removed."""

from __future__ import annotations

import asyncio
import contextlib
import secrets as random
from collections.abc import AsyncIterator, Sequence

from pydantic import BaseModel, Field
from sqlmodel import col, delete

from opsdeck.api import (
    Action,
    Command,
    HostAccess,
    Invalid,
    JobRun,
    Plan,
    PlanRun,
    ProbeFailed,
    Receipt,
    Refused,
    Risk,
    StepRun,
    Targets,
    Unavailable,
    units,
    utcnow,
)
from opsdeck_vpn import attend, gateway, socks, tunnels
from opsdeck_vpn.models import Otp, Proof, Rule, State, Tunnel
from opsdeck_vpn.render.gateway import SOCKS_USER, unit_names

NAME = r"[a-z][a-z0-9-]{0,10}"


class TunnelParams(BaseModel):
    """The tunnel that is meant."""

    tunnel: str = Field(pattern=f"^{NAME}$", title="Tunnel", description="Its name")


class UpParams(TunnelParams):
    """How long to wait."""

    wait: int = Field(
        60,
        ge=5,
        le=600,
        title="Wait at most",
        description="For the office to answer; afterwards it goes on trying",
        json_schema_extra={"unit": "s"},
    )


def _touches(params: TunnelParams, _hosts: Sequence[str]) -> Sequence[str]:
    return [f"vpn:{params.tunnel}"]


@contextlib.asynccontextmanager
async def _held(run: JobRun, name: str, seconds: float) -> AsyncIterator[Tunnel]:
    """Keep the watcher away for the time of a job."""
    tunnel = await tunnels.find(run.db, name)
    await tunnels.claim(run.db, name, seconds)
    try:
        yield tunnel
    finally:
        await tunnels.change(run.db, name, claimed_until=None)


async def _plan_up(run: PlanRun, params: UpParams) -> Plan:
    tunnel = await tunnels.find(run.db, params.tunnel)
    keys = await tunnels.open_keys(run, tunnel)
    return Plan(await gateway.plan(run.on(tunnel.host), keys.gateway))


async def _up(run: JobRun, params: UpParams) -> Receipt:
    async with _held(run, params.tunnel, params.wait + 300) as tunnel, run.step(tunnel.host) as step:
        keys = await tunnels.open_keys(run, tunnel)
        changed = await gateway.lay(step, keys.gateway)
        afresh = tunnel.state == State.FAILED
        if tunnel.state in (State.DOWN, State.FAILED):
            await tunnels.set_state(run.db, tunnel.name, State.STARTING, wanted=True, pushed={}, challenge="")
        else:
            await tunnels.change(run.db, tunnel.name, wanted=True)
        await gateway.start(step, keys.gateway, changed, afresh=afresh)
        seen = await settled(run, step, tunnel.name, params.wait)
        step.note(seen.state)
        if seen.state == State.FAILED:
            raise ProbeFailed(f"{seen.reason}.", host=tunnel.host, hint="mend it, then bring the tunnel up again")
        if seen.state not in (State.UP, State.WAIT_OTP):
            raise ProbeFailed(
                f"the tunnel is {seen.state} after {params.wait} s: {seen.reason or 'the office does not answer'}.",
                host=tunnel.host,
                hint="it goes on trying; `opsdeck vpn show` says how it is",
            )
        if seen.state == State.WAIT_OTP:
            step.log(
                f"the office asks: {seen.challenge}. Give the code at the tunnel's page or with `opsdeck vpn code`"
            )
        return _seen(seen) | {"changed": list(changed)}


async def settled(run: JobRun, step: StepRun, name: str, seconds: float) -> Tunnel:
    """Attend a tunnel until it is up and probed, waits for a person, or `seconds` are over."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds

    def done(tunnel: Tunnel) -> bool:
        late = loop.time() > end
        if tunnel.state == State.WAIT_OTP:  # a code that was given, or that a seed makes, is on its way
            return late or (tunnel.otp != Otp.SEED and tunnel.code_given is None)
        return late or tunnel.state in (State.UP, State.FAILED)

    return await attend.attend(run, step, name, step.log, done)


def _seen(tunnel: Tunnel) -> Receipt:
    return {
        "tunnel": tunnel.name,
        "state": tunnel.state,
        "reason": tunnel.reason,
        "local": tunnel.local,
        "latency_ms": tunnel.latency_ms,
        **{word: values[:50] for word, values in tunnel.pushed.items()},
    }


async def _down(run: JobRun, params: TunnelParams) -> Receipt:
    async with _held(run, params.tunnel, 300) as tunnel, run.step(tunnel.host) as step:
        await tunnels.change(run.db, tunnel.name, wanted=False)
        await gateway.stop(step, tunnel.name)
        await tunnels.set_state(run.db, tunnel.name, State.DOWN, challenge="", local="", latency_ms=None)
        step.note("down")
    return {"tunnel": tunnel.name, "state": "down"}


async def _remove(run: JobRun, params: TunnelParams) -> Receipt:
    async with _held(run, params.tunnel, 300) as tunnel, run.step(tunnel.host) as step:
        await tunnels.change(run.db, tunnel.name, wanted=False)
        keys = await tunnels.open_keys(run, tunnel)
        await gateway.remove(step, keys.gateway)
        async with run.db.write() as session:
            await session.exec(delete(Rule).where(col(Rule.target) == f"tunnel:{tunnel.name}"))
            await session.exec(delete(Proof).where(col(Proof.tunnel) == tunnel.name))
            await session.exec(delete(Tunnel).where(col(Tunnel.name) == tunnel.name))
        step.note("removed")
    return {"tunnel": tunnel.name, "removed": True}


async def _reach(door: int, tunnel: Tunnel, keys: tunnels.Keys, host: str, port: int) -> float | str:
    """Give the milliseconds through the SOCKS port, or why it is not reached."""
    try:
        return round(await socks.latency(door, SOCKS_USER, keys.gateway.socks_password, host, port, timeout=6), 1)
    except (Unavailable, Refused) as fault:
        return fault.message


async def record(run: JobRun, tunnel: Tunnel, kind: str, passed: bool, text: str) -> None:
    """Keep what a proof found."""
    async with run.db.write() as session:
        await session.merge(Proof(tunnel=tunnel.name, kind=kind, at=utcnow(), passed=passed, text=text[:500]))


def _target(tunnel: Tunnel) -> tuple[str, int]:
    target = tunnels.probe_of(tunnel)
    if target is None:
        raise Invalid(
            "the office pushes no name server and the tunnel has no address to probe.",
            field="probe",
            hint="`opsdeck vpn set NAME --probe HOST:PORT` with an address inside the office",
        )
    return target


async def _check(run: JobRun, params: TunnelParams) -> Receipt:
    tunnel = await tunnels.find(run.db, params.tunnel)
    keys = await tunnels.open_keys(run, tunnel)
    async with run.step(tunnel.host) as step:
        host, port = _target(tunnel)
        async with step.forward(tunnel.port, tunnel.listen) as door:
            times = [await _reach(door, tunnel, keys, host, port) for _ in range(5)]
        good = sorted(time for time in times if isinstance(time, float))
        bad = [time for time in times if isinstance(time, str)]
        text = f"{host}:{port} in {good[len(good) // 2]} ms" if not bad else bad[0]
        await record(run, tunnel, "connectivity", not bad, text)
        step.log(text, "bad" if bad else "good")
        names_ok, names_text = await _names(step, tunnel)
        await record(run, tunnel, "dns", names_ok, names_text)
        step.log(names_text, "good" if names_ok else "bad")
        if bad or not names_ok:
            raise ProbeFailed(bad[0] if bad else names_text, host=tunnel.host, hint="see the tunnel's page")
    return {"tunnel": tunnel.name, "milliseconds": good, "names": names_text}


async def _names(step: HostAccess, tunnel: Tunnel) -> tuple[bool, str]:
    """Look which name servers the SOCKS server really has, and which way they are reached."""
    socks_unit = unit_names(tunnel.name)[2]
    (state,) = await units.look(step, [socks_unit])
    if not state.pid:
        return False, "the SOCKS server does not run"
    data = await step.get(f"/proc/{state.pid}/root/etc/resolv.conf", sudo=True)
    rows = [line.split() for line in data.decode("ascii", "replace").splitlines()]
    servers = [row[1] for row in rows if len(row) > 1 and row[0] == "nameserver"]
    allowed = set(tunnel.pushed.get("dns", []))
    if strangers := [server for server in servers if server not in allowed]:
        return False, f"names are asked of {', '.join(strangers)}, which the office did not name"
    device = f"ov-{tunnel.name}"
    for server in servers:
        argv = ("ip", "-n", device, "route", "get", server)
        way = await step.run(Command(argv, sudo=True), check=False, log=False)
        if f"dev {device}" not in way.stdout.decode("ascii", "replace"):
            return False, f"the name server {server} is not reached through the tunnel"
    return True, f"names are asked of {', '.join(servers)} only, through the tunnel" if servers else "no name is asked"


async def _leak_test(run: JobRun, params: TunnelParams) -> Receipt:
    async with _held(run, params.tunnel, 240) as tunnel, run.step(tunnel.host) as step:
        if tunnel.state != State.UP:
            raise Invalid(
                f"the tunnel is {tunnel.state}, so nothing can leak from it.", field="tunnel", hint="bring it up"
            )
        keys = await tunnels.open_keys(run, tunnel)
        host, port = _target(tunnel)
        dial = unit_names(tunnel.name)[1]
        own = step.host.address
        name = f"opsdeck-{random.token_hex(4)}.{(tunnel.pushed.get('domain') or ['invalid'])[0]}"
        async with step.forward(tunnel.port, tunnel.listen) as door:
            before = await _reach(door, tunnel, keys, host, port)
            step.log(f"with the tunnel: {before}", "good" if isinstance(before, float) else "bad")
            await units.act(step, units.Act.STOP, dial)
            try:
                leaks = []
                for target, number in ((host, port), (own, step.host.port), (name, 80)):
                    answer = await _reach(door, tunnel, keys, target, number)
                    step.log(f"without the tunnel: {target}: {answer}", "bad" if isinstance(answer, float) else "good")
                    leaks += [target] if isinstance(answer, float) else []
                alive = await step.run(("true",), check=False, log=False)
            finally:
                await units.act(step, units.Act.START, dial, settle=0)
        seen = await settled(run, step, tunnel.name, 60)
        passed = isinstance(before, float) and not leaks and alive.ok
        text = (
            "nothing went out while the tunnel was dead, and the rest went on"
            if passed
            else f"reached without the tunnel: {', '.join(leaks)}"
            if leaks
            else f"the office was not reached even with the tunnel: {before}"
        )
        await record(run, tunnel, "leak", passed, text)
        step.note(text)
        if not passed:
            raise ProbeFailed(f"{text}.", host=tunnel.host)
        return _seen(seen) | {"leaks": leaks, "text": text}


up = Action(
    "up",
    "Bring a tunnel up",
    "Puts the tunnel into a network of its own on its gateway, dials, and probes an office address through its port.",
    params=UpParams,
    targets=Targets.CONSOLE,
    run=_up,
    plan=_plan_up,
    touches=_touches,
)
down = Action(
    "down",
    "Take a tunnel down",
    "Stops the tunnel and its SOCKS port, also for the next boot.",
    params=TunnelParams,
    targets=Targets.CONSOLE,
    run=_down,
    touches=_touches,
)
check = Action(
    "check",
    "Check a tunnel",
    "Reaches an office address five times through the SOCKS port, and looks whom it asks for names.",
    params=TunnelParams,
    risk=Risk.READ,
    targets=Targets.CONSOLE,
    run=_check,
    timeout=120,
)
leak_test = Action(
    "leak_test",
    "Test for leaks",
    "Stops the dialler for some seconds: nothing may be reached through the SOCKS port, and the host goes on.",
    params=TunnelParams,
    targets=Targets.CONSOLE,
    run=_leak_test,
    touches=_touches,
    timeout=300,
)
remove = Action(
    "remove",
    "Remove a tunnel",
    "Takes the tunnel down, its files off the gateway, and its rules out of the list.",
    params=TunnelParams,
    risk=Risk.DESTROY,
    targets=Targets.CONSOLE,
    run=_remove,
    touches=_touches,
)
ALL = (up, down, check, leak_test, remove)
