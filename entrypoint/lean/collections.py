"""Replaces `collections` and `collections.abc`, which take 1.2 ms at the start of PID 1, and `types`.

`os` has loaded the abstract classes already; importing them as `collections.abc` would load all of `collections`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set  # noqa: PYI025
    from types import MappingProxyType
else:
    from _collections import deque
    from _collections_abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set

    MappingProxyType = type(type.__dict__)

__all__ = [
    "Callable",
    "Collection",
    "Iterable",
    "Iterator",
    "Mapping",
    "MappingProxyType",
    "Sequence",
    "Set",
    "deque",
]
