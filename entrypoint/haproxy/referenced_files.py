"""The files that a haproxy configuration names and that haproxy reads when it starts.

Not among them is what haproxy writes itself (server-state-file, stats-file, backing-file, an ACME account key: to
watch those would be to reload because of a reload), what it only opens while it serves (external checks), where it
merely looks for something that is named elsewhere (lua-prepend-path), and what belongs to the system (name service,
network namespaces, OpenSSL's own files and modules).

How the lists of keywords were made: every keyword with a file, path or folder in the configuration manuals of 2.6, 3.0,
3.2 and 3.4 (and HAProxy's SPOE.txt), and every place where HAProxy 3.5's source opens or lists something; then haproxy
was traced on configurations that name each keyword, and on HAProxy's own tests (tests/system/test_opened.py).

EventLoop: sections 2.2 (quoting), 2.3 (variables), 3.1, 3.12 (crt-store), 4.2, 5.1, 5.2, 7.1 (-f), 7.3.1 (map). Of
conditional blocks (2.4) every branch counts: what decides between them may be known to haproxy only, and to watch a
file too many costs less than to miss one. For the same reason a file counts twice where haproxy's versions disagree
about what a relative path is relative to.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from posixpath import dirname, join

from entrypoint.haproxy.config_words import QUOTES, SEVERAL_WORDS, as_text, split_arguments, split_words
from entrypoint.haproxy.file_names import ANYTHING, Bases, Context, Kind, Named
from entrypoint.haproxy.keywords import (
    BLOCKS,
    LOG_FORMATS,
    NOT_IN_FILES,
    OF_A_CERTIFICATE,
    OF_A_STORE,
    OPTIONS,
    OPTIONS_FROM,
    PAYLOADS,
    PREFIXES,
    SECOND_WORD,
    SECTIONS,
    SETTERS,
    SIGNS,
)
from entrypoint.lean.record import record, replace
from entrypoint.lean.typing import assert_never

_PSEUDO = (".FILE", ".LINE", ".SECTION")
_BRANCH = "HAPROXY_BRANCH"
_BRANCHES = ("2.8", "2.9", *(f"{major}.{minor}" for major in (3, 4) for minor in range(10)))
"""All that have, or may have, that variable: it is 2.8's."""
_STARTUP_VERSION = "HAPROXY_STARTUP_VERSION"
_MOST_WORLDS = 64
_TAG = b'bind "fd@$'


def named_files(text: bytes, variables: Mapping[str, str]) -> tuple[str, ...]:
    """Return the files that this one configuration names."""
    return named_by([("", text)], variables).files


def named_by(configurations: Sequence[tuple[str, bytes]], variables: Mapping[str, str]) -> Named:
    """Return what these files name together: `crt-base`, `setenv` and `default-path` of one hold for the next.

    Args:
        configurations: path and content, in the order in which haproxy reads them.
        variables: haproxy's environment, with those that haproxy sets itself before it reads.

    """
    reader = _Reader(_worlds([text for _, text in configurations], variables))
    for path, text in configurations:
        reader.read(path, text)
    ends = [_without_pseudo(world.variables) for world in reader.worlds]
    if any(end != variables for end in ends):
        # HAProxy 3.1 and later read the global sections twice: what is set at their end holds from the beginning.
        reader.worlds = [_World(end) for end in ends]
        for path, text in configurations:
            reader.read(path, text)
    return Named(tuple(reader.files), tuple(reader.naming), tuple(reader.pairs))


def _worlds(texts: Collection[bytes], variables: Mapping[str, str], bases: Bases | None = None) -> "list[_World]":
    """Return what may hold before the first line."""
    bases = bases or Bases()
    if any(_STARTUP_VERSION.encode() in text for text in texts):
        # haproxy sets it only where it is not set.
        variables = {_STARTUP_VERSION: ANYTHING, **variables}
    worlds = [_World(dict(variables), bases)]
    if any(_BRANCH.encode() in text for text in texts):
        # To ask which haproxy it is costs a process; and of files that are not there nobody takes notice.
        worlds += [_World({**variables, _BRANCH: branch}, bases) for branch in _BRANCHES]
    return worlds


def _without_pseudo(variables: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name not in _PSEUDO}


def named_in(text: bytes, context: Context) -> Named:
    """Return the files that a file names that a configuration names; those name nothing further."""
    match context.kind:
        case Kind.CRT_LIST:
            return _named_in_crt_list(text, context.bases)
        case Kind.LOG_FORMAT:
            found = split_arguments(as_text(text))
            return Named(tuple(context.bases.at(path) for path in map(_without_prefix, found) if _is_file(path)), ())
        case Kind.FILTER:
            reader = _Reader(_worlds((text,), dict(context.variables), context.bases))
            reader.read_filter(text)
            return Named(tuple(reader.files), ())
        case _:
            assert_never(context.kind)


def _named_in_crt_list(text: bytes, bases: Bases) -> Named:
    """Return the files that a crt-list names: certificates, and what belongs to each, in its brackets."""
    found: dict[str, None] = {}
    pairs: dict[tuple[str, str], None] = {}
    for line in text.split(b"\n"):
        # No quotes, and a comment has its line. Brackets stand alone or touch what they enclose.
        if line.startswith(b"#"):
            continue
        words = [as_text(word) for word in line.replace(b"[", b" ").replace(b"]", b" ").split()]
        if words and _is_file(words[0]):
            found[bases.at(words[0], "crt")] = None
        for option, value in pairwise(words[1:]):
            if _is_file(value):
                found.update(dict.fromkeys(bases.at(value, base) for base in OF_A_CERTIFICATE.get(option, ())))
                if option == "key" and _is_file(words[0]):
                    pairs[bases.at(words[0], "crt"), bases.at(value)] = None
    return Named(tuple(found), (), tuple(pairs))


@record()
class _World:
    """What the lines so far may have made of a line: one for each way through the conditional blocks."""

    variables: dict[str, str]
    bases: Bases = Bases()
    policy: str = ""
    """The last default-path that depends on where the configuration is."""
    store: Bases | None = None
    """Inside a crt-store: its own bases."""


class _Reader:
    """A reading of configurations, line by line."""

    def __init__(self, worlds: list[_World]) -> None:
        self.files: dict[str, None] = {}
        self.naming: dict[tuple[str, Context], None] = {}
        self.pairs: dict[tuple[str, str], None] = {}
        self.worlds = worlds
        self._path = ""
        self._depth = 0
        """Of conditional blocks."""

    def read(self, path: str, text: bytes) -> None:
        """Read a configuration, without the lines that cannot tell anything."""
        self._path, self._depth = path, 0
        for world in self.worlds:
            world.store = None
            world.variables.update({".FILE": path, ".SECTION": ""})
            if world.policy:
                self._default_path(world, [world.policy])
        lines = text.split(b"\n")
        # The lines of a crt-store are all read, whatever they say.
        read_from = 0
        for number in _telling(text):
            while read_from < number and any(world.store is not None for world in self.worlds):
                self._read_line(lines[read_from], read_from + 1)
                read_from += 1
            self._read_line(lines[number], number + 1)
            read_from = number + 1
        while read_from < len(lines) and any(world.store is not None for world in self.worlds):
            self._read_line(lines[read_from], read_from + 1)
            read_from += 1

    def read_filter(self, text: bytes) -> None:
        """Read the configuration of a filter, every line."""
        for number, line in enumerate(text.split(b"\n"), start=1):
            for world in self.worlds:
                world.variables[".LINE"] = str(number)
                words = split_words(line, world.variables)
                if words[:1] in (["config"], ["plugin"]):  # OpenTracing's
                    self._add(world, *words[1:2])
                self._expressions(world, words)

    def _read_line(self, line: bytes, number: int) -> None:
        words = split_words(line, {})
        if words[:1] == [".if"]:
            self._depth += 1
        elif words[:1] == [".endif"]:
            self._depth -= 1
        for world in tuple(self.worlds):
            if b"$" in line:
                world.variables[".LINE"] = str(number)
                words = split_words(line, world.variables)
            if words:
                self._line(world, words)

    def _line(self, world: _World, words: list[str]) -> None:
        first, rest = words[0], words[1:]
        if first in SECTIONS:
            world.variables[".SECTION"] = rest[0] if rest else first
        if world.store is not None and first not in {"load", "crt-base", "key-base"} and not first.startswith("."):
            world.store = None
        if first in SECOND_WORD:
            self._add(world, *rest[:1])
        elif first in OPTIONS_FROM:
            self._options(world, words[OPTIONS_FROM[first] :], OF_A_CERTIFICATE if first == "ssl-f-use" else OPTIONS)
        elif first == "errorfile":
            self._add(world, *rest[1:2])
        elif first == "wurfl-patch-file":
            self._add(world, *rest)
        elif first == "filter":
            for path in _after(rest, frozenset({"config"})):
                self._add_naming(world, path, Kind.FILTER, tuple(sorted(world.variables.items())))
        elif first.startswith("http-"):
            self._add(world, *_after(rest, PAYLOADS))
            for path in _after(rest, LOG_FORMATS):
                self._add_naming(world, path, Kind.LOG_FORMAT)
        elif first == "load" and world.store is not None:
            self._load(rest, world.store)
        elif first in SETTERS:
            self._set(world, first, rest)
        self._expressions(world, words)

    def _expressions(self, world: _World, words: list[str]) -> None:
        """Add what stands in conditions and converters, which may be anywhere."""
        if "-f" in words and (words[0] == "acl" or any(word.lstrip("!") == "{" for word in words)):
            self._add(world, *_after(words, frozenset({"-f"})))
        for word in words:
            if "(" in word and ("map" in word or "jwt" in word):
                self._add(world, *split_arguments(word))

    def _set(self, world: _World, first: str, rest: list[str]) -> None:
        """Take note of what changes the meaning of later lines; where haproxy may not read it, as well of that."""
        before = replace(world, variables=dict(world.variables))
        self._change(world, first, rest)
        # With -L, haproxy ignores localpeer.
        if (self._depth or first == "localpeer") and before not in self.worlds and len(self.worlds) < _MOST_WORLDS:
            self.worlds.append(before)

    def _change(self, world: _World, first: str, rest: list[str]) -> None:
        value = rest[0] if rest else ""
        if first == "crt-store":
            world.store = world.bases
        elif first in {"crt-base", "ca-base", "key-base"}:
            changed = replace(world.store or world.bases, **{first.removesuffix("-base"): value})
            if world.store is None:
                world.bases = changed
            else:
                world.store = changed
        elif first == "default-path":
            self._default_path(world, rest)
        elif first == "localpeer":
            world.variables["HAPROXY_LOCALPEER"] = value
        elif first == "setenv" or (first == "presetenv" and value not in world.variables):
            world.variables[value] = " ".join(rest[1:2])
        elif first == "unsetenv":
            for name in rest:
                world.variables.pop(name, None)
        elif first == "resetenv":
            stays = {*rest, *_PSEUDO}
            world.variables = {name: text for name, text in world.variables.items() if name in stays}

    def _default_path(self, world: _World, words: list[str]) -> None:
        policy = words[0] if words else ""
        world.policy = policy if policy in {"config", "parent"} else ""
        folder = ""
        if policy in {"config", "parent"}:
            folder = dirname(self._path)
        if policy == "parent":
            folder = join(folder, "..")
        if policy == "origin":
            folder = words[1] if len(words) > 1 else ""
        world.bases = replace(world.bases, folder=folder)

    def _options(self, world: _World, words: list[str], options: Mapping[str, tuple[str, ...]]) -> None:
        for option, value in pairwise(words):
            if option == "crt-list":
                self._add_naming(world, value, Kind.CRT_LIST)
            else:
                for base in options.get(option, ()):
                    self._add(world, value, base=base)
        if options is OF_A_CERTIFICATE:
            self._add_pair(words, world.bases, "")

    def _load(self, words: list[str], store: Bases) -> None:
        for option, value in pairwise(words):
            if option in OF_A_STORE and _is_file(value):
                self.files[store.at(value, OF_A_STORE[option])] = None
        self._add_pair(words, store, "key")

    def _add_pair(self, words: list[str], bases: Bases, base_of_key: str) -> None:
        given = dict(pairwise(words))
        certificate, key = given.get("crt", ""), given.get("key", "")
        if _is_file(certificate) and _is_file(key):
            self.pairs[bases.at(certificate, "crt"), bases.at(key, base_of_key)] = None

    def _add(self, world: _World, *paths: str, base: str = "") -> None:
        for path in paths:
            bare = _without_prefix(path)
            if _is_file(bare):
                self.files[world.bases.at(bare, base)] = None

    def _add_naming(self, world: _World, path: str, kind: Kind, variables: tuple[tuple[str, str], ...] = ()) -> None:
        if _is_file(path):
            self._add(world, path)
            self.naming[world.bases.at(path), Context(kind, world.bases, variables)] = None


def _telling(text: bytes) -> list[int]:
    """Return the numbers, from 0, of the lines that may name a file or change what others name.

    Most name none, and a configuration can have a hundred thousand: so it is the text that is searched, once for each
    of a few bytes, and no line is looked at before it has one. Quotes and backslashes may stand inside a word.
    """
    found: set[int] = set()
    bare = text.translate(None, QUOTES)
    for sign in SIGNS:
        found.update(_lines_with(sign, bare))
    if b".if" in bare:
        for sign in BLOCKS:
            found.update(_lines_with(sign, bare))
    if b".SECTION" in bare:
        for section in SECTIONS:
            found.update(_lines_with(section.encode(), bare))
    # Letters can be written as bytes.
    found.update(_lines_with(rb"\x", text))
    if len(bare) != len(text):
        # Inside quotes a variable can be any word; but not where it is a VIP's tag, of which there can be thousands.
        text = text if SEVERAL_WORDS in text else text.replace(_TAG, _TAG[:-1])
        lines = text.split(b"\n") if b"$" in text else []
        found.update(n for n in _lines_with(b"$", text) if len(lines[n].translate(None, QUOTES)) != len(lines[n]))
    return sorted(found)


def _lines_with(sign: bytes, text: bytes) -> Iterator[int]:
    number = counted = 0
    at = text.find(sign)
    while at >= 0:
        number += text.count(b"\n", counted, at)
        yield number
        counted = text.find(b"\n", at)
        if counted < 0:
            return
        at = text.find(sign, counted)


def _is_file(path: str) -> bool:
    """Tell whether a value is a path: not one of haproxy's names (`@system-ca`, `@store/name`, `virt@name`)."""
    return bool(path) and not path.startswith(NOT_IN_FILES)


def _without_prefix(path: str) -> str:
    for prefix in PREFIXES:
        if path.startswith(prefix):
            return path.removeprefix(prefix)
    return path


def _after(words: list[str], keywords: frozenset[str]) -> list[str]:
    return [value for word, value in pairwise(words) if word in keywords]


__all__ = ["Bases", "Context", "Kind", "Named", "named_by", "named_files", "named_in"]
