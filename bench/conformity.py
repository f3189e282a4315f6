"""`make conformity`: who does what tini promises, and what haproxy's own master does, by two suites, into two pages.

    python -m bench.conformity [--only inits|masters] [--static FILE] [--out FOLDER] [--seconds N]

Inits that are not installed are left out, and named. One test that takes longer than its limit has failed: a signal or
a child that never comes, an answer that is waited for.
"""

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

INITS = ("tini", "dumb-init", "catatonit")
"""Those that are not ours: names of programs, and of the Debian packages that they are in."""


@dataclass(frozen=True)
class Suite:
    """The tests that ask, and the page that tells."""

    title: str
    file: Path
    page: str
    limit: int
    """Seconds that one test may take."""
    how: str
    words: str


INIT = Suite(
    "What inits do",
    Path("tests/system/test_generic.py"),
    "conformity.md",
    6,
    "The suite [tests/system/test_generic.py](../tests/system/test_generic.py) "
    "tests from outside, with real processes and signals, whether a program does what tini promises; "
    "to test another one: `pytest tests/system/test_generic.py --init PROGRAM`.",
    "*3 of 8* is the number of cases of that line that pass. "
    "*Not asked*: safe_reload deliberately differs from tini there, "
    "as the text in brackets explains, and only the inits that promise it are tested. "
    "dumb-init and catatonit do not claim to be tini: a *no* is a difference, not a fault. "
    "If only the name of an option differs, they are tested with their own option: "
    "as a subreaper by inheritance for `-s`, "
    "and without `-g` for dumb-init, which always signals the group.",
)
MASTER = Suite(
    "What masters of haproxy do",
    Path("tests/container/test_masters.py"),
    "masters.md",
    120,
    "The suite [tests/container/test_masters.py](../tests/container/test_masters.py) "
    "tests safe_reload and haproxy's own master (`haproxy -Ws -S`) against sd_notify(3) and the CLI of that master, "
    "from outside, in containers; to run it by hand: `pytest tests/container/test_masters.py --master haproxy`.",
    "*2 of 3* is the number of cases of that line that pass; safe_reload is tested with each version of HAProxy. "
    "*Not asked*: safe_reload cannot do it, or it cannot be observed with haproxy's master. "
    "Some lines go beyond what haproxy's master claims: a *no* is a difference, not a fault. "
    "Other differences are in [control-socket.md](control-socket.md).",
)

DIFFERENCES = {"ours_is_better": "", "tini_only": "for safe_reload "}
"""The markers of a test that is not asked of everybody; each says why."""

Case = tuple[str, str, str]
"""The name of a test, its parameters, and what came of it: passed, failed or skipped."""
Outcomes = dict[str, dict[str, int]]
"""Of each test, how many of its cases passed, failed or were skipped."""


def promises(suite: Suite) -> dict[str, str]:
    """Return each test's name and the first line of its docstring, in the file's order.

    Where the others are not asked, the reason follows: a marker of the test says in what they differ.
    """
    tree = ast.parse(suite.file.read_text(encoding="utf-8"))
    tests = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    return {
        test.name: (ast.get_docstring(test) or test.name).partition("\n")[0].rstrip(".") + _difference(test)
        for test in tests
    }


def _difference(test: ast.FunctionDef) -> str:
    for mark in test.decorator_list:
        match mark:
            case ast.Call(func=ast.Name(id=name), args=[ast.Constant(value=str(reason))]) if name in DIFFERENCES:
                return f" ({DIFFERENCES[name]}*{reason}*)"
            case _:
                continue
    return ""


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


def run(suite: Suite, words: Sequence[str], seconds: float, ours: str = "") -> list[Case]:
    """Run a suite with these options; `ours` is the file of safe_reload that it tests, instead of this package.

    Raises:
        SystemExit: it did not end in time, or wrote no results.

    """
    name = " ".join(words) or ours or "safe_reload"
    environment = {**os.environ, "TEST_PROGRAM": ours}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "junit.xml")
        pytest = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider", f"--junitxml={file}"]
        pytest += [f"--timeout={suite.limit}", str(suite.file), *words]
        try:
            done = subprocess.run(
                pytest, env=environment, stdout=subprocess.PIPE, text=True, check=False, timeout=seconds
            )
            cases = list(ET.parse(file).iter("testcase"))
        except (subprocess.TimeoutExpired, OSError) as error:
            raise SystemExit(f"conformity: no results for {name}: {error}") from error
    sys.stderr.write(f"conformity: {name}: {done.stdout.strip().splitlines()[-1]}\n")
    found = []
    for case in cases:
        kind = next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")
        test, _, parameters = case.get("name", "").partition("[")
        found.append((test, parameters.rstrip("]"), "failed" if kind in ("failure", "error") else kind))
    return found


def count(cases: Sequence[Case], first: str = "") -> Outcomes:
    """Count what came of each test; of all cases, or of those whose first parameter is this one."""
    outcomes: Outcomes = {}
    for test, parameters, kind in cases:
        if first in ("", parameters.partition("-")[0]):
            outcomes.setdefault(test, {"passed": 0, "failed": 0, "skipped": 0})[kind] += 1
    return outcomes


def cell(counts: Mapping[str, int] | None) -> str:
    """Write what came of a test's cases."""
    if counts is None or counts["passed"] + counts["failed"] == 0:
        return "not asked"
    if not counts["failed"]:
        return "yes"
    return f"{counts['passed']} of {counts['passed'] + counts['failed']}" if counts["passed"] else "**no**"


def version(words: Sequence[str]) -> str:
    """Return the version that a command prints."""
    text = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    found = re.search(r"\d[\w.+~-]*", text)
    return found[0] if found else "unknown"


def own_version() -> str:
    """Return the version of this package."""
    return version([sys.executable, "-m", "entrypoint", "--version"])


def page(suite: Suite, results: Mapping[str, Outcomes], missing: Sequence[str] = ()) -> str:
    """Write the table."""
    total = {}
    for title, outcomes in results.items():
        passed = sum(counts["passed"] for counts in outcomes.values())
        failed = sum(counts["failed"] for counts in outcomes.values())
        total[title] = f"{passed} of {passed + failed}"
    lines = [
        f"# {suite.title}",
        "",
        f"Made by `make conformity`; do not edit. {suite.how}",
        "",
        suite.words,
        "",
        "| | " + " | ".join(results) + " |",
        "| --- |" + " --- |" * len(results),
        "| **all cases** | " + " | ".join(total[title] for title in results) + " |",
    ]
    for name, promise in promises(suite).items():
        cells = [cell(outcomes.get(name)) for outcomes in results.values()]
        lines.append(f"| {promise.replace('|', chr(92) + '|')} | " + " | ".join(cells) + " |")
    if missing:
        lines += ["", f"Left out, because not installed: {', '.join(missing)}."]
    return "\n".join(lines) + "\n"


def inits(seconds: float, static: Path | None) -> str:
    """Ask all inits that are installed."""
    results = {f"safe_reload {own_version()}": count(run(INIT, [], seconds))}
    missing = []
    if static:
        cases = run(INIT, [], seconds, str(static.resolve(strict=True)))
        results[f"its static file {version([str(static), '--version'])}"] = count(cases)
    else:
        missing.append("the static file")
    with tempfile.TemporaryDirectory() as folder:
        for name in INITS:
            program = shutil.which(name)
            if not program:
                missing.append(name)
                continue
            under = program if name == "tini" else f"{translator(folder)} {program}"
            package = version(["dpkg-query", "-W", "-f", "${Version}", name])
            results[f"{name} {package}"] = count(run(INIT, ["--init", under], seconds))
    return page(INIT, results, missing)


def masters(seconds: float) -> str:
    """Ask safe_reload with every version of HAProxy, and the master of each."""
    results = {f"safe_reload {own_version()}": count(run(MASTER, [], seconds))}
    cases = run(MASTER, ["--master", "haproxy"], seconds)
    versions = dict.fromkeys(parameters.partition("-")[0] for _, parameters, _ in cases)
    results |= {f"haproxy {one}": count(cases, one) for one in versions}
    return page(MASTER, results)


def main() -> None:
    """Run the suites, and write the pages."""
    parser = argparse.ArgumentParser(prog="conformity", description="hold inits, and masters of haproxy, to promises")
    parser.add_argument("--only", choices=("inits", "masters"), help="one of the two pages")
    parser.add_argument("--static", metavar="FILE", type=Path, help="the static file, a column of its own")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="where the pages go (docs)")
    parser.add_argument("--seconds", type=float, default=1200, help="the most that one program may take (1200)")
    arguments = parser.parse_args()
    if arguments.only in (None, "inits"):
        _write(arguments.out / INIT.page, inits(arguments.seconds, arguments.static))
    if arguments.only in (None, "masters"):
        _write(arguments.out / MASTER.page, masters(arguments.seconds))


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
    sys.stderr.write(f"conformity: wrote {file}\n")


if __name__ == "__main__":
    main()
