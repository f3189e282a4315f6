"""Whether a private key fits a certificate, as far as that can be told without a library for it.

haproxy tells where it looks for the key by itself, and refuses one that does not fit; where `key` names it (crt-list,
crt-store, ssl-f-use) it takes any, from 3.0 to 3.5, and every handshake fails. So this is for those.

An RSA key holds the modulus of its certificate, and a key on a curve the point, if its public half is written into it,
as OpenSSL does: the same bytes are in both. What is of another kind, encrypted or damaged is for haproxy to judge.

Sources: RFC 5280 (certificates), RFC 8017 (RSA keys), RFC 5915 (keys on a curve), RFC 7468 (PEM).
"""

from binascii import Error, a2b_base64

_SEQUENCE = 0x30
_INTEGER = 0x02
_BIT_STRING = 0x03
_VERSION = 0xA0
_UNCOMPRESSED = 0x04
_BEFORE_KEY = 5
"""In a certificate, after its version: serial number, algorithm, issuer, validity, subject."""
_LARGE_INTEGERS = (b"\x02\x81", b"\x02\x82")
"""How those begin that have 128 bytes and more: an RSA key has some."""
_POINTS = (b"\x03\x42\x00\x04", b"\x03\x62\x00\x04", b"\x03\x81\x86\x00\x04")
"""How the points of P-256, P-384 and P-521 begin."""


def fits(certificate: bytes, key: bytes) -> bool:
    """Tell whether a key fits a certificate, both PEM; yes unless it surely does not."""
    public = _public_part(_block(certificate, b"CERTIFICATE-----"))
    private = _block(key, b"PRIVATE KEY-----")
    if not public or not private:
        return True
    is_rsa = any(begin in private for begin in _LARGE_INTEGERS)
    is_curve = any(begin in private for begin in _POINTS)
    return public in private or not (is_rsa or is_curve)


def _block(text: bytes, label: bytes) -> bytes:
    """Return what the first block of a PEM file with this label holds; nothing if it is encrypted or damaged."""
    begin = text.find(label)
    end = text.find(b"-----END", begin)
    if begin < 0 or end < 0 or b"ENCRYPTED" in text[max(begin - 12, 0) : end]:
        return b""
    try:
        return a2b_base64(text[begin + len(label) : end])
    except Error:
        return b""


def _public_part(certificate: bytes) -> bytes:
    """Return what of a certificate is in its private key as well: the modulus with its length, or the point."""
    try:
        _, at, _ = _element(certificate, 0)
        _, at, _ = _element(certificate, at)
        tag, _, end = _element(certificate, at)
        if tag == _VERSION:
            at = end
        for _ in range(_BEFORE_KEY):
            _, _, at = _element(certificate, at)
        _, at, _ = _element(certificate, at)
        _, _, at = _element(certificate, at)  # past its algorithm
        tag, at, end = _element(certificate, at)
        if tag != _BIT_STRING:
            return b""
        at += 1  # past the number of bits that are not used
        if certificate[at] == _UNCOMPRESSED:
            return certificate[at:end]
        tag, begin, _ = _element(certificate, at)
        if tag != _SEQUENCE:
            return b""
        tag, _, end = _element(certificate, begin)
        return certificate[begin:end] if tag == _INTEGER else b""
    except IndexError:
        return b""


def _element(text: bytes, at: int) -> tuple[int, int, int]:
    """Return the tag of the DER element that begins here, where its content begins, and where it ends (X.690).

    Raises:
        IndexError: it does not end within the text.

    """
    tag, length = text[at], text[at + 1]
    at += 2
    if length & 0x80:
        count = length & 0x7F
        if at + count > len(text):
            raise IndexError
        length = int.from_bytes(text[at : at + count], "big")
        at += count
    if at + length > len(text):
        raise IndexError
    return tag, at, at + length
