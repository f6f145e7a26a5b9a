"""Reading .ovpn and WireGuard files: what is kept, what is left out and why, what is refused."""

from __future__ import annotations

import base64
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opsdeck_vpn import ovpn, wgconf
from opsdeck_vpn.directives import DROPPED, KEPT
from opsdeck_vpn.ovpn import Weight

from opsdeck.errors import Invalid, OpsDeckError

CA = "<ca>\n-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n</ca>\n"


def test_a_plain_profile_stays_as_it_is() -> None:
    text = (
        f"client\ndev tun\nproto tcp\nremote vpn.corp.test 443 # ours\ncipher AES-256-GCM\nremote-cert-tls server\n{CA}"
    )
    profile = ovpn.parse(text)
    assert [(one.host, one.port, one.proto) for one in profile.remotes] == [("vpn.corp.test", 443, "tcp")]
    assert profile.text.splitlines()[0] == "remote vpn.corp.test 443 tcp"
    assert "cipher AES-256-GCM" in profile.text
    assert CA.strip() in profile.text
    assert "\ndev " not in profile.text
    assert [remark.what for remark in profile.remarks if remark.weight is Weight.STRIPPED] == ["dev"]


@pytest.mark.parametrize("name", sorted(DROPPED))
def test_what_could_do_harm_is_left_out_with_its_line(name: str) -> None:
    profile = ovpn.parse(f'remote a 1\n{name} "/bin/sh -c id" x\nremote-cert-tls server\n')
    assert name not in profile.text.replace("remote-cert-tls", "")
    (remark,) = [remark for remark in profile.remarks if remark.what == name]
    assert (remark.weight, remark.line) == (Weight.STRIPPED, 2)
    assert remark.why


def test_no_word_is_both_kept_and_dropped() -> None:
    assert not KEPT & set(DROPPED)


def test_what_is_not_known_is_left_out() -> None:
    profile = ovpn.parse("remote a 1\nfuture-option run me\n<future>\nx\n</future>\n--up /bin/sh\n")
    assert profile.text == "remote a 1 udp\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("client\n", "no server"),
        ("remote a 99999\n", "no port"),
        ("remote a 1\n<ca>\nx\n", "not closed"),
        ('remote "a\n', "quote"),
        ("remote a;id 1\n", "no server"),
        ("remote a 1 icmp\n", "no protocol"),
        ("remote a 1\nca ca.pem\n", "not given"),
        ("remote a 1\nsecret static.key\n", "static key"),
        ("remote a 1\0\n", "not text"),
        ("x" * (ovpn.LIMIT + 1), "over"),
    ],
)
def test_what_cannot_be_a_profile_is_refused(text: str, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        ovpn.parse(text)


def test_files_come_inline_by_their_base_names() -> None:
    files = {"ca.pem": "CERT", "ta.key": "KEY", "pass.txt": "alice\ngeheim\n", "left.txt": "x"}
    profile = ovpn.parse("remote a 1\nca C:\\\\vpn\\\\ca.pem\ntls-auth ../ta.key 1\nauth-user-pass pass.txt\n", files)
    assert "<ca>\nCERT\n</ca>" in profile.text
    assert "<tls-auth>\nKEY\n</tls-auth>\nkey-direction 1" in profile.text
    assert profile.inline_login == ("alice", "geheim")
    assert "geheim" not in profile.text + repr(profile)
    assert any(remark.what == "left.txt" for remark in profile.remarks)


def test_the_direction_of_an_inline_key_is_kept() -> None:
    profile = ovpn.parse("remote a 1\ntls-auth [inline] 1\n<tls-auth>\nKEY\n</tls-auth>\n")
    assert "key-direction 1\n<tls-auth>\nKEY\n</tls-auth>" in profile.text


def test_a_file_cannot_close_its_own_block() -> None:
    with pytest.raises(Invalid, match="its own end"):
        ovpn.parse("remote a 1\nca ca.pem\n", {"ca.pem": "x\n</ca>\nup /bin/sh\n"})


def test_login_and_challenge_are_seen() -> None:
    profile = ovpn.parse('remote a 1\nauth-user-pass\nstatic-challenge "Enter  OTP" 1\npull-filter ignore auth-token\n')
    assert (profile.wants_password, profile.challenge) == (True, "Enter  OTP")
    assert "auth-user-pass" not in profile.text
    assert "pull-filter" not in profile.text
    inline = ovpn.parse("remote a 1\n<auth-user-pass>\nbob\npw\n</auth-user-pass>\n")
    assert inline.inline_login == ("bob", "pw")
    assert "bob" not in inline.text


@pytest.mark.parametrize(
    "key",
    [
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nQUJD",
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nQUJD",
    ],
)
def test_a_locked_key_is_seen(key: str) -> None:
    assert ovpn.parse(f"remote a 1\n<key>\n{key}\n</key>\n").locked
    assert ovpn.parse("remote a 1\nkey k.pem\n", {"k.pem": key}).locked
    assert not ovpn.parse("remote a 1\n<key>\n-----BEGIN PRIVATE KEY-----\nQUJD\n</key>\n").locked


def test_warnings() -> None:
    profile = ovpn.parse("remote a 1\ncipher BF-CBC\ncomp-lzo\n")
    warned = [remark.what for remark in profile.remarks if remark.weight is Weight.WARNING]
    assert warned == ["remote-cert-tls", "cipher", "cipher", "compress"]


def test_servers_of_connection_blocks() -> None:
    profile = ovpn.parse("port 1195\nremote a\n<connection>\nremote b 443 tcp-client\nhttp-proxy x 1\n</connection>\n")
    assert [(one.host, one.port, one.proto) for one in profile.remotes] == [("a", 1195, "udp"), ("b", 443, "tcp")]
    profile = ovpn.parse("<connection>\n# first\nremote c\nproto tcp\n\nport 443\n</connection>\nremote d 1\n")
    assert [(one.host, one.port, one.proto) for one in profile.remotes] == [("c", 443, "tcp"), ("d", 1, "udp")]
    assert not [remark.what for remark in profile.remarks if remark.weight is Weight.STRIPPED]
    with pytest.raises(Invalid, match="line 3: '0' is no port"):
        ovpn.parse("<connection>\nremote c\nport 0\n</connection>\n")


WORD = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(st.lists(st.sampled_from([*KEPT, *DROPPED, "<ca>", "</ca>", "x"]) | WORD, max_size=8), WORD)
def test_nothing_of_a_profile_breaks_out_of_its_line(names: list[str], value: str) -> None:
    text = "remote a 1\n" + "\n".join(f"{name} {value}" for name in names)
    try:
        profile = ovpn.parse(text)
    except OpsDeckError:
        return
    body = re.sub(r"(?ms)^<([a-z0-9-]+)>$.*?^</\1>$", "", profile.text)
    for line in body.splitlines():
        head = line.split(" ", 1)[0]
        assert not head or head in KEPT, line


KEY = base64.b64encode(bytes(32)).decode()
WG = f"""[Interface]
PrivateKey = {KEY}
Address = 10.9.0.2/32, fd00::2/128
DNS = 10.9.0.1, corp.test
PostUp = iptables -A x; id
Table = off
MTU = 1380
[Peer]
PublicKey = {KEY}
AllowedIPs = 10.78.1.0/16
Endpoint = [2001:db8::1]:51820
PersistentKeepalive = 25
"""


def test_a_wireguard_file() -> None:
    profile = wgconf.parse(WG)
    assert profile.remotes[0].host == "2001:db8::1"
    assert [remark.what for remark in profile.remarks] == ["PostUp", "Table"]
    assert "#:route 10.78.0.0/16" in profile.text
    assert "#:mtu 1380" in profile.text
    assert "#:domain corp.test" in profile.text
    assert "iptables" not in profile.text
    assert "Address =" not in profile.text


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (f"PrivateKey = {KEY}\n", "", "lacks PrivateKey"),
        (KEY, "AAAA", "no key"),
        ("10.9.0.2/32", "10.9.0.2/99", "no network"),
        (":51820", ":x", "no endpoint"),
        ("MTU = 1380", "MTU = 1", "no MTU"),
        ("DNS = 10.9.0.1", "DNS = $(id)", "no name server"),
        ("[Interface]\n", "", "neither a section"),
        ("= 25", "= soon", "no keepalive"),
    ],
)
def test_a_wireguard_file_that_is_none(old: str, new: str, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        wgconf.parse(WG.replace(old, new, 1))
