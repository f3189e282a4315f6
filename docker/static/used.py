"""Writes a program that says what the interpreter lacks of what safe_reload uses of the operating system.

    used.py FOLDER >check.py

CPython leaves out a function, silently, where configure does not find the header or the symbol that it needs.
"""

import ast
import sys
from pathlib import Path

MODULES = {"errno", "fcntl", "os", "resource", "select", "signal", "socket", "termios", "time"}
LEAN = "entrypoint.lean"


def used(file: Path) -> set[tuple[str, str]]:
    """Return each attribute that a file reads of one of the modules, or of its replacement."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    replaced = {
        name.name for node in nodes if isinstance(node, ast.ImportFrom) and node.module == LEAN for name in node.names
    }
    return {
        (f"{LEAN}.{node.value.id}" if node.value.id in replaced else node.value.id, node.attr)
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in MODULES
    }


if __name__ == "__main__":
    print("import importlib, sys")
    print(f"used = {sorted(set().union(*map(used, Path(sys.argv[1]).rglob('*.py'))))!r}")
    print("absent = [f'{name}.{what}' for name, what in used if not hasattr(importlib.import_module(name), what)]")
    print("sys.exit('this interpreter lacks ' + ', '.join(absent) if absent else 0)")
