"""The configurations that generations are given."""

import os

import pytest

from entrypoint.configurations import in_memory


@pytest.mark.parametrize("name", ["x" * 255, "\u00e4" * 127, "a" + "\u00e4" * 127, "\udcff" * 255], ids=ascii)
def test_a_file_of_any_name_can_be_given_from_memory(name: str) -> None:
    """As long as a file's name may be, which is longer than the name of a memory file may."""
    (descriptor,) = in_memory(((f"/etc/{name}", b"global\n"),))
    try:
        assert os.read(descriptor, 100) == b"global\n"
    finally:
        os.close(descriptor)
