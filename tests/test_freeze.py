"""The modules in the static file: what docker/static/freeze.py leaves out of them, and how PID 1's are loaded."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).parents[1] / "docker/static/freeze.py"


@pytest.fixture(scope="module")
def freeze() -> ModuleType:
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location("freeze", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_annotations_have_no_texts_and_fields_keep_their_names(freeze: ModuleType) -> None:
    """Records take the names of their fields from the annotations."""
    text = (
        "from __future__ import annotations\nclass Record:\n    first: Alpha\n    second: Alpha = 2\n"
        "    def method(self, one: Alpha, *more: Alpha, two: Alpha = 0, **named: Alpha) -> Alpha:\n"
        "        inner: Alpha = one\n        return lambda: inner\n"
    )
    source = freeze.Unannotated().visit(ast.parse(text))
    found: dict[str, type] = {}
    exec(compile(source, "<text>", "exec"), found)
    assert [*found["Record"].__annotations__] == ["first", "second"]
    assert found["Record"].method.__annotations__ == {}  # type: ignore[attr-defined]  # mypy does not see the text
    assert found["Record"]().method(5)() == 5
    assert "Alpha" not in ast.unparse(source)


def test_loading_is_importing(freeze: ModuleType) -> None:
    """Each module is there once, and bound in its package; one that is there already stays."""
    # CPython has these frozen for its own tests.
    program = ast.unparse(freeze._loading(["__phello__", "__phello__.ham", "__phello__.ham.eggs", "__phello__.spam"]))  # noqa: SLF001
    check = (
        f"import sys, __phello__.spam as before\n{program}\nimport __phello__.ham.eggs, __phello__.spam\n"
        "assert __phello__.ham.eggs is sys.modules['__phello__.ham.eggs'] and __phello__.spam is before"
    )
    subprocess.run([sys.executable, "-c", check], check=True, capture_output=True)
