"""AliMeeting (openslr.org/119): Mandarin meetings of two to four people, far field, for SD and OSD.

Audio and TextGrids as published, `Train_Ali_far`, `Eval_Ali/Eval_Ali_far` and `Test_Ali/Test_Ali_far`, each with `audio_dir` and
`textgrid_dir`; its Eval is `valid`. Each tier with text is a speaker; intervals with text are turns. Of the eight channels the
first is kept, as is usual for one microphone.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from wavlm_lightning.data.corpora.meetings.recordings_with_turns import with_speakers
from wavlm_lightning.data.foreign.rttm import check_pieces
from wavlm_lightning.data.recordings import CorpusPlan, Recording, check_counts, require_folder
from wavlm_lightning.system.errors import UserError

HELP = "AliMeeting, far field (SD, OSD); DIR holds Train_Ali_far, Eval_Ali and Test_Ali"

SPLITS = {"train": ("Train", 209), "valid": ("Eval", 8), "test": ("Test", 20)}  # part, meetings as published


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--pieces`."""
    parser.add_argument(
        "--pieces", type=float, metavar="SECONDS", help="cut meetings into equal pieces of at most this"
    )


def plan(root: Path, arguments: argparse.Namespace) -> CorpusPlan:
    """Meetings, whole or in pieces, with `turns` and `speakers`."""
    require_folder(root, "AliMeeting")
    check_pieces(arguments.pieces)
    splits: dict[str, list[Recording]] = {}
    counts: dict[str, int] = {}
    for split, (part, _) in SPLITS.items():
        folder = next((path for path in (root / f"{part}_Ali", root) if (path / f"{part}_Ali_far").is_dir()), None)
        if folder is None:
            raise UserError(
                f"{root}: no folder {part}_Ali_far, nor {part}_Ali/{part}_Ali_far; unpack all archives of the corpus"
            )
        grids = sorted((folder / f"{part}_Ali_far" / "textgrid_dir").rglob("*.TextGrid"))
        splits[split], counts[split] = [], len(grids)
        for grid in grids:
            audio = sorted((folder / f"{part}_Ali_far" / "audio_dir").rglob(f"{grid.stem}_*.wav"))
            if len(audio) != 1:
                raise UserError(
                    f"{grid}: {len(audio)} files {grid.stem}_*.wav in audio_dir, instead of one; complete the corpus"
                )
            found = with_speakers(grid.stem, audio[0], _turns(grid), None, arguments.pieces)
            splits[split] += [replace(recording, channel=0) for recording in found]
    official = {split: count for split, (_, count) in SPLITS.items()}
    check_counts(counts, official, arguments.allow_partial, root, "meetings")
    return CorpusPlan(
        name="alimeeting",
        licence="CC BY-SA 4.0",
        splits=splits,
        inventories={"speakers": sorted({s for part in splits.values() for r in part for s in r.meta["speakers"]})},
        source={"microphone": "far, first channel", "pieces": arguments.pieces},
    )


def _turns(path: Path) -> list[tuple[str, float, float]]:
    """Intervals with text, in order of time; a tier `N_F_SPK8013`, or `R0001_M0001_F_SPK8013`, is of speaker SPK8013."""
    from wavlm_lightning.data.alignments.text_grid import read_text_grid  # imports numpy

    _, tiers = read_text_grid(path)
    turns = [(tier.name.split("_")[-1], one.start, one.end) for tier in tiers for one in tier.segments]
    return sorted(turns, key=lambda turn: (turn[1], turn[2], turn[0]))
