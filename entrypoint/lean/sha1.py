"""SHA-1 from the interpreter itself (see `hashing`), for fingerprints as haproxy shows them."""

from __future__ import annotations

try:
    from _sha1 import sha1
except ImportError:
    from hashlib import sha1  # noqa: TID251  # there is no other way

__all__ = ["sha1"]
