"""Suggests the word that a mistyped one was meant to be. Imported only for errors, because difflib is large."""

from __future__ import annotations

from difflib import get_close_matches

from entrypoint.lean.collections import Iterable

_SIMILAR = 0.7
"""The least similarity, from 0 to 1, of a mistyped word."""


def meant(word: str, words: Iterable[str]) -> str:
    """Return the most similar of the words; empty if none is similar."""
    return next(iter(get_close_matches(word, tuple(words), 1, _SIMILAR)), "")
