"""The house: who may import what, and what PID 1 never loads."""

import ast
import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "entrypoint"
PURE = {"core": {"core", "haproxy", "options", "lean"}, "haproxy": {"haproxy", "lean"}, "options": {"options", "lean"}}
"""The folders that touch nothing, each with those that it may import."""
FILES = [path for folder in PURE for path in sorted((PACKAGE / folder).glob("*.py"))]

TOO_DEAR = (
    "asyncio",
    "threading",
    "subprocess",
    "logging",
    "hashlib",
    "pathlib",
    "json",
    "multiprocessing",
    "shutil",
    "tempfile",
    "typing",
    "re",
    "dataclasses",
    "collections",
    "contextlib",
    "enum",
    "functools",
    "selectors",
    "signal",
    "socket",
    "types",
    "prctl",
    "argparse",
    "http",
    "prometheus_client",
    "entrypoint.client.exporter",
)
REPLACED = ("contextlib", "signal", "socket")
"""Modules of the standard library, each with a module of the same name in `lean` that has less."""
TOUCHES = frozenset({"os", "socket", "time", "select", "selectors", "ctypes", "subprocess"})


def loaded_by(module: str, *, with_prctl: bool = True) -> frozenset[str]:
    """Return every module that a fresh interpreter has loaded after importing this one.

    Without `site`, so that only what is imported is seen, and not what this virtual environment loads at its start.
    """
    prctl = importlib.util.find_spec("_prctl") if with_prctl else None
    paths = [str(REPOSITORY), *([str(Path(prctl.origin).parent)] if prctl and prctl.origin else [])]
    program = f"import sys; sys.path[:0] = sys.argv[1:]; import {module}; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, *paths], capture_output=True, text=True, check=True
    )
    return frozenset(run.stdout.split())


def imported_by(path: Path) -> Iterator[str]:
    """Yield the name of each module that a file imports, and of what it imports from one, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name}:{node.lineno}: a relative import says less than an absolute one"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.fixture(scope="module")
def loaded() -> frozenset[str]:
    """What PID 1 has loaded when it begins to serve."""
    return loaded_by("entrypoint.pid1.cli")


@pytest.mark.parametrize("module", TOO_DEAR)
def test_pid_1_does_not_load_what_is_dear(loaded: frozenset[str], module: str) -> None:
    """The import budget: none of what costs memory, threads or races with waitpid(-1) is there."""
    assert "entrypoint.pid1.supervisor" in loaded
    assert module not in loaded


def test_the_supervisor_is_not_loaded_before_signals_are_blocked() -> None:
    """The door blocks signals before it imports anything of ours or anything large."""
    tree = ast.parse((PACKAGE / "__main__.py").read_text(encoding="utf-8"))
    first, second = [node for node in tree.body if not isinstance(node, ast.Expr)][:2]
    assert isinstance(first, ast.Import)
    assert [alias.name for alias in first.names] == ["_signal"]
    assert "_signal" in sys.builtin_module_names
    assert "pthread_sigmask(_signal.SIG_BLOCK" in ast.unparse(second)


def test_the_package_itself_loads_nothing() -> None:
    """What runs before the door, the package's own file, imports nothing."""
    assert list(imported_by(PACKAGE / "__init__.py")) == []


@pytest.mark.parametrize("name", REPLACED)
def test_replacements_have_what_is_used(name: str) -> None:
    """The type checker sees the standard library's modules, so it does not find what their replacements lack."""
    replacement = importlib.import_module(f"entrypoint.lean.{name}")
    used = {
        node.attr
        for path in PACKAGE.rglob("*.py")
        if f"entrypoint.lean.{name}" in imported_by(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == name
    }
    assert used
    assert not {attribute for attribute in used if not hasattr(replacement, attribute)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_what_decides_cannot_touch_the_world(path: Path) -> None:
    """No file of the core, of what haproxy says, or of the options imports what has to do with processes or files."""
    modules = set(imported_by(path))
    assert not {module.removeprefix("entrypoint.lean.").split(".")[0] for module in modules} & TOUCHES
    folders = {module.split(".")[1] for module in modules if module.startswith("entrypoint.")}
    assert folders <= PURE[path.parent.name]


def test_all_of_it_is_looked_at() -> None:
    """The files that are walked are those that decide."""
    assert {path.stem for path in FILES} >= {"lifecycle", "settings", "vips", "command_line", "events", "runtime_api"}


def test_the_house_has_floors() -> None:
    """The contracts about who may import whom hold."""
    run = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "0 broken" in run.stdout


def test_it_starts_without_python_prctl() -> None:
    """PID 1 can be imported where python-prctl is missing or cannot be loaded."""
    assert "_prctl" not in loaded_by("entrypoint.pid1.cli", with_prctl=False)
