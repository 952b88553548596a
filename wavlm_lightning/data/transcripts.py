"""Transcripts as they are stored: texts that look equal are equal."""

from __future__ import annotations

import unicodedata

# Zero-width non-joiner and joiner: between letters they change the spelling of Persian, Hindi, Sinhala, ...
JOINERS = "\u200c\u200d"


def visible(text: str) -> str:
    """A text without characters that nobody sees, in composed form (NFC), with single spaces.

    Zero-width spaces, byte order marks, soft hyphens and other format characters go; joiners stay between two letters.

    Example:
        >>> visible("ka\\u200bra \\ufefftu\\u00admo")
        'kara tumo'
    """
    composed = unicodedata.normalize("NFC", text)
    if composed.isascii() and composed.isprintable() and "  " not in composed:
        return composed.strip()
    kept = []
    for place, letter in enumerate(composed):
        if letter in JOINERS:
            beside = composed[place - 1 : place] + composed[place + 1 : place + 2]
            if len(beside) < 2 or not all(unicodedata.category(one)[0] in "LM" for one in beside):
                continue
        elif unicodedata.category(letter) == "Cf":
            continue
        kept.append(" " if unicodedata.category(letter) == "Cc" else letter)
    return " ".join("".join(kept).split())
