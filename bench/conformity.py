"""`make conformity`: which init does what tini promises, by the suite tests/system/test_generic.py, into a page.

    python -m bench.conformity [--out FILE] [--seconds N]

Programs that are not installed are left out, and named. One test that takes longer than the limit has failed: a signal
or a child that never comes.
"""

import argparse
import ast
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree as ET

SUITE = Path("tests/system/test_generic.py")
INITS: Mapping[str, str] = {"safe_reload": "", "tini": "tini", "dumb-init": "dumb-init", "catatonit": "catatonit"}
"""Title and program; without one it is what the suite tests by itself."""
LIMIT = 6
"""Seconds that one test may take."""

HOW = (
    "The suite [tests/system/test_generic.py](../tests/system/test_generic.py) "
    "asks from outside, with real processes and signals, whether a program does what tini promises; "
    "for another one: `pytest tests/system/test_generic.py --init PROGRAM`."
)
WORDS = (
    "*3 of 8*: so many of the cases of that line. *Not asked*: safe_reload deliberately differs from tini there, "
    "and the line is only asked of those who promise it. "
    "dumb-init and catatonit do not claim to be tini: a *no* is a difference, not a fault. "
    "They are asked in their own words where these only differ in name: as a subreaper by inheritance for `-s`, "
    "and without `-g` for dumb-init, which always signals the group."
)

Outcomes = dict[str, dict[str, int]]
"""Of each test, how many of its cases passed, failed or were skipped."""


def promises() -> dict[str, str]:
    """Return each test's name and the first line of its docstring, in the file's order."""
    tree = ast.parse(SUITE.read_text(encoding="utf-8"))
    tests = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    return {test.name: (ast.get_docstring(test) or test.name).partition("\n")[0].rstrip(".") for test in tests}


def translator(folder: str) -> str:
    """Build what puts tini's -s and -g into other inits' words; see as_tini.c.

    Raises:
        SystemExit: there is no compiler.

    """
    program = str(Path(folder, "as_tini"))
    source = str(Path(__file__).with_name("as_tini.c"))
    try:
        subprocess.run(["gcc", "-O2", "-o", program, source], check=True)
    except OSError as error:
        raise SystemExit("conformity: gcc is missing: apt-get install gcc libc6-dev") from error
    return program


def run(program: str, seconds: float) -> Outcomes:
    """Run the suite for a program.

    Raises:
        SystemExit: it did not end in time, or wrote no results.

    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "junit.xml")
        words = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider", f"--junitxml={file}"]
        words += [f"--timeout={LIMIT}", str(SUITE)]
        if Path(program).name == "tini":
            words += ["--init", program]
        elif program:
            words += ["--init", f"{translator(folder)} {program}"]
        try:
            output = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False, timeout=seconds).stdout
            cases = ET.parse(file).iter("testcase")
        except (subprocess.TimeoutExpired, OSError) as error:
            raise SystemExit(f"conformity: no results for {program or 'safe_reload'}: {error}") from error
    outcomes: Outcomes = {}
    for case in cases:
        name = case.get("name", "").partition("[")[0]
        kind = next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")
        counts = outcomes.setdefault(name, {"passed": 0, "failed": 0, "skipped": 0})
        counts["failed" if kind in ("failure", "error") else kind] += 1
    sys.stderr.write(f"conformity: {program or 'safe_reload'}: {output.strip().splitlines()[-1]}\n")
    return outcomes


def cell(counts: Mapping[str, int] | None) -> str:
    """Write what came of a test's cases."""
    if counts is None or counts["passed"] + counts["failed"] == 0:
        return "not asked"
    if not counts["failed"]:
        return "yes"
    return f"{counts['passed']} of {counts['passed'] + counts['failed']}" if counts["passed"] else "**no**"


def version(program: str) -> str:
    """Return what the program says of its version; the package's where it says nothing."""
    if not program:
        text = subprocess.run(
            [sys.executable, "-m", "entrypoint", "--version"], capture_output=True, text=True, check=False
        )
    else:
        words = ["dpkg-query", "-W", "-f", "${Version}", program]
        text = subprocess.run(words, capture_output=True, text=True, check=False)
    found = re.search(r"\d[\w.+~-]*", text.stdout)
    return found[0] if found else "unknown"


def page(results: Mapping[str, Outcomes], missing: list[str]) -> str:
    """Write the table."""
    total = {}
    for title, outcomes in results.items():
        passed = sum(counts["passed"] for counts in outcomes.values())
        failed = sum(counts["failed"] for counts in outcomes.values())
        total[title] = f"{passed} of {passed + failed}"
    heads = [f"{title} {version(INITS[title])}" for title in results]
    lines = [
        "# What inits do",
        "",
        f"Made by `make conformity`; do not edit. {HOW}",
        "",
        WORDS,
        "",
        "| | " + " | ".join(heads) + " |",
        "| --- |" + " --- |" * len(heads),
        "| **all cases** | " + " | ".join(total[title] for title in results) + " |",
    ]
    for name, promise in promises().items():
        cells = [cell(outcomes.get(name)) for outcomes in results.values()]
        lines.append(f"| {promise.replace('|', chr(92) + '|')} | " + " | ".join(cells) + " |")
    if missing:
        lines += ["", f"Left out, because not installed: {', '.join(missing)}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the suite for each, and write the page."""
    parser = argparse.ArgumentParser(prog="conformity", description="run the init suite for several inits")
    parser.add_argument("--out", type=Path, default=Path("docs/conformity.md"))
    parser.add_argument("--seconds", type=float, default=1200, help="the most that one program may take (1200)")
    arguments = parser.parse_args()
    found = {title: shutil.which(program) for title, program in INITS.items() if program}
    missing = [title for title, path in found.items() if path is None]
    results = {title: run(found.get(title) or "", arguments.seconds) for title in INITS if title not in missing}
    arguments.out.write_text(page(results, missing), encoding="utf-8")
    sys.stderr.write(f"conformity: wrote {arguments.out}\n")


if __name__ == "__main__":
    main()
