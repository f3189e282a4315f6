"""Finds `master-worker` and the VIPs' tags in a haproxy configuration before haproxy reads it."""

_QUOTES = b"\"'\\"


def line_of_master_worker(text: bytes, *, in_block: bool = False) -> int | None:
    """Return the number of the first line with `master-worker`; None if there is none.

    With it haproxy forks a master, even with -db (up to HAProxy 3.4). Like haproxy, this ignores quotes and backslashes
    in a word (configuration manual, section 2.2).

    Args:
        text: the configuration.
        in_block: search inside conditional blocks (section 2.4), which only haproxy can evaluate, instead of outside.

    """
    bare = text.translate(None, _QUOTES)
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


_DESCRIPTOR = b"fd@$"
_DATAGRAMS = (b"quic+", b"dgram+", b"udp+")
_FIRST_LETTERS = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_")
_LETTERS = _FIRST_LETTERS | frozenset(b"0123456789")


def tags(text: bytes) -> dict[str, bool]:
    """Return the tags that a configuration names as fd@$TAG or fd@${TAG}, however quoted, in order.

    Each has whether a datagram socket is expected: after `quic+`, or in a `dgram-bind`.
    """
    found: dict[str, bool] = {}
    for line in text.splitlines():
        if b"fd@" not in line:
            continue
        rest = _without_comment(line).translate(None, _QUOTES)
        all_datagrams = rest.split()[:1] == [b"dgram-bind"]
        while True:
            before, there, rest = rest.partition(_DESCRIPTOR)
            if not there:
                break
            name = rest.removeprefix(b"{")
            end = next((index for index, letter in enumerate(name) if letter not in _LETTERS), len(name))
            if name[:1] and name[0] in _FIRST_LETTERS:
                found.setdefault(name[:end].decode(), all_datagrams or before.endswith(_DATAGRAMS))
    return found


def _without_comment(line: bytes) -> bytes:
    """Cut a line at the first # that is neither quoted nor escaped (configuration manual, section 2.2)."""
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
