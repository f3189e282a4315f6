"""What safe_reload must know of a haproxy configuration's text before haproxy reads it."""


def line_of_master_worker(text: bytes) -> int | None:
    """Return the number of the line that says `master-worker`, if one does.

    It would make haproxy a master that forks behind our back, even with -db (up to HAProxy 3.4).
    """
    if b"master-worker" not in text:
        return None
    for number, line in enumerate(text.splitlines(), start=1):
        if line.split()[:1] == [b"master-worker"]:
            return number
    return None
