"""Text normalisation for letter targets: upper case without punctuation."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

from wavlm_lightning.data.transcripts import visible

_SPOKEN_MARKS = frozenset("'&%@#")
_TYPED = re.compile(
    r"(?<=\w)[\N{LEFT SINGLE QUOTATION MARK}\N{MODIFIER LETTER APOSTROPHE}\N{MODIFIER LETTER PRIME}\N{ACUTE ACCENT}`](?=\w)"
)
_ONE_LETTER = str.maketrans({"İ": "I", "ẞ": "SS"})


def spoken_text(text: str) -> str:
    """Upper case without punctuation, words separated by single spaces.

    Apostrophes stay, since they belong to words, and so do the marks that are read out (`& % @ #`). Inside words other signs
    that are typed for an apostrophe become one. `ẞ` and `ß` are SS; Turkish `ı` and `i` are one letter, I. LibriSpeech's
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
    letters = _TYPED.sub("'", visible(text).replace("’", "'")).upper()
    # The lower case of İ is i with U+0307, so that a text in lower case must not keep the dot either.
    return letters.replace("I\N{COMBINING DOT ABOVE}", "I").translate(_ONE_LETTER)


def _punctuation(letters: str) -> set[str]:
    return {c for c in letters if unicodedata.category(c).startswith("P")} - _SPOKEN_MARKS
