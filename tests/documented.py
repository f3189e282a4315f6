"""What the documentation shows: its pages, and every command and block in them, in order."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]

PAGES = sorted(
    str(path.relative_to(ROOT))
    for folder in ("", "docs", "bench", "k8s", "systemd", "docker", "tests")
    for path in (ROOT / folder).glob("*.md" if not folder else "**/*.md")
)

PAGES.append("docs/safe_reload.8")

SHELL = {"sh", "bash", "console"}

# Code in a sentence is a command if it begins with one of these and says what is to be done with what.
_ONE_WORD_MORE = r"apt-get install|bench/\S+|cp|gcc|kill|make|pgrep|pipx|pkill|pytest|python3|safe_reload"
_TWO_WORDS_MORE = r"docker|git|helm|kubectl|pip|podman|systemctl|systemd-analyze|journalctl"
_INLINE = re.compile(
    rf"`((?:\w+=\S+ )*(?:bench/\S+|(?:{_ONE_WORD_MORE})\s[^`]+|(?:{_TWO_WORDS_MORE})\s[^`\s]+\s[^`]+))`"
)


class Shown(NamedTuple):
    """A command with the output that the page shows for it, or a block that is none."""

    page: str
    line: int
    language: str
    """Of the block; empty for a command in a sentence."""
    text: str
    """The command without its comment; of a block that is none, all of it."""
    output: str = ""

    @property
    def is_command(self) -> bool:
        """Tell whether a shell runs it."""
        return not self.language or self.language in SHELL


def shown(page: str) -> list[Shown]:
    """Return every command and every other block of a page, in order."""
    found: list[Shown] = []
    if page == "CHANGELOG.md":  # what was, and not what to do
        return found
    if page.endswith(".8"):
        return _examples(page)
    lines = iter(enumerate((ROOT / page).read_text().splitlines(), 1))
    for number, line in lines:
        if fence := re.match(r"(\s*)```(.*)", line):
            block = []
            for _, inner in lines:
                if inner.strip() == "```":
                    break
                block.append(inner.removeprefix(fence[1]))
            found += _block(page, number + 1, fence[2].strip(), block)
        else:
            # A block that is only indented has no language: what it is cannot be known, so it is not used here.
            assert not line.startswith("    "), f"{page}:{number}: fence this block, with its language: {line}"
            found += [Shown(page, number, "", match[1]) for match in _INLINE.finditer(line) if "..." not in match[1]]
    return found


def _examples(page: str) -> list[Shown]:
    """Return what a man page has between .EX and .EE, each line a command."""
    found, inside = [], False
    for number, line in enumerate((ROOT / page).read_text().splitlines(), 1):
        if line.startswith("."):
            inside = line == ".EX"
        elif inside:
            found.append(Shown(page, number, "sh", line.replace(r"\-", "-").replace(r"\(aq", "'")))
    return found


def the(page: str, beginning: str) -> Shown:
    """Return the one thing on a page that is this, or begins so.

    Raises:
        AssertionError: the page does not show it, or shows several.

    """
    found = {item.text: item for item in shown(page) if item.text.startswith(beginning)}
    assert found, f"{page} does not show any more what begins with {beginning!r}: correct the test, or the page"
    assert beginning in found or len(found) == 1, f"{page} shows several things that begin so: {', '.join(found)}"
    return found.get(beginning) or next(iter(found.values()))


def _block(page: str, line: int, language: str, block: list[str]) -> Iterator[Shown]:
    if any(text.startswith("$ ") for text in block):
        for part in re.split(r"^\$ ", "\n".join(block), flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield Shown(page, line, "console", command, output.rstrip("\n"))
    elif language in SHELL:
        command = ""
        for number, text in enumerate(block, line):
            command += re.sub(r"(^|\s+)# .*", "", text) + "\n"
            if command.startswith("for ") and text != "done" and not text.startswith("done "):
                continue
            if command.strip():
                yield Shown(page, number, language, command.strip())
            command = ""
    else:
        yield Shown(page, line, language, "\n".join(block))


_DIGEST, _DURATION, _GAP = "\0", "\1", "\2"
_ANY = {_DIGEST: "[0-9a-f]{12}", _DURATION: r"(?:\d+(?:\.\d+)?[dhms])+", _GAP: " +"}


def looks_like(text: str) -> re.Pattern[str]:
    """Return what finds an output in the form that a page shows.

    Any number stands for a number, any duration for a duration, any gap for one between columns, any lines for `...`.
    """
    pattern = ""
    for line in text.splitlines():
        if line.strip() == "...":
            pattern += r"(?:.*\n)*?"
            continue
        escaped = re.sub(r"\b[0-9a-f]{12}\b", _DIGEST, line)
        escaped = re.sub(r"\b(?:\d+(?:\.\d+)?[dhms])+\b", _DURATION, escaped)
        escaped = re.sub(r" {2,}", _GAP, escaped)
        escaped = re.sub(r"\d+", r"\\d+", re.escape(escaped))
        for mark, any_of_it in _ANY.items():
            escaped = escaped.replace(mark, any_of_it)
        pattern += escaped + r"\n"
    return re.compile(pattern)
