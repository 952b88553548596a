"""AMI meetings with the turns of BUT's diarization set-up (github.com/BUTSpeechFIT/AMI-diarization-setup), for SD and OSD.

Audio as published, `amicorpus/MEETING/audio/MEETING.Mix-Headset.wav` (all headsets in one signal) or `.Array1-01.wav` (one far
microphone). Splits are the lists of the set-up, of the full-corpus ASR partition; its dev is `valid`.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

from wavlm_lightning.data.foreign.rttm import BEYOND, check_pieces, stretches_of
from wavlm_lightning.data.recordings import CorpusPlan, Recording, check_counts, require_folder
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import read_lines, read_text, reading

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


def read_turns(path: Path, name: str) -> list[tuple[str, float, float]]:
    """The turns of one recording in an RTTM file of its own; none if the file has no line of it.

    Raises:
        UserError: the file is missing or is not RTTM, or it has turns of another recording.
    """
    from wavlm_lightning.metrics.rttm import parse_rttm  # imports numpy, which `wavlm prepare --help` must not

    lines = [*io.StringIO(read_text(path, "the turns of a recording, an RTTM file"), newline=None)]
    with reading(path, "an RTTM file", "correct this line"):
        found = parse_rttm(lines)
    if others := sorted(set(found) - {name}):
        raise UserError(f"{path}: it has turns of {others[0]!r}, not only of {name!r}; give the file of this recording")
    return found.get(name, [])


def with_speakers(
    name: str,
    path: Path,
    turns: list[tuple[str, float, float]],
    scored: list[tuple[float, float]] | None,
    pieces: float | None,
    **more: object,
) -> list[Recording]:
    """The utterances of a recording (see `stretches_of`), each with the `speakers` of its turns and `more` metadata.

    Raises:
        UserError: a turn, or a scored stretch, ends after the audio.
    """
    from wavlm_lightning.audio import stated_seconds

    seconds = stated_seconds(path)
    for what, end in (
        ("a turn", max((end for *_, end in turns), default=0.0)),
        ("a scored stretch", max((end for _, end in scored or []), default=0.0)),
    ):
        if seconds is not None and end > seconds + BEYOND:
            raise UserError(f"{path}: lasts {seconds:.2f} s, but {what} ends at {end:.2f} s; the audio is not complete")
    stretches: list[tuple[float, float | None]] = [(0.0, seconds)] if scored is None else [*scored]
    recordings = list(stretches_of(path, name, turns, stretches, pieces, whole=scored is None))
    for recording in recordings:
        recording.meta["speakers"] = sorted({speaker for speaker, _, _ in recording.meta["turns"]})
        recording.meta.update(more)
    return recordings
