"""Checks whether a private key fits a certificate, as far as that is possible without a cryptographic library.

haproxy itself rejects a wrong key next to the certificate. But one that `key` names (crt-list, crt-store, ssl-f-use) it
accepts unchecked, from 3.0 to 3.5, and then every handshake fails. This module checks those.

Certificate and key both name the key's algorithm, and these must be equal. Both contain the modulus of an RSA key. For
an elliptic curve both contain the public point, if the key has its optional public half, as OpenSSL's have. Ed25519,
encrypted and damaged keys are not checked.

Sources: RFC 5280 (certificates), RFC 5958 and 8410 (keys of any kind), RFC 8017 (RSA keys), RFC 5915 (EC keys),
RFC 7468 (PEM), X.690 (DER).
"""

from __future__ import annotations

from binascii import a2b_base64

_VERSION = 0xA0
_PUBLIC = 0xA1
_RSA = bytes.fromhex("2a864886f70d010101")
_CURVE = bytes.fromhex("2a8648ce3d0201")
_KINDS = (_RSA, _CURVE, bytes.fromhex("2b6570"), bytes.fromhex("2b6571"))
"""The known algorithms: RSA, elliptic curve, Ed25519, Ed448."""
_COMPRESSED = (2, 3)
_MOST_ELEMENTS = 8

_Half = tuple[bytes, bytes]
"""The object identifier of a key's algorithm, and what both halves of a pair have in common; empty if unknown."""


def fits(certificate: bytes, key: bytes) -> bool:
    """Tell whether a key may fit a certificate, both PEM; False if it certainly does not."""
    try:
        kind, public = _half_of_certificate(certificate)
        other, private = _half_of_key(key)
    except (IndexError, ValueError):
        return True
    if kind not in _KINDS or other not in _KINDS:
        return True
    return kind == other and (public == private or not public or not private)


def has_certificate(text: bytes) -> bool:
    """Tell whether a PEM file has a certificate, or the beginning of one."""
    return b"-----BEGIN CERTIFICATE" in text


def has_key(text: bytes) -> bool:
    """Tell whether a PEM file has a private key."""
    return b"PRIVATE KEY-----" in text


def _half_of_certificate(text: bytes) -> _Half:
    """Read the first certificate of a PEM file."""
    _, der = _block(text, b"CERTIFICATE-----")
    certificate = _elements(_elements(der)[0][1])
    fields = _elements(certificate[0][1])
    if fields[0][0] == _VERSION:
        del fields[0]
    # serial number, algorithm, issuer, validity, subject, key
    key = _elements(fields[5][1])
    kind = _elements(key[0][1])[0][1]
    public = key[1][1][1:]  # the first byte is the number of unused bits
    if kind == _RSA:
        return kind, _elements(_elements(public)[0][1])[0][1]
    return kind, _abscissa(public) if kind == _CURVE else b""


def _half_of_key(text: bytes) -> _Half:
    """Read the first private key of a PEM file."""
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
    """Return what precedes this end in the label of the first such PEM block, and the block's content.

    Raises IndexError if there is no such block or it is encrypted, and ValueError if it is not base64.
    """
    end = text.find(end_of_label)
    begin = text.rfind(b"-----BEGIN ", 0, max(end, 0))
    last = text.find(b"-----END", end)
    if begin < 0 or last < 0 or b"ENCRYPTED" in text[begin:last]:
        raise IndexError
    return text[begin + len(b"-----BEGIN ") : end].strip(), a2b_base64(text[end + len(end_of_label) : last])


def _abscissa(point: bytes) -> bytes:
    """Return the x coordinate of a curve point, which may be compressed or not (SEC 1, 2.3.3)."""
    return point[1:] if point[0] in _COMPRESSED else point[1 : 1 + len(point) // 2]


def _elements(text: bytes) -> list[tuple[int, bytes]]:
    """Return tag and content of the first _MOST_ELEMENTS DER elements; raise IndexError if one is truncated."""
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
