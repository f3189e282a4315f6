"""Whether a private key fits a certificate, as far as that can be told without a library for it.

haproxy tells where it looks for the key by itself, and refuses one that does not fit; where `key` names it (crt-list,
crt-store, ssl-f-use) it takes any, from 3.0 to 3.5, and every handshake fails. So this is for those.

A certificate says of what kind its key is, and so does a key. Two kinds never fit. An RSA key holds the modulus of its
certificate. A key on a curve holds the point, if its public half is written into it, as OpenSSL does. Whether an
Ed25519 key fits an Ed25519 certificate takes arithmetic: that, and what is encrypted or damaged, is for haproxy to
judge.

Sources: RFC 5280 (certificates), RFC 5958 and 8410 (keys of any kind), RFC 8017 (RSA keys), RFC 5915 (keys on a curve),
RFC 7468 (PEM), X.690 (DER).
"""

from binascii import a2b_base64

_VERSION = 0xA0
_PUBLIC = 0xA1
_RSA = bytes.fromhex("2a864886f70d010101")
_CURVE = bytes.fromhex("2a8648ce3d0201")
_KINDS = (_RSA, _CURVE, bytes.fromhex("2b6570"), bytes.fromhex("2b6571"))
"""What is told apart: RSA, a curve, Ed25519, Ed448; of another one nothing is known."""
_COMPRESSED = (2, 3)
_MOST_ELEMENTS = 8

_Half = tuple[bytes, bytes]
"""The kind of a key, as its object identifier, and what both halves of a pair have in common; nothing if unknown."""


def fits(certificate: bytes, key: bytes) -> bool:
    """Tell whether a key fits a certificate, both PEM; yes unless it surely does not."""
    try:
        kind, public = _certified(certificate)
        other, private = _private(key)
    except (IndexError, ValueError):
        return True
    if kind not in _KINDS or other not in _KINDS:
        return True
    return kind == other and (public == private or not public or not private)


def _certified(text: bytes) -> _Half:
    """Return what the first certificate of a PEM file says of its key."""
    _, der = _block(text, b"CERTIFICATE-----")
    certificate = _elements(_elements(der)[0][1])
    fields = _elements(certificate[0][1])
    if fields[0][0] == _VERSION:
        del fields[0]
    # serial number, algorithm, issuer, validity, subject, and then the key
    key = _elements(fields[5][1])
    kind = _elements(key[0][1])[0][1]
    public = key[1][1][1:]  # past the number of bits that are not used
    if kind == _RSA:
        return kind, _elements(_elements(public)[0][1])[0][1]
    return kind, _abscissa(public) if kind == _CURVE else b""


def _private(text: bytes) -> _Half:
    """Return what the first private key of a PEM file has in common with its certificate."""
    label, der = _block(text, b"PRIVATE KEY-----")
    if label not in (b"", b"RSA", b"EC"):
        return b"", b""
    key = _elements(_elements(der)[0][1])
    kind = {b"RSA": _RSA, b"EC": _CURVE}.get(label, b"")
    if not kind:
        kind = _elements(key[1][1])[0][1]
        if kind in (_RSA, _CURVE):
            key = _elements(_elements(key[2][1])[0][1])
    if kind == _RSA:
        return kind, key[1][1]
    for tag, content in key if kind == _CURVE else ():
        if tag == _PUBLIC:
            return kind, _abscissa(_elements(content)[0][1][1:])
    return kind, b""


def _block(text: bytes, end_of_label: bytes) -> tuple[bytes, bytes]:
    """Return what stands in the first such label before its last words, and what the block holds.

    Raises:
        IndexError: there is none, or it is encrypted.
        ValueError: it is no base 64.

    """
    end = text.find(end_of_label)
    begin = text.rfind(b"-----BEGIN ", 0, max(end, 0))
    last = text.find(b"-----END", end)
    if begin < 0 or last < 0 or b"ENCRYPTED" in text[begin:last]:
        raise IndexError
    return text[begin + len(b"-----BEGIN ") : end].strip(), a2b_base64(text[end + len(end_of_label) : last])


def _abscissa(point: bytes) -> bytes:
    """Return the x of a point on a curve: the same whether its y is written out or not (SEC 1, 2.3.3)."""
    return point[1:] if point[0] in _COMPRESSED else point[1 : 1 + len(point) // 2]


def _elements(text: bytes) -> list[tuple[int, bytes]]:
    """Return the tag and the content of each DER element; nobody asks for more than the first few.

    Raises:
        IndexError: one of them does not end within the text, or there is none.

    """
    found: list[tuple[int, bytes]] = []
    at = 0
    while not found or (at < len(text) and len(found) < _MOST_ELEMENTS):
        tag, length = text[at], text[at + 1]
        at += 2
        if length & 0x80:
            count = length & 0x7F
            length = int.from_bytes(text[at : at + count], "big")
            at += count
        if at + length > len(text):
            raise IndexError
        found.append((tag, text[at : at + length]))
        at += length
    return found
