"""Draws what the documentation shows of the code: the diagrams of all states, the options, the verbs.

`python -m tools.draw` writes them into the files that show them.
"""

import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

from entrypoint.core.events import (
    Answered,
    Elapsed,
    Event,
    Exited,
    NotSpawned,
    ReloadAsked,
    Seen,
    Signalled,
    Spawned,
    Stirred,
    StopAsked,
    Unanswered,
    Why,
)
from entrypoint.core.state import Candidate
from entrypoint.options.settings import OPTIONS, Option
from entrypoint.options.verbs import VERBS, help_line
from tests.core.explorer import Transition, explore
from tests.core.world import SMALL

_PHASES = {
    "Candidate": "candidate",
    "Current": "current",
    "Retiring": "retiring",
    "Draining": "draining",
    "Ending": "ending",
}
_GONE = "[*]"


def _cause(event: Event) -> str:
    match event:
        case Answered():
            return "answers"
        case Unanswered():
            return "hangs up"
        case Exited():
            return "dies"
        case NotSpawned():
            return "cannot start"
        case Spawned():
            return "starts"
        case Elapsed(timer=timer):
            return f"{timer.clock} timer"
        case ReloadAsked():
            return "reload"
        case StopAsked():
            return "TERM"
        case Seen(why=Why.CANDIDATE):
            return "answers"
        case Seen(why=Why.START):
            return "starts"
        case Stirred() | Seen():
            return "files change"
        case Signalled(signum=signum):
            return {1: "reload", 10: "reload", 12: "reload", 15: "TERM", 3: "QUIT"}.get(signum, "signal")
        case _:
            return ""


def _generation_edges(transitions: list[Transition]) -> Iterator[tuple[str, str, str]]:
    for taken in transitions:
        after = {generation.number: generation for generation in taken.after.generations}
        for generation in taken.before.generations:
            was = _PHASES[type(generation.phase).__name__]
            own = getattr(taken.event, "number", None) == generation.number or (
                isinstance(taken.event, Elapsed) and taken.event.timer.number == generation.number
            )
            now = _PHASES[type(after[generation.number].phase).__name__] if generation.number in after else _GONE
            if was == now:
                continue
            if isinstance(taken.event, Signalled | StopAsked):
                yield was, now, "a stop"
            elif own:
                yield was, now, _cause(taken.event)
            elif isinstance(taken.event, Answered | Seen) and was == "current":
                yield was, now, "its successor answers"
            else:
                yield was, now, "a stop" if _stops(taken) else "too many drain"
        born = [g for g in taken.after.generations if g.number > taken.before.last_number]
        if born and isinstance(born[0].phase, Candidate):
            yield _GONE, "candidate", "start, reload, or a death"


def _stops(taken: Transition) -> bool:
    return type(taken.after.stage) is not type(taken.before.stage)


def _stage_edges(transitions: list[Transition]) -> Iterator[tuple[str, str, str]]:
    names = {"Serving": "serving", "BackingOff": "backing_off", "Lingering": "lingering", "Stopping": "stopping"}
    for taken in transitions:
        was, now = (names.get(type(state.stage).__name__, _GONE) for state in (taken.before, taken.after))
        if was != now:
            cause = _cause(taken.event)
            yield was, now, "a generation dies" if cause in {"dies", "cannot start"} else cause


def _mermaid(edges: Iterator[tuple[str, str, str]]) -> str:
    causes: dict[tuple[str, str], set[str]] = {}
    for was, now, cause in edges:
        causes.setdefault((was, now), set()).add(cause)
    lines = [f"    {was} --> {now}: {', '.join(sorted(why))}" for (was, now), why in sorted(causes.items())]
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```"])


def diagrams() -> dict[str, str]:
    """Return each diagram by its name."""
    found = explore(SMALL)
    return {
        "generation": _mermaid(_generation_edges(found.transitions)),
        "stage": _mermaid(_stage_edges(found.transitions)),
    }


_FILES = ("README.md", "docs/lifecycle.md", "docs/reference.md", "docs/safe_reload.8")


def options() -> str:
    """Return the table of options."""
    rows = ["| option | default | meaning |", "| --- | --- | --- |"]
    for option in OPTIONS:
        default = option.shown_default
        shown = f"{option.shown} {option.metavar}".strip()
        rows.append(f"| `{shown}` | {default} | {option.help} |")
    rows += ["| `-h`, `--help` | | show the help text |", "| `-l` | | show the licence |"]
    rows += ["| `--version` | | show the version |"]
    return "\n".join(rows)


def _roff(text: str) -> str:
    """Write a text so that roff shows it as it is (groff_man_style(7), "Portability"), in lines that mandoc likes."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    lines = textwrap.wrap(escaped, 80, break_long_words=False, break_on_hyphens=False)
    return "\n".join(f"\\&{line}" if line.startswith(".") else line for line in lines)


def _roff_option(option: Option, help_line: str) -> list[str]:
    default = option.shown_default
    name = f'.BI {_roff(option.shown)} " {option.metavar}"' if option.metavar else f".B {_roff(option.shown)}"
    return [".TP", name, _roff(help_line + (f" [{default}]" if default else ""))]


def roff_options() -> str:
    """Return the options for the man page."""
    lines = [line for option in OPTIONS for line in _roff_option(option, option.help)]
    lines += [".TP", '.BR \\-h ", " \\-\\-help', "show the help text"]
    lines += [".TP", ".B \\-l", "show the licence", ".TP", ".B \\-\\-version", "show the version"]
    return "\n".join(lines)


def roff_verbs() -> str:
    """Return the verbs for the man page."""
    lines = []
    for verb in VERBS:
        lines += [".SS " + verb.name, _roff(f"{verb.summary[0].upper()}{verb.summary[1:]}.")]
        lines += [_roff(line) for line in verb.details]
        for option in verb.options:
            lines += _roff_option(option, help_line(option))
        if verb.statuses:
            lines += [".PP", "Exit status:"]
        for status, meaning in verb.statuses:
            lines += [".TP", f".B {status}", _roff(meaning)]
    return "\n".join(lines)


def stale(root: Path, *, write: bool) -> list[str]:
    """Return the files that do not show what the code says; write them if asked to."""
    drawn = {
        **{f"<!-- diagram: {name} -->": text for name, text in diagrams().items()},
        "<!-- options -->": options(),
        '.\\" options': roff_options(),
        '.\\" verbs': roff_verbs(),
    }
    names = "|".join(map(re.escape, drawn))
    old = []
    for name in _FILES:
        text = (root / name).read_text()
        new = re.sub(
            rf'^({names})\n.*?^(<!-- end -->|\.\\" end)$',
            lambda found: f"{found[1]}\n{drawn[found[1]]}\n{found[2]}",
            text,
            flags=re.DOTALL | re.MULTILINE,
        )
        if new != text:
            old.append(name)
            if write:
                (root / name).write_text(new)
    return old


if __name__ == "__main__":
    sys.stdout.write("".join(f"written: {name}\n" for name in stale(Path(__file__).parents[1], write=True)))
