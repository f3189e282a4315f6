"""Reads the text of a configuration: splits lines into words as haproxy does, and finds what matters to safe_reload.

Section numbers are those of HAProxy's configuration manual.
"""

from __future__ import annotations

from itertools import pairwise

from entrypoint.lean.collections import Iterable, Mapping

_SPACE = b" \t\v\f\r\n"
QUOTES = b"\"'\\"
_PLAIN_IN_QUOTES = bytes(set(range(256)) - set(QUOTES + b"$"))
_PLAIN = bytes(set(_PLAIN_IN_QUOTES) - set(_SPACE + b"#"))
_ESCAPED = {ord("t"): 9, ord("n"): 10, ord("r"): 13}
_ESCAPED_IN_BRACKETS = {"\\": "\\", " ": " ", '"': '"', "'": "'", "r": "\r", "n": "\n", "t": "\t"}
_NAME_START = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")
_NAME = _NAME_START | frozenset(b"0123456789")
SEVERAL_WORDS = b"[*]"
"""After a variable's name: its value is split into several words."""
_STATE_FILE, _LOADS = b"server-state-file", b"load-server-state-from-file"
_DESCRIPTOR = b"fd@$"
_TICKET_KEYS = b"SAFE_RELOAD_TLS_TICKET_KEYS"
_OF_CLIENTS = (b"verify", b"ca-file", b"ca-verify-file")
_DATAGRAMS = (b"quic+", b"dgram+", b"udp+")


def mentioned(texts: Iterable[bytes], words: Iterable[str]) -> tuple[str, ...]:
    """Return those of the words that occur anywhere, if only in comments or conditional blocks."""
    bare = [text.translate(None, QUOTES) for text in texts]
    return tuple(word for word in words if any(word.encode() in text for text in bare))


def in_use(texts: Iterable[bytes], words: Iterable[str]) -> tuple[str, ...]:
    """Return those of the words that occur outside comment lines, if only in conditional blocks."""
    whole = tuple(texts)
    found = mentioned(whole, words)
    if not found:
        return ()
    lines = [line for text in whole for line in text.splitlines() if not line.lstrip().startswith(b"#")]
    return mentioned((b"\n".join(lines),), found)


def server_state_file(texts: Iterable[bytes], variables: Mapping[str, str]) -> str:
    """Return the path of the file from which haproxy loads the states of servers at its start; empty if there is none.

    It loads them where a proxy says `load-server-state-from-file global` (section 4.2); the file is named in `global`.

    Args:
        texts: the configurations, in haproxy's order.
        variables: haproxy's environment.

    """
    name = base = ""
    loads = False
    for text in texts:
        for line in text.splitlines() if _STATE_FILE in text or _LOADS in text else ():
            words = split_words(line, variables) if b"server-state-" in line else []
            if words[:1] == ["server-state-file"] and len(words) > 1:
                name = name or words[1]
            elif words[:1] == ["server-state-base"] and len(words) > 1:
                base = base or words[1]
            loads = loads or words[:2] == ["load-server-state-from-file", "global"]
    if not (loads and name):
        return ""
    return f"{base}/{name}" if base and not name.startswith("/") else name


def line_of_master_worker(text: bytes, *, in_block: bool = False) -> int | None:
    """Return the number of the first line with `master-worker`; None if there is none.

    With it haproxy forks a master, even with -db (up to HAProxy 3.4). Like haproxy, this ignores quotes and backslashes
    in a word (section 2.2).

    Args:
        text: the configuration.
        in_block: search inside conditional blocks (section 2.4), which only haproxy can evaluate, instead of outside.

    """
    bare = text.translate(None, QUOTES)
    if b"master-worker" not in bare:
        return None
    depth = 0
    for number, line in enumerate(bare.splitlines(), start=1):
        if b"master" not in line and b"if" not in line:
            continue
        first = line.partition(b"#")[0].split()[:1]
        depth += {b".if": 1, b".endif": -1}.get(first[0] if first else b"", 0)
        if first == [b"master-worker"] and (depth > 0) == in_block:
            return number
    return None


def sharing_ticket_keys(configurations: Iterable[tuple[str, bytes]]) -> str:
    """Return which lines with our ticket keys verify clients differently, as a warning; empty if there are none.

    Older versions of haproxy resume a session of one of them on the other (seen with 2.6.12 and 3.0.11, not with
    3.2.26): there, the client needs no certificate.

    Args:
        configurations: path and content of each file.

    """
    found: dict[tuple[tuple[bytes, bytes], ...], str] = {}
    for path, text in configurations:
        for number, line in enumerate(text.splitlines() if _TICKET_KEYS in text else (), start=1):
            bare = _without_comment(line).translate(None, QUOTES) if _TICKET_KEYS in line else b""
            if _TICKET_KEYS in bare:
                options = {word: value for word, value in pairwise(bare.split()) if word in _OF_CLIENTS}
                how = () if options.get(b"verify", b"none") == b"none" else tuple(sorted(options.items()))
                found.setdefault(how, f"{path}:{number}")
    if len(found) < 2:
        return ""
    places = " and ".join(list(found.values())[:2])
    what = "have the same TLS ticket keys and verify clients differently: older versions of haproxy resume a session of"
    return f"{places} {what} one on the other, without a certificate; see docs/tls-sessions.md"


def tags(text: bytes) -> dict[str, bool]:
    """Return the tags that a configuration names as fd@$TAG or fd@${TAG}, however quoted, in order.

    Each has whether a datagram socket is expected: after `quic+`, or in a `dgram-bind`.
    """
    found: dict[str, bool] = {}
    for line in text.splitlines():
        if b"fd@" not in line:
            continue
        rest = _without_comment(line).translate(None, QUOTES)
        all_datagrams = rest.split()[:1] == [b"dgram-bind"]
        while True:
            before, there, rest = rest.partition(_DESCRIPTOR)
            if not there:
                break
            name = rest.removeprefix(b"{")
            end = next((index for index, letter in enumerate(name) if letter not in _NAME), len(name))
            if name[:1] and name[0] in _NAME_START:
                found.setdefault(name[:end].decode(), all_datagrams or before.endswith(_DATAGRAMS))
    return found


def _without_comment(line: bytes) -> bytes:
    """Cut a line at the first # that is neither quoted nor escaped (section 2.2)."""
    quote = 0
    escaped = False
    for index, letter in enumerate(line):
        if escaped:
            escaped = False
        elif letter == ord("\\") and quote != ord("'"):
            escaped = True
        elif quote:
            quote = 0 if letter == quote else quote
        elif letter in b"\"'":
            quote = letter
        elif letter == ord("#"):
            return line[:index]
    return line


def split_arguments(text: str) -> list[str]:
    """Return the files that a word's converters name, such as `map(FILE)` and `jwt_verify(ALGORITHM,FILE)`."""
    found = []
    begin = text.find("(")
    while begin >= 0:
        # Search backwards for the start of the name. The action set-map(...) reads no file.
        start = begin
        while start and (text[start - 1].isalnum() or text[start - 1] in "_-."):
            start -= 1
        name = text[start:begin]
        if name == "jwt_verify":
            found += _split_list(text, begin)[1:2]
        elif name in {"map", "jwt_decrypt_cert"} or name.startswith("map_"):
            found += _split_list(text, begin)[:1]
        begin = text.find("(", begin + 1)
    return found


def _split_list(text: str, begin: int) -> list[str]:
    """Return the arguments in the brackets that begin here, which have quotes of their own (section 2.2)."""
    arguments = [""]
    quote = ""
    characters = iter(text[begin + 1 :])
    for character in characters:
        if character in "\"'" and quote in {"", character}:
            quote = "" if quote else character
        elif character == "\\" and quote != "'":
            escaped = next(characters, "")
            arguments[-1] += _ESCAPED_IN_BRACKETS.get(escaped, f"\\{escaped}")
        elif not quote and character == ",":
            arguments.append("")
        elif not quote and character == ")":
            break
        else:
            arguments[-1] += character
    return arguments


def split_words(line: bytes, variables: Mapping[str, str]) -> list[str]:
    """Split a line as haproxy does (sections 2.2 and 2.3). An invalid line is split somehow."""
    if b'"' not in line and b"'" not in line and b"\\" not in line:
        # Variables are expanded only in double quotes.
        line = line.partition(b"#")[0].strip()
        if line.isascii():
            text = line.decode("ascii")
            if text.isprintable():  # nearly every line is, and then the only separators are blanks
                return text.split()
        return [as_text(word) for word in line.split()]
    return [as_text(word) for word in _unquoted(line, variables)]


def as_text(word: bytes) -> str:
    """Return a word as text, encoded like Python's file names (PEP 383); a zero byte ends it, as in C."""
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
            at = _read_escape(line, at, quote, word)
            begun = True
        elif byte in b"\"'" and quote in {0, byte}:
            quote = 0 if quote else byte
            begun = True
        elif byte == 0x24 and quote == 0x22:  # a dollar
            at, value, is_list = _read_variable(line, at, variables)
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


def _read_escape(line: bytes, at: int, quote: int, word: bytearray) -> int:
    """Append the character that the escape before `at` stands for; return the position after it."""
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


def _read_variable(line: bytes, at: int, variables: Mapping[str, str]) -> tuple[int, bytes, bool]:
    """Return the end of a variable's reference, the value, and whether it is to be split into words."""
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
    is_list = default.endswith(SEVERAL_WORDS)
    if is_list:
        default = default[: -len(SEVERAL_WORDS)]
    if name not in variables and default.startswith(b"-"):
        value = default[1:]
    return end + 1, value, is_list
