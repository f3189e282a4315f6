"""Writes the C source of the frozen modules: safe_reload's bytecode, and that of everything that it imports.

    freeze.py CONFIG_C FOLDER... >frozen.h

With it, the texts of the system's errors: people and documents know those of glibc, and musl has others.

CONFIG_C lists the built-in modules of the interpreter that will run them. Each FOLDER is searched for modules, the
first before the second. This Python must have the version of that interpreter. It imports all of safe_reload: whatever
is loaded then is frozen.
"""

import ast
import errno
import importlib
import marshal
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.machinery import BuiltinImporter, ExtensionFileLoader, ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import ClassVar

OURS = "entrypoint"
OWN_BUILTINS = {"_prctl", "_libc"}
ENCODINGS = ("encodings.aliases", "encodings.ascii", "encodings.latin_1", "encodings.utf_8")
"""The interpreter finds them by name."""
NEEDED = ("prometheus_client",)
"""Its absence would be an error of the exporter, not of the build."""
FOR_OTHERS = {"_sha256", "_ctypes"}
"""`entrypoint/lean` asks for them where a Python lacks what this one has."""
NOT_FROZEN = {"zipimport"}
"""The interpreter would import it at each start if it was there."""
PID1 = f"{OURS}.pid1"
"""This package loads all modules that PID 1 imports, in place of its own empty file: one `import` runs 30 functions of
Python, together 1 ms."""


class TargetFinder:
    """Finds modules as the interpreter will that runs them: extension modules that it does not have are absent."""

    def __init__(self, builtins: set[str]) -> None:
        """Know its built-in modules."""
        self._builtins = builtins

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        """Find a module in the folders."""
        del target
        found = BuiltinImporter.find_spec(name) or PathFinder.find_spec(name, path)
        is_binary = found and (found.loader is BuiltinImporter or isinstance(found.loader, ExtensionFileLoader))
        if found and isinstance(found.loader, SourceFileLoader):
            found.loader = Loader(name, found.loader.path)
        return None if name in FOR_OTHERS or (is_binary and name not in self._builtins) else found


class Loader(SourceFileLoader):
    """Loads a module, and notes its name then: each one after those that it imports."""

    loaded: ClassVar[list[str]] = []

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code."""
        super().exec_module(module)
        self.loaded.append(module.__name__)


class Unannotated(ast.NodeTransformer):
    """Removes annotations, which only the type checker reads; an attribute of a class keeps its name."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        """Of an attribute or a variable."""
        node.annotation = ast.copy_location(ast.Constant(None), node.annotation)
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Of what a function returns."""
        node.returns = None
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        """Of an argument."""
        node.annotation = None
        return node


def main(config: str, folders: list[str]) -> None:
    """Print the table."""
    builtins = set(re.findall(r'\{"(\w+)", ', Path(config).read_text())) | OWN_BUILTINS
    sys.path[:0] = folders
    sys.meta_path[:] = [TargetFinder(builtins)]
    importlib.import_module(f"{PID1}.cli")
    start = [name for name in Loader.loaded if name.startswith(OURS)]
    names = sorted(_modules_of(OURS, folders))
    for name in (*NEEDED, *names, *ENCODINGS):
        importlib.import_module(name)
    for name in names:
        _import_what_functions_import(sys.modules[name])
    frozen = {name: source for name in sys.modules if name != "__main__" and (source := _source(name, folders))}
    frozen["__main__"] = frozen[f"{OURS}.__main__"]
    codes = {name: (_bytecode(name, file), is_package) for name, (file, is_package) in frozen.items()}
    codes["_frozen_importlib"] = codes.pop("importlib._bootstrap")
    codes[PID1] = _compiled(PID1, _loading(start)), True
    data, rows = b"", []
    # The interpreter looks through them from the first to the last, so they stay in the order of their import.
    for name, (code, is_package) in codes.items():
        rows.append(f'    {{"{name}", bytecode + {len(data)}, {len(code)}, {int(is_package)}}},')
        data += code
    print(f"static const unsigned char bytecode[] = {{{','.join(map(str, data))}}};")
    print("static const struct _frozen frozen[] = {", *rows, "    {NULL, NULL, 0, 0},", "};", sep="\n")
    texts = (f'    "{os.strerror(number)}",' for number in range(max(errno.errorcode) + 1))
    print("static const char *const error_texts[] = {", *texts, "};", sep="\n")


def _modules_of(package: str, folders: list[str]) -> Iterator[str]:
    """Name all modules of a package."""
    root = next(one for one in map(Path, folders) if (one / package).is_dir())
    for file in (root / package).rglob("*.py"):
        words = file.relative_to(root).with_suffix("").parts
        yield ".".join(words[:-1] if words[-1] == "__init__" else words)


def _import_what_functions_import(module: ModuleType) -> None:
    """Import what a module imports late."""
    tree = ast.parse(Path(str(module.__file__)).read_text())
    for node in ast.walk(tree):
        names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        for name in names:
            with suppress(ImportError):
                importlib.import_module(name)


def _source(name: str, folders: list[str]) -> tuple[Path, bool] | None:
    """Return where the source of a module is, and whether it is a package; None for a built-in one."""
    if name in NOT_FROZEN:
        return None
    for folder in folders:
        path = Path(folder, *name.split("."))
        for file, is_package in ((path / "__init__.py", True), (path.with_suffix(".py"), False)):
            if file.is_file():
                return file, is_package
    return None


def _bytecode(name: str, file: Path) -> bytes:
    """Compile the module in a file; ours without annotations."""
    source = ast.parse(file.read_bytes())
    return _compiled(name, Unannotated().visit(source) if name.partition(".")[0] in {OURS, "__main__"} else source)


def _compiled(name: str, source: ast.Module) -> bytes:
    """Compile a module, without docstrings and assertions."""
    return marshal.dumps(compile(source, f"<frozen {name}>", "exec", dont_inherit=True, optimize=2))


def _loading(names: list[str]) -> ast.Module:
    """Return a module that loads others in this order, and binds each one in its package, as `import` does."""
    return ast.parse(f"""\
from _imp import init_frozen
from sys import modules
for name in {names}:
    if name not in modules:
        init_frozen(name)
    package, _, short = name.rpartition(".")
    if package in modules:
        setattr(modules[package], short, modules[name])
""")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
