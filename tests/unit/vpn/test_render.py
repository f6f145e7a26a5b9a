"""One rule list for two cores, judged by the real programs."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from opsdeck_vpn import rules
from opsdeck_vpn.cores import Core, check, program, render
from opsdeck_vpn.proofs import judge_sizes
from opsdeck_vpn.render.gateway import Gateway, carried, client_conf, rendered, unit_names, wireguard_conf
from opsdeck_vpn.render.setting import Office, Other, Setting
from opsdeck_vpn.rules import Match, RuleLine

from opsdeck.errors import Invalid
from opsdeck.secrets.sensitive import Sensitive

OFFICE = Office(
    "corp", "192.0.2.1", 1080, "office", Sensitive('p"a, #ss: {}'), dns=("10.77.0.1", "fd00::1"),
    domains=("corp.test",), gates=("198.51.100.7", "vpn.corp.test"),
)  # fmt: skip
TEXT = """
suffix corp.test tunnel:corp   # ours
cidr 10.78.0.0/16 tunnel:corp
cidr fd01::/64 tunnel:corp
keyword intra direct
domain ads.test reject
suffix BÜCHER.test proxy:home
"""


def setting(**given: object) -> Setting:
    listed = rules.parse(TEXT, {"corp"}, {"home"})
    others = (Other("home", "http", "192.0.2.8", 8080, "me", Sensitive("pw")),)
    return Setting(**({"offices": (OFFICE,), "rules": listed, "others": others} | given))  # type: ignore[arg-type]


@pytest.mark.parametrize("core", list(Core))
async def test_the_real_core_accepts_it(core: Core) -> None:
    assert program(core)
    await check(core, render(core, setting()))
    await check(core, render(core, setting(rules=())))


@pytest.mark.parametrize("core", list(Core))
async def test_the_real_core_refuses_what_is_wrong(core: Core) -> None:
    bad = "rules: ['MATCH,NOWHERE']" if core is Core.MIHOMO else '{"outbounds": [{"type": "nothing"}]}'
    with pytest.raises(Invalid, match=f"{core.value} refuses"):
        await check(core, bad)


def test_no_unit_of_a_tunnel_is_another_tunnels() -> None:
    names = ("a", "a-net", "a-dial", "a-door", "a-net-net")
    assert len({unit for name in names for unit in unit_names(name)}) == 4 * len(names)


def test_the_order_of_mihomo() -> None:
    given = yaml.safe_load(render(Core.MIHOMO, setting()))
    assert given["rules"] == [
        "IP-CIDR,198.51.100.7/32,DIRECT,no-resolve",
        "DOMAIN,vpn.corp.test,DIRECT",
        "IP-CIDR,192.0.2.1/32,DIRECT,no-resolve",
        "AND,((NETWORK,UDP),(DOMAIN-SUFFIX,corp.test)),REJECT",
        "DOMAIN-SUFFIX,corp.test,OFFICE-CORP",
        "AND,((NETWORK,UDP),(IP-CIDR,10.78.0.0/16,no-resolve)),REJECT",
        "IP-CIDR,10.78.0.0/16,OFFICE-CORP,no-resolve",
        "AND,((NETWORK,UDP),(IP-CIDR6,fd01::/64,no-resolve)),REJECT",
        "IP-CIDR6,fd01::/64,OFFICE-CORP,no-resolve",
        "DOMAIN-KEYWORD,intra,DIRECT",
        "DOMAIN,ads.test,REJECT",
        "DOMAIN-SUFFIX,xn--bcher-kva.test,proxy-home",
        "MATCH,DIRECT",
    ]
    (group,) = given["proxy-groups"]
    assert "DIRECT" not in group["proxies"]
    assert given["dns"]["nameserver-policy"]["+.corp.test"][0] == "tcp://10.77.0.1#office-corp"
    assert given["proxies"][0]["password"] == 'p"a, #ss: {}'


def test_the_order_of_sing_box() -> None:
    route = json.loads(render(Core.SING_BOX, setting()))["route"]["rules"]
    refused, sent = [rule for rule in route if rule.get("domain_suffix") == ["corp.test"]]
    assert (refused["network"], refused["action"]) == (["udp"], "reject")
    assert sent["outbound"] == "office-corp"
    assert sent["ip_cidr"] == ["10.78.0.0/16", "fd01::/64"]


async def test_sing_box_and_the_list_agree_where_a_name_goes(tmp_path: Path) -> None:
    binary = program(Core.SING_BOX)
    route = json.loads(render(Core.SING_BOX, setting()))["route"]["rules"]
    sent = next(rule for rule in route if rule.get("outbound") == "office-corp")
    source = {"version": 3, "rules": [{key: sent[key] for key in ("domain_suffix", "ip_cidr")}]}
    (tmp_path / "set.json").write_text(json.dumps(source))
    for name, inside in (("a.corp.test", True), ("corp.test", True), ("xcorp.test", False), ("10.78.3.4", True)):
        argv = [str(binary), "rule-set", "match", str(tmp_path / "set.json"), name]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20)
        assert ("match" in done.stdout + done.stderr) == inside, name


def test_a_tunnel_that_is_not_open_is_rejected_in_both() -> None:
    shut = Office(
        "corp", "192.0.2.1", 1080, "office", Sensitive("pw"), open=False, dns=("10.77.0.1",), domains=("corp.test",)
    )
    given = yaml.safe_load(render(Core.MIHOMO, setting(offices=(shut,))))
    assert [group["proxies"] for group in given["proxy-groups"]] == [["REJECT"]]
    route = json.loads(render(Core.SING_BOX, setting(offices=(shut,))))["route"]["rules"]
    assert [rule["action"] for rule in route if rule.get("domain_suffix") == ["corp.test"]] == ["reject"]


TOKEN = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(lambda text: text.strip())


@given(TOKEN, TOKEN, TOKEN)
def test_no_rule_breaks_out_of_its_line(kind: str, value: str, note: str) -> None:
    for word in (kind, *Match):
        try:
            (listed,) = rules.parse(f"{word} {value} tunnel:corp # {note}", {"corp"})
        except (Invalid, ValueError):
            continue
        given = yaml.safe_load(render(Core.MIHOMO, Setting((OFFICE,), (listed,))))
        assert len(given["rules"]) == 6
        assert "," not in listed.value
        assert "(" not in listed.value


@given(st.text(max_size=300))
def test_any_text_is_rules_or_refused(text: str) -> None:
    try:
        found = rules.parse(text, {"corp"})
    except Invalid as fault:
        assert "line" in fault.message
    else:
        assert rules.parse(rules.text_of(found), {"corp"}) == found


def test_what_is_pushed_never_takes_the_whole_internet() -> None:
    push = {"route": ["0.0.0.0/0", "10.1.2.3/255.255.0.0"], "dns": ["10.77.0.1"], "domain": ["Corp.Test"]}
    assert rules.pushed("corp", push) == (
        RuleLine(Match.SUFFIX, "corp.test", "tunnel:corp", "pushed"),
        RuleLine(Match.CIDR, "10.1.0.0/16", "tunnel:corp", "pushed"),
        RuleLine(Match.CIDR, "10.77.0.1/32", "tunnel:corp", "pushed"),
    )


def gateway(kind: str = "openvpn") -> Gateway:
    secret = Sensitive("hidden-password")
    return Gateway("office", kind, Sensitive("remote a 1 udp\n"), True, "127.0.0.1", 1080, 17505, secret, secret)


@pytest.mark.parametrize(
    ("profile", "mtu", "wanted"),
    [
        ("remote a 1 udp\n", 0, ["mssfix 1250 mtu"]),
        ("remote a 1 udp\nmssfix 0\n", 0, ["mssfix 0"]),
        ("remote a 1 udp\nmssfix 0\n", 1200, ["mssfix 1200 mtu"]),
        ("remote a 1 udp\ntun-mtu 1400\n", 0, []),
    ],
)
def test_how_large_packets_are_is_the_person_s_word_then_the_profile_s(
    profile: str, mtu: int, wanted: list[str]
) -> None:
    made = client_conf(replace(gateway(), profile=Sensitive(profile), mtu=mtu))
    assert [line for line in made.splitlines() if line.startswith("mssfix")] == wanted
    wireguard = replace(gateway("wireguard"), profile=Sensitive("#:mtu 1420\n[Interface]\n"), mtu=mtu)
    assert wireguard_conf(wireguard).reveal().splitlines()[0] == f"#:mtu {1120 if mtu else 1420}"


@pytest.mark.parametrize(
    ("whole", "heard", "segment", "passed"),
    [(1500, 1500, 1448, True), (1500, 1230, 1140, True), (1500, 1230, 1448, False), (1420, 1190, 1368, False)],
)
def test_large_packets_that_vanish_are_a_fault_only_when_they_are_sent(
    whole: int, heard: int, segment: int, passed: bool
) -> None:
    finding = judge_sizes("office", whole, heard, segment)
    assert finding is not None
    assert finding.passed is passed
    assert passed or f"--mtu {heard}" in finding.hint
    assert judge_sizes("office", 1500, 0, 1448) is None


@pytest.mark.parametrize("kind", ["openvpn", "wireguard"])
def test_no_secret_stands_in_a_unit(kind: str) -> None:
    files = rendered(gateway(kind))
    for file in files:
        if isinstance(file.content, bytes):
            assert b"hidden-password" not in file.content
        else:
            assert file.mode == 0o600
    text = b"".join(file.content for file in files if isinstance(file.content, bytes) and "systemd" in file.path)
    assert b"0.0.0.0" not in text
    assert text.count(b"NetworkNamespacePath=/run/netns/ov-office") == 1


def test_the_script_is_plain_shell(tmp_path: Path) -> None:
    file = tmp_path / "tunnel.sh"
    file.write_bytes(carried("tunnel.sh"))
    for shell in ("dash", "bash"):
        if shutil.which(shell):
            done = subprocess.run([shell, "-n", str(file)], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
