"""From bytes to lines: any chunking gives the same lines, nothing grows without bound."""

from hypothesis import given
from hypothesis import strategies as st

from opsdeck.jobs.lines import LINE_LIMIT, Splitter, cut, plain
from opsdeck.jobs.log import chunks

CHUNKS = st.lists(st.binary(max_size=40) | st.sampled_from([b"\n", b"\r\n", b"a\n", "é".encode()[:1]]), max_size=30)


@given(CHUNKS)
def test_any_chunking_gives_the_same_lines(parts):
    whole = b"".join(parts)
    splitter = Splitter()
    lines = [line for part in parts for line in splitter.feed(part)]
    assert splitter.position == len(whole[: whole.rfind(b"\n") + 1])
    lines += splitter.end()
    assert splitter.position == len(whole)
    expected = whole.split(b"\n")
    if expected[-1] == b"":
        expected.pop()
    assert lines == [line.removesuffix(b"\r").decode("utf-8", "backslashreplace") for line in expected]


@given(CHUNKS, st.integers(0, 400))
def test_one_may_begin_again_at_a_position(parts, at):
    whole = b"".join(parts)
    first = Splitter()
    before = first.feed(whole[:at])
    second = Splitter(first.position)
    after = second.feed(whole[first.position :])
    assert before + after == Splitter().feed(whole)


def test_a_long_line_is_held_in_bounds_and_its_end_is_counted():
    splitter = Splitter()
    for _ in range(200):
        assert splitter.feed(b"x" * 65536) == []
    assert len(splitter._held) <= 2 * LINE_LIMIT
    (line,) = splitter.feed(b"\n")
    assert cut(line) == "x" * LINE_LIMIT + f" …[{200 * 65536 - LINE_LIMIT} more bytes of this line were not kept]"
    assert splitter.position == 200 * 65536 + 1


def test_a_terminal_gets_nothing_to_obey():
    text = "\x1b[31mred\x1b[0m \x1b]0;title\x07a\x1b]52;c;aGk=\x1b\\b\x00\x08\x9b2J\x1bcé\ttab\r"
    assert plain(text) == "red ab2Jé\ttab"


@given(
    st.lists(st.tuples(st.integers(), st.text(max_size=5), st.just("out"), st.text()), max_size=50), st.integers(1, 9)
)
def test_chunks_number_every_line_once(entries, first):
    rows = chunks(7, first, entries)
    numbers = [number for row in rows for number in range(row["first"], row["first"] + row["count"])]
    assert numbers == list(range(first, first + len(entries)))
    assert not any("\0" in row["lines"] for row in rows)
