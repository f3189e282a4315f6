"""Suggests the word that a mistyped one was meant to be. Imported only for errors, because difflib is large."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_SIMILAR = 0.7
"""The least similarity, from 0 to 1, of a mistyped word."""


def meant(word: str, words: Iterable[str]) -> str:
    """Return the most similar of the words; empty if none is similar."""
    return next(iter(get_close_matches(word, tuple(words), 1, _SIMILAR)), "")
