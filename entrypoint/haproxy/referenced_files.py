"""Finds the files that a haproxy configuration names and that haproxy reads when it starts.

Not included are files that haproxy writes itself (server-state-file, stats-file, backing-file, an ACME account key: to
watch them would cause a reload after each reload), files that it opens only while it serves (external checks), search
paths for files named elsewhere (lua-prepend-path), and files of the system (name service, network namespaces, OpenSSL's
own files and modules).

The lists of keywords come from every keyword with a file, path or folder in the configuration manuals of 2.6, 3.0, 3.2
and 3.4 (and HAProxy's SPOE.txt), and from every place where HAProxy 3.5's source opens or lists something. They are
tested by tracing haproxy with configurations that name each keyword, and with HAProxy's own tests
(tests/system/test_opened.py).

Sources: sections 2.2 (quoting), 2.3 (variables), 3.1, 3.12 (crt-store), 4.2, 5.1, 5.2, 7.1 (-f), 7.3.1 (map). All
branches of conditional blocks (2.4) count: only haproxy may know the condition, and to watch a file too many costs less
than to miss one. For the same reason a file counts twice if haproxy's versions disagree about what a relative path is
relative to.
"""

from __future__ import annotations

from itertools import pairwise
from posixpath import dirname, join

from entrypoint.haproxy.config_text import QUOTES, SEVERAL_WORDS, as_text, split_arguments, split_words
from entrypoint.haproxy.file_names import (
    ANYTHING,
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
    TAKEN,
    Bases,
    Context,
    Kind,
    Named,
    Store,
)
from entrypoint.lean.collections import Collection, Iterator, Mapping, MappingProxyType, Sequence
from entrypoint.lean.record import record, replace
from entrypoint.lean.typing import assert_never

_PSEUDO = (".FILE", ".LINE", ".SECTION")
_BRANCH = "HAPROXY_BRANCH"
_BRANCHES = ("2.8", "2.9", *(f"{major}.{minor}" for major in (3, 4) for minor in range(10)))
"""The values that the variable may have; HAProxy 2.8 introduced it."""
_STARTUP_VERSION = "HAPROXY_STARTUP_VERSION"
_MOST_STATES = 64
_TAG = b'bind "fd@$'


def named_by(configurations: Sequence[tuple[str, bytes]], variables: Mapping[str, str]) -> Named:
    """Return the files that configurations name together: `crt-base` and the like of one apply to the next.

    Args:
        configurations: path and content, in the order in which haproxy reads them.
        variables: haproxy's environment, with the variables that haproxy sets before it reads.

    """
    reader = _Reader(_initial_states([text for _, text in configurations], variables))
    for path, text in configurations:
        reader.read(path, text)
    ends = [{name: v for name, v in state.variables.items() if name not in _PSEUDO} for state in reader.states]
    if any(end != variables for end in ends):
        # HAProxy 3.1 and later read the global sections twice: variables set in them apply from the first line on.
        reader.states = [_State(end) for end in ends]
        for path, text in configurations:
            reader.read(path, text)
    return Named(tuple(reader.files), tuple(reader.naming), tuple(reader.stores), frozenset(reader.fixed))


def _initial_states(texts: Collection[bytes], variables: Mapping[str, str], bases: Bases | None = None) -> list[_State]:
    """Return what may apply before the first line."""
    bases = bases or Bases()
    if any(_STARTUP_VERSION.encode() in text for text in texts):
        # haproxy sets it unless it is set already.
        variables = {_STARTUP_VERSION: ANYTHING, **variables}
    states = [_State(dict(variables), bases)]
    if any(_BRANCH.encode() in text for text in texts):
        # Asking haproxy for its version costs a process. Files that do not exist do no harm.
        states += [_State({**variables, _BRANCH: branch}, bases) for branch in _BRANCHES]
    return states


def named_in(text: bytes, context: Context) -> Named:
    """Return the files that a file in `Named.naming` names; those name no further files."""
    match context.kind:
        case Kind.CRT_LIST:
            return _named_in_crt_list(text, context.bases)
        case Kind.LOG_FORMAT:
            found = split_arguments(as_text(text))
            files = tuple(context.bases.at(path) for path in map(_without_prefix, found) if _is_file(path))
            return Named(files, (), fixed=frozenset(files))
        case Kind.FILTER:
            reader = _Reader(_initial_states((text,), dict(context.variables), context.bases))
            reader.read_filter(text)
            return Named(tuple(reader.files), (), fixed=frozenset(reader.files))
        case _:
            assert_never(context.kind)


def _named_in_crt_list(text: bytes, bases: Bases) -> Named:
    """Return the files that a crt-list names: certificates, and in brackets the files of their options."""
    found: dict[str, None] = {}
    stores: dict[Store, None] = {}
    for line in text.split(b"\n"):
        # A crt-list has no quotes, and comments only as whole lines. Brackets may stand alone or touch a word.
        if line.startswith(b"#"):
            continue
        words = [as_text(word) for word in line.replace(b"[", b" ").replace(b"]", b" ").split()]
        if words and _is_file(words[0]):
            found[bases.at(words[0], "crt")] = None
            stores[_store(words[0], words[1:], bases)] = None
        for option, value in pairwise(words[1:]):
            if _is_file(value):
                found.update(dict.fromkeys(bases.at(value, base) for base in OF_A_CERTIFICATE.get(option, ())))
    return Named(tuple(found), (), tuple(stores))


_NO_BASES: Mapping[str, str] = MappingProxyType({})


def _store(name: str, words: list[str], bases: Bases, base_of: Mapping[str, str] = _NO_BASES) -> Store:
    """Return the certificate of this name, with the files that its options name.

    Args:
        name: of the certificate, as the configuration has it.
        words: options, each followed by its value.
        bases: what they are relative to.
        base_of: which base applies to which option, where one does.

    """
    given = {option: value for option, value in pairwise(words) if option in OF_A_STORE and _is_file(value)}
    files = {o: bases.at(value, base_of.get(o, "")) for o, value in given.items() if o != "crt"}
    return Store(replace(bases, folder="").at(name, "crt"), bases.at(name, "crt"), **files)


@record()
class _State:
    """What the lines before may have set. There is one state for each way through the conditional blocks."""

    variables: dict[str, str]
    bases: Bases = Bases()
    policy: str = ""
    """The last default-path, if it is relative to the configuration's folder (`config` or `parent`)."""
    store: Bases | None = None
    """The bases of the current crt-store; None outside of one."""
    store_name: str = ""


class _Reader:
    """Reads configurations line by line and collects the files that they name."""

    def __init__(self, states: list[_State]) -> None:
        self.files: dict[str, None] = {}
        self.naming: dict[tuple[str, Context], None] = {}
        self.stores: dict[Store, None] = {}
        self.fixed: set[str] = set()
        self.states = states
        self._path = ""
        self._depth = 0
        """The depth of conditional blocks."""

    def read(self, path: str, text: bytes) -> None:
        """Read a configuration; skip the lines that cannot matter."""
        self._path, self._depth = path, 0
        for state in self.states:
            state.store = None
            state.variables.update({".FILE": path, ".SECTION": ""})
            if state.policy:
                self._default_path(state, [state.policy])
        lines = text.split(b"\n")
        at = 0
        for number in (*_relevant_lines(text), len(lines)):
            # In a crt-store every line matters.
            while at < number and any(state.store is not None for state in self.states):
                self._read_line(lines[at], at + 1)
                at += 1
            if number < len(lines):
                self._read_line(lines[number], number + 1)
            at = number + 1

    def read_filter(self, text: bytes) -> None:
        """Read every line of a filter's configuration."""
        for number, line in enumerate(text.split(b"\n"), start=1):
            for state in self.states:
                state.variables[".LINE"] = str(number)
                words = split_words(line, state.variables)
                if words[:1] in (["config"], ["plugin"]):  # of OpenTracing
                    self._add(state, *words[1:2])
                self._expressions(state, words)

    def _read_line(self, line: bytes, number: int) -> None:
        words = split_words(line, {})
        if words[:1] == [".if"]:
            self._depth += 1
        elif words[:1] == [".endif"]:
            self._depth -= 1
        for state in tuple(self.states):
            if b"$" in line:
                state.variables[".LINE"] = str(number)
                words = split_words(line, state.variables)
            if words:
                self._line(state, words)

    def _line(self, state: _State, words: list[str]) -> None:
        first, rest = words[0], words[1:]
        if first in SECTIONS:
            state.variables[".SECTION"] = rest[0] if rest else first
        if state.store is not None and first not in {"load", "crt-base", "key-base"} and not first.startswith("."):
            state.store = None
        if first in SECOND_WORD:
            self._add(state, *rest[:1])
        elif first in OPTIONS_FROM:
            self._options(state, words[OPTIONS_FROM[first] :], OF_A_CERTIFICATE if first == "ssl-f-use" else OPTIONS)
        elif first == "errorfile":
            self._add(state, *rest[1:2])
        elif first == "wurfl-patch-file":
            self._add(state, *rest)
        elif first == "filter":
            for path in _after(rest, frozenset({"config"})):
                self._add_naming(state, path, Kind.FILTER, tuple(sorted(state.variables.items())))
        elif first.startswith("http-"):
            self._add(state, *_after(rest, PAYLOADS))
            for path in _after(rest, LOG_FORMATS):
                self._add_naming(state, path, Kind.LOG_FORMAT)
        elif first == "load" and state.store is not None:
            self._load(rest, state.store, state)
        elif first in SETTERS:
            self._set(state, first, rest)
        self._expressions(state, words)

    def _expressions(self, state: _State, words: list[str]) -> None:
        """Add the files that conditions and converters name, which may be in any line."""
        if "-f" in words and (words[0] == "acl" or any(word.lstrip("!") == "{" for word in words)):
            self._add(state, *_after(words, frozenset({"-f"})), taken=True)
        for word in words:
            if "(" in word and ("map" in word or "jwt" in word):
                self._add(state, *split_arguments(word), taken="jwt" not in word)

    def _set(self, state: _State, first: str, rest: list[str]) -> None:
        """Change the state; if haproxy may skip the line, keep the unchanged state as well."""
        before = replace(state, variables=dict(state.variables))
        self._change(state, first, rest)
        # With -L haproxy ignores localpeer.
        if (self._depth or first == "localpeer") and before not in self.states and len(self.states) < _MOST_STATES:
            self.states.append(before)

    def _change(self, state: _State, first: str, rest: list[str]) -> None:
        value = rest[0] if rest else ""
        if first == "crt-store":
            state.store, state.store_name = state.bases, value
        elif first in {"crt-base", "ca-base", "key-base"}:
            changed = replace(state.store or state.bases, **{first.removesuffix("-base"): value})
            if state.store is None:
                state.bases = changed
            else:
                state.store = changed
        elif first == "default-path":
            self._default_path(state, rest)
        elif first == "localpeer":
            state.variables["HAPROXY_LOCALPEER"] = value
        elif first == "setenv" or (first == "presetenv" and value not in state.variables):
            state.variables[value] = " ".join(rest[1:2])
        elif first == "unsetenv":
            for name in rest:
                state.variables.pop(name, None)
        elif first == "resetenv":
            stays = {*rest, *_PSEUDO}
            state.variables = {name: text for name, text in state.variables.items() if name in stays}

    def _default_path(self, state: _State, words: list[str]) -> None:
        policy, folder = words[0] if words else "", ""
        state.policy = policy if policy in {"config", "parent"} else ""
        if policy == "config":
            folder = dirname(self._path)
        elif policy == "parent":
            folder = join(dirname(self._path), "..")
        elif policy == "origin":
            folder = words[1] if len(words) > 1 else ""
        state.bases = replace(state.bases, folder=folder)

    def _options(self, state: _State, words: list[str], options: Mapping[str, tuple[str, ...]]) -> None:
        for option, value in pairwise(words):
            if option == "crt-list":
                self._add_naming(state, value, Kind.CRT_LIST)
            else:
                for base in options.get(option, ()):
                    self._add(state, value, base=base, taken=option in TAKEN)
                if option in {"crt", "default-crt"} and _is_file(value):
                    self.stores[_store(value, words if options is OF_A_CERTIFICATE else [], state.bases)] = None

    def _load(self, words: list[str], store: Bases, state: _State) -> None:
        for option, value in pairwise(words):
            if option in OF_A_STORE and _is_file(value):
                self.files[store.at(value, OF_A_STORE[option])] = None
        given = dict(pairwise(words))
        if _is_file(given.get("crt", "")):
            found = _store(given["crt"], words, store, OF_A_STORE)
            name = replace(state.bases, folder="").at(given["crt"], "crt")
            if given.get("alias") or state.store_name:
                name = f"@{state.store_name}/{given.get('alias', given['crt'].removeprefix('/'))}"
            self.stores[replace(found, name=name)] = None

    def _add(self, state: _State, *paths: str, base: str = "", taken: bool = False) -> None:
        for path in paths:
            bare = _without_prefix(path)
            if _is_file(bare):
                found = state.bases.at(bare, base)
                self.files[found] = None
                if not taken:
                    self.fixed.add(found)

    def _add_naming(self, state: _State, path: str, kind: Kind, variables: tuple[tuple[str, str], ...] = ()) -> None:
        if _is_file(path):
            self._add(state, path, taken=kind is Kind.CRT_LIST)
            self.naming[state.bases.at(path), Context(kind, state.bases, variables)] = None


def _relevant_lines(text: bytes) -> list[int]:
    """Return the numbers, from 0, of the lines that may name a file or change what others name.

    A configuration can have a hundred thousand lines, and most name no file. So the whole text, not each line, is
    searched for a few strings. Words may contain quotes and backslashes.
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
    # A letter can be written as \xHH.
    found.update(_lines_with(rb"\x", text))
    if len(bare) != len(text):
        # In quotes a variable can be any word. Tags of VIPs are excepted, because there can be thousands.
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
    """Tell whether a value is a path, and not a name such as `@system-ca`, `@store/name` or `virt@name`."""
    return bool(path) and not path.startswith(NOT_IN_FILES)


def _without_prefix(path: str) -> str:
    for prefix in PREFIXES:
        if path.startswith(prefix):
            return path.removeprefix(prefix)
    return path


def _after(words: list[str], keywords: frozenset[str]) -> list[str]:
    return [value for word, value in pairwise(words) if word in keywords]
