"""known_hosts files: read, matched as OpenSSH matches them, written."""

from __future__ import annotations

import shutil
import subprocess

import asyncssh
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsdeck.errors import Invalid
from opsdeck.ssh.hostkeys import OfferedKey
from opsdeck.ssh.known_hosts import keys_for, line, parse

ONE, TWO, THREE = (
    asyncssh.generate_private_key(kind).export_public_key().decode().strip()
    for kind in ("ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-ed25519")
)


def found(text: str, address: str, port: int = 22) -> list[str]:
    known, _ = parse(text)
    return [key.openssh for key in keys_for(known, address, port)]


def test_plain_names_ports_patterns_and_negation():
    text = f"""# a comment
web1,192.0.2.1 {ONE} comment here
[web1]:2222 {TWO}
*.example.org,!bad.example.org {THREE}
"""
    assert found(text, "web1") == [ONE]
    assert found(text, "WEB1") == [ONE]
    assert found(text, "192.0.2.1") == [ONE]
    assert found(text, "web1", 2222) == [TWO]
    assert found(text, "good.example.org") == [THREE]
    assert found(text, "bad.example.org") == []
    assert found(text, "web2") == []


def test_revoked_and_authorities_are_not_pinned():
    text = f"web1 {ONE}\nweb1 {TWO}\n@revoked * {ONE}\n@cert-authority * {THREE}\n"
    assert found(text, "web1") == [TWO]


def test_lines_that_cannot_be_used_are_named():
    text = f"web1 {ONE}\nweb1 ssh-ed25519\n\nweb1 ssh-dss AAAA\n@odd web1 {ONE}\nweb1 ssh-ed25519 !!!\nweb1 {TWO}x!"
    known, skipped = parse(text)
    assert [entry.line for entry in known] == [1]
    assert [line.line for line in skipped] == [2, 4, 5, 6, 7]
    assert all(line.reason for line in skipped)


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")
def test_names_hashed_by_openssh_are_found(tmp_path):
    file = tmp_path / "known_hosts"
    file.write_text(f"web1 {ONE}\n[web1]:2222 {TWO}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(file)], check=True, capture_output=True)
    text = file.read_text()
    assert "web1" not in text
    assert found(text, "web1") == [ONE]
    assert found(text, "web1", 2222) == [TWO]
    assert found(text, "web2") == []


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")
def test_openssh_reads_what_is_written(tmp_path):
    keys = (("192.0.2.1", 22, ONE), ("192.0.2.1", 22, TWO), ("web2", 2222, THREE))
    text = "".join(line(*key) for key in keys)
    file = tmp_path / "known_hosts"
    file.write_text(text)
    for name, keys in (("192.0.2.1", [ONE, TWO]), ("[web2]:2222", [THREE])):
        out = subprocess.run(["ssh-keygen", "-F", name, "-f", str(file)], check=True, capture_output=True, text=True)
        assert [row.split(" ", 1)[1] for row in out.stdout.splitlines() if not row.startswith("#")] == keys
    assert found(text, "192.0.2.1") == [ONE, TWO]


@given(st.text(max_size=300))
def test_no_text_breaks_the_reader(text):
    known, _ = parse(text)
    keys_for(known, "web1")


def test_a_fingerprint_is_openssh_s():
    assert OfferedKey.of(ONE + " some comment").fingerprint == asyncssh.import_public_key(ONE).get_fingerprint()


@pytest.mark.parametrize(
    "text",
    ["", "ssh-ed25519", "ssh-ed25519 AAAA", "ssh-dss AAAAB3NzaC1kc3M=", "ssh-rsa " + ONE.split()[1]],
    ids=["nothing", "no key", "half a key", "an algorithm of old", "another algorithm's"],
)
def test_what_is_no_host_key_is_told(text):
    with pytest.raises(Invalid) as caught:
        OfferedKey.of(text)
    assert caught.value.field == "host_key"
