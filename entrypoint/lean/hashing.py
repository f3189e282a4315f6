"""SHA-256 without OpenSSL: the interpreter's own, because hashlib brings 5 MiB."""

try:
    from _sha2 import sha256  # its name since Python 3.12
except ImportError:
    try:
        from _sha256 import sha256
    except ImportError:
        # A Python that leaves all cryptography to OpenSSL (`--with-builtin-hashlib-hashes=no`) has neither, as RHEL's.
        from hashlib import sha256  # noqa: TID251  # 5 MiB, where there is no other way

__all__ = ["sha256"]
