"""What safe_reload must know of a haproxy configuration's text before haproxy reads it."""

_QUOTES = b"\"'\\"


def line_of_master_worker(text: bytes) -> int | None:
    """Return the number of the line that says `master-worker`, if one does.

    It would make haproxy a master that forks behind our back, even with -db (up to HAProxy 3.4). haproxy takes quotes
    and backslashes out of a word before it looks at it (configuration manual, section 2.2), and so does this.
    """
    if b"master" not in text:
        return None
    for number, line in enumerate(text.splitlines(), start=1):
        bare = line.translate(None, _QUOTES).partition(b"#")[0]
        if bare.split()[:1] == [b"master-worker"]:
            return number
    return None


_DESCRIPTOR = b"fd@$"
_FIRST_LETTERS = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_")
_LETTERS = _FIRST_LETTERS | frozenset(b"0123456789")


def tags(text: bytes) -> tuple[str, ...]:
    """Return the tags that a configuration names as fd@$TAG or fd@${TAG}, quoted or not, in order, each once."""
    found: dict[str, None] = {}
    for line in text.splitlines():
        rest = _without_comment(line)
        while True:
            _, there, rest = rest.partition(_DESCRIPTOR)
            if not there:
                break
            name = rest.removeprefix(b"{")
            end = next((index for index, letter in enumerate(name) if letter not in _LETTERS), len(name))
            if name[:1] and name[0] in _FIRST_LETTERS:
                found[name[:end].decode()] = None
    return tuple(found)


def _without_comment(line: bytes) -> bytes:
    """Cut a line at the # that is neither quoted nor escaped (configuration manual, section 2.2)."""
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
