"""Packages by a real apt, programs as artefacts, a real nftables."""

from __future__ import annotations

import asyncio
import hashlib
import io
import tarfile
import zipfile

import pytest

from opsdeck.errors import Conflict, NotFound, Refused
from opsdeck.lab.fleet import HostSpec
from opsdeck.remote import artefacts, firewall, packages
from opsdeck.remote.artefacts import Artefact
from opsdeck.remote.depot import Depot
from opsdeck.remote.errors import CheckRefused, ProbeFailed
from opsdeck.remote.firewall import AddressSet, Chain, Firewall, Hook
from opsdeck.remote.packages import Intent, Request

HELLO = Request(Intent.INSTALL, ("hello",), lock_wait=2)


async def test_install_as_planned_then_nothing_to_do_then_remove(reach):
    host = reach("web1", "ops")
    (move,) = await packages.apply(host, HELLO, update=True)
    assert (move.name, move.old) == ("hello", "")
    assert await packages.plan(host, HELLO) == ()
    assert await packages.apply(reach("web1", "ops"), HELLO) == ()
    seen = await packages.look(host, ["hello", "bash"])
    assert seen.packages["hello"].installed == move.new
    assert seen.lists_age is not None
    (change,) = await packages.plan(host, Request(Intent.REMOVE, ("hello",)))
    assert (change.verb, change.detail) == ("remove", move.new)
    await packages.apply(reach("web1", "ops"), Request(Intent.REMOVE, ("hello",)))
    assert (await packages.look(host, ["hello"])).packages["hello"].installed == ""


async def test_a_package_that_is_not_there(reach):
    host = reach("web1", "ops")
    with pytest.raises(NotFound, match="no-such-package-x"):
        await packages.plan(host, Request(Intent.INSTALL, ("no-such-package-x",)))
    with pytest.raises(NotFound, match="no-such-package-x"):
        await packages.apply(host, Request(Intent.INSTALL, ("no-such-package-x",)))


async def test_what_would_remove_others_is_refused(reach):
    host = reach("web1")
    await host.run(packages.update_command(HELLO))
    with pytest.raises(Refused, match="would remove"):
        await packages.moves(host, Request(Intent.INSTALL, ("sysvinit-core",)))


async def test_another_apt_is_waited_for_within_the_bound(reach):
    host = reach("web1")
    await host.run(packages.update_command(HELLO))
    holder = asyncio.create_task(
        host.run(
            ["perl", "-e", 'use Fcntl; open my $f, ">", "/var/lib/dpkg/lock-frontend"; '
             'my $l = pack("s s x4 q q i", F_WRLCK, 0, 0, 0, 0); fcntl($f, F_SETLK, $l) or die; sleep 8']
        )
    )  # fmt: skip
    await asyncio.sleep(0.5)
    with pytest.raises(Conflict, match="another apt holds the lock") as caught:
        await packages.apply(reach("web1"), HELLO)
    assert caught.value.host == "web1"
    await packages.apply(reach("web1"), Request(Intent.INSTALL, ("hello",), lock_wait=60))
    await holder
    await packages.apply(reach("web1"), Request(Intent.REMOVE, ("hello",)))


async def test_an_artefact_is_verified_switched_held_and_rolled_back(reach, fleet, tmp_path):
    host, depot = reach("web1", "ops"), Depot(tmp_path)

    def wheel(version):
        path = tmp_path / f"tool-{version}.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("tool/bin/tool", f"#!/bin/sh\necho tool {version}\n")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return Artefact("tool", version, digest, str(path), arch="all", member="tool/bin/tool")

    one = await depot.obtain(wheel("1.0"))
    assert [change.verb for change in await artefacts.plan(host, one.artefact, one)] == ["install"]
    assert await artefacts.install(host, one)
    assert not await artefacts.install(host, one)
    assert fleet.host("web1").execute([one.artefact.path]) == "tool 1.0\n"
    two = await depot.obtain(wheel("1.1"))
    (change,) = await artefacts.plan(host, two.artefact)
    assert (change.verb, change.detail) == ("upgrade", "1.0 → 1.1")
    await artefacts.hold(host, "tool", "1.1 eats\nfiles")
    with pytest.raises(Conflict, match=r"held at 1\.0: 1\.1 eats files"):
        await artefacts.install(host, two)
    await artefacts.let_go(host, "tool")
    assert await artefacts.install(host, two)
    assert fleet.host("web1").execute([one.artefact.path]) == "tool 1.1\n"
    assert await artefacts.roll_back(host, "tool") == "1.0"
    assert fleet.host("web1").execute([one.artefact.path]) == "tool 1.0\n"
    state = await artefacts.look(host, "tool")
    assert (state.current, state.previous, set(state.versions)) == ("1.0", "1.1", {"1.0", "1.1"})
    # somebody broke the file on the host: it is seen, and mended by the next install
    fleet.host("web1").execute(["sh", "-c", "echo broken >/opt/opsdeck/artefacts/tool/1.0/tool"])
    assert await artefacts.plan(host, one.artefact, one) != ()
    assert await artefacts.install(host, one)
    assert fleet.host("web1").execute([one.artefact.path]) == "tool 1.0\n"
    other = "arm64" if state.arch != "arm64" else "amd64"
    with pytest.raises(Refused, match=f"is for {other}"):
        await artefacts.plan(host, Artefact("tool", "2", "0" * 64, "x", arch=other))


async def test_the_depot_keeps_nothing_that_is_not_what_was_named(tmp_path):
    source = tmp_path / "tool.tar.gz"
    with tarfile.open(source, "w:gz") as archive:
        member = tarfile.TarInfo("./dist/tool")
        member.size = 4
        archive.addfile(member, io.BytesIO(b"tool"))
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    good = Artefact("tool", "1", digest, str(source), member="dist/tool")
    depot = Depot(tmp_path / "home")
    program = await depot.obtain(good)
    assert program.path.read_bytes() == b"tool"
    program.path.write_bytes(b"evil")
    assert depot.has(good) is None
    assert (await depot.obtain(good)).path.read_bytes() == b"tool"
    for bad, error in (
        (Artefact("tool", "2", "0" * 64, str(source), member="dist/tool"), Refused),
        (Artefact("tool", "3", digest, str(source), member="dist/none"), NotFound),
        (Artefact("tool", "4", digest, str(tmp_path / "none")), NotFound),
    ):
        with pytest.raises(error):
            await depot.obtain(bad)
        assert not [path for path in depot.place(bad).parent.rglob("*") if path.is_file()]


@pytest.fixture
async def guarded(lab, reach):
    """A host that may change its own packet filter."""
    if not any(host.name == "fw1" for host in lab.hosts()):
        lab.up([HostSpec("fw1", tun=True, packages=("nftables",))])
    return reach("fw1", "ops")


async def test_our_table_is_replaced_whole_and_never_locks_us_out(guarded, lab):
    ruleset = ["nft", "list", "ruleset"]
    fw = lab.host("fw1")
    fw.execute(["nft", "add", "table", "inet", "theirs"])
    wanted = Firewall(
        "edge",
        (Chain("input", ("tcp dport { 80, 443 } accept", "ip saddr @office accept"), Hook.INPUT, drop=True),),
        (AddressSet("office", ("10.0.0.0/8", "10.1.0.0/16")),),
    )
    assert [change.verb for change in await firewall.apply(guarded, wanted)] == ["create"]
    assert await firewall.apply(guarded, wanted) == ()
    good = fw.execute(ruleset)
    assert "policy drop" in good
    assert "theirs" in good
    with pytest.raises(CheckRefused, match="nonsense"):
        await firewall.apply(guarded, Firewall("edge", (Chain("c", ("tcp dport nonsense accept",), Hook.INPUT),)))
    assert fw.execute(ruleset) == good
    lockout = Firewall("edge", (Chain("pre", ("tcp dport 22 redirect to :1",), Hook.PREROUTING, "nat", -100),))
    with pytest.raises(ProbeFailed, match="no new connection"):
        await firewall.apply(guarded, lockout)
    assert fw.execute(ruleset) == good

    async def gone(_host):
        await asyncio.sleep(3)

    with pytest.raises(Exception, match="confirmed too late"):
        await firewall.apply(guarded, lockout, revert_after=1, probe=gone)
    assert fw.execute(ruleset) == good
    fw.execute(["sh", "-c", "nft flush ruleset; systemctl restart opsdeck-nftables"])
    assert "policy drop" in fw.execute(ruleset)
    assert await firewall.remove(guarded, wanted)
    assert not await firewall.remove(guarded, wanted)
