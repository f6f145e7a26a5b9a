"""`opsdeck vpn`, command by command, over a fresh data folder; those that go to a host are run on the fleet."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from opsdeck_vpn import tunnels
from opsdeck_vpn.models import Fetch, State

from opsdeck.cli import frame, main

PROFILE = 'client\nremote vpn.corp.test 1194\nup "/bin/sh -c id"\nremote-cert-tls server\nauth-user-pass\nca ca.pem\n'
Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run `opsdeck ARGUMENTS` in a folder with a profile; the console knows the host `gw`."""
    monkeypatch.setenv("OPSDECK_HOME", str(tmp_path / "deck"))
    monkeypatch.chdir(tmp_path)
    frame.settings.cache_clear()
    frame.plugins.cache_clear()

    def call(*arguments: str, typed: str = "", code: int = 0) -> Result:
        result = CliRunner().invoke(main, list(arguments), input=typed)
        assert result.exit_code == code, result.output
        return result

    for name, text in (
        ("office.ovpn", PROFILE),
        ("ca.pem", "PEM"),
        ("password", "geheim\n"),
        ("key", "lock-and-key\n"),
        ("bell", "with a \a bell"),
        ("short", "short"),
    ):
        (tmp_path / name).write_text(text)
    call("init", "--yes")
    call("host", "add", "gw", "--address", "192.0.2.1", "--credential", "agent", "--no-contact")
    yield call
    frame.settings.cache_clear()
    frame.plugins.cache_clear()


@pytest.fixture
def office(run: Run) -> Run:
    """With a tunnel that is up, as far as its row says."""
    words = ("--host", "gw", "--file", "ca.pem", "--user", "alice", "--password-file", "password")
    run("vpn", "import", "office", "office.ovpn", *words, "--listen", "192.0.2.1", "--probe", "intra.corp.test:80")
    push = {"route": ["10.78.0.0/255.255.0.0"], "dns": ["10.77.0.1"], "domain": ["corp.test"]}
    frame.with_deck(lambda deck: tunnels.set_state(deck.db, "office", State.UP, wanted=True, pushed=push))
    return run


def test_a_profile_is_taken_in_and_shown_without_its_secrets(office: Run) -> None:
    shown = office("vpn", "show", "office").output
    assert "would run a program" in shown
    assert "10.78.0.0" in shown
    listed = json.loads(office("vpn", "list", "--json").output)
    assert [(row["name"], row["state"], row["port"]) for row in listed] == [("office", "up", 1080)]
    assert "192.0.2.1:1080" in office("vpn", "list").output
    whole = office("vpn", "show", "office", "--json").output
    assert json.loads(whole)["proofs"] == []
    assert "geheim" not in shown + whole
    office("vpn", "show", "none", code=3)


@pytest.mark.parametrize(
    ("words", "said", "code"),
    [
        (("--listen", "0.0.0.0", "--password-file", "password"), "every address", 2),
        (("--password-file", "none"), "none", 3),
        (("--driver", "lxc"), "lxc", 2),
        (("--otp", "seed", "--password-file", "password", "--seed-file", "password"), "no seed", 2),
        (("--password-file", "bell"), "control characters", 2),
        (("--password-file", "short"), "fewer than 6", 2),
        (("--port", "70000", "--password-file", "password"), "70000 is no port", 2),
    ],
)
def test_what_cannot_be_taken_in_is_refused(run: Run, words: tuple[str, ...], said: str, code: int) -> None:
    result = run(
        "vpn",
        "import",
        "office",
        "office.ovpn",
        "--host",
        "gw",
        "--file",
        "ca.pem",
        "--user",
        "alice",
        *words,
        code=code,
    )
    assert said in result.output
    assert run("vpn", "list", "--json").output.strip() == "[]"
    assert "vpn-" not in run("secret", "list").output


def test_a_file_that_the_profile_names_must_be_given(run: Run) -> None:
    result = run("vpn", "import", "office", "office.ovpn", "--host", "gw", code=2)
    assert "'ca.pem', which was not given" in result.output
    run("vpn", "import", "office", "nowhere.ovpn", "--host", "gw", code=3)


def test_a_locked_key_needs_its_passphrase_which_is_sealed(run: Run, tmp_path: Path) -> None:
    key = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nQUJD\n-----END ENCRYPTED PRIVATE KEY-----"
    (tmp_path / "locked.ovpn").write_text(f"client\nremote a 1\n<key>\n{key}\n</key>\n")
    run("vpn", "import", "shut", "locked.ovpn", "--host", "gw", "--passphrase-file", "key")
    assert "vpn-shut-key" in run("secret", "list").output
    result = run("vpn", "import", "other", "locked.ovpn", "--host", "gw", typed="\n", code=2)
    assert "passphrase" in result.output.lower()


def test_the_door_is_moved(office: Run) -> None:
    office("vpn", "set", "office", "--port", "1090", "--listen", "192.0.2.7", "--probe", "", "--mtu", "1280")
    row = json.loads(office("vpn", "show", "office", "--json").output)
    assert (row["port"], row["listen"], row["probe"], row["mtu"]) == (1090, "192.0.2.7", "", 1280)
    for words in (("--port", "0"), ("--listen", "::"), ("--probe", "x"), ("--mtu", "12")):
        office("vpn", "set", "office", *words, code=2)


def test_rules_are_taken_over_shown_and_set(office: Run, tmp_path: Path) -> None:
    assert "3 rules" in office("vpn", "rules", "pushed", "office").output
    shown = office("vpn", "rules", "show").output
    assert "suffix corp.test tunnel:office" in shown
    (tmp_path / "rules").write_text(shown + "suffix example.org direct\n")
    office("vpn", "rules", "set", "rules")
    assert "example.org" in office("vpn", "rules", "show").output
    assert "line 1" in office("vpn", "rules", "set", "-", typed="suffix a b c\n", code=2).output
    assert "example.org" in office("vpn", "rules", "show").output


def test_devices_and_who_fetched_what(office: Run) -> None:
    from opsdeck_vpn import book

    given = office("vpn", "device", "add", "laptop").output
    assert "/p/vpn/profile/" in given
    assert "config.yaml" in given
    assert "OPSDECK_PUBLIC_URL" in given
    fetch = Fetch(device="laptop", core="mihomo", source="192.0.2.9", agent="clash-verge/2.4")
    frame.with_deck(lambda deck: book.note_fetch(deck, fetch))
    assert "192.0.2.9" in office("vpn", "device", "fetches", "laptop").output
    assert "clash-verge" in office("vpn", "device", "fetches").output
    assert json.loads(office("vpn", "device", "fetches", "none", "--json").output) == []
    assert "counts" in office("vpn", "device", "list").output
    office("vpn", "device", "remove", "laptop", code=4)
    office("vpn", "device", "revoke", "laptop")
    assert json.loads(office("vpn", "device", "list", "--json").output)[0]["revoked"]
    office("vpn", "device", "remove", "laptop")
    assert json.loads(office("vpn", "device", "list", "--json").output) == []


def test_profiles_and_other_proxies(office: Run) -> None:
    office("vpn", "proxy", "add", "home", "socks5", "192.0.2.8", "1080")
    assert "192.0.2.8" in office("vpn", "proxy", "list").output
    office("vpn", "rules", "set", "-", typed="suffix corp.test tunnel:office\nsuffix example.org proxy:home\n")
    assert "DOMAIN-SUFFIX,example.org,proxy-home" in office("vpn", "profile", "mihomo").output
    assert json.loads(office("vpn", "profile", "sing-box").stdout)["route"]["final"] == "direct"
    office("vpn", "proxy", "remove", "home", code=4)
    office("vpn", "rules", "set", "-", typed="")
    office("vpn", "proxy", "remove", "home")
    assert "No other proxy" in office("vpn", "proxy", "list").output


def test_a_code_that_nobody_asks_for_is_not_kept(office: Run) -> None:
    assert "asks for no code" in office("vpn", "code", "office", typed="123456\n", code=3).output


@pytest.mark.parametrize("command", ["up", "down", "check", "leak-test"])
def test_a_gateway_that_is_not_reached_is_named(office: Run, command: str) -> None:
    result = office("vpn", command, "office", code=1)
    assert "gw" in result.output


def test_it_is_removed_only_on_purpose(office: Run) -> None:
    office("vpn", "remove", "office", code=4)
    assert "office" in office("vpn", "list").output


def test_a_tunnel_whose_gateway_is_gone_is_forgotten(office: Run) -> None:
    office("vpn", "rules", "pushed", "office")
    office("vpn", "remove", "office", "--confirm", "remove", code=1)
    office("host", "rm", "gw", "--yes")
    office("vpn", "remove", "office", "--confirm", "remove", code=1)
    office("vpn", "remove", "office", "--gone", "--confirm", "remove")
    assert json.loads(office("vpn", "list", "--json").output) == []
    assert office("vpn", "rules", "show").output == ""
    assert "vpn-office" not in office("secret", "list").output
