"""Redaction: every form, across every way of cutting a stream."""

from __future__ import annotations

import base64
import html
import json
import shlex
from urllib.parse import quote, quote_plus

import asyncssh
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsdeck.secrets.redact import PIECE, SHORTEST_LINE, Redactor
from opsdeck.secrets.sensitive import MASK, Sensitive

NASTY = """p4ss'w"ord $HOME `id` \\ & <b> ünïcode/+?"""

secrets = st.lists(st.text(min_size=6, max_size=90).filter(lambda text: len(text.strip()) >= 6), min_size=1, max_size=3)


def fed(redactor: Redactor, data: bytes, cuts: list[int]) -> bytes:
    stream = redactor.stream()
    at, out = 0, b""
    for cut in [*sorted(cuts), len(data)]:
        out += stream.feed(data[at:cut])
        assert stream.held < PIECE + SHORTEST_LINE
        at = max(at, cut)
    return out + stream.flush()


@pytest.mark.parametrize(
    "form",
    [
        NASTY,
        quote(NASTY),
        quote(NASTY, safe=""),
        quote_plus(NASTY),
        quote(NASTY).lower().replace("home", "HOME"),
        json.dumps(NASTY)[1:-1],
        json.dumps(NASTY, ensure_ascii=False)[1:-1],
        shlex.quote(NASTY)[1:-1],
        "'" + NASTY.replace("'", "'\\''") + "'",
        html.escape(NASTY),
    ],
)
def test_forms(form: str) -> None:
    shown = Redactor([Sensitive(NASTY)]).text(f"before {form} after")
    assert shown.startswith("before ")
    assert shown.endswith(" after")
    assert shown.replace("'", "") == f"before {MASK} after"


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize("before", range(6))
@pytest.mark.parametrize("secret", ["hunter22", "hunter223", "hunter2233", "üü??>>ÿÿ~~", "x" * 500])
def test_base64_at_every_alignment(encode: object, before: int, secret: str) -> None:
    raw = b"A" * before + secret.encode() + b"ZZZZZZ"
    encoded = encode(raw)  # type: ignore[operator]
    shown = Redactor([Sensitive(secret)]).text(f"blob={encoded.decode()}.")
    assert MASK in shown
    inner = encode(secret.encode())[4:-4].decode()  # type: ignore[operator]
    left = shown.removeprefix("blob=").removesuffix(".").replace(MASK, "")
    assert not inner or inner[:6] not in left
    assert len(left) <= (before + 6 + 4) * 4 / 3 + 4


def test_keys_line_by_line_and_wrapped() -> None:
    key = asyncssh.generate_private_key("ssh-rsa", key_size=2048).export_private_key().decode()
    redactor = Redactor([Sensitive(key)])
    lines = [line for line in key.splitlines() if not line.startswith("-----")]
    for shown in (key, key.replace("\n", "\r\n"), "\n".join(f"web1 | {line}" for line in lines), json.dumps(key)):
        out = redactor.text(shown)
        assert not any(line[:40] in out for line in lines)
    wrapped = base64.encodebytes(key.encode()).decode()
    assert not any(line[:40] in redactor.text(wrapped) for line in wrapped.splitlines() if len(line) > 40)
    assert lines[0][:64] not in redactor.text(f"head: {key[:120]}"), "the beginning of a key is hidden too"


def test_no_secrets_give_the_very_same_bytes() -> None:
    redactor = Redactor()
    data = b"x" * 1000
    stream = redactor.stream()
    assert stream.feed(data) is data
    assert stream.flush() == b""
    assert not redactor
    assert redactor.text("hunter22") == "hunter22"


def test_added_later_counts_in_open_streams() -> None:
    redactor = Redactor()
    stream = redactor.stream()
    assert stream.feed(b"hunter22\n") == b"hunter22\n"
    redactor.add(Sensitive("hunter22"))
    assert stream.feed(b"hunter22\n") == f"{MASK}\n".encode()


def test_every_cut_of_one_text() -> None:
    redactor = Redactor([Sensitive("hunter22"), Sensitive("ter22-and-more")])
    data = b"x hunter22-and-more hunter2 hunter22hunter22 hunter22"
    whole = fed(redactor, data, [])
    assert whole == f"x {MASK}-and-more hunter2 {MASK} {MASK}".encode()
    for size in range(1, 60):
        assert fed(redactor, data, list(range(0, len(data), size))) == whole


def test_what_cannot_be_a_beginning_is_not_held() -> None:
    stream = Redactor([Sensitive("hunter22")]).stream()
    assert stream.feed(b"a line\n") == b"a line\n"
    assert stream.held == 0
    assert stream.feed(b"hun") == b""
    assert stream.held == 3
    assert stream.flush() == b"hun"
    assert stream.held == 0


def test_invalid_bytes_pass() -> None:
    data = bytes(range(256)) + b"hunter22" + b"\xff\xfe"
    redactor = Redactor([Sensitive("hunter22")])
    assert fed(redactor, data, []) == bytes(range(256)) + MASK.encode() + b"\xff\xfe"
    assert redactor.text("\udcff hunter22") == f"\udcff {MASK}"


@settings(max_examples=150, deadline=None)
@given(secrets, st.lists(st.one_of(st.text(max_size=12), st.integers(0, 2)), max_size=8), st.data())
def test_any_chunking_gives_the_same(texts: list[str], parts: list[str | int], data: st.DataObject) -> None:
    redactor = Redactor(Sensitive(text) for text in texts)
    raw = b"".join(
        texts[part % len(texts)].encode("utf-8", "surrogatepass") if isinstance(part, int) else part.encode()
        for part in parts
    )
    cuts = data.draw(st.lists(st.integers(0, len(raw)), max_size=12))
    whole = fed(redactor, raw, [])
    assert fed(redactor, raw, cuts) == whole
    assert fed(redactor, raw, list(range(len(raw)))) == whole


@settings(max_examples=150, deadline=None)
@given(
    st.text(
        st.characters(codec="utf-8", exclude_characters="\r\n\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029•"),
        min_size=8,
        max_size=200,
    ),
    st.sampled_from(
        [str, quote, json.dumps, shlex.quote, html.escape, lambda text: base64.b64encode(text.encode()).decode()]
    ),
)
def test_nothing_of_it_is_left(secret: str, show: object) -> None:
    if len(secret.strip()) < 8 or len(set(secret)) < 4:
        return
    out = Redactor([Sensitive(secret)]).text(f"[{show(secret)}]")  # type: ignore[operator]
    assert secret not in out
    assert MASK in out
    assert len(out) <= len("[\"''\"]") + 2 * len(MASK) + 4
