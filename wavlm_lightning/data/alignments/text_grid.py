"""TextGrid files of Praat and the Montreal Forced Aligner, in the long and the short text form, one file an utterance.

Praat itself takes from such a file the free-standing numbers, texts in double quotes and flags in angle brackets, and ignores
all words between them; both forms are then the same sequence, and so one reader is enough. Source: Praat's manual, "TextGrid
file formats". It is written here because the libraries lose data in silence: praatio 6.2.2 and tgt 1.5 return what is left of a
file that was cut off, tgt cuts labels that hold `xmax =`, textgrid 1.6.1 drops an interval that ends before it begins.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.data.alignments.alignment_set import Aligned
from wavlm_lightning.data.alignments.segments import PAST_THE_END, Segment
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import check_file, read_text, reading, shown

WHAT = "a TextGrid with a tier `phones`"
# A text (two quotes inside are one), a comment up to the end of the line, a flag, or anything up to the next blank.
TOKEN = re.compile(r'"(?P<text>(?:[^"]|"")*)"(?=\s|$)|(?P<comment>!.*)|<(?P<flag>[^<>\s]*)>(?=\s|$)|(?P<other>\S+)')
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
PHONES, WORDS = (
    ("phones", "phone"),
    ("words", "word"),
)  # names of tiers; MFA puts `SPEAKER - ` in front of several speakers'


class Tier(NamedTuple):
    """An interval tier."""

    name: str
    segments: list[Segment]  # those with a label; an empty label is silence


def read_text_grids(path: Path) -> dict[str, Callable[[int], Aligned]]:
    """The TextGrids of a folder (and the folders in it), or one file.

    Returns:
        By path in the folder without its ending: a function that reads the file for an utterance of so many samples.

    Raises:
        UserError: there is none. Of the functions: the file is damaged, or lasts longer or shorter than the utterance.
    """
    if path.is_dir():
        found = sorted(each for each in path.rglob("*") if each.suffix.lower() == ".textgrid")
        if not found:
            raise UserError(f"{path}: no file NAME.TextGrid in this folder; name the folder that the aligner wrote")
        return {str(each.relative_to(path).with_suffix("")): partial(_aligned, each) for each in found}
    check_file(path, WHAT)
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder; it should be {WHAT}, or a folder of them")
    return {path.stem: partial(_aligned, path)}


def _aligned(path: Path, samples: int) -> Aligned:
    seconds, tiers = read_text_grid(path)
    if abs(seconds - samples / SAMPLE_RATE) > PAST_THE_END:
        raise UserError(
            f"{path}: lasts {seconds:.2f} s, and its utterance {samples / SAMPLE_RATE:.2f} s; it belongs to another recording, "
            "so give the TextGrids of this corpus"
        )
    phones = _tier(path, tiers, PHONES)
    if phones is None:
        names = ", ".join(repr(tier.name) for tier in tiers) or "none"
        raise UserError(f"{path}: no tier `phones` (its tiers of intervals: {names}); rename the tier with the phones")
    return Aligned(phones, _tier(path, tiers, WORDS))


def _tier(path: Path, tiers: list[Tier], names: tuple[str, ...]) -> list[Segment] | None:
    found = [tier for tier in tiers if tier.name.lower().rpartition(" - ")[2] in names]
    if len(found) > 1:
        listed = ", ".join(repr(tier.name) for tier in found)
        raise UserError(f"{path}: several tiers of {names[0]} ({listed}); give one file an utterance, with one speaker")
    return found[0].segments if found else None


def read_text_grid(path: Path) -> tuple[float, list[Tier]]:
    """Length in seconds and interval tiers of a TextGrid; a UserError says where it is damaged."""
    text = _text(path)
    with reading(path, WHAT, "export it again"):
        tokens = _tokens(text)
        if not str(next(tokens, "")).startswith("ooTextFile") or next(tokens, "") != "TextGrid":
            raise ValueError("it does not begin as a TextGrid in text form")
        begin, seconds = _number(tokens), _number(tokens)
        if next(tokens, None) is not True:
            raise ValueError("it has no tiers")
        tiers = []
        for _ in range(_count(tokens)):
            kind, name = _label(tokens), _label(tokens)
            _number(tokens), _number(tokens)
            rows = []
            for _ in range(_count(tokens)):
                if kind == "IntervalTier":
                    start, end = _number(tokens), _number(tokens)
                    rows.append(Segment(_label(tokens).strip(), start, end))
                elif kind == "TextTier":
                    _number(tokens), _label(tokens)
                else:
                    raise ValueError(f"a tier of the class {shown(kind)}")
            for before, after in pairwise(rows):
                if after.start < before.end:
                    raise ValueError(
                        f"tier {name!r}: {after.name!r} begins at {after.start:g} s, before {before.name!r} ends "
                        f"({before.end:g} s)"
                    )
            for row in rows:
                if not begin <= row.start < row.end <= seconds + PAST_THE_END:
                    raise ValueError(f"tier {name!r}: {row.name!r} lies from {row.start:g} to {row.end:g} s")
            if kind == "IntervalTier":
                tiers.append(Tier(name, [row for row in rows if row.name]))
        if next(tokens, None) is not None:
            raise ValueError("it goes on behind its last tier")
    return seconds, tiers


def _text(path: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16, in which Praat saves what is not ASCII."""
    check_file(path, WHAT)
    with reading(path, WHAT, "export it again"), path.open("rb") as file:
        wide = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        if wide:
            return path.read_bytes().decode("utf-16")
    return read_text(path, WHAT, "export it again")


def _tokens(text: str) -> Iterator[float | str | bool]:
    """Numbers, texts and flags that stand free: a flag is whether something exists."""
    for found in TOKEN.finditer(text):
        if (label := found["text"]) is not None:
            yield label.replace('""', '"')
        elif (flag := found["flag"]) is not None:
            yield flag == "exists"
        elif (other := found["other"]) is not None:
            if other.startswith('"'):
                raise ValueError(f"a label that is not closed: {shown(other)}")
            if NUMBER.fullmatch(other):
                yield float(other)


def _number(tokens: Iterator[float | str | bool]) -> float:
    if type(found := next(tokens, None)) is not float:
        raise ValueError("it ends before its last tier" if found is None else f"{shown(found)} where a number belongs")
    return found


def _count(tokens: Iterator[float | str | bool]) -> int:
    if not (number := _number(tokens)).is_integer() or number < 0:
        raise ValueError(f"{number:g} where a count belongs")
    return int(number)


def _label(tokens: Iterator[float | str | bool]) -> str:
    if not isinstance(found := next(tokens, None), str):
        raise ValueError("it ends before its last tier" if found is None else f"{shown(found)} where a text belongs")
    return found
