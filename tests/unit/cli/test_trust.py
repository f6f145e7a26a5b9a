"""`opsdeck secret`, `user`, `token`, `audit`: what is printed, what never is, and the exit status."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import asyncssh
import pytest
from click.testing import Result

Run = Callable[..., Result]


def test_a_secret_from_a_pipe_and_a_file(run: Run, deck: Path, tmp_path: Path) -> None:
    result = run("secret", "set", "db/root", "--kind", "password", "--note", "shop", typed="hunter22\n")
    assert result.exit_code == 0, result.output
    file = tmp_path / "value"
    file.write_text("hunter33\n")
    assert json.loads(run("secret", "set", "db/root", "--file", str(file), "--json").stdout)["version"] == 2
    for command in (("secret", "list"), ("secret", "show", "db/root"), ("secret", "list", "--json"), ("audit", "list")):
        shown = run(*command)
        assert shown.exit_code == 0
        assert "db/root" in shown.stdout
        assert "hunter" not in shown.output


def test_a_value_is_never_an_argument(run: Run, deck: Path) -> None:
    assert run("secret", "set", "a", "hunter22").exit_code == 2
    for command in ("set", "show", "list"):
        assert "--value" not in run("secret", command, "--help").stdout


def test_showing_the_value_is_asked_and_audited(run: Run, deck: Path) -> None:
    run("secret", "set", "a", typed="hunter22")
    assert run("secret", "show", "a", "--reveal").exit_code == 2, "without a terminal --yes must say it"
    assert run("secret", "show", "a", "--reveal", "--yes").stdout == "hunter22\n"
    (entry,) = json.loads(run("audit", "list", "--verb", "secret.revealed", "--json").stdout)
    assert entry["detail"]["purpose"] == "shown to a person"


@pytest.mark.parametrize(
    ("arguments", "typed", "code", "word"),
    [
        (("set", "a"), "12345", 2, "fewer than 6"),
        (("set", "a b"), "hunter22", 2, "cannot name"),
        (("set", "a", "--kind", "ssh-key"), "hunter22", 2, "no private key"),
        (("set", "a", "--file", "/no/such/file"), "", 3, "/no/such/file"),
        (("set", "a", "--generate", "ssh-key", "--file", "x"), "", 2, "--generate"),
        (("show", "none"), "", 3, "opsdeck secret set none"),
        (("rm", "none", "--yes"), "", 3, "no secret"),
        (("rm", "none"), "", 2, "--yes"),
    ],
)
def test_what_is_refused(run: Run, deck: Path, arguments: tuple[str, ...], typed: str, code: int, word: str) -> None:
    result = run("secret", *arguments, typed=typed)
    assert result.exit_code == code
    assert word in result.stderr
    assert "Traceback" not in result.output


def test_a_file_that_is_not_text(run: Run, deck: Path, tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"\xff\xfe\x00secret")
    result = run("secret", "set", "a", "--file", str(tmp_path / "b"))
    assert result.exit_code == 2
    assert "UTF-8" in result.stderr


def test_a_made_key_prints_its_public_half(run: Run, deck: Path) -> None:
    result = run("secret", "set", "deploy", "--generate", "ssh-key")
    assert asyncssh.import_public_key(result.stdout)
    assert "PRIVATE" not in result.output
    assert run("secret", "set", "deploy", "--generate", "ssh-key").exit_code == 4


def test_rotate_and_check(run: Run, deck: Path) -> None:
    run("secret", "set", "a", typed="hunter22")
    assert run("secret", "rotate", "--prune").exit_code == 0
    before = (deck / "master.key").read_text()
    assert run("secret", "rotate", "--master").exit_code == 0
    assert (deck / "master.key").read_text() != before
    assert (deck / "master.key.old").read_text() == before
    report = json.loads(run("secret", "check", "--json").stdout)
    assert (report["opened"], report["broken"], report["removable_keys"]) == (1, [], [])
    assert run("secret", "show", "a", "--reveal", "--yes").stdout == "hunter22\n"
    assert run("audit", "verify").exit_code == 0
    assert run("secret", "rm", "a", "--yes").exit_code == 0


def test_people(run: Run, deck: Path) -> None:
    assert run("user", "add", "olga", "--role", "operator", typed="a rather long password\n").exit_code == 0
    made = json.loads(run("user", "add", "vera", "--generate", "--json").stdout)
    assert len(made["password"]) == 27
    assert run("user", "role", "vera", "operator").exit_code == 0
    assert run("user", "disable", "vera").exit_code == 0
    assert run("user", "enable", "vera").exit_code == 0
    assert run("user", "passwd", "vera", typed="another rather long one\n").exit_code == 0
    assert run("user", "totp", "vera", "--off").exit_code == 0
    people = {each["name"]: each["role"] for each in json.loads(run("user", "list", "--json").stdout)}
    assert people == {"admin": "admin", "olga": "operator", "vera": "operator"}
    assert run("user", "rm", "vera", "--yes").exit_code == 0
    for arguments, code in (
        (("rm", "admin", "--yes"), 4),
        (("role", "admin", "viewer"), 4),
        (("role", "olga", "king"), 2),
        (("rm", "nobody", "--yes"), 3),
        (("disable", "nobody"), 3),
        (("add", "olga", "--generate"), 4),
        (("add", "O", "--generate"), 2),
    ):
        assert run("user", *arguments).exit_code == code, arguments


def test_a_second_factor_at_the_terminal(run: Run, deck: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run("user", "totp", "admin", typed="000000\n")
    assert result.exit_code == 2
    assert "the code is wrong" in result.stderr
    assert not json.loads(run("user", "list", "--json").stdout)[0]["totp"]


def test_a_login_link(run: Run, deck: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = run("user", "login-link", "admin")
    link = urlsplit(told.stdout.strip())
    assert "OPSDECK_PUBLIC_URL" in told.stderr
    assert link.path.startswith("/login/link/")
    assert link.port == 8600
    assert run("user", "login-link", "nobody").exit_code == 3


def test_tokens(run: Run, deck: Path) -> None:
    token = run("token", "add", "admin", "ci", "--role", "operator", "--scope", "core.*").stdout.strip()
    assert token.startswith("opd_")
    (listed,) = json.loads(run("token", "list", "--json").stdout)
    assert (listed["name"], listed["scopes"], listed["revoked"]) == ("ci", ["core.*"], None)
    assert token not in run("token", "list").stdout
    assert run("token", "revoke", token).exit_code == 0
    assert json.loads(run("token", "list", "--owner", "admin", "--json").stdout)[0]["revoked"]
    assert run("token", "revoke", "opd_000000000000").exit_code == 3
    assert run("token", "add", "admin", "ci", "--scope", "a b").exit_code == 2


def test_audit(run: Run, deck: Path, tmp_path: Path) -> None:
    run("secret", "set", "a", typed="hunter22")
    assert [each["verb"] for each in json.loads(run("audit", "list", "--json").stdout)] == [
        "secret.added",
        "user.added",
    ]
    assert "secret.added" in run("audit", "list", "--target", "secret:*", "--since", "2020-01-01").stdout
    assert run("audit", "list", "--since", "yesterday").exit_code == 2
    head = run("audit", "head", "--keep").stdout.strip()
    assert run("audit", "verify", "--head", head).exit_code == 0
    assert run("audit", "verify", "--head", "nonsense").exit_code == 2
    later = run("audit", "verify", "--json", "--head", "9:" + "0" * 64)
    assert later.exit_code == 1
    assert json.loads(later.stdout)["bad"] == 3
    file = tmp_path / "audit.jsonl"
    assert run("audit", "export", str(file)).exit_code == 0
    assert run("audit", "export", str(file)).exit_code == 3, "a file that is there is not written over"
    assert len(run("audit", "export").stdout.splitlines()) == 3
    assert run("audit", "verify", "--file", str(file)).exit_code == 0
    file.write_text(file.read_text().replace("secret.added", "secret.addee"))
    result = run("audit", "verify", "--file", str(file))
    assert result.exit_code == 1
    assert "entry 2" in result.stderr
    assert run("audit", "verify", "--file", str(tmp_path / "none")).exit_code == 3
