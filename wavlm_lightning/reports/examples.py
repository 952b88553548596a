"""A few short answers that are audio: `wavlm test` keeps them in the run folder, and the report plays them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from wavlm_lightning.system.files import finish_replacing, replace_folder
from wavlm_lightning.system.reading import read_json, reading

FOLDER = "examples"  # in the run folder
LIST = "examples.json"
FORMAT = "wavlm_lightning/examples/1"
SOUNDS = ("input", "answer", "reference")
MOST = 3  # utterances of a run
SECONDS = 6.0  # of each sound; the rest is cut off


@dataclass(frozen=True)
class Example:
    """An utterance of a test: what went into the head, what came out, and what should have come out.

    Attributes:
        key: of the utterance.
        sounds: by `SOUNDS`, FLAC of at most `SECONDS`, 16 bit, 16 kHz.
        figures: by `SOUNDS`, measures as text ("SI-SDR 9.3 dB"), of the whole utterance.
        files: by `SOUNDS`, names in `FOLDER`; empty before they are written.
    """

    key: str
    sounds: Mapping[str, bytes]
    figures: Mapping[str, str]
    files: Mapping[str, str] = field(default_factory=dict)


def sound(waveform: np.ndarray) -> bytes:
    """The beginning of a waveform `(samples,)` as FLAC, clipped to full scale as a player would."""
    from wavlm_lightning.audio import SAMPLE_RATE, encode_flac  # not above: it imports torch

    return encode_flac(np.clip(waveform[: round(SECONDS * SAMPLE_RATE)], -1.0, 1.0))


def write_examples(run: Path, examples: Sequence[Example]) -> None:
    """Replace `RUN/examples`, a FLAC file for each sound and a list of them; a reader sees the old folder or the new one."""
    place, fresh = run / FOLDER, run / f"{FOLDER}.part"
    shutil.rmtree(fresh, ignore_errors=True)  # of a process that was killed
    fresh.mkdir(parents=True)
    entries = []
    for number, example in enumerate(examples, start=1):
        files = {name: f"{number}-{name}.flac" for name in SOUNDS if name in example.sounds}
        for name, file in files.items():
            (fresh / file).write_bytes(example.sounds[name])
        entries.append({"key": example.key, "sounds": files, "figures": dict(example.figures)})
    content = {"format": FORMAT, "examples": entries}
    (fresh / LIST).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    replace_folder(fresh, place)


def read_examples(run: Path) -> list[Example]:
    """The examples of a run folder, none if it has none; a `UserError` if they cannot be read."""
    place = run / FOLDER
    finish_replacing(place)
    if not (place / LIST).is_file():
        return []
    content = read_json(place / LIST, "examples", "test the run again")
    with reading(place, "examples", "test the run again"):
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r}")
        return [
            Example(
                entry["key"],
                {name: (place / Path(file).name).read_bytes() for name, file in entry["sounds"].items()},
                entry["figures"],
                entry["sounds"],
            )
            for entry in content["examples"]
        ]
