"""RIRS_NOISES (OpenSLR 28): simulated impulse responses of rooms, for reverberation; each size of room is a split.

DIR holds `simulated_rirs/{smallroom,mediumroom,largeroom}/ROOM/*.wav`, as published; the recorded responses and the noises
are left out. `AddRoom` names the split: `corpus: data/rirs_noises, corpus_split: smallroom`. The number of files is not
checked.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from wavlm_lightning.data.recordings import CorpusPlan, Recording, clean_key, require_named
from wavlm_lightning.system.errors import UserError

HELP = "simulated impulse responses of RIRS_NOISES, for reverberation (splits by size of room)"

SIZES = ("smallroom", "mediumroom", "largeroom")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options of its own."""


def plan(root: Path, arguments: argparse.Namespace) -> CorpusPlan:
    """The first channel of each response, with its file as `source`."""
    folder = require_named(root, "RIRS_NOISES", "simulated_rirs") / "simulated_rirs"
    splits: dict[str, list[Recording]] = {}
    for size in SIZES:
        files = sorted((folder / size).glob("*/*.wav"))
        if not files and not arguments.allow_partial:
            raise UserError(
                f"{folder / size}: no */*.wav; unpack the archive again, or use the rest with --allow-partial"
            )
        if files:
            splits[size] = [_recording(folder, file) for file in files]
    if not splits:
        raise UserError(f"{folder}: no {', '.join(SIZES)} with wav files; unpack the archive again")
    return CorpusPlan("RIRS_NOISES", "Apache 2.0", splits, {})


def _recording(folder: Path, file: Path) -> Recording:
    name = file.relative_to(folder)
    return Recording(file, clean_key(str(name.with_suffix(""))), {"source": name.as_posix()}, channel=0)
