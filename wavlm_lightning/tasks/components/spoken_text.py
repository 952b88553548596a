"""Text normalisation for letter targets: upper case without punctuation."""

from __future__ import annotations

import unicodedata

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
    letters = visible(text).replace("’", "'").upper()
    punctuation = {c for c in letters if unicodedata.category(c).startswith("P")} - _SPOKEN_MARKS
    return " ".join("".join(" " if letter in punctuation else letter for letter in letters).split())
