"""Builders: what goes in comes out as words of its own, and what cannot be done is refused before any host sees it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsdeck.errors import Conflict, Invalid, NotFound, OpsDeckError, Refused
from opsdeck.remote import artefacts, directories, files, firewall, packages, units, users
from opsdeck.remote.artefacts import Artefact, ArtefactState
from opsdeck.remote.directories import Directory
from opsdeck.remote.errors import NoSystemd, NotDone, ProbeFailed
from opsdeck.remote.files import File
from opsdeck.remote.firewall import AddressSet, Chain, Firewall, Hook
from opsdeck.remote.packages import Intent, Request
from opsdeck.remote.sources import shell
from opsdeck.remote.units import Act, Unit
from opsdeck.remote.users import User
from opsdeck.ssh.command import Completed
from opsdeck.ssh.errors import DiskFull

EVIL = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)


def done(code: int = 0, out: bytes = b"", err: bytes = b"") -> Completed:
    return Completed(code, None, out, err, 0.1)


@given(EVIL, EVIL, EVIL)
def test_data_never_reaches_a_shell_text(one, two, three):
    """Whatever a person gives is either refused or a whole word of argv; the text that sh reads is always the same."""
    for build in (
        lambda: directories.apply_script([Directory(f"/{one}", owner=two)]),
        lambda: files.look_script([f"/{one}", f"/{two}"]),
        lambda: files.put_back_script([f"/{three}"]),
        lambda: files.apply_script([File(f"/{one}", b"x", owner=two)], files.stage([File(f"/{one}", b"x")]))[0],
        lambda: units.act_script(Act.RESTART, one),
        lambda: users.apply_script(User(one, groups=(two,), home=three))[0],
        lambda: packages.look_script([one]),
        lambda: artefacts.switch_script(one, two),
    ):
        try:
            script = build()
        except OpsDeckError:
            continue
        assert script.text in {shell(name) for name in SHELLS}
        assert all("\0" not in word for word in script.args)


SHELLS = (
    *("look_files", "put_files", "put_back_files", "look_folders", "make_folders", "look_users", "make_user"),
    *("look_units", "act_unit", "look_packages", "look_artefact", "switch_artefact", "load_table", "look_boot"),
)


@given(EVIL)
def test_a_package_name_is_never_an_option_or_a_pattern(name):
    try:
        packages.package_name(name)
    except Invalid:
        return
    assert name[0].isalnum()
    assert not name.endswith("-")
    assert not set(name) & set(" *?[]^$;|&<>\\\"'`(){}/\n\t")


@pytest.mark.parametrize(
    "name", ["nginx", "g++", "libstdc++6", "libc6:arm64", "nginx=1.22.1-9+deb12u1", "0ad", "a=1:2~x"]
)
def test_good_package_names(name):
    assert packages.package_name(name) == name


@pytest.mark.parametrize("name", ["nginx-", "-y", "foo*", "Foo", "^x", "~nfoo", "a b", "", "foo/stable", "a=", "foo\n"])
def test_bad_package_names(name):
    with pytest.raises(Invalid) as caught:
        packages.package_name(name)
    assert caught.value.field == "names"


def test_apt_is_asked_without_questions():
    words = packages.apply_command(Request(Intent.INSTALL, ("nginx",), lock_wait=7)).argv
    assert words[-3:] == ("--no-install-recommends", "--", "nginx")
    for word in ("DEBIAN_FRONTEND=noninteractive", "--no-remove", "DPkg::Lock::Timeout=7", "-y"):
        assert word in words
    assert "--no-remove" not in packages.apply_command(Request(Intent.REMOVE, ("nginx",))).argv
    assert "--no-remove" not in packages.apply_command(Request(Intent.INSTALL, ("x1",), allow_removals=True)).argv
    assert packages.apply_command(Request(Intent.UPGRADE)).argv[-2:] == ("upgrade", "--with-new-pkgs")
    assert not packages.simulate_command(Request(Intent.UPGRADE)).sudo
    with pytest.raises(Invalid):
        Request(Intent.PURGE)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 7 (apt)", Conflict),
        (b"E: Unable to acquire the dpkg frontend lock (x), is another process using it?", Conflict),
        (b"E: Unable to locate package foo", NotFound),
        (b"E: Package 'foo' has no installation candidate", NotFound),
        (b"E: Version '9' for 'foo' was not found", NotFound),
        (b"dpkg: error: failed to write: No space left on device", DiskFull),
        (b"E: You don't have enough free space in /var/cache/apt/archives/.", DiskFull),
        (b"E: Packages need to be removed but remove is disabled.", Refused),
        (b"E: Held packages were changed and -y was used without --allow-change-held-packages.", Refused),
        (b"E: dpkg was interrupted, you must manually run 'dpkg --configure -a'", NotDone),
        (b"E: something new", NotDone),
        (b"\xff\xfe", NotDone),
    ],
)
def test_what_apt_says_becomes_a_next_step(said, error):
    fault = packages.explain("web1", done(100, b"", said))
    assert type(fault) is error
    assert "web1" in str(fault)


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("nginx", "nginx.service"),
        ("a.timer", "a.timer"),
        ("getty@tty1", "getty@tty1.service"),
        ("my.app", "my.app.service"),
    ],
)
def test_unit_names(name, full):
    assert units.unit_name(name) == full


@pytest.mark.parametrize("name", ["", "-x", "a b", "a/b", "a;b", "x" * 300, "a\nb", "é"])
def test_bad_unit_names(name):
    with pytest.raises(Invalid):
        Unit(name)


def test_no_systemd_is_said():
    with pytest.raises(NoSystemd, match="systemd does not run here"):
        units.parse_units("web1", done(91, b"nosystemd\n"))
    with pytest.raises(NoSystemd):
        units.parse_act("web1", done(91, b"nosystemd\n"))


def acted(code=0, **state):
    given = {"active": "active", "sub": "running", "load": "loaded", "file": "", "result": "success", "restarts": 0}
    state = {"name": "x.service", "pid": 1, "type": "simple"} | given | state
    return units.Acted(code, units.UnitState(**state), ("last words",))


@pytest.mark.parametrize(
    ("act", "end"),
    [
        (Act.RESTART, acted(active="failed", result="exit-code")),
        (Act.RESTART, acted(restarts=2)),
        (Act.START, acted(active="activating", sub="auto-restart")),
        (Act.START, acted(active="inactive")),
        (Act.STOP, acted()),
        (Act.RELOAD, acted(code=1)),
        (Act.ENABLE, acted(code=1)),
    ],
)
def test_what_did_not_work_is_no_success(act, end):
    with pytest.raises(ProbeFailed, match="last words"):
        units.judge("web1", act, end)


def test_what_worked_is_one():
    assert units.judge("web1", Act.RESTART, acted()).well
    assert units.judge("web1", Act.START, acted(active="inactive", type="oneshot")).well
    assert units.judge("web1", Act.RELOAD, acted(restarts=3)).active == "active"
    assert units.judge("web1", Act.STOP, acted(active="inactive")).active == "inactive"


@pytest.mark.parametrize(
    "rule",
    ["", " ", "accept; drop", "accept\ndrop", "accept }", "tcp dport { 22", "include \"/etc/x\"", "a # b", "table x",
     'a "b', "$x accept", "a\0b", "} chain y {"],
)  # fmt: skip
def test_a_rule_is_one_rule(rule):
    with pytest.raises(Invalid):
        Chain("c", (rule,))


@given(st.lists(EVIL, max_size=4))
def test_no_rule_leaves_its_chain(rules):
    try:
        text = Firewall("t", (Chain("c", tuple(rules), Hook.INPUT, drop=True),)).render(2222)
    except Invalid:
        return
    assert text.count("\n    }\n") == 1
    body = text.split("chain c {\n")[1].split("    }\n")[0].splitlines()
    assert len(body) == 5 + len(rules)


def test_ssh_stays_open_before_any_rule():
    text = Firewall("t", (Chain("c", ("tcp dport 22 drop",), Hook.INPUT, drop=True),), ssh_ports=(22, 2200)).render(
        2222
    )
    lines = [line.strip() for line in text.splitlines()]
    assert lines.index('tcp dport { 22, 2200, 2222 } accept comment "opsdeck: SSH stays open"') < lines.index(
        "tcp dport 22 drop"
    )


@pytest.mark.parametrize("bad", [("10.0.0.1/8",), ("fe80::/10",), ("host.example",), ("10.0.0.0/8 }",)])
def test_a_set_holds_networks(bad):
    with pytest.raises(Invalid):
        AddressSet("s", bad)


def test_sets_of_both_kinds():
    assert "elements = { 10.0.0.0/8 }" in AddressSet("s", ("10.0.0.0/9", "10.128.0.0/9")).render()
    assert "type ipv6_addr" in AddressSet("s", ("2001:db8::/32",), 6).render()
    assert "elements" not in AddressSet("s").render()


ARTEFACT = {"name": "tool", "version": "1", "sha256": "0" * 64, "source": "/x"}


@pytest.mark.parametrize(
    "bad",
    [
        {"name": "../x"},
        {"name": ""},
        {"version": "current"},
        {"version": "../1"},
        {"version": "-1"},
        {"sha256": "abc"},
        {"arch": "vax"},
        {"file": "a/b"},
        {"source": ""},
    ],
)
def test_bad_artefacts(bad):
    with pytest.raises(Invalid):
        Artefact(**(ARTEFACT | bad))


def test_a_held_artefact_stays():
    new = Artefact(**ARTEFACT)
    state = ArtefactState("amd64", "0.9", "", "because", {"0.9": {"tool": "x"}})
    with pytest.raises(Conflict, match=r"held at 0\.9: because"):
        artefacts.plan_artefact("web1", new, None, state)
    with pytest.raises(Conflict, match="because"):
        artefacts.parse_switch("web1", "tool", "1", done(90, b"held because\n"))


def test_a_user_that_cannot_be():
    for bad in ({"name": "a b"}, {"name": "-x"}, {"name": "x", "groups": ("a,b",)}, {"name": "x", "keys": ("a\nb",)}):
        with pytest.raises(Invalid):
            User(**bad)
    with pytest.raises(Refused):
        User("root", there=False)


def test_firewall_without_nft_names_the_package():
    with pytest.raises(NotFound, match="nftables"):
        firewall.parse_look("web1", done(91, b"nonft\n"))
