"""The files that a haproxy configuration names and that haproxy reads when it starts.

Not among them is what haproxy writes itself (server-state-file, stats-file, backing-file, an ACME account key: to
watch those would be to reload because of a reload), what it only opens while it serves (external checks), and where it
merely looks for something that is named elsewhere (lua-prepend-path).

Sources: configuration manual of 2.6 to 3.2, sections 2.2 (quoting), 2.3 (variables), 3.1, 3.12 (crt-store), 4.2, 5.1,
5.2, 7.1 (-f) and 7.3.1 (map). Of conditional blocks (2.4) every branch counts: what decides between them may be known
to haproxy only, and to watch a file too many costs less than to miss one.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from posixpath import dirname, join

from entrypoint.core.records import dataclass, replace

_SPACE = b" \t\v\f\r\n"
_QUOTES = b"\"'\\"
_PLAIN_IN_QUOTES = bytes(set(range(256)) - set(_QUOTES + b"$"))
_PLAIN = bytes(set(_PLAIN_IN_QUOTES) - set(_SPACE + b"#"))
_ESCAPED = {ord("t"): 9, ord("n"): 10, ord("r"): 13}
_NAME = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")

_SECOND_WORD = frozenset(
    {
        "lua-load",
        "lua-load-per-thread",
        "issuers-chain-path",
        "ssl-dh-param-file",
        "h1-case-adjust-file",
        "httpclient.ssl.ca-file",
        "deviceatlas-json-file",
        "51degrees-data-file",
        "wurfl-data-file",
    },
)
_OPTIONS_FROM = {
    "bind": 2,
    "server": 3,
    "server-template": 4,
    "peer": 3,
    "default-server": 1,
    "default-bind": 1,
    "stats": 3,
}
"""Lines that can have TLS options, and the number of the word at which options can begin."""
_OPTIONS = frozenset(
    {
        "crt",
        "default-crt",
        "ca-file",
        "ca-verify-file",
        "crl-file",
        "ca-sign-file",
        "tls-ticket-keys",
        "ech",
        "crt-list",
    },
)
"""TLS options with a file after them."""
_PAYLOADS = frozenset({"file", "lf-file", "errorfile"})
_NOT_IN_FILES = ("@", "virt@")
_PREFIXES = ("opt@", "file@")
_SIGNS = (
    b"file",
    b"crt",
    b"-f",
    b"map",
    b"lua-load",
    b"-base",
    b"-path",
    b"env",
    b"config",
    b"keys",
    b"jwt",
    b" ech ",
)
"""A line that names a file, or changes the meaning of those that do, has one of these."""
_TAG = b'bind "fd@$'
_SEVERAL_WORDS = b"[*]"
"""Behind a variable's name: its value is split."""


@dataclass(frozen=True, slots=True)
class Bases:
    """What a relative path is relative to: haproxy's `default-path`, and the `-base` options. All may be relative."""

    folder: str = ""
    crt: str = ""
    ca: str = ""
    key: str = ""

    def at(self, path: str, base: str = "") -> str:
        """Return the path as haproxy would open it from the folder that it was started in."""
        if base and not path.startswith("/"):
            path = f"{base}/{path}"  # as haproxy does it, which tests for nothing but the slash
        return join(self.folder, path)


@dataclass(frozen=True, slots=True)
class Named:
    """What configurations name, in the order in which they name it, each once."""

    files: tuple[str, ...]
    """Files, and folders all of whose files count. Relative ones are relative to where haproxy is started."""

    lists: tuple[tuple[str, Bases], ...]
    """Those of the files that are crt-lists, with what `named_in_crt_list` has to know of them."""


def named_files(text: bytes, variables: Mapping[str, str]) -> tuple[str, ...]:
    """Return the files that this one configuration names."""
    return named_by([("", text)], variables).files


def named_by(configurations: Iterable[tuple[str, bytes]], variables: Mapping[str, str]) -> Named:
    """Return what these files name together: `crt-base`, `setenv` and `default-path` of one hold for the next.

    Args:
        configurations: path and content, in the order in which haproxy reads them.
        variables: haproxy's environment.

    """
    reader = _Reader(dict(variables))
    for path, text in configurations:
        reader.read(path, text)
    return Named(tuple(reader.files), tuple(reader.lists.items()))


def named_in_crt_list(text: bytes, bases: Bases) -> tuple[str, ...]:
    """Return the files that a crt-list names: certificates, and the CAs and revocation lists in its brackets."""
    found: dict[str, None] = {}
    for line in text.split(b"\n"):
        # Brackets stand alone or touch what they enclose, and there is no quoting to speak of before 2.9.
        words = _words(line.replace(b"[", b" [ ").replace(b"]", b" ] "), {})
        if not words:
            continue
        if _is_file(words[0]):
            found[bases.at(words[0], bases.crt)] = None
        for option, value in pairwise(words[1:]):
            if option in {"ca-file", "ca-verify-file", "crl-file"} and _is_file(value):
                found[bases.at(value, bases.ca)] = None
    return tuple(found)


class _Reader:
    """A reading of configurations, line by line."""

    def __init__(self, variables: dict[str, str]) -> None:
        self.files: dict[str, None] = {}
        self.lists: dict[str, Bases] = {}
        self._variables = variables
        self._bases = Bases()
        self._policy = ""  # the last default-path that depends on where the configuration is
        self._store: Bases | None = None  # inside a crt-store: its own bases
        self._path = ""

    def read(self, path: str, text: bytes) -> None:
        self._path, self._store = path, None
        self._variables[".FILE"] = path
        if self._policy:
            self._default_path([self._policy])
        lines = text.split(b"\n")
        # The lines of a crt-store are all read, whatever they say.
        read_from = 0
        for number in _telling(text):
            while self._store is not None and read_from < number:
                self._read_line(lines[read_from])
                read_from += 1
            self._read_line(lines[number])
            read_from = number + 1
        while self._store is not None and read_from < len(lines):
            self._read_line(lines[read_from])
            read_from += 1

    def _read_line(self, line: bytes) -> None:
        words = _words(line, self._variables)
        if words:
            self._line(words)

    def _line(self, words: list[str]) -> None:
        first, rest = words[0], words[1:]
        if self._store is not None and first not in {"load", "crt-base", "key-base"}:
            self._store = None
        if first in _SECOND_WORD:
            self._add(*rest[:1])
        elif first in _OPTIONS_FROM:
            self._options(words[_OPTIONS_FROM[first] :])
        elif first == "errorfile":
            self._add(*rest[1:2])
        elif first == "wurfl-patch-file":
            self._add(*rest)
        elif first == "filter":
            self._add(*_after(rest, frozenset({"config"})))
        elif first.startswith("http-"):
            self._add(*_after(rest, _PAYLOADS))
        elif first == "load" and self._store is not None:
            self._load(rest, self._store)
        else:
            self._setting(first, rest)
        if first == "acl" or "{" in words:
            self._add(*_after(words, frozenset({"-f"})))
        for word in words:
            if "(" in word and ("map" in word or "jwt" in word):
                self._add(*_arguments(word))

    def _setting(self, first: str, rest: list[str]) -> None:
        """Take note of what changes the meaning of later lines."""
        value = rest[0] if rest else ""
        if first == "crt-store":
            self._store = replace(self._bases, crt="", key="")
        elif first in {"crt-base", "ca-base", "key-base"}:
            changed = replace(self._store or self._bases, **{first.removesuffix("-base"): value})
            if self._store is None:
                self._bases = changed
            else:
                self._store = changed
        elif first == "default-path":
            self._default_path(rest)
        elif first == "setenv" or (first == "presetenv" and value not in self._variables):
            self._variables[value] = " ".join(rest[1:2])
        elif first == "unsetenv":
            for name in rest:
                self._variables.pop(name, None)
        elif first == "resetenv":
            self._variables = {name: text for name, text in self._variables.items() if name in (*rest, ".FILE")}

    def _default_path(self, words: list[str]) -> None:
        policy = words[0] if words else ""
        self._policy = policy if policy in {"config", "parent"} else ""
        folder = ""
        if policy in {"config", "parent"}:
            folder = dirname(self._path)
        if policy == "parent":
            folder = join(folder, "..")
        if policy == "origin":
            folder = words[1] if len(words) > 1 else ""
        self._bases = replace(self._bases, folder=folder)

    def _options(self, words: list[str]) -> None:
        bases = self._bases
        for option, value in pairwise(words):
            if option not in _OPTIONS:
                continue
            if option in {"crt", "default-crt"}:
                self._add(value, base=bases.crt)
            elif option in {"ca-file", "ca-verify-file", "crl-file"}:
                self._add(value, base=bases.ca)
            elif option in {"ca-sign-file", "tls-ticket-keys", "ech"}:
                self._add(value)
            elif option == "crt-list" and _is_file(value):
                self._add(value)
                self.lists[bases.at(value)] = bases

    def _load(self, words: list[str], store: Bases) -> None:
        for option, value in pairwise(words):
            if option == "crt":
                self._add(value, base=store.crt)
            elif option == "key":
                self._add(value, base=store.key)
            elif option in {"ocsp", "issuer", "sctl"}:
                self._add(value)

    def _add(self, *paths: str, base: str = "") -> None:
        for path in paths:
            bare = _without_prefix(path)
            if _is_file(bare):
                self.files[self._bases.at(bare, base)] = None


def _telling(text: bytes) -> list[int]:
    """Return the numbers, from 0, of the lines that may name a file or change what others name.

    Most name none, and a configuration can have a hundred thousand: so it is the text that is searched, once for each
    of a few bytes, and no line is looked at before it has one. Quotes and backslashes may stand inside a word.
    """
    found: set[int] = set()
    bare = text.translate(None, _QUOTES)
    for sign in _SIGNS:
        found.update(_lines_with(sign, bare))
    if len(bare) != len(text):
        # Inside quotes a variable can be any word; but not where it is a VIP's tag, of which there can be thousands.
        text = text if _SEVERAL_WORDS in text else text.replace(_TAG, _TAG[:-1])
        lines = text.split(b"\n") if b"$" in text else []
        found.update(n for n in _lines_with(b"$", text) if len(lines[n].translate(None, _QUOTES)) != len(lines[n]))
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
    return bool(path) and not path.startswith(_NOT_IN_FILES)


def _without_prefix(path: str) -> str:
    for prefix in _PREFIXES:
        if path.startswith(prefix):
            return path.removeprefix(prefix)
    return path


def _after(words: list[str], keywords: frozenset[str]) -> list[str]:
    return [value for word, value in pairwise(words) if word in keywords]


def _arguments(word: str) -> list[str]:
    """Return the files in `map(FILE)`, `map_*(FILE,...)` and `jwt_verify(ALGORITHM,FILE)`, anywhere in a word."""
    found = []
    begin = word.find("(")
    while begin >= 0:
        # Backwards to where the name begins; set-map(...) is an action that reads nothing.
        start = begin
        while start and (word[start - 1].isalnum() or word[start - 1] in "_-."):
            start -= 1
        name = word[start:begin]
        if name == "map" or name.startswith("map_") or name == "jwt_verify":
            arguments = word[begin + 1 : _closing(word, begin)].split(",")
            found += [text.strip().strip("\"'") for text in (arguments[1:2] if name == "jwt_verify" else arguments[:1])]
        begin = word.find("(", begin + 1)
    return found


def _closing(word: str, begin: int) -> int:
    end = word.find(")", begin)
    return len(word) if end < 0 else end


def _words(line: bytes, variables: Mapping[str, str]) -> list[str]:
    """Split a line as haproxy does (configuration manual, 2.2 and 2.3). What haproxy would refuse, split somehow."""
    if b'"' not in line and b"'" not in line and b"\\" not in line:
        # Outside double quotes a dollar is a dollar.
        line = line.partition(b"#")[0].strip()
        if line.isascii():
            text = line.decode("ascii")
            if text.isprintable():  # as nearly every line is, and then there is nothing but blanks to split at
                return text.split()
        return [_text(word) for word in line.split()]
    return [_text(word) for word in _unquoted(line, variables)]


def _text(word: bytes) -> str:
    """Return a word as text, like the names of files are text in Python; a zero byte ends it, as in C."""
    return str(word.partition(b"\0")[0] if b"\0" in word else word, "utf-8", "surrogateescape")


def _unquoted(line: bytes, variables: Mapping[str, str]) -> list[bytes]:
    words: list[bytes] = []
    word = bytearray()
    begun = False
    quote = 0
    at, end = 0, len(line)
    while at < end:
        byte = line[at]
        at += 1
        if byte == 0x5C and quote != 0x27:  # a backslash
            at = _escaped(line, at, quote, word)
            begun = True
        elif byte in b"\"'" and quote in {0, byte}:
            quote = 0 if quote else byte
            begun = True
        elif byte == 0x24 and quote == 0x22:  # a dollar
            at, value, is_list = _variable(line, at, variables)
            if is_list and value.split():
                *before, last = value.split()
                for part in before:
                    words.append(bytes(word) + part)
                    word.clear()
                word += last
            else:
                word += value
        elif quote == 0 and byte in _SPACE:
            if begun:
                words.append(bytes(word))
                word.clear()
                begun = False
        elif quote == 0 and byte == 0x23:  # a comment
            break
        else:
            rest = line[at:]
            length = len(rest) - len(rest.lstrip(_PLAIN_IN_QUOTES if quote else _PLAIN))
            word += line[at - 1 : at + length]
            at += length
            begun = True
    if begun:
        words.append(bytes(word))
    return words


def _escaped(line: bytes, at: int, quote: int, word: bytearray) -> int:
    """Append what the backslash before `at` stands for; return where to go on."""
    byte = line[at] if at < len(line) else 0
    if byte in _ESCAPED:
        word.append(_ESCAPED[byte])
        return at + 1
    if byte == 0x78:  # \xHH
        try:
            word.append(int(line[at + 1 : at + 3], 16))
        except ValueError:
            word += b"\\"
            return at
        return at + 3
    if byte in b" #\\\"'" or (byte == 0x24 and quote == 0x22):
        word.append(byte)
        return at + 1
    word += b"\\"
    return at


def _variable(line: bytes, at: int, variables: Mapping[str, str]) -> tuple[int, bytes, bool]:
    """Return where a variable's reference ends, its value, and whether it was to become several words."""
    braces = line[at : at + 1] == b"{"
    start = at = at + braces
    at += line[at : at + 1] == b"."  # a pseudo-variable's
    while at < len(line) and line[at] in _NAME:
        at += 1
    name = line[start:at].decode("ascii")
    value = variables.get(name, "").encode("utf-8", "surrogateescape")
    if not braces:
        return at, value, False
    end = line.find(b"}", at)
    if end < 0:
        return len(line), value, False
    default = line[at:end]
    is_list = default.endswith(_SEVERAL_WORDS)
    if is_list:
        default = default[: -len(_SEVERAL_WORDS)]
    if name not in variables and default.startswith(b"-"):
        value = default[1:]
    return end + 1, value, is_list


__all__ = ["Bases", "Named", "named_by", "named_files", "named_in_crt_list"]
