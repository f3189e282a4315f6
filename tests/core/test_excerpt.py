"""What is remembered of a haproxy's words: head, every alert, tail, and the exact number of what is missing."""

import re

from hypothesis import given
from hypothesis import strategies as st

from entrypoint.haproxy.excerpt import BOUND, Excerpt

NOTICE = re.compile(rb"\((\d+) lines? left out here\)")

line = st.one_of(
    st.builds(lambda size: b"[WARNING] " + b"w" * size, st.integers(0, 9000)),
    st.builds(lambda size: b"[ALERT]    " + b"a" * size, st.integers(0, 9000)),
    st.builds(lambda size: b"  rest of it " + b"r" * size, st.integers(0, 200)),
    st.sampled_from([b"", b"NOTICE"]),
)
blocks = st.lists(st.tuples(line, st.integers(1, 300)), max_size=8)


def remembered(lines: list[bytes], pieces: int = 1) -> list[bytes]:
    """Return the lines of an excerpt of these, which come in so many pieces."""
    excerpt = Excerpt()
    size = max(1, len(lines) // pieces)
    for begin in range(0, len(lines), size):
        excerpt.add(lines[begin : begin + size])
    assert excerpt.content[-1:] in {b"", b"\n"}
    return excerpt.content.split(b"\n")[:-1]


@given(blocks, st.integers(1, 5))
def test_an_excerpt_is_bounded_in_order_and_its_counts_are_exact(blocks: list[tuple[bytes, int]], pieces: int) -> None:
    """Every line is there, in its place, or is counted in its place; a long one as far as it goes."""
    lines = [b"%d" % index if text == b"NOTICE" else text for index, (text, times) in enumerate(blocks)
             for _ in range(times)]  # fmt: skip

    found = remembered(lines, pieces)

    assert sum(len(one) + 1 for one in found) <= BOUND
    place = 0
    for one in found:
        notice = NOTICE.fullmatch(one)
        if notice:
            place += int(notice[1])
            continue
        cut = re.search(rb" \(and (\d+) bytes\)$", one)
        if cut:
            assert lines[place].startswith(one[: cut.start()])
            assert len(lines[place]) == cut.start() + int(cut[1])
        else:
            assert one == lines[place]
        place += 1
    assert place == len(lines)


@given(st.integers(0, 3000), st.integers(1, 40), st.integers(0, 3000))
def test_every_alert_is_there_however_much_is_said_around_it(before: int, alerts: int, after: int) -> None:
    """Warnings come first, and what follows from an alert comes last."""
    said = [b"[ALERT]    (7) : config : parsing [/etc/lb.cfg:%d] : no" % number for number in range(alerts)]
    lines = [b"[WARNING]  (7) : config : " + b"w" * 90] * before + said + [b"[NOTICE]   (7) : and so on"] * after
    found = remembered(lines)
    assert [one for one in found if one.startswith(b"[ALERT]")] == said
    assert found[:1] == lines[:1]
    assert found[-1] == lines[-1]


def test_an_alert_of_several_lines_is_kept_whole() -> None:
    """haproxy quotes the line of the configuration below it, indented, and marks the place."""
    alert = [b"[ALERT]    (7) : config : parsing [/x.cfg:2]: unmatched quote at position 8:", b"  log 'x", b"      ^"]
    noise = [b"[WARNING]  (7) : x"] * 2000
    found = remembered([*noise, *alert, *noise])
    begin = found.index(alert[0])
    assert found[begin : begin + 3] == alert


def test_a_head_with_gaps_is_no_head() -> None:
    """Where the first line does not fit the head ends: what is said of many gaps would take more room than they do."""
    found = remembered([b"w" * 4000, b"w" * 4000, *([b"w" * 4000, b"."] * 200), *[b"t" * 4000] * 3])
    assert sum(len(one) + 1 for one in found) <= BOUND
    assert len(found) == 5


def test_what_is_short_is_kept_as_it_is() -> None:
    """Nothing is left out where there is room."""
    lines = [b"a", b"", b"  b"]
    assert remembered(lines) == lines
