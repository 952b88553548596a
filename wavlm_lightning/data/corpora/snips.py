"""Audio SNIPS: commands to an assistant, spoken by 16 synthetic voices, with their slots (SUPERB's SF).

DIR is the folder made by s3prl's preprocessing (`preprocess/snips_prepare_data.sh`, or its ready-made archive):
`{train,valid,test}/VOICE-snips-SPLIT-N.wav`, `all.iob.snips.txt` and `slots.txt`.
"""

from __future__ import annotations

import argparse
from itertools import groupby
from pathlib import Path
from typing import Any

from wavlm_lightning.data.recordings import CorpusPlan, Recording, check_counts, require_file, require_named
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import read_lines

HELP = "Audio SNIPS (SUPERB SF); DIR is SNIPS (with all.iob.snips.txt) or the folder that contains it"

FOLDER = "SNIPS"
# Voices and counts: s3prl `downstream/ctc/snips.yaml` and `test/test_snips.py`.
VOICES = {
    "train": ["Ivy", "Joanna", "Joey", "Justin", "Kendra", "Kimberly", "Matthew", "Salli"],
    "valid": ["Aditi", "Amy", "Geraint", "Nicole"],
    "test": ["Brian", "Emma", "Raveena", "Russell"],
}
COUNTS = {"train": 104_672, "valid": 2_800, "test": 2_800}
SILENT = "?!.,;-"  # substrings of it are tokens that are not spoken (s3prl `downstream/ctc/text.py`)

Tagged = list[list[str]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--audio-format`."""
    parser.add_argument(
        "--audio-format", choices=("wav", "mp3"), default="wav", help="of the files in DIR (default wav)"
    )


def plan(root: Path, arguments: argparse.Namespace) -> CorpusPlan:
    """Utterances with `text`, `slots` and `tagged`, the annotation as published."""
    from torchaudio.datasets import Snips

    base = require_named(root, FOLDER, "Audio SNIPS as s3prl prepares it (train, valid, test, all.iob.snips.txt)")
    annotation = require_file(base / "all.iob.snips.txt", "the annotation of Audio SNIPS")
    splits: dict[str, list[Recording]] = {}
    for split, voices in VOICES.items():
        data = Snips(base.parent, split, speakers=voices, audio_format=arguments.audio_format)
        splits[split] = []
        for number, path in enumerate(data.data):
            if path.stem not in data.labels:
                raise UserError(f"{annotation}: no line for {path.name}; prepare Audio SNIPS again")
            *_, text, tags, domain = data.get_metadata(number)
            splits[split].append(Recording(path, path.stem, _meta(path, text.split(" "), tags.split(" "), domain)))
    check_counts(splits, COUNTS, arguments.allow_partial, base)
    speakers = sorted({recording.meta["speaker"] for part in splits.values() for recording in part})
    return CorpusPlan(
        name="snips",
        licence="Audio SNIPS terms, see aws-samples/aws-lex-noisy-spoken-language-understanding",
        splits=splits,
        inventories={"slots": _slots(base, splits), "speakers": speakers},
    )


def _meta(path: Path, words: list[str], tags: list[str], domain: str) -> dict[str, Any]:
    if len(words) != len(tags):
        raise UserError(f"{path.stem}: {len(words)} words but {len(tags)} tags in all.iob.snips.txt; prepare it again")
    tagged = [[word, tag] for word, tag in zip(words, tags, strict=True)]
    meta = {"speaker": path.stem.split("-")[0], "language": "en", "text": _spoken(tagged)}
    return {**meta, "slots": spans(tagged), "tagged": tagged, "domain": domain}


def _spoken(tagged: Tagged) -> str:
    return " ".join("AND" if word == "&" else word for word, _ in tagged if word not in SILENT)


def spans(tagged: Tagged) -> list[list[str]]:
    """Slots, pairs of type and value, in the order of the text; a value is the spoken words of its span.

    The tags (`O` is outside all slots) lack B and I, so neighbouring slots of one type form one slot, as in SUPERB. In
    SUPERB's target, a span that begins or ends with a token that is not spoken loses that mark and does not count as a
    slot; here it is one, unless it has no spoken word. The official target can be made from `tagged`.

    Example:
        >>> spans([["PLAY", "O"], ["ROCK", "genre"], ["&", "genre"], ["ROLL", "genre"], [".", "O"]])
        [['genre', 'ROCK AND ROLL']]
    """
    runs = [(tag, _spoken(list(run))) for tag, run in groupby(tagged, key=lambda pair: pair[1])]
    return [[tag, value] for tag, value in runs if tag != "O" and value]


def _slots(base: Path, splits: dict[str, list[Recording]]) -> list[str]:
    """The slot types in the order of `slots.txt`, which SUPERB numbers them by, or sorted without that file."""
    tags = {tag for part in splits.values() for recording in part for _, tag in recording.meta["tagged"]} - {"O"}
    path = base / "slots.txt"
    if not path.is_file():
        return sorted({tag for recording in splits["train"] for _, tag in recording.meta["tagged"]} - {"O"})
    slots = [
        line for line in read_lines(path, "the list of slots")[1:] if line
    ]  # the first line is O, the most frequent tag
    if tags - set(slots):
        raise UserError(
            f"{path}: the annotation has slots that are not listed here: {', '.join(sorted(tags - set(slots)))}"
        )
    return slots
