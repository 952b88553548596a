"""WHAM!: two talkers of WSJ0 with recorded noise, for separation and for enhancement (Wichern et al. 2019).

Audio as WHAM!'s own scripts make it, at 16 kHz: `2speakers_wham/wav16k/{min,max}/{tr,cv,tt}/{mix_both,mix_clean,mix_single,s1,
s2}`. WHAM!'s sources have the level that they have in the mixtures.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from wavlm_lightning.data.corpora.mixtures.libri2mix_separation import with_sources
from wavlm_lightning.data.recordings import (
    AudioFile,
    CorpusPlan,
    Recording,
    check_counts,
    clean_key,
    require_file,
    require_folder,
)
from wavlm_lightning.system.errors import UserError

HELP = "WHAM! at 16 kHz (separation, enhancement); DIR is 2speakers_wham or the folder above"

FOLDER = "2speakers_wham"
SPLITS = {"train": ("tr", 20_000), "valid": ("cv", 5_000), "test": ("tt", 3_000)}
# task: (mixtures, clean reference of an enhancement)
TASKS = {
    "sep_clean": ("mix_clean", None),
    "sep_noisy": ("mix_both", None),
    "enh_single": ("mix_single", "s1"),
    "enh_both": ("mix_both", "mix_clean"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the task and the mode."""
    parser.add_argument(
        "--task",
        choices=TASKS,
        default="sep_noisy",
        help="sep_clean: two talkers without noise; sep_noisy: in noise, the default; enh_single: one talker, noise to be "
        "removed; enh_both: two talkers, noise to be removed",
    )
    parser.add_argument("--mode", choices=("min", "max"), default="min", help="of the mixtures (%(default)s)")


def plan(root: Path, arguments: argparse.Namespace) -> CorpusPlan:
    """Mixtures with further audio `s1` and `s2`, or of an enhancement `clean`; metadata: `speakers` of WSJ0."""
    base = root if (root / "wav16k").is_dir() else root / FOLDER
    require_folder(base / "wav16k", "WHAM! at 16 kHz as its scripts make it")
    kind, clean = TASKS[arguments.task]
    splits: dict[str, list[Recording]] = {}
    for split, (subset, _) in SPLITS.items():
        folder = base / "wav16k" / arguments.mode / subset
        if clean is None:
            splits[split] = with_sources(folder, kind, subset, talkers_in)
            continue
        require_folder(folder / clean, f"the clean references of {subset}")
        splits[split] = [
            Recording(
                mixture,
                clean_key(mixture.stem),
                {"speakers": talkers_in(mixture.stem)[: 1 if clean == "s1" else 2], "language": "en"},
                audio={
                    "clean": AudioFile(require_file(folder / clean / mixture.name, "the clean reference of a mixture"))
                },
            )
            for mixture in sorted(require_folder(folder / kind, f"the mixtures {kind} of {subset}").glob("*.wav"))
        ]
    check_counts(
        splits, {split: count for split, (_, count) in SPLITS.items()}, arguments.allow_partial, base, "mixtures"
    )
    return CorpusPlan(
        name=f"wham-{arguments.task}",
        licence="WSJ0: LDC93S6A; noise CC BY-NC 4.0 (WHAM!)",
        splits=splits,
        inventories={
            "speakers": {
                split: sorted({name for r in part for name in r.meta["speakers"]}) for split, part in splits.items()
            }
        },
        source={"mixtures": f"wav16k/{arguments.mode}/{kind}"},
    )


def talkers_in(mixture: str) -> list[str]:
    """The talkers of a mixture of WSJ0, such as 011 and 401 of `011a0101_0.97_401a0101_-0.97`."""
    parts = mixture.split("_")
    if len(parts) != 4 or any(len(part) != 8 for part in parts[::2]):
        raise UserError(f"{mixture}.wav: is not named after two utterances of WSJ0 and their levels; make WHAM! again")
    return [part[:3] for part in parts[::2]]
