"""SHA-256 from the interpreter itself: hashlib loads OpenSSL, which takes 5 MiB."""

from __future__ import annotations

try:
    from _sha2 import sha256  # its name since Python 3.12
except ImportError:
    try:
        from _sha256 import sha256
    except ImportError:
        # A Python built with `--with-builtin-hashlib-hashes=no`, such as RHEL's, has neither.
        from hashlib import sha256  # noqa: TID251  # there is no other way

__all__ = ["sha256"]
