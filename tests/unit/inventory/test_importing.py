from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsdeck.actor import SYSTEM
from opsdeck.deck import Deck
from opsdeck.errors import Conflict, Invalid, NotFound
from opsdeck.inventory.forms import HostIn
from opsdeck.inventory.importing import ansible_ini, ansible_yaml, ssh_config, table
from opsdeck.inventory.importing.ansible import expand
from opsdeck.inventory.importing.formats import Format, load
from opsdeck.inventory.importing.plan import ImportPlan, apply, plan
from opsdeck.inventory.importing.rows import Parsed
from opsdeck.inventory.models import Host
from opsdeck.lab.inprocess import PlayHosts

DATA = Path(__file__).parent / "data/import"


def read(name: str) -> tuple[Format, Parsed]:
    return load(DATA / name)


def by_name(parsed: Parsed) -> dict[str, dict[str, Any]]:
    return {row.name: dict(row.given) for row in parsed.rows}


def told(parsed: Parsed) -> list[tuple[int, bool]]:
    return [(problem.line, problem.serious) for problem in parsed.problems]


def test_ssh_config() -> None:
    kind, parsed = read("ssh_config")
    assert kind is Format.SSH_CONFIG
    assert by_name(parsed) == {
        "extra": {"address": "2001:db8::7", "user": "first"},
        "web1": {"address": "web1.example.net", "user": "deploy"},
        "web2": {"address": "Web2.example.net", "user": "deploy"},
        "bastion": {"address": "192.0.2.1", "port": "2222", "user": "root", "jump": "gate.example"},
        "inner": {"address": "10.0.0.5", "user": "root", "jump": "bastion"},
        "far": {"address": "10.9.9.9", "user": "root", "jump": "bastion"},
        "gate.example": {"address": "gate.example", "user": "ops", "port": "2200"},
    }
    rows = {row.name: row for row in parsed.rows}
    assert rows["web1"].key_file == str(Path("~/.ssh/id web").expanduser())
    assert rows["inner"].key_file == str(Path("~/.ssh/id_ed25519").expanduser())
    assert (rows["web1"].line, rows["extra"].line) == (5, 1)
    assert rows["extra"].file.endswith("conf.d/10-extra.conf")
    assert told(parsed) == [(3, False), (25, False)]


def test_ssh_config_patterns_hold_as_in_ssh() -> None:
    text = "Host web1 web2\nHost !web1 web*\n  Port 99\nHost *\n  Port 7\n"
    parsed = ssh_config.parse(Path("config"), text)
    assert {row.name: row.given["port"] for row in parsed.rows} == {"web1": "7", "web2": "99"}


def test_ssh_config_that_is_wrong() -> None:
    parsed = ssh_config.parse(DATA / "ssh_config.bad")
    assert {"good"} == {row.name for row in parsed.rows}
    assert told(parsed) == [(3, True), (5, True), (6, True), (7, True), (8, False)]


def test_includes_that_go_in_circles_end(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("Include config\nHost a\n  HostName x\n")
    parsed = ssh_config.parse(tmp_path / "config")
    assert [row.name for row in parsed.rows] == ["a"]
    assert any("includes itself" in problem.text for problem in parsed.problems)


def test_includes_that_multiply_end(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("Include *\nInclude *\nHost a\n  HostName x\n")
    for number in range(12):
        (tmp_path / f"part{number:02}").write_text("Include *\nInclude *\nHost b\n  HostName y\n")
    os.mkfifo(tmp_path / "pipe")
    parsed = ssh_config.parse(tmp_path / "config")
    assert [row.name for row in parsed.rows] == ["b", "a"]
    assert any("include each other" in problem.text for problem in parsed.problems)


def test_a_jump_host_that_is_itself_is_no_jump() -> None:
    parsed = ssh_config.parse(Path("config"), "Host gate inner\n  ProxyJump gate\nHost none\n  ProxyJump none\n")
    assert by_name(parsed)["gate"] == {"address": "gate"}
    assert by_name(parsed)["inner"]["jump"] == "gate"
    assert "jump" not in by_name(parsed)["none"]


def test_ansible_ini() -> None:
    kind, parsed = read("hosts.ini")
    assert kind is Format.ANSIBLE_INI
    found = by_name(parsed)
    assert set(found) == {
        "lone", "web01.example", "web02.example", "web03.example", "web-upper", "db-a", "db-c", "gate.example",
    }  # fmt: skip
    assert found["lone"] == {"address": "192.0.2.9"}
    assert found["web01.example"] == {
        "address": "web01.example",
        "port": "2201",
        "user": "www",
        "sudo": "nopasswd",
        "tags": {"prod": "", "web": ""},
        "jump": "gate.example",
    }
    assert found["db-a"]["user"] == "postgres"
    assert found["db-a"]["port"] == "2222"
    assert found["gate.example"] == {"address": "gate.example", "user": "ops", "port": "2200"}
    rows = {row.name: row for row in parsed.rows}
    assert rows["web02.example"].key_file == "~/.ssh/prod"
    assert rows["web02.example"].line == 5
    assert not [problem for problem in parsed.problems if problem.serious]
    assert any("ansible_connection" in problem.text or "not reached" in problem.text for problem in parsed.problems)
    assert not any("do-not-import" in str(problem) for problem in parsed.problems)
    assert "do-not-import" not in str(parsed.rows)


def test_ansible_ini_that_is_wrong() -> None:
    parsed = ansible_ini.parse((DATA / "hosts.bad.ini").read_text())
    lines = {problem.line for problem in parsed.problems if problem.serious}
    assert {1, 2, 6, 7, 8, 9, 10, 13} <= lines
    assert {"ok1", "web5"} <= {row.name for row in parsed.rows}
    planned = plan(parsed, ())
    assert any(problem.line == 11 and "port" in problem.text for problem in planned.serious)


def test_ansible_yaml() -> None:
    kind, parsed = read("hosts.yml")
    assert kind is Format.ANSIBLE_YAML
    assert by_name(parsed) == {
        "lone": {"address": "192.0.2.9", "user": "root"},
        "web1.example": {
            "address": "web1.example",
            "port": "2201",
            "user": "www",
            "sudo": "nopasswd",
            "tags": {"prod": "", "web": ""},
        },
        "web2.example": {
            "address": "web2.example",
            "port": "2201",
            "user": "www",
            "sudo": "nopasswd",
            "tags": {"prod": "", "web": ""},
        },
        "db1": {"address": "2001:db8::1", "user": "root", "tags": {"prod": "", "db": ""}},
    }
    assert {row.name: row.line for row in parsed.rows}["db1"] == 18
    assert not parsed.problems


def test_ansible_yaml_that_is_wrong() -> None:
    parsed = ansible_yaml.parse((DATA / "hosts.bad.yml").read_text())
    assert [row.name for row in parsed.rows] == ["good"]
    assert told(parsed) == [(4, True), (5, True)]
    broken = ansible_yaml.parse("all:\n  hosts: [unclosed\n")
    assert broken.problems
    assert "YAML" in broken.problems[0].text
    tagged = ansible_yaml.parse("all:\n  hosts:\n    a: {ansible_host: !!python/object/apply:os.system ['id']}\n")
    assert [row.given for row in tagged.rows] == [{"address": "a"}]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("web", ["web"]),
        ("w[1:3]", ["w1", "w2", "w3"]),
        ("w[08:10]", ["w08", "w09", "w10"]),
        ("w[1:5:2]x", ["w1x", "w3x", "w5x"]),
        ("[a:b][1:2]", ["a1", "a2", "b1", "b2"]),
    ],
)
def test_ranges(pattern: str, names: list[str]) -> None:
    assert list(expand(pattern)) == names


@pytest.mark.parametrize("pattern", ["w[3:1]", "w[1:]", "w[a:9]", "w[1:99999999]", "w[1:5:0]", "w[0:99][0:99][0:99]"])
def test_no_ranges(pattern: str) -> None:
    with pytest.raises(ValueError, match="range"):
        list(expand(pattern))


def test_ranges_that_are_repeated_end() -> None:
    parsed = ansible_ini.parse("[x]\n" + "h[1:9999]\n" * 100)
    assert any("places" in problem.text for problem in parsed.problems)


def test_csv() -> None:
    kind, parsed = read("hosts.csv")
    assert kind is Format.CSV
    assert not parsed.problems
    planned = plan(parsed, ())
    (line, first), (_, second) = planned.added
    assert (line, first.name, first.tags) == (2, "web1", {"role": "web", "prod": ""})
    assert (first.quota_bytes, first.quota_reset_day, first.price, first.currency) == (10**12, 31, 4.99, "EUR")
    assert (second.name, second.port) == ("web2", 2222)


def test_csv_that_is_wrong_names_every_line() -> None:
    planned = plan(read("hosts.bad.csv")[1], ())
    assert [problem.line for problem in planned.serious] == [3, 4, 5, 6, 7, 8]
    assert [form.name for _, form in planned.added] == ["web1"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,colour,address\na,red,x\n", "colour"),
        ("name,port\na,22\n", "address"),
        ("name,address,address\na,x,y\n", "twice"),
        ('name,address\na,"unclosed\n', "CSV"),
    ],
)
def test_csv_headings(text: str, words: str) -> None:
    parsed = table.parse_csv(text)
    assert words in parsed.problems[0].text
    assert parsed.problems[0].serious


def test_yaml_list() -> None:
    kind, parsed = read("hosts.list.yaml")
    assert kind is Format.YAML
    planned = plan(parsed, ())
    assert not planned.problems
    assert [(form.name, form.tags, form.jump) for _, form in planned.added] == [
        ("web1", {"role": "web", "prod": ""}, None),
        ("web2", {"role": "db"}, "web1"),
    ]


def test_yaml_list_that_is_wrong() -> None:
    planned = plan(read("hosts.bad.list.yaml")[1], ())
    assert [problem.line for problem in planned.serious] == [4, 5, 6, 7]


@pytest.mark.parametrize("parse", [ansible_ini.parse, ansible_yaml.parse, table.parse_csv, table.parse_yaml])
@given(text=st.text(max_size=200))
def test_any_text_is_rows_and_problems(parse: Any, text: str) -> None:
    plan(parse(text), ())


@given(text=st.text(alphabet="Host Include\n*?!\"'=%#\t1aA:,@", max_size=200))
def test_any_ssh_config_is_rows_and_problems(text: str) -> None:
    plan(ssh_config.parse(Path("/nonexistent/config"), text), ())


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        load(tmp_path / "none")
    with pytest.raises(Invalid, match="folder"):
        load(tmp_path)
    for content, words in ((b"", "empty"), (b"a\nb\n\xff", "line 3")):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(Invalid, match=words) as fault:
            load(tmp_path / "file")
        assert fault.value.file == str(tmp_path / "file")


def test_a_device_without_end_is_not_read_to_it() -> None:
    with pytest.raises(Invalid, match="larger than 8 MiB"):
        load(Path("/dev/zero"), Format.CSV)


def test_a_plan_tells_new_changed_and_same() -> None:
    there = [
        Host(name="web1", address="192.0.2.1", tags={"role": "web", "mine": ""}, quota_bytes=1, region="fra"),
        Host(name="web2", address="192.0.2.9", tags={"role": "db"}),
    ]
    planned = plan(read("hosts.list.yaml")[1], there)
    assert planned.added == ()
    first, second = planned.changed
    assert first.after == {"quota_bytes": 5 * 10**11, "tags": {"role": "web", "mine": "", "prod": ""}}
    assert set(second.after) == {"address", "jump", "renewal"}
    assert second.before["address"] == "192.0.2.9"
    text = "name,address,region\nweb1,192.0.2.1,fra\n"
    again = plan(table.parse_csv(text), there)
    assert (again.same, again.empty) == (("web1",), True)


def test_a_jump_host_that_is_nowhere_is_serious() -> None:
    planned = plan(table.parse_csv("name,address,jump\na,x,gate\n"), ())
    assert "gate" in planned.serious[0].text
    assert not plan(table.parse_csv("name,address,jump\na,x,gate\n"), [Host(name="gate", address="y")]).serious


async def test_an_import_is_applied_all_or_none(deck: Deck) -> None:
    planned = plan(read("hosts.bad.csv")[1], await deck.inventory.list())
    with pytest.raises(Invalid, match="nothing was"):
        await apply(planned, deck.inventory, deck.secrets, SYSTEM)
    assert await deck.inventory.list() == ()
    good = plan(read("hosts.list.yaml")[1], ())
    assert [host.name for host in await apply(good, deck.inventory, deck.secrets, SYSTEM)] == ["web1", "web2"]
    assert plan(read("hosts.list.yaml")[1], await deck.inventory.list()).empty


async def test_keys_become_secrets_and_go_again_when_the_hosts_fail(
    deck: Deck, play_hosts: PlayHosts, tmp_path: Path
) -> None:
    key = tmp_path / "id_web"
    key.write_text(play_hosts.private_key)
    host = play_hosts["web1"]
    text = f"Host web1\n HostName {host.address}\n Port {host.port}\n User ops\n IdentityFile {key}\n"
    parsed = ssh_config.parse(tmp_path / "config", text)
    without = plan(parsed, ())
    assert without.added[0][1].credential == "agent"
    assert "--with-keys" in without.problems[0].text
    planned = plan(parsed, (), with_keys=True)
    assert planned.keys == {"id_web": str(key)}
    await deck.inventory.add(HostIn(name="web1", address="taken"), SYSTEM)
    with pytest.raises(Conflict):
        await apply(planned, deck.inventory, deck.secrets, SYSTEM)
    assert await deck.secrets.names() == ()
    await deck.inventory.remove("web1", SYSTEM)
    await apply(planned, deck.inventory, deck.secrets, SYSTEM)
    assert (await deck.inventory.get("web1")).credential == "id_web"
    assert await deck.secrets.names() == ("id_web",)
    again = plan(parsed, (), with_keys=True, known=await deck.secrets.names())
    assert again.keys == {}
    missing = plan(ssh_config.parse(tmp_path / "config", "Host a\n IdentityFile /none/key\n"), (), with_keys=True)
    assert missing.serious
    assert "/none/key" in missing.serious[0].text


def test_an_empty_plan() -> None:
    assert ImportPlan().empty
