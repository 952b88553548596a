"""SBCSAE, the Santa Barbara Corpus of Spoken American English: spontaneous conversations (SUPERB-SG's out-of-domain recognition).

DIR holds `mp3/01.mp3` to `60.mp3` and `trn/SBC001.trn` to `SBC060.trn`, as vectominist/SBCSAE-preprocess downloads them. Which
utterances count, their texts and the division of the conversations are those of that repository, which SUPERB-SG uses: no
overlapped speech, no laughter or doubtful words, 0.1 to 15 s.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import NamedTuple

from wavlm_lightning.data.recordings import CorpusPlan, Recording, check_counts, require_folder
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import reading

HELP = "SBCSAE, spontaneous American English, by SUPERB-SG's rules; DIR holds mp3/ and trn/"

CONVERSATIONS = {"train": range(1, 47), "valid": range(47, 54), "test": range(54, 61)}
SHORTEST, LONGEST = 0.1, 15.0  # seconds
_MARKS = str.maketrans({**dict.fromkeys('.,-%?!@+~_*#&"', " "), "=": "", "’": "'"})
_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ' ")
_NAME = re.compile(r"([A-Z][A-Z_ ]*):")


class Unit(NamedTuple):
    """An intonation unit: start and end in seconds, its text, and who speaks ("" if the file does not say)."""

    start: float
    end: float
    text: str
    speaker: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None of its own."""


def plan(root: Path, arguments: argparse.Namespace) -> CorpusPlan:
    """Intonation units with `text`, `conversation` and, where the transcript names it, `speaker`."""
    audio, texts = (
        require_folder(root / name, f"the {what} of SBCSAE")
        for name, what in (("mp3", "audio"), ("trn", "transcripts"))
    )
    splits: dict[str, list[Recording]] = {}
    found: dict[str, int] = {}
    for split, numbers in CONVERSATIONS.items():
        splits[split], found[split] = [], 0
        for number in numbers:
            path, transcript = audio / f"{number:02d}.mp3", texts / f"SBC{number:03d}.trn"
            if not (path.is_file() and transcript.is_file()):
                continue
            found[split] += 1
            name = transcript.stem
            for unit in spoken_alone(read_units(transcript)):
                key = f"{name}_{int(unit.start * 100):06d}-{int(unit.end * 100):06d}"
                meta = {"text": unit.text, "language": "en", "conversation": name}
                if unit.speaker:
                    meta["speaker"] = f"{name}-{unit.speaker}"
                splits[split].append(Recording(path, key, meta, unit.start, unit.end))
    wanted = {split: len(numbers) for split, numbers in CONVERSATIONS.items()}
    check_counts(found, wanted, arguments.allow_partial, root, "conversations")
    speakers = {
        split: sorted({r.meta["speaker"] for r in part if "speaker" in r.meta}) for split, part in splits.items()
    }
    return CorpusPlan("sbcsae", "CC BY-ND 3.0 US", splits, {"speakers": speakers})


def read_units(path: Path) -> list[Unit]:
    """The units of a transcript whose text counts, in the order of the file.

    A line has times, a speaker where the turn begins, and the text, divided by tabs or, between the times, by a space.
    """
    units, speaker = [], ""
    # Some transcripts have bytes that are not UTF-8; they are passed over, as in the texts of the benchmark.
    with (
        reading(path, "a transcript of SBCSAE", "download it again"),
        path.open(encoding="utf-8", errors="ignore") as file,
    ):
        lines = [line.rstrip("\n") for line in file]
    for line in lines:
        fields = line.lstrip("\t").split("\t")
        times = " ".join(fields[: 2 if len(fields) == 4 else 1]).split()
        # The benchmark takes three fields only where the first is nothing but the times.
        if not 2 <= len(fields) <= 4 or len(times) < 2 or (len(fields) == 3 and fields[0].count(" ") != 1):
            continue
        try:
            start, end = map(float, times[:2])
        except ValueError:
            continue
        if named := _NAME.search(" ".join(fields[:-1])):
            speaker = named[1].strip().replace(" ", "_")
        if SHORTEST <= end - start <= LONGEST and (text := counted_text(fields[-1])) is not None:
            units.append(Unit(start, end, text, speaker))
    if not lines:
        raise UserError(f"{path}: is empty; download it again")
    return units


def counted_text(transcript: str) -> str | None:
    """The words of a unit in upper case; None if it overlaps another, is doubtful, or is not made of words.

    Example:
        >>> counted_text("(H) Well=, I guess that note.")
        'WELL I GUESS THAT NOTE'
    """
    if set(transcript) & set("[]<>"):
        return None
    text = re.sub(r"\([^)]*\)", "", transcript)  # breath, laughter and comments
    text = re.sub(" +", " ", text.translate(_MARKS)).strip().upper()
    if len(text) < 2 or set(text) - _LETTERS or "XX" in text or " X " in f"{text} ":
        return None  # X stands for a syllable that nobody understands
    return text


def spoken_alone(units: list[Unit]) -> list[Unit]:
    """The units that overlap no other one in time, by their ends."""
    kept: list[Unit] = []
    for unit in sorted(units, key=lambda each: each.end):
        alone = True
        while kept and unit.start < kept[-1].end:
            kept.pop()
            alone = False
        if alone:
            kept.append(unit)
    return kept
