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
from importlib.machinery import BuiltinImporter, ExtensionFileLoader, ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

OURS = "entrypoint"
OWN_BUILTINS = {"_prctl", "_libc"}
ENCODINGS = ("encodings.aliases", "encodings.ascii", "encodings.latin_1", "encodings.utf_8")
"""The interpreter finds them by name."""
NEEDED = ("prometheus_client",)
"""Its absence would be an error of the exporter, not of the build."""
FOR_OTHERS = {"_sha256", "_ctypes"}
"""`entrypoint/lean` asks for them where a Python lacks what this one has."""
BOOTSTRAP = {"importlib._bootstrap", "importlib._bootstrap_external", "zipimport"}
"""The interpreter has them in it in any case."""


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
        return None if name in FOR_OTHERS or (is_binary and name not in self._builtins) else found


def main(config: str, folders: list[str]) -> None:
    """Print the table."""
    builtins = set(re.findall(r'\{"(\w+)", ', Path(config).read_text())) | OWN_BUILTINS
    sys.path[:0] = folders
    sys.meta_path[:] = [TargetFinder(builtins)]
    names = sorted(_modules_of(OURS, folders))
    for name in (*NEEDED, *names, *ENCODINGS):
        importlib.import_module(name)
    for name in names:
        _import_what_functions_import(sys.modules[name])
    frozen = {name: source for name in sys.modules if name != "__main__" and (source := _source(name, folders))}
    frozen["__main__"] = frozen[f"{OURS}.__main__"]
    data, rows = b"", []
    for name in sorted(frozen):
        file, is_package = frozen[name]
        code = _bytecode(name, file)
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
    if name in BOOTSTRAP:
        return None
    for folder in folders:
        path = Path(folder, *name.split("."))
        for file, is_package in ((path / "__init__.py", True), (path.with_suffix(".py"), False)):
            if file.is_file():
                return file, is_package
    return None


def _bytecode(name: str, file: Path) -> bytes:
    """Compile a module, without docstrings and assertions."""
    return marshal.dumps(compile(file.read_bytes(), f"<frozen {name}>", "exec", dont_inherit=True, optimize=2))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
