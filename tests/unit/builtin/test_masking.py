"""What opens the way to a host never comes back in what the host prints: not in the log, receipts, errors or rows."""

from __future__ import annotations

import json
from typing import Any

from sqlmodel import select

from opsdeck.inventory.models import Host
from opsdeck.jobs.jobs import Submission
from opsdeck.secrets.sensitive import Sensitive

PASSWORD = "Zx9!qW'7 é\"$pq&r<t"


async def with_sudo_password(deck: Any, boss: Any) -> None:
    await deck.secrets.set("root", Sensitive(PASSWORD), kind="password", actor=boss)
    async with deck.db.write() as session:
        for host in (await session.exec(select(Host))).all():
            host.sudo, host.sudo_secret = "password", "root"
            session.add(host)


def stored(deck: Any) -> bytes:
    return b"".join(file.read_bytes() for file in deck.settings.home.glob("opsdeck.db*"))


async def test_a_receipt_does_not_quote_a_secret(deck: Any, boss: Any, do: Any, tmp_path: Any) -> None:
    await with_sudo_password(deck, boss)
    (tmp_path / "said").write_text(PASSWORD + "\n")
    job, steps, lines = await do("command", words=["cat", str(tmp_path / "said")])
    assert job.state == "succeeded"
    assert {step.receipt["last_line"] for step in steps.values()} == {"••••"}
    assert PASSWORD not in "\n".join(line.text for line in lines)
    escaped = json.dumps(PASSWORD)[1:-1]
    for form in (PASSWORD, escaped, json.dumps(escaped)[1:-1]):
        assert form.encode() not in stored(deck)


async def test_the_key_that_logs_in_is_hidden(deck: Any, boss: Any, do: Any) -> None:
    key = (await deck.secrets.reveal("play", actor=boss, purpose="test")).reveal()
    job, _steps, lines = await do("script", text=f"cat <<'END'\n{key}END\n")
    said = "\n".join(line.text for line in lines)
    assert job.state == "succeeded"
    for line in key.splitlines()[1:-1]:
        assert line not in said
    assert "••••" in said


async def test_a_plan_does_not_show_a_secret(deck: Any, boss: Any, tmp_path: Any) -> None:
    await with_sudo_password(deck, boss)
    file = tmp_path / "there"
    file.write_text(f"password={PASSWORD}\n")
    order = Submission("core", "copy", {"path": str(file), "content": "password=none\n"}, "h1")
    plan = await deck.jobs.plan(order, boss)
    assert plan.changes
    assert PASSWORD not in json.dumps(plan.as_dict(), ensure_ascii=False)
    assert "••••" in json.dumps(plan.as_dict(), ensure_ascii=False)


async def test_a_secret_with_colours_in_it_is_hidden(deck: Any, boss: Any, do: Any, tmp_path: Any) -> None:
    await with_sudo_password(deck, boss)
    half = len(PASSWORD) // 2
    coloured = f"\x1b[31m{PASSWORD[:half]}\x1b[0m{PASSWORD[half:]} is it\n\x1b[32mgreen\x1b[0m\n"
    (tmp_path / "said").write_text(coloured)
    _job, steps, lines = await do("command", words=["cat", str(tmp_path / "said")])
    said = [line.text for line in lines if line.stream == "out" and line.host == "h1"]
    assert said == ["•••• is it", "\x1b[32mgreen\x1b[0m"]
    assert steps["h1"].state == "succeeded"
