"""AMI meetings with the turns of BUT's diarization set-up (github.com/BUTSpeechFIT/AMI-diarization-setup), for SD and OSD.

Audio as published, `amicorpus/MEETING/audio/MEETING.Mix-Headset.wav` (all headsets in one signal) or `.Array1-01.wav` (one far
microphone). Splits are the lists of the set-up, of the full-corpus ASR partition; its dev is `valid`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from wavlm_lightning.data.corpora.meetings.recordings_with_turns import read_turns, with_speakers
from wavlm_lightning.data.foreign.rttm import check_pieces
from wavlm_lightning.data.recordings import CorpusPlan, Recording, check_counts, require_folder
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import read_lines

HELP = "AMI meetings with the turns of BUT's set-up (SD, OSD); DIR holds amicorpus or the meetings"

SPLITS = {"train": ("train", 136), "valid": ("dev", 18), "test": ("test", 16)}  # name of the set-up, meetings
REFERENCES = ("only_words", "word_and_vocalsounds")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--setup`, `--microphone`, `--reference` and `--pieces`."""
    parser.add_argument(
        "--setup", type=Path, required=True, metavar="DIR", help="AMI-diarization-setup (lists, only_words/rttms)"
    )
    parser.add_argument(
        "--microphone", default="Mix-Headset", help="Mix-Headset (default), Array1-01 (far, one channel), ..."
    )
    parser.add_argument("--reference", default=REFERENCES[0], choices=REFERENCES, help="what counts as speech")
    parser.add_argument(
        "--pieces", type=float, metavar="SECONDS", help="cut meetings into equal pieces of at most this"
    )


def plan(root: Path, arguments: argparse.Namespace) -> CorpusPlan:
    """Meetings, whole or in pieces, with `turns` and `speakers`."""
    require_folder(root, "the meetings of AMI")
    check_pieces(arguments.pieces)
    found: dict[str, Path] = {}
    for path in sorted(root.rglob(f"*.{arguments.microphone}.wav")):
        found[path.name.removesuffix(f".{arguments.microphone}.wav")] = path
    splits: dict[str, list[Recording]] = {}
    meetings: dict[str, int] = {}
    for split, (name, _) in SPLITS.items():
        listed = arguments.setup / "lists" / f"{name}.meetings.txt"
        wanted = [line.strip() for line in read_lines(listed, "the list of meetings of a split") if line.strip()]
        splits[split], meetings[split] = [], 0
        for meeting in wanted:
            if meeting not in found:
                if not arguments.allow_partial:
                    raise UserError(
                        f"{root}: no {meeting}.{arguments.microphone}.wav; complete it, or use what is there with --allow-partial"
                    )
                continue
            meetings[split] += 1
            turns = read_turns(arguments.setup / arguments.reference / "rttms" / name / f"{meeting}.rttm", meeting)
            splits[split] += with_speakers(meeting, found[meeting], turns, None, arguments.pieces)
    counts = {split: count for split, (_, count) in SPLITS.items()}
    check_counts(meetings, counts, arguments.allow_partial, root, "meetings")
    return CorpusPlan(
        name="ami",
        licence="CC BY 4.0",
        splits=splits,
        inventories={"speakers": sorted({s for part in splits.values() for r in part for s in r.meta["speakers"]})},
        source={"microphone": arguments.microphone, "reference": arguments.reference, "pieces": arguments.pieces},
    )
