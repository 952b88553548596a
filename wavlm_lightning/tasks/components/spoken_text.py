"""Text normalisation for letter targets: upper case without punctuation."""

from __future__ import annotations

import unicodedata
from collections import Counter

from wavlm_lightning.data.transcripts import visible

_SPOKEN_MARKS = frozenset("'&%@#")


def spoken_text(text: str) -> str:
    """Upper case without punctuation, words separated by single spaces.

    Apostrophes stay, since they belong to words, and so do the marks that are read out (`& % @ #`). LibriSpeech's
    transcripts come out as they go in.

    Example:
        >>> spoken_text("Don’t go - it's twenty-one, Émile!")
        "DON'T GO IT'S TWENTY ONE ÉMILE"
    """
    letters = _upper(text)
    marks = _punctuation(letters)
    return " ".join("".join(" " if letter in marks else letter for letter in letters).split())


def left_out(text: str) -> Counter[str]:
    """The marks that `spoken_text` leaves out of a text, with how often each occurs.

    Example:
        >>> left_out("¿Qué? ¡Sí, sí!")
        Counter({'¿': 1, '?': 1, '¡': 1, ',': 1, '!': 1})
    """
    letters = _upper(text)
    marks = _punctuation(letters)
    return Counter(letter for letter in letters if letter in marks)


def _upper(text: str) -> str:
    return visible(text).replace("’", "'").upper()


def _punctuation(letters: str) -> set[str]:
    return {c for c in letters if unicodedata.category(c).startswith("P")} - _SPOKEN_MARKS
