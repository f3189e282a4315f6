"""Key pairs: whether a key fits a certificate, of every kind that openssl makes."""

import subprocess
from binascii import b2a_base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrypoint.core.key_pairs import fits

KINDS = {
    "rsa": ("rsa:2048",),
    "p256": ("ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
    "p384": ("ec", "-pkeyopt", "ec_paramgen_curve:P-384"),
    "p521": ("ec", "-pkeyopt", "ec_paramgen_curve:P-521"),
    "ed25519": ("ed25519",),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, bytes]]:
    """Two certificates with their keys, of each kind."""
    folder = tmp_path_factory.mktemp("pairs")
    found = {}
    for kind, words in KINDS.items():
        for name in (f"{kind}-a", f"{kind}-b"):
            make = (
                "openssl",
                "req",
                "-x509",
                "-newkey",
                *words,
                "-nodes",
                "-subj",
                "/CN=a",
                "-keyout",
                "k",
                "-out",
                "c",
            )
            subprocess.run(make, cwd=folder, check=True, capture_output=True)
            found[name] = (folder / "c").read_bytes(), (folder / "k").read_bytes()
    return found


def _converted(key: bytes, *words: str, folder: Path) -> bytes:
    run = subprocess.run(("openssl", *words), cwd=folder, input=key, check=True, capture_output=True)
    return run.stdout


def test_only_its_own_key_fits(made: dict[str, tuple[bytes, bytes]]) -> None:
    """Of two kinds or of one; what cannot be known, such as Ed25519 keys, is for haproxy to judge."""
    for name, (certificate, _) in made.items():
        for other, (_, key) in made.items():
            unknown = "ed25519" in name + other
            assert fits(certificate, key) == (name == other or unknown), (name, other)


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
