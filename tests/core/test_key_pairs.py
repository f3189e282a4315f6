"""Key pairs: whether a key fits a certificate, of every kind that openssl makes."""

import subprocess
from binascii import a2b_base64, b2a_base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrypoint.haproxy.key_pairs import fits, has_certificate, has_key
from tests.certificates import P256, key_pair

KINDS = {
    "rsa": ("rsa:2048",),
    "p256": P256,
    "p384": ("ec", "-pkeyopt", "ec_paramgen_curve:P-384"),
    "p521": ("ec", "-pkeyopt", "ec_paramgen_curve:P-521"),
    "ed25519": ("ed25519",),
    "ed448": ("ed448",),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, bytes]]:
    """Two certificates with their keys, of each kind."""
    folder = tmp_path_factory.mktemp("pairs")
    found = {}
    for kind, words in KINDS.items():
        for name in (f"{kind}-a", f"{kind}-b"):
            certificate, key = key_pair(folder, name, words)
            found[name] = certificate.encode(), key.encode()
    return found


def _converted(key: bytes, *words: str, folder: Path) -> bytes:
    run = subprocess.run(("openssl", *words), cwd=folder, input=key, check=True, capture_output=True)
    return run.stdout


def test_only_its_own_key_fits(made: dict[str, tuple[bytes, bytes]]) -> None:
    """Of two kinds or of one; of two Ed25519 keys nothing can be known, and that is for haproxy to judge."""
    for name, (certificate, _) in made.items():
        for other, (_, key) in made.items():
            unknown = name[:2] == "ed" and name[:-1] == other[:-1]
            assert fits(certificate, key) == (name == other or unknown), (name, other)


@given(st.sampled_from(("p256", "p384", "ed25519")), st.binary(min_size=66, max_size=66))
def test_no_bytes_of_a_secret_are_taken_for_something_else(
    made: dict[str, tuple[bytes, bytes]], kind: str, secret: bytes
) -> None:
    """A key whose public half is not written fits, whatever its secret looks like: the start of an integer, a point."""
    certificate, _ = made[f"{kind}-a"]
    for odd in (secret, b"\x02\x82" + secret[2:], b"\x03\x42\x00\x04" + secret[4:], b"\x04" + secret[1:]):
        assert fits(certificate, _without_public_half(kind, odd))
        assert not fits(made["rsa-a"][0], _without_public_half(kind, odd))


@pytest.mark.parametrize("odd", [b"\x04", b"\x30\x1e\x02\x1c", b"\x02"])
def test_no_bytes_of_a_certificate_are_taken_for_something_else(
    made: dict[str, tuple[bytes, bytes]], odd: bytes
) -> None:
    """An Ed25519 key is any 32 bytes: some begin as a point does, or as a modulus."""
    certificate, key = made["ed25519-a"]
    der = a2b_base64(certificate.replace(b"-----BEGIN CERTIFICATE-----", b"").partition(b"-----END")[0])
    at = der.index(b"\x03\x21\x00") + 3
    der = der[:at] + odd + der[at + len(odd) :]
    changed = b"-----BEGIN CERTIFICATE-----\n" + b2a_base64(der) + b"-----END CERTIFICATE-----\n"
    assert fits(changed, key)
    assert not fits(changed, made["rsa-a"][1])
    assert not fits(changed, made["p256-a"][1])


@given(st.data())
def test_no_damage_is_too_odd(made: dict[str, tuple[bytes, bytes]], data: st.DataObject) -> None:
    """A certificate and a key of any kind, cut short or with bytes changed, have an answer: a look goes on."""
    texts = []
    for text in made[data.draw(st.sampled_from(sorted(made)))]:
        begin, _, rest = text.partition(b"-----\n")
        der = bytearray(a2b_base64(rest.partition(b"-----END")[0]))
        for at in data.draw(st.lists(st.integers(0, min(len(der), 400) - 1), max_size=3)):
            der[at] = data.draw(st.integers(0, 255))
        der = der[: data.draw(st.integers(0, len(der)))] if data.draw(st.booleans()) else der
        texts.append(begin + b"-----\n" + b2a_base64(der) + b"-----END")
    fits(*texts)


def test_a_certificate_whose_key_is_cut_short_fits(made: dict[str, tuple[bytes, bytes]]) -> None:
    """Its key says of what kind it is, and then ends."""
    _, key = made["rsa-a"]
    kind = _der(0x30, bytes.fromhex("06092a864886f70d010101"))
    short = _der(0x30, _der(0x30, b"\x02\x01\x01" + 4 * _der(0x30, b"") + _der(0x30, kind)))
    assert fits(b"-----BEGIN CERTIFICATE-----\n" + b2a_base64(short) + b"-----END CERTIFICATE-----\n", key)


def _without_public_half(kind: str, secret: bytes) -> bytes:
    """Return a key that holds nothing but its secret (RFC 5958, RFC 5915, RFC 8410)."""
    if kind == "ed25519":
        algorithm, inner = bytes.fromhex("06032b6570"), _der(0x04, secret[:32])
    else:
        curve = {"p256": "06082a8648ce3d030107", "p384": "06052b81040022"}[kind]
        algorithm = bytes.fromhex("06072a8648ce3d0201" + curve)
        inner = _der(0x30, b"\x02\x01\x01" + _der(0x04, secret[: {"p256": 32, "p384": 48}[kind]]))
    key = _der(0x30, b"\x02\x01\x00" + _der(0x30, algorithm) + _der(0x04, inner))
    return b"-----BEGIN PRIVATE KEY-----\n" + b2a_base64(key) + b"-----END PRIVATE KEY-----\n"


def _der(tag: int, content: bytes) -> bytes:
    assert len(content) < 0x80
    return bytes([tag, len(content)]) + content


def test_a_compressed_point_is_the_same_point(made: dict[str, tuple[bytes, bytes]], tmp_path: Path) -> None:
    """As `openssl ec -conv_form compressed` writes it."""
    for kind in ("p256", "p384", "p521"):
        (certificate, key), (other, _) = made[f"{kind}-a"], made[f"{kind}-b"]
        short = _converted(key, "ec", "-conv_form", "compressed", folder=tmp_path)
        assert fits(certificate, short)
        assert not fits(other, short)


def test_a_key_may_be_written_in_several_ways(made: dict[str, tuple[bytes, bytes]], tmp_path: Path) -> None:
    """The older formats, the parameters of a curve before it, the certificate in the same file."""
    for kind, form in (("rsa", "rsa"), ("p256", "ec"), ("p384", "ec")):
        (certificate, key), (other, _) = made[f"{kind}-a"], made[f"{kind}-b"]
        more = ("-traditional",) if form == "rsa" else ()
        old = _converted(key, form, *more, folder=tmp_path)
        parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
        for written in (old, parameters + old, certificate + key, other + old, old.replace(b"\n", b"\r\n")):
            assert fits(certificate, written)
            assert not fits(other, written)


def test_what_cannot_be_known_fits(made: dict[str, tuple[bytes, bytes]], tmp_path: Path) -> None:
    """Encrypted keys, keys on a curve without their public half, nothing at all."""
    certificate, key = made["p256-a"]
    other, _ = made["p256-b"]
    for words in (
        ("pkcs8", "-topk8", "-passout", "pass:x"),
        ("ec", "-aes128", "-passout", "pass:x"),
        ("ec", "-no_public"),
    ):
        assert fits(other, _converted(key, *words, folder=tmp_path))
    for nothing in (b"", b"x", b"-----BEGIN PRIVATE KEY-----\n\xff\n-----END PRIVATE KEY-----\n"):
        assert fits(certificate, nothing)
        assert fits(nothing, key)


@given(st.binary(), st.integers(0, 1000), st.integers(0, 255))
def test_no_file_is_too_odd(odd: bytes, at: int, byte: int) -> None:
    """Whatever the bytes, there is an answer; a certificate that is cut short has none to give."""
    text = odd[:at] + bytes([byte]) + odd
    fits(text, odd)
    block = b"-----BEGIN CERTIFICATE-----\n" + b2a_base64(b"\x30" + text) + b"-----END CERTIFICATE-----\n"
    assert fits(block, odd)


def test_what_a_file_has_is_known_by_its_labels(made: dict[str, tuple[bytes, bytes]], tmp_path: Path) -> None:
    """Whatever the kind of key, encrypted or cut off in the middle; a public key or a request is neither."""
    certificate, key = made["p256-a"]
    assert (has_certificate(certificate), has_key(certificate)) == (True, False)
    assert (has_certificate(key), has_key(key)) == (False, True)
    assert (has_certificate(key + certificate[:40]), has_key(certificate + key[:40])) == (True, True)
    for written in (
        _converted(key, "ec", folder=tmp_path),
        _converted(made["rsa-a"][1], "rsa", "-traditional", folder=tmp_path),
        _converted(key, "pkcs8", "-topk8", "-passout", "pass:x", folder=tmp_path),
    ):
        assert (has_certificate(written), has_key(written)) == (False, True)
    for other in (b"", b"PRIVATE KEY", b"CERTIFICATE", _converted(key, "ec", "-pubout", folder=tmp_path)):
        assert (has_certificate(other), has_key(other)) == (False, False)
    assert not has_certificate(b"-----BEGIN X509 CRL-----\n")
