"""What may have been meant by a word that means nothing. Loaded for those only who have made a mistake."""

from collections.abc import Iterable
from difflib import get_close_matches

_ALIKE = 0.7
"""From which likeness on, of at most 1, a word is taken for a slip of the pen."""


def meant(word: str, words: Iterable[str]) -> str:
    """Return the one of the words that is most like the given one; empty when none is nearly so."""
    return next(iter(get_close_matches(word, tuple(words), 1, _ALIKE)), "")
