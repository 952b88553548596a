"""The text rules of SUPERB-SG for out-of-domain recognition: Common Voice 7.0 in Spanish, Chinese and Arabic.

Source: s3prl `downstream/ctc/corpus/common_voice_preprocess.py`, whose lists of signs are facts of the benchmark.
"""

from __future__ import annotations

import string
import unicodedata

ACCENT = {"es": "mexicano"}
"""The accent that SUPERB-SG keeps of a language."""

_SPACES = {
    ord(sign): " "
    for sign in (set(string.punctuation) - {"'"}) | set("「」、⋯。《》丶–—―‘“”『』〜ー・☭«»،؛؟‐−¡¿ː·×─〈〉")
}
# Accents that stand alone once NFKC has divided the spacing ones.
_SPACES |= {ord(sign): " " for sign in "\u0301\u0303\u030c"}
_SPACES |= {ord("’"): "'", ord("ㄧ"): "一"}
_WITHOUT_SPACES = ("zh-CN", "zh-TW", "ja")
_WITHOUT_LATIN = (*_WITHOUT_SPACES, "ar", "ru")
# Sentences with one of these are left out: most are foreign names.
_FOREIGN = {"es": set("しらゴミムラ消箱良"), "zh-CN": set("ΜИТオカドヤ䴕"), "zh-TW": set("ΜИТオカドヤ䴕")}


def superb_sg_text(sentence: str, language: str) -> str | None:
    """The text as SUPERB-SG trains and counts it: NFKC, upper case, punctuation but apostrophes as spaces; None to leave it out.

    Chinese and Japanese lose their spaces. Left out are sentences without a letter, those with Latin letters or apostrophes in
    languages of another script, and those with a few foreign signs.

    Example:
        >>> superb_sg_text("¿Qué dijo — «mañana»?", "es")
        'QUÉ DIJO MAÑANA'
    """
    text = " ".join(unicodedata.normalize("NFKC", sentence).upper().translate(_SPACES).split())
    if language in _WITHOUT_SPACES:
        text = text.replace(" ", "")
    if language in _WITHOUT_LATIN and any((sign.isascii() and sign.isalpha()) or sign == "'" for sign in text):
        return None
    if not text or set(text) & _FOREIGN.get(language, set()):
        return None
    return text
