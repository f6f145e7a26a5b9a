"""What can be done with a tunnel: up, down, checked, tested for leaks, removed."""

from __future__ import annotations

import asyncio
import contextlib
import secrets as random
from collections.abc import AsyncIterator, Sequence

from pydantic import BaseModel, Field

from opsdeck.api import (
    Action,
    Invalid,
    JobRun,
    NotFound,
    Plan,
    PlanRun,
    ProbeFailed,
    Receipt,
    Risk,
    StepRun,
    Targets,
)
from opsdeck_vpn import attend, drivers, proofs, tunnels
from opsdeck_vpn.models import Otp, State, Tunnel

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


class RemoveParams(TunnelParams):
    """Whether there is a gateway left to clean."""

    gone: bool = Field(
        False,
        title="The gateway is gone for good",
        description="Forget the tunnel without reaching its host; what lies there stays",
    )


def _touches(params: TunnelParams, _hosts: Sequence[str]) -> Sequence[str]:
    return [f"vpn:{params.tunnel}"]


@contextlib.asynccontextmanager
async def _held(run: JobRun, name: str) -> AsyncIterator[Tunnel]:
    """Keep the watcher away for the time of a job."""
    tunnel = await tunnels.find(run.db, name)
    async with tunnels.held(run.db, name):
        yield tunnel


async def _plan_up(run: PlanRun, params: UpParams) -> Plan:
    tunnel = await tunnels.find(run.db, params.tunnel)
    keys = await tunnels.open_keys(run, tunnel)
    return Plan(await drivers.of(tunnel.driver).plan(run.on(tunnel.host), keys.gateway))


async def _up(run: JobRun, params: UpParams) -> Receipt:
    async with _held(run, params.tunnel) as tunnel, run.step(tunnel.host) as step:
        keys = await tunnels.open_keys(run, tunnel)
        driver = drivers.of(tunnel.driver)
        changed = await driver.lay(step, keys.gateway)
        afresh = tunnel.state == State.FAILED
        if tunnel.state in (State.DOWN, State.FAILED):
            await tunnels.set_state(
                run.db, tunnel.name, State.STARTING, wanted=True, pushed={}, challenge="", refusals=0
            )
        else:
            await tunnels.change(run.db, tunnel.name, wanted=True)
        await driver.start(step, keys.gateway, changed, afresh=afresh)
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
        else:
            async with step.forward(tunnel.port, tunnel.listen) as door:
                size = await proofs.sizes(step, door, keys.gateway.socks_password, seen) if _probed(seen) else None
            if size:
                await proofs.record(run, step, seen, size)
                if not size.passed:
                    step.log(f"Next: {size.hint}")
        return _seen(seen) | {"changed": list(changed)}


def _probed(tunnel: Tunnel) -> bool:
    return tunnels.probe_of(tunnel) is not None


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
    async with _held(run, params.tunnel) as tunnel, run.step(tunnel.host) as step:
        await tunnels.change(run.db, tunnel.name, wanted=False)
        await drivers.of(tunnel.driver).stop(step, tunnel.name)
        await tunnels.set_state(run.db, tunnel.name, State.DOWN, challenge="", local="", latency_ms=None)
        await run.close_incident(tunnels.incident_of(tunnel.name))
        step.note("down")
    return {"tunnel": tunnel.name, "state": "down"}


async def _remove(run: JobRun, params: RemoveParams) -> Receipt:
    async with _held(run, params.tunnel) as tunnel:
        await tunnels.change(run.db, tunnel.name, wanted=False)
        if not params.gone:
            async with run.step(tunnel.host) as step:
                keys = await tunnels.open_keys(run, tunnel)
                await drivers.of(tunnel.driver).remove(step, keys.gateway)
                step.note("removed")
        await tunnels.forget(run.db, tunnel.name)
        await run.close_incident(tunnels.incident_of(tunnel.name))
        for name in tunnels.secrets_of(tunnel):
            with contextlib.suppress(NotFound):  # a code was never given
                await run.remove_secret(name)
    return {"tunnel": tunnel.name, "removed": True, "gateway": "left as it is" if params.gone else "clean"}


async def _check(run: JobRun, params: TunnelParams) -> Receipt:
    tunnel = await tunnels.find(run.db, params.tunnel)
    password = (await tunnels.open_keys(run, tunnel)).gateway.socks_password
    async with run.step(tunnel.host) as step:
        async with step.forward(tunnel.port, tunnel.listen) as door:
            reached, good = await proofs.connectivity(door, password, tunnel)
            size = await proofs.sizes(step, door, password, tunnel)
        asked = await proofs.names(step, tunnel)
        found = [finding for finding in (reached, asked, size) if finding]
        for finding in found:
            await proofs.record(run, step, tunnel, finding)
        for finding in found:
            if not finding.passed:
                raise ProbeFailed(f"{finding.text}.", host=tunnel.host, hint=finding.hint)
    return {"tunnel": tunnel.name, "milliseconds": good, **{finding.kind: finding.text for finding in found}}


def _reached(how: str, host: str, answer: float | str, *, good: bool) -> tuple[str, str]:
    """Give a line of a leak test and its stream."""
    found = f"{host} is reached in {answer} ms" if isinstance(answer, float) else answer.removesuffix(".")
    return f"{how} the tunnel: {found}", "good" if good else "bad"


async def _leak_test(run: JobRun, params: TunnelParams) -> Receipt:
    async with _held(run, params.tunnel) as tunnel, run.step(tunnel.host) as step:
        if tunnel.state != State.UP:
            raise Invalid(
                f"the tunnel is {tunnel.state}, so nothing can leak from it.", field="tunnel", hint="bring it up"
            )
        password = (await tunnels.open_keys(run, tunnel)).gateway.socks_password
        host, port = proofs.target(tunnel)
        driver = drivers.of(tunnel.driver)
        own = step.host.address
        name = f"opsdeck-{random.token_hex(4)}.{(tunnel.pushed.get('domain') or ['invalid'])[0]}"
        async with step.forward(tunnel.port, tunnel.listen) as door:
            before = await proofs.reach(door, password, host, port)
            step.log(*_reached("with", host, before, good=isinstance(before, float)))
            await driver.dialling(step, tunnel.name, False)
            try:
                leaks = []
                for target, number in ((host, port), (own, step.host.port), (name, 80)):
                    answer = await proofs.reach(door, password, target, number)
                    step.log(*_reached("without", target, answer, good=isinstance(answer, str)))
                    leaks += [target] if isinstance(answer, float) else []
                alive = await step.run(("true",), check=False, log=False)
            finally:
                await driver.dialling(step, tunnel.name, True)
        seen = await settled(run, step, tunnel.name, 60)
        passed = isinstance(before, float) and not leaks and alive.ok
        text = (
            "nothing went out while the tunnel was dead, and the rest went on"
            if passed
            else f"reached without the tunnel: {', '.join(leaks)}"
            if leaks
            else f"the office was not reached even with the tunnel: {before}"
        )
        await proofs.record(run, step, tunnel, proofs.Finding("leak", passed, text))
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
    "Takes the tunnel down, its files off the gateway, its rules out of the list, and its secrets away.",
    params=RemoveParams,
    risk=Risk.DESTROY,
    targets=Targets.CONSOLE,
    run=_remove,
    touches=_touches,
)
ALL = (up, down, check, leak_test, remove)
