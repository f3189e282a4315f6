"""Text from outside in a line of ours."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrypoint.lean.json_text import json_text
from entrypoint.lean.one_line import one_line, valid

anything = st.text(st.characters() | st.characters(categories=["Cs", "Cc", "Cf", "Zl"]))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain, héllo 10 €", "plain, héllo 10 €"),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\x1b[31mred\x7f\x9b", "\\x1b[31mred\\x7f\\x9b"),
        ("caf\udce9.pem", "caf\\xe9.pem"),
        ("\ud800", "\\ud800"),
        ("right\u202eleft\u2028", "right\\u202eleft\\u2028"),
        ("\U000e0001", "\\U000e0001"),
    ],
)
def test_what_does_not_print_is_escaped(text: str, line: str) -> None:
    """Ends of lines, controls, what turns the direction of writing, and bytes that are no UTF-8."""
    assert one_line(text) == line


@given(anything)
def test_a_line_is_one_line_whatever_is_in_it(text: str) -> None:
    """It is UTF-8 that a terminal shows as it is."""
    line = one_line(text)
    assert line.isprintable()
    assert line.encode().decode() == line
    assert one_line(line) == line


@given(anything)
def test_json_is_utf_8_whatever_is_in_it(text: str) -> None:
    """A decoder that takes no half of a surrogate pair takes it, as a value and as a key; the rest is as it was."""
    ((key, value),) = json.loads(json_text({text: text})).items()
    assert key == value == valid(text)
    assert value.encode().decode() == value
    assert valid(text) == text or any("\ud800" <= letter <= "\udfff" for letter in text)
