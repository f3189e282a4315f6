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
