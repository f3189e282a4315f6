"""What was found on disk, as one value."""

from entrypoint.lean.record import record


@record(frozen=True)
class Contents:
    """The configuration on disk at one moment."""

    kept: tuple[tuple[str, bytes], ...]
    """Each regular file that the -f arguments stand for, in haproxy's order, with its content."""

    digest: str
    """SHA-256, in hex, of the names and contents of everything: the same content elsewhere or later is the same."""

    watched: tuple[str, ...]
    """Files and folders in which a change shows. A folder's watch tells of the files in it, but not of those that are
    mounted on their own or written through another hard link: these are here, too."""

    files: tuple[str, ...]
    """All files that are part of the digest, as named, those of folders included."""

    unreadable: str | None
    """One line: what of the -f arguments is missing or not readable, so that it is too early to act."""

    stale: tuple[str, ...]
    """Files whose mount can never change again, because what was mounted has been replaced where it came from."""

    polled: bool
    """Whether some of it is where the kernel does not report every change."""

    incomplete: tuple[str, ...] = ()
    """What looks as if somebody were still writing it, a line each: haproxy may take it all the same."""
