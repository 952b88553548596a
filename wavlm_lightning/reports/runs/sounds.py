"""What a report plays: for tasks that answer with audio, input, answers and reference of a few test utterances."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from urllib.parse import quote

from wavlm_lightning.reports import plots
from wavlm_lightning.reports.examples import FOLDER, Example, read_examples
from wavlm_lightning.reports.figures import Draw, picture
from wavlm_lightning.reports.page import Sounds
from wavlm_lightning.reports.runs.curves import runs_of
from wavlm_lightning.reports.runs.results import Collection, Result
from wavlm_lightning.system.errors import UserError

MOST_BYTES = 6 * 2**20  # of sounds in a page; as text in the page they take a third more
SIZE = (4.0, 2.3)  # inches of a spectrogram
PICTURES = "sounds-*.png"


def sound_blocks(directory: Path, collection: Collection) -> dict[str, list[Sounds]]:
    """Task -> a block for each example, with the answers of all upstreams side by side.

    Pictures go to `directory`. What cannot be read, or is too much for one page, becomes a sentence in
    `collection.problems`.
    """
    for stale in directory.glob(PICTURES):  # of an earlier report
        stale.unlink()
    room, left_out = MOST_BYTES, 0
    blocks: dict[str, list[Sounds]] = {}
    for task in collection.tasks:
        found = {
            upstream: heard
            for upstream, result in collection.of_task(task).items()
            if (heard := _examples(result, collection.problems))
        }
        for key in dict.fromkeys(key for heard in found.values() for key in heard):
            same = {upstream: heard[key] for upstream, heard in found.items() if key in heard}
            size = sum(len(data) for _, data, _, _ in _panels(same))
            if size > room:
                left_out += 1
                continue
            room -= size
            number = sum(map(len, blocks.values())) + 1
            blocks.setdefault(task, []).append(_block(directory, number, task, key, same))
    if left_out:
        limit = MOST_BYTES // 2**20
        collection.problems.append(
            f"{left_out} examples of sound are left out, since a page holds {limit} MiB of sound"
        )
    return blocks


def _examples(result: Result, problems: list[str]) -> dict[str, tuple[Example, Path]]:
    """Key -> example and its folder, of the first seed and fold of a result."""
    file = Path(result.files[0])
    for folder in dict.fromkeys((file.parent, *runs_of(file, result.cards[0].details.get("run")))):
        try:
            examples = read_examples(folder)
        except UserError as error:
            problems.append(str(error))
            continue
        if examples:
            return {example.key: (example, folder / FOLDER) for example in examples}
    return {}


Panel = tuple[str, bytes, str, Path]  # title, FLAC, measures, file


def _panels(answers: Mapping[str, tuple[Example, Path]]) -> list[Panel]:
    """Input and reference, which are the same for all upstreams, around the answers."""
    first, folder = next(iter(answers.values()))
    panels = [_panel("input", "input", first, folder)]
    for upstream, (example, place) in answers.items():
        panels.append(_panel(upstream if len(answers) > 1 else "answer", "answer", example, place))
    return [*panels, _panel("reference", "reference", first, folder)]


def _panel(title: str, name: str, example: Example, folder: Path) -> Panel:
    return title, example.sounds[name], example.figures.get(name, ""), folder / example.files[name]


def _block(directory: Path, number: int, task: str, key: str, answers: Mapping[str, tuple[Example, Path]]) -> Sounds:
    import torch

    from wavlm_lightning.audio import SAMPLE_RATE, decode_flac, spectrogram_db

    panels = _panels(answers)
    waveforms = [torch.from_numpy(decode_flac(data)) for _, data, _, _ in panels]
    spectra = [spectrogram_db(waveform).numpy() for waveform in waveforms]
    loudest = max(float(spectrum.max()) for spectrum in spectra)  # one scale, so that levels can be compared
    draws: list[Draw] = [
        partial(
            plots.draw_spectrogram,
            decibels=spectrum,
            title=plots.short(title),
            loudest=loudest,
            seconds=len(waveform) / SAMPLE_RATE,
        )
        for (title, *_), spectrum, waveform in zip(panels, spectra, waveforms, strict=True)
    ]
    measured = "; ".join(f"{title}: {figures}" for title, _, figures, _ in panels if figures)
    drawing = picture(directory, f"sounds-{number}", draws, SIZE, f"{task}, `{key}`. {measured}.")
    assert drawing is not None
    return Sounds(
        drawing,
        [f"{title} of {key}" for title, *_ in panels],
        [f"data:audio/flac;base64,{base64.b64encode(data).decode()}" for _, data, _, _ in panels],
        [quote(Path(os.path.relpath(file, directory.resolve())).as_posix()) for *_, file in panels],
    )
