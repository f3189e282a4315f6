"""The commands that give a running haproxy the new content of a file, and how their answers read.

Each file is one transaction: nothing of it is in use before `commit`. haproxy has one transaction of each kind at a
time, for all its sessions; somebody else's is left alone.

Sources: HAProxy's management guide, section 9.3 (`set ssl cert`, `set ssl ca-file`, `set ssl crl-file`, `prepare map`
and others); what a file and a payload have in different forms is from the source (`pat_ref_read_from_file`,
`cli_parse_add_map`, `ckch_store_load_payload`), and was tried with HAProxy 2.6, 3.0, 3.2 and 3.5.
"""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64

from entrypoint.haproxy.key_pairs import fits
from entrypoint.haproxy.loaded_files import escaped
from entrypoint.lean.collections import Iterable, Iterator, Sequence
from entrypoint.lean.record import record

_BUFFER = 16384
"""Bytes of tune.bufsize, unless it is configured."""
_RESERVE = 1024
"""For the command. One with its payload must stay well below the buffer: at one length HAProxy 2.6 spins and dies, and
3.5-dev5 may drop the end without a word."""
_LONGEST_PATTERN = 900
"""Bytes of a line, as in `system.haproxy_cli`."""
_BEGIN, _END = b"-----BEGIN", b"-----END"
_CERTIFICATE, _KEY, _REVOCATIONS = b"CERTIFICATE-----", b"PRIVATE KEY-----", b"X509 CRL-----"
_ENCRYPTED = b"ENCRYPTED"
"""In the label of such a key (RFC 7468, 11), or below it (RFC 1421, 4.6.1.1)."""
_AS_IT_IS = ("utf-8", "surrogateescape")
_REFUSALS = (
    "Can't load the payload",
    "inconsistencies between private key and certificate",
    "must contain at least a certificate and a private key",
    "unable to load SSL private key",
)
"""What haproxy says of a bad certificate. Everything else may be its own limit, and a reload may succeed."""
_OCSP_KEY = "OCSP Response Key: "
_REPEATS = ("Can't load the payload", "Can't update ", "Can't commit ", "Committing ", "Failed")


class CannotError(Exception):
    """Raised for what haproxy cannot take while it runs; its text is one line."""


class RefusedError(Exception):
    """Raised for a certificate that haproxy calls bad; its text is haproxy's, in one line."""


@record(frozen=True)
class Parts:
    """The contents of the files that a certificate is made of; empty ones are missing."""

    certificate: bytes
    key: bytes = b""
    """Only if it is not beside the certificate in the same file."""
    ocsp: bytes = b""


# ---- certificates ----------------------------------------------------------------------------------------------------


def blocks(text: bytes, label: bytes = b"") -> list[bytes]:
    """Return the PEM blocks whose label ends like this, also one that is cut off, without what is between them.

    Raises:
        CannotError: one has an empty line in it, which ends a payload; OpenSSL takes it in some places only.

    """
    found: list[bytes] = []
    lines: list[bytes] = []
    for line in (*(one.rstrip() for one in text.split(b"\n")), _BEGIN):
        if line.startswith(_BEGIN) or (lines and lines[-1].startswith(_END)):
            if lines and lines[0].endswith(label):
                found.append(b"\n".join(lines).rstrip() + b"\n")
            lines = []
        if lines or line.startswith(_BEGIN):
            lines.append(line)
    if any(b"\n\n" in block for block in found):
        raise CannotError("it has an empty line within PEM")
    return found


def set_certificate(name: str, parts: Parts, *, unchecked: bool = False) -> Iterator[tuple[str, bytes]]:
    """Yield the commands that put a certificate into a transaction, each with its payload.

    The key comes first, because haproxy takes the first one; without one in the payload it would forget the old one. A
    new certificate drops the OCSP response, so that follows.

    Args:
        name: of the certificate in haproxy, as a word of a command.
        parts: what it is made of.
        unchecked: a new haproxy would not check whether the key fits.

    Raises:
        CannotError: the key is encrypted: haproxy would ask its terminal or stdin for the pass phrase, and serve nobody
            until somebody answers. Or it certainly does not fit: haproxy would say so, but leave the error in OpenSSL's
            queue, and end whatever connection its thread reads from next (seen with 2.6, 3.0 and 3.2).
        RefusedError: it does not fit, and a new haproxy would take it.

    """
    if parts.certificate:
        if _ENCRYPTED in parts.key + parts.certificate:
            raise CannotError("its private key is encrypted")
        pem = b"".join([*blocks(parts.key, _KEY), *blocks(parts.certificate)])
        if not fits(pem, pem):
            raise (RefusedError if unchecked else CannotError)("its private key does not fit its certificate")
        # haproxy says best what is wrong with something that is no PEM at all.
        yield f"set ssl cert {name}", pem or b"no PEM"
    if parts.ocsp:
        yield f"set ssl cert {name}.ocsp", b2a_base64(parts.ocsp, newline=False)


def has_taken(answer: str, name: str, *, refusable: bool) -> None:
    """Check the answer to a `set ssl` command about this certificate, CA file or CRL file.

    HAProxy 2.6 puts a certificate into the transaction of any other one, and says the other name.

    Raises:
        RefusedError: haproxy calls it bad, and `refusable` says that this settles it.
        CannotError: it was not taken for another reason.

    """
    words = answer.lower()
    if not words.startswith(("transaction created for", "transaction updated for")) or f" {name}!" not in answer:
        _raise(answer, refusable=refusable)


def has_said(answer: str, words: str) -> None:
    """Check that an answer has these words.

    Raises:
        CannotError: it has not.

    """
    if words not in answer:
        raise CannotError(in_one_line(answer))


def has_committed(answer: str, *, refusable: bool) -> None:
    """Check the answer to a `commit ssl` command; raises as `has_taken`."""
    if "Success!" not in answer:
        _raise(answer, refusable=refusable)


def _raise(answer: str, *, refusable: bool) -> None:
    words = in_one_line(answer)
    if refusable and any(words_of_refusal in answer for words_of_refusal in _REFUSALS):
        raise RefusedError(words)
    raise CannotError(words)


def in_one_line(answer: str) -> str:
    """Return haproxy's words as one line, without what only repeats that it has failed."""
    lines = [line.strip().rstrip(".!") for line in answer.splitlines() if line.strip()]
    return ": ".join([line for line in lines if not line.startswith(_REPEATS)] or lines)


def described(answer: str) -> str:
    """Return how haproxy describes what is in a certificate, CA file or CRL file, from the answer to `show ssl`.

    A transaction is described like what has been committed, but for its name, its status, and the key under which an
    OCSP response is found. Of an Ed25519 certificate little more is said than its serial number and dates.
    """
    _, _, after_status = answer.partition("\nStatus: ")
    _, _, text = after_status.partition("\n")
    return "\n".join(line.partition(_OCSP_KEY)[0].strip() for line in text.splitlines()).strip()


def most_of_a_payload(texts: Iterable[bytes]) -> int:
    """Return the bytes of the longest payload that a haproxy with these configurations takes for sure."""
    lines = (line.split() for text in texts for line in text.splitlines() if b"tune.bufsize" in line)
    sizes = [words[1] for words in lines if words[0] == b"tune.bufsize" and len(words) > 1]
    # Not tune.bufsize.small. A variable may stand for anything.
    return max(min([_BUFFER, *(int(size) if size.isdigit() else 0 for size in sizes)]) - _RESERVE, 0)


def in_payloads(pieces: Iterable[bytes], most: int) -> Iterator[bytes]:
    """Yield the pieces joined to payloads of at most so many bytes, unless one has more."""
    joined = b""
    for piece in pieces:
        if joined and len(joined) + len(piece) > most:
            yield joined
            joined = b""
        joined += piece
    if joined:
        yield joined


def authorities(text: bytes) -> list[bytes]:
    """Return the certificates of a CA file, each once, as haproxy has them.

    Raises:
        CannotError: it has CRLs, which a command cannot set, or no whole certificates.

    """
    if blocks(text, _REVOCATIONS):
        raise CannotError("it has CRLs besides certificates")
    return _whole([*dict.fromkeys(blocks(text, _CERTIFICATE))], "certificate")


def revocations(text: bytes) -> list[bytes]:
    """Return the CRLs of a CRL file.

    Raises:
        CannotError: it has no whole ones.

    """
    return _whole(blocks(text, _REVOCATIONS), "CRL")


def _whole(found: list[bytes], what: str) -> list[bytes]:
    """Return what was found, if it is PEM.

    haproxy would refuse anything else, but leave the error in OpenSSL's queue, and end whatever connection its thread
    reads from next (seen with 2.6, 3.0 and 3.2).
    """
    if not found or not all(_END in block for block in found):
        raise CannotError(f"it has no {what}, or one is cut off")
    for block in found:
        a2b_base64(b"".join(block.splitlines()[1:-1]))
    return found


# ---- maps and ACL files ----------------------------------------------------------------------------------------------


def entries(kind: str, text: bytes) -> list[bytes]:
    """Return the entries of a file as haproxy reads them at a start.

    Args:
        kind: map, for keys each with a blank and a value; acl, for patterns.
        text: the file's content.

    Raises:
        CannotError: a command cannot say it.

    """
    found = []
    for number, line in enumerate(text.split(b"\n"), start=1):
        bare = line.partition(b"\r")[0].lstrip(b" \t")
        if line.startswith(b"#") or not bare:
            continue
        if kind == "map":
            key = bare.replace(b"\t", b" ").partition(b" ")[0]
            bare = b"%b %b" % (key, bare[len(key) :].strip(b" \t"))
        if len(bare) > _LONGEST_PATTERN or b"\0" in bare or bare.startswith(b"<<"):
            raise CannotError(f"line {number} is too long for a command, or has a zero byte, or begins with <<")
        found.append(bare)
    return found


def add(kind: str, number: str, version: str, entries: Sequence[bytes], most: int) -> Iterator[tuple[str, bytes]]:
    """Yield the commands that add entries to a new version of a map or an ACL file, each with its payload.

    Args:
        kind: map or acl.
        number: what haproxy calls the file.
        version: of the new content.
        entries: see `entries`.
        most: bytes of a payload.

    """
    if kind == "map":
        for payload in in_payloads((entry + b"\n" for entry in entries), most):
            yield f"add map @{version} {number}", payload
    else:
        # These have no payload. An interactive session takes many lines.
        words = (escaped(entry.decode(*_AS_IT_IS)) for entry in entries)
        lines = (f"add acl @{version} {number} {word}\n".encode(*_AS_IT_IS) for word in words)
        for script in in_payloads(lines, most):
            yield f"prompt\n{script.decode(*_AS_IT_IS)}quit", b""


def new_version(answer: str) -> str:
    """Return the number in the answer to `prepare map` or `prepare acl`.

    Raises:
        CannotError: there is none.

    """
    words, _, number = answer.strip().rpartition("New version created: ")
    if words or not number.isdigit():
        raise CannotError(in_one_line(answer))
    return number


def has_done(answer: str) -> None:
    """Check the answer to commands that say nothing if they have succeeded; there may be prompts in it.

    Raises:
        CannotError: one has failed.

    """
    words = in_one_line("\n".join(line.strip("> ") for line in answer.splitlines()))
    if words:
        raise CannotError(words)


def shown_entries(answer: bytes) -> list[bytes]:
    """Return the entries in the answer to `show map` or `show acl`, without the addresses in memory before them."""
    return [line.partition(b" ")[2] for line in answer.split(b"\n") if line]


# ---- crt-lists -------------------------------------------------------------------------------------------------------


@record(frozen=True)
class ListChange:
    """What has changed in a crt-list: lines at its end, and lines that are gone."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    """The certificates of the lines; each had only this one, and has no other now."""


def list_change(before: bytes, now: bytes) -> ListChange:
    """Compare two contents of a crt-list.

    Raises:
        CannotError: it has changed in another way: order counts, and the first entry is the default.

    """
    if not now.endswith(b"\n"):
        # haproxy takes no such file at a start.
        raise CannotError("its last line has no end")
    old, new = list_lines(before), list_lines(now)
    kept = [line for line in old if line in new]
    if not kept or kept[:1] != old[:1] or new[: len(kept)] != kept or len({*old}) + len({*new}) < len(old) + len(new):
        raise CannotError("more has changed in it than lines at its end, or lines that are gone")
    certificates = [line.split(" ")[0] for line in dict.fromkeys((*old, *new))]
    removed = tuple(line.split(" ")[0] for line in old if line not in new)
    if any(certificates.count(name) > 1 for name in removed):
        raise CannotError("a certificate has several lines in it")
    return ListChange(tuple(new[len(kept) :]), removed)


def list_lines(text: bytes) -> list[str]:
    """Return the lines of a crt-list, with single blanks between words."""
    lines = (b" ".join(line.split()) for line in text.split(b"\n") if not line.startswith(b"#"))
    return [line.decode("utf-8", "surrogateescape") for line in lines if line]


def shown_in_list(answer: str) -> list[str]:
    """Return the certificates in the answer to `show ssl crt-list NAME`."""
    return [line.split(" ")[0] for line in answer.splitlines() if line and not line.startswith("#")]
