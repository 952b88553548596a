"""A few short answers that are audio: `wavlm test` keeps them in the run folder, and the report plays them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from wavlm_lightning.system.files import finish_replacing, replace_folder
from wavlm_lightning.system.paths import unique_names
from wavlm_lightning.system.reading import read_json, reading

FOLDER = "examples"  # in the run folder
LIST = "examples.json"
FORMAT = "wavlm_lightning/examples/2"
FIRST_FORMAT = "wavlm_lightning/examples/1"  # input, answer and reference alone; read, no longer written
ANSWERS = ("answer",)  # the sounds of the first format that the head made
MOST = 3  # utterances of a run
SECONDS = 6.0  # of each sound; the rest is cut off


@dataclass(frozen=True)
class Example:
    """An utterance of a test: what went into the head, what came out, and what should have come out.

    Attributes:
        key: of the utterance.
        sounds: name ("noisy", "part 1") -> FLAC of at most `SECONDS`, 16 bit, 16 kHz, in the order in which they are played.
        figures: name of a sound -> measures as text ("SI-SDR 9.3 dB"), of the whole utterance.
        answers: the names of the sounds that the head made; the others are the same for every head.
        files: name of a sound -> name in `FOLDER`; empty before they are written.
    """

    key: str
    sounds: Mapping[str, bytes]
    figures: Mapping[str, str]
    answers: tuple[str, ...] = ANSWERS
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
        safe = unique_names([re.sub(r"[^\w.-]+", "_", name) for name in example.sounds])
        files = {name: f"{number}-{plain}.flac" for name, plain in zip(example.sounds, safe, strict=True)}
        for name, file in files.items():
            (fresh / file).write_bytes(example.sounds[name])
        figures, answers = dict(example.figures), list(example.answers)
        entries.append({"key": example.key, "sounds": files, "figures": figures, "answers": answers})
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
        if content["format"] not in (FORMAT, FIRST_FORMAT):
            raise ValueError(f"format {content['format']!r}")
        return [
            Example(
                entry["key"],
                {name: (place / Path(file).name).read_bytes() for name, file in entry["sounds"].items()},
                entry["figures"],
                tuple(entry.get("answers", ANSWERS)),
                entry["sounds"],
            )
            for entry in content["examples"]
        ]
