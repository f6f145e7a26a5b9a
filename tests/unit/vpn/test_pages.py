"""The pages of the plugin, and the profiles that devices fetch."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from datetime import timedelta
from typing import Any

import pytest
import yaml
from opsdeck_vpn import book, cores, tunnels
from opsdeck_vpn.cores import Core
from opsdeck_vpn.models import State

from opsdeck.actor import SYSTEM
from opsdeck.clock import utcnow
from opsdeck.errors import Invalid

PROFILE = 'client\nremote 192.0.2.9 1194\nup "/bin/sh -c id"\n<ca>\nPEM\n</ca>\n'


@pytest.mark.parametrize("language", ["en", "zh_CN"])
async def test_every_page_answers(visit: Any, tunnel: Any, language: str) -> None:
    await visit.log_in()
    await visit.post("/preferences", language=language, next="/")
    await book.take_over(visit.deck, "office", SYSTEM)
    await book.add_device(visit.deck, "laptop", SYSTEM)
    for path in ("/p/vpn/", "/p/vpn/import", "/p/vpn/rules", "/p/vpn/devices", "/p/vpn/tunnels/office"):
        answer = await visit.client.get(path)
        assert answer.status_code == 200, (path, answer.text)
        part = await visit.client.get(path, headers={"HX-Request": "true"})
        assert part.status_code == 200, (path, part.text)
        assert 'href="/p/vpn/" aria-current="page"' in answer.text, path
    assert (await visit.client.get("/p/vpn/tunnels/none")).status_code == 404


async def test_nothing_of_it_without_a_login_or_the_role(visit: Any, tunnel: Any) -> None:
    answer = await visit.client.get("/p/vpn/", follow_redirects=False)
    assert answer.status_code in (302, 303, 401)
    await visit.log_in("viewer")
    for path, form in (
        ("/p/vpn/rules", {"rules": ""}),
        ("/p/vpn/devices", {"name": "x"}),
        ("/p/vpn/import", {"name": "x"}),
        ("/p/vpn/tunnels/office/code", {"code": "123456"}),
        ("/p/vpn/tunnels/office/do/down", {}),
        ("/p/vpn/rules/pushed/office", {}),
    ):
        status, text = await visit.post(path, **form)
        assert status == 403, (path, status, text)


async def test_a_profile_is_taken_in_and_what_was_left_out_is_shown(visit: Any) -> None:
    await visit.log_in("operator")
    form = {"name": "office", "host": "gw", "profile": PROFILE, "otp": "none", "listen": "127.0.0.1"}
    status, text = await visit.post("/p/vpn/import", **{**form, "profile": "client\n<ca>\nSECRETKEY"})
    assert status == 422
    assert "not closed" in text
    assert "SECRETKEY" not in text
    status, text = await visit.post("/p/vpn/import", **{**form, "listen": "0.0.0.0"})
    assert (status, "every address" in text) == (422, True)
    assert (await visit.post("/p/vpn/import", **form))[0] == 303
    page = (await visit.client.get("/p/vpn/tunnels/office")).text
    assert "would run a program" in page
    assert "PEM" not in page
    assert (await visit.post("/p/vpn/import", **form))[0] == 409


async def test_a_locked_key_and_the_driver_are_asked_for(visit: Any) -> None:
    await visit.log_in("operator")
    key = "<key>\n-----BEGIN ENCRYPTED PRIVATE KEY-----\nQUJD\n</key>\n"
    form = {"name": "office", "host": "gw", "profile": PROFILE + key, "otp": "none", "driver": "compose"}
    status, text = await visit.post("/p/vpn/import", **form)
    assert (status, "has a passphrase" in text) == (422, True)
    assert (await visit.post("/p/vpn/import", **form, passphrase="lock-and-key"))[0] == 303
    row = await tunnels.find(visit.deck.db, "office")
    assert (row.driver, row.key_secret) == ("compose", "vpn-office-key")
    page = (await visit.client.get("/p/vpn/tunnels/office")).text
    assert "Docker Compose" in page
    assert "lock-and-key" not in page
    keys = "".join(base64.b64encode(bytes([letter] * 32)).decode() + "\n" for letter in b"ab").split()
    wireguard = f"[Interface]\nPrivateKey = {keys[0]}\nAddress = 10.9.0.2/32\n[Peer]\nPublicKey = {keys[1]}\n"
    wireguard += "AllowedIPs = 10.9.0.0/24\nEndpoint = 192.0.2.9:51820\n"
    status, text = await visit.post("/p/vpn/import", **{**form, "name": "wg", "profile": wireguard})
    assert (status, "Compose form is for OpenVPN" in text) == (422, True)


async def test_rules_are_refused_with_their_line_and_the_list_stays(visit: Any, tunnel: Any) -> None:
    await visit.log_in()
    assert (await visit.post("/p/vpn/rules", rules="suffix corp.test tunnel:office"))[0] == 303
    for text, words in (
        ("suffix a.test direct\ncidr 10.0.0.0/33 direct", "line 2"),
        ("suffix a.test tunnel:none", "there is no tunnel"),
        ("suffix a,b direct", "is no name"),
        ("suffix a.test direct extra", "4 words"),
    ):
        status, page = await visit.post("/p/vpn/rules", rules=text)
        assert status == 422
        assert words in page
    assert [rule.value for rule in await book.rules(visit.deck)] == ["corp.test"]


async def test_the_door_is_moved_and_never_to_every_address(visit: Any, tunnel: Any) -> None:
    await visit.log_in("operator")
    path = "/p/vpn/tunnels/office/set"
    assert (await visit.post(path, listen="192.0.2.7", port="1090", probe="intra.corp.test:80", mtu="1280"))[0] == 303
    row = await tunnels.find(visit.deck.db, "office")
    assert (row.listen, row.port, row.probe, row.mtu) == ("192.0.2.7", 1090, "intra.corp.test:80", 1280)
    assert (await visit.post(path, listen="192.0.2.7", port="1090", mtu="99999"))[0] == 422
    for listen, port, probe in (
        ("::", "1090", ""),
        ("192.0.2.7", "0", ""),
        ("192.0.2.7", "x", ""),
        ("a", "1", ""),
        ("::1", "1", "x"),
    ):
        assert (await visit.post(path, listen=listen, port=port, probe=probe))[0] == 422
    assert (await tunnels.find(visit.deck.db, "office")).port == 1090


async def test_the_form_for_a_code_comes_by_itself_and_goes(visit: Any, tunnel: Any) -> None:
    await visit.log_in("operator")
    path = "/p/vpn/tunnels/office"

    async def look(query: str) -> Any:
        return await visit.client.get(f"{path}?{query}", headers={"HX-Request": "true"})

    assert 'name="code"' not in (await visit.client.get(path)).text
    assert "HX-Refresh" not in (await look("asks=False")).headers
    await tunnels.set_state(visit.deck.db, "office", State.WAIT_OTP, challenge="Enter OTP")
    assert (await look("asks=False")).headers["HX-Refresh"] == "true"
    page = (await visit.client.get(path)).text
    assert 'name="code"' in page
    assert f'hx-get="{path}?asks=True"' in page
    assert "HX-Refresh" not in (await look("asks=True")).headers
    assert (await look("part=countdown")).text.strip().endswith("s")
    assert (await look("part=nothing")).status_code == 200
    await tunnels.set_state(visit.deck.db, "office", State.UP)
    assert (await look("asks=True")).headers["HX-Refresh"] == "true"


@pytest.mark.parametrize("state", [State.DOWN, State.FAILED])
async def test_a_code_that_nobody_waits_for_is_refused(visit: Any, tunnel: Any, state: State) -> None:
    await visit.log_in("operator")
    await tunnels.set_state(visit.deck.db, "office", state, otp="ask")
    status, page = await visit.post("/p/vpn/tunnels/office/code", code="123456")
    assert status == 409
    assert "nobody waits for a code" in page
    assert (await tunnels.find(visit.deck.db, "office")).code_given is None


async def test_what_an_attendance_sees_is_not_written_over_what_a_job_did(visit: Any, tunnel: Any) -> None:
    db = visit.deck.db
    for values in ({"claimed_until": utcnow() + timedelta(seconds=60)}, {"claimed_until": None, "wanted": False}):
        await tunnels.change(db, "office", **values)
        await tunnels.set_state(db, "office", State.RECONNECTING, "it is gone", tunnels.watched)
        assert (await tunnels.find(db, "office")).state == State.UP
    await tunnels.change(db, "office", wanted=True)
    await tunnels.set_state(db, "office", State.RECONNECTING, "it is gone", tunnels.watched)
    assert (await tunnels.find(db, "office")).state == State.RECONNECTING
    await tunnels.set_state(db, "none", State.UP)  # it was removed meanwhile


async def test_a_job_keeps_a_tunnel_as_long_as_it_lives(
    visit: Any, tunnel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnels, "CLAIM_SECONDS", 0.4)
    db = visit.deck.db
    async with tunnels.held(db, "office"):
        first = (await tunnels.find(db, "office")).claimed_until
        for _ in range(200):
            await asyncio.sleep(0.05)
            if (renewed := (await tunnels.find(db, "office")).claimed_until) != first:
                break
        assert first < renewed <= utcnow() + timedelta(seconds=0.4)
    assert (await tunnels.find(db, "office")).claimed_until is None


def test_what_does_not_fit_is_left_out_of_a_push() -> None:
    said = b"""route 10.78.0.0/255.255.0.0
route 10.78.0.0/255.255.0.0
route beef
route
dns 10.77.0.1
dns 10.77.0.1/8
dns beef
domain corp.test
domain a..b
else 1
domain \xff
"""
    assert tunnels.parse_pushed(said) == {
        "route": ["10.78.0.0/255.255.0.0"],
        "dns": ["10.77.0.1"],
        "domain": ["corp.test"],
    }


async def test_what_the_office_pushed_becomes_rules_once(visit: Any, tunnel: Any) -> None:
    await book.set_rules(visit.deck, "cidr 10.78.0.0/16 reject", SYSTEM)
    for _ in range(2):
        found = await book.take_over(visit.deck, "office", SYSTEM)
    assert [(rule.kind.value, rule.value, rule.target) for rule in found] == [
        ("suffix", "corp.test", "tunnel:office"),
        ("cidr", "10.77.0.1/32", "tunnel:office"),
        ("cidr", "10.78.0.0/16", "reject"),
    ]


async def test_an_office_that_pushes_all_the_world_makes_no_rule(visit: Any, tunnel: Any) -> None:
    await tunnels.change(visit.deck.db, "office", pushed={"route": ["0.0.0.0/0", "::/0"]})
    with pytest.raises(Invalid, match="the whole internet"):
        await book.take_over(visit.deck, "office", SYSTEM)


async def test_a_device_fetches_its_profile_by_its_token_until_it_is_revoked(visit: Any, tunnel: Any) -> None:
    await book.take_over(visit.deck, "office", SYSTEM)
    await visit.log_in()
    status, page = await visit.post("/p/vpn/devices", name="laptop")
    assert status in (200, 201)
    (url, _other) = re.findall(r"https?://[^<\s\"]+/p/vpn/profile/[^<\s\"]+", page)
    assert page.count("data:image/png") == 2
    path = url[url.index("/p/vpn/") :]
    visit.client.cookies.clear()
    answer = await visit.client.get(path)
    assert answer.status_code == 200
    given = yaml.safe_load(answer.text)
    password = (await visit.deck.secrets.reveal(tunnel.socks_secret, actor=SYSTEM, purpose="test")).reveal()
    assert given["proxies"][0]["password"] == password
    assert given["rules"][-1] == "MATCH,DIRECT"
    assert "DOMAIN-SUFFIX,corp.test,OFFICE-OFFICE" in given["rules"]
    assert answer.headers["profile-update-interval"] == "1"
    assert "upload=" in answer.headers["subscription-userinfo"]
    assert "attachment" in answer.headers["content-disposition"]
    again = await visit.client.get(path, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.text) == (304, "")
    other = await visit.client.get(path.replace("config.yaml", "config.json"))
    assert json.loads(other.text)["route"]["final"] == "direct"
    assert [fetch.status for fetch in await book.fetches(visit.deck)] == [200, 304, 200]
    assert (await visit.client.get(path[:-20] + "x/config.yaml")).status_code == 404
    await book.revoke(visit.deck, "laptop", SYSTEM)
    assert (await visit.client.get(path)).status_code == 404
    entries = [entry.verb for entry in await visit.deck.audit.list()]
    assert "vpn.device.revoked" in entries


async def test_a_tunnel_that_was_taken_down_is_rejected_never_direct(visit: Any, tunnel: Any) -> None:
    await book.take_over(visit.deck, "office", SYSTEM)
    await tunnels.change(visit.deck.db, "office", wanted=False)
    served = await book.profile(visit.deck, Core.MIHOMO, SYSTEM, "test")
    (group,) = yaml.safe_load(served.text)["proxy-groups"]
    assert group["proxies"] == ["REJECT"]
    rules = json.loads((await book.profile(visit.deck, Core.SING_BOX, SYSTEM, "test")).text)["route"]["rules"]
    assert any(rule.get("domain_suffix") == ["corp.test"] and rule["action"] == "reject" for rule in rules)
    assert not any(rule.get("domain_suffix") and rule.get("outbound") == "direct" for rule in rules)


async def test_a_core_that_refuses_leaves_the_last_good_profile(
    visit: Any, tunnel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await book.take_over(visit.deck, "office", SYSTEM)
    good = await book.profile(visit.deck, Core.MIHOMO, SYSTEM, "test")
    real = cores.render
    monkeypatch.setattr(
        book, "render", lambda core, setting: real(core, setting).replace("MATCH,DIRECT", "MATCH,NOWHERE")
    )
    served = await book.profile(visit.deck, Core.MIHOMO, SYSTEM, "test")
    assert (served.text, served.etag) == (good.text, good.etag)
    assert "mihomo refuses" in served.stale
    with pytest.raises(Invalid, match="mihomo refuses"):
        await book.set_rules(visit.deck, "suffix x.test direct", SYSTEM)
    assert len(await book.rules(visit.deck)) == 3
