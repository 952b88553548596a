"""Pronunciation lexica: from words to phones, as in SUPERB's phoneme recognition."""

from __future__ import annotations

import argparse
from pathlib import Path

from wavlm_lightning.data.recordings import require_file
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import read_lines

VOWELS = ["AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW"]
CONSONANTS = ["B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N"]
CONSONANTS += ["NG", "P", "R", "S", "SH", "T", "TH", "V", "W", "Y", "Z", "ZH"]
SILENCE, SPOKEN_NOISE = "SIL", "SPN"
# 71 symbols: SIL, SPN, then 24 consonants and 15 vowels with stress 0 (none), 1 (primary) and 2 (secondary), sorted: the
# order of s3prl `downstream/ctc/vocab/phoneme.txt`.
PHONES: tuple[str, ...] = (
    SILENCE,
    SPOKEN_NOISE,
    *sorted([*CONSONANTS, *(f"{vowel}{stress}" for vowel in VOWELS for stress in "012")]),
)

Lexicon = dict[str, tuple[str, ...]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options `--lexicon` and `--missing-words`."""
    parser.add_argument(
        "--lexicon",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="pronunciations, `WORD PHONE PHONE ...` a line; adds phones, for phoneme recognition (SUPERB: the "
        "LibriSpeech 200k G2P lexicon and the list of the remaining words)",
    )
    parser.add_argument(
        "--missing-words", choices=("stop", "spn"), default="stop", help="what to do with words that no lexicon has"
    )


def read_lexica(paths: list[Path]) -> Lexicon:
    """The first pronunciation of every word, in the order of the files, whose words and phones white space separates.

    Raises `UserError` if a file is missing, or a pronunciation is empty or has a symbol outside `PHONES`.
    """
    known = set(PHONES)
    lexicon: Lexicon = {}
    for path in paths:
        require_file(path, "a lexicon, with a word and its phones on each line")
        for number, line in enumerate(read_lines(path, "a lexicon"), start=1):
            word, *phones = line.split() or [""]
            if not word:
                continue
            if not phones or not known.issuperset(phones):
                wrong = next((phone for phone in phones if phone not in known), "nothing")
                raise UserError(
                    f"{path}, line {number}: {word[:40]} is spoken {wrong[:40]!r}, which is not a CMU phone with stress"
                )
            lexicon.setdefault(word, tuple(phones))
    return lexicon


def phones_of(texts: list[str], lexicon: Lexicon, missing: str = "stop") -> list[list[list[str]]]:
    """`meta["phones"]` of each text, a list of `[phone]`: the phones of its words, without silences between words.

    Words that the lexicon lacks raise `UserError` or, with `missing="spn"`, become spoken noise.

    Example:
        >>> phones_of(["HI HI"], {"HI": ("HH", "AY1")})
        [[['HH'], ['AY1'], ['HH'], ['AY1']]]
    """
    absent = sorted({word for text in texts for word in text.split() if word not in lexicon})
    if absent and missing == "stop":
        some = ", ".join(word[:40] for word in absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
        raise UserError(
            f"--lexicon: no pronunciation of {some}; add a lexicon that has them, or make them {SPOKEN_NOISE} with "
            "--missing-words spn"
        )
    unknown = (SPOKEN_NOISE,)
    return [[[phone] for word in text.split() for phone in lexicon.get(word, unknown)] for text in texts]
