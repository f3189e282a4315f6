"""What is written as JSON is read back as what it was, on one line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrypoint.lean.json_text import json_text
from entrypoint.options.settings import LogFormat

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda some: st.lists(some) | st.dictionaries(st.text(), some),
    max_leaves=20,
)


@given(VALUES)
def test_it_is_read_back(value: object) -> None:
    """Whatever JSON can say comes back equal."""
    text = json_text(value)
    assert json.loads(text) == value
    assert text.isascii()
    assert "\n" not in text


@given(st.characters(categories=["Cs"]))
def test_what_is_no_text_is_escaped(surrogate: str) -> None:
    """A file's name may be any bytes."""
    assert json.loads(json_text(surrogate)).encode().startswith(b"\\")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_null(value: float) -> None:
    """RFC 8259 has no NaN."""
    assert json_text(value) == "null"


def test_what_is_like_json_is_written_as_such() -> None:
    """Tuples are arrays, keys are text, enumerations are what they contain."""
    assert json.loads(json_text({1: (True, LogFormat.JSON)})) == {"1": [True, "json"]}


def test_what_json_does_not_know_is_an_error() -> None:
    """A set has no order."""
    with pytest.raises(TypeError, match="set is not a value of JSON"):
        json_text({1})
