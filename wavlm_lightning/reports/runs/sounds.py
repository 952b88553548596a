"""What a report plays: for tasks that answer with audio, a few test utterances: what was given and what each row answered."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import quote

from wavlm_lightning.reports import plots
from wavlm_lightning.reports.examples import FOLDER, Example, read_examples
from wavlm_lightning.reports.figures import Draw, picture
from wavlm_lightning.reports.page import Sounds
from wavlm_lightning.reports.runs.curves import runs_of
from wavlm_lightning.reports.runs.results import Collection, Result
from wavlm_lightning.reports.theme import with_palette
from wavlm_lightning.system.errors import UserError

MOST_BYTES = 12 * 2**20  # of sounds, as text, and their pictures in a page, so that it stays below 15 MB
AS_TEXT = 4 / 3  # characters of base64 for a byte
SIZE = (4.0, 2.3)  # inches of a spectrogram
PICTURES = "sounds-*.png"


def sound_blocks(directory: Path, collection: Collection) -> dict[str, list[Sounds]]:
    """Task -> a block for each example, with the answers of all upstreams side by side.

    Pictures go to `directory`. The first example of every task comes before the second of any, so that a page that is full
    still has something of each. What cannot be read, or is too much for one page, becomes a sentence in
    `collection.problems`.
    """
    for stale in directory.glob(PICTURES):  # of an earlier report
        stale.unlink()
    waiting: list[tuple[int, str, str, Same]] = []  # place among the examples of its task, task, key
    for task in collection.tasks:
        found = {
            upstream: heard
            for upstream, result in collection.of_task(task).items()
            if (heard := _examples(result, collection.problems))
        }
        for place, key in enumerate(dict.fromkeys(key for heard in found.values() for key in heard)):
            same = {upstream: heard[key] for upstream, heard in found.items() if key in heard}
            waiting.append((place, task, key, same))
    room, left_out, made = float(MOST_BYTES), 0, 0
    blocks: dict[str, list[Sounds]] = {}
    for _, task, key, answers in sorted(waiting, key=lambda each: each[0]):
        if AS_TEXT * sum(len(data) for _, data, _, _ in _panels(answers)) > room:
            left_out += 1
            continue
        made += 1
        block = sound_block(directory, made, task, key, answers)
        room -= len(block.to_html())
        blocks.setdefault(task, []).append(block)
    if left_out:
        limit = MOST_BYTES // 2**20
        collection.problems.append(
            f"{left_out} examples of sound are left out, since a page holds {limit} MiB of sound; "
            "a report of fewer tasks or upstreams has room for more of each"
        )
    return {task: blocks[task] for task in collection.tasks if task in blocks}


def _examples(result: Result, problems: list[str]) -> dict[str, tuple[Example, Path]]:
    """Key -> example and its folder, of the first seed and fold of a result."""
    file = Path(result.files[0])
    for folder in dict.fromkeys((file.parent, *runs_of(file, result.cards[0]))):
        try:
            examples = read_examples(folder)
        except UserError as error:
            problems.append(str(error))
            continue
        if examples:
            return {example.key: (example, folder / FOLDER) for example in examples}
    return {}


Same = Mapping[str, tuple[Example, Path]]  # upstream -> its example of one utterance, and the folder
Panel = tuple[str, bytes, str, Path]  # title, FLAC, measures, file


def _panels(answers: Same) -> list[Panel]:
    """What is given, which is the same for all upstreams, around the answers of each."""
    first, folder = next(iter(answers.values()))
    names = list(first.sounds)
    begin = next((place for place, name in enumerate(names) if name in first.answers), len(names))
    panels = [_panel(name, name, first, folder) for name in names[:begin]]
    for upstream, (example, place) in answers.items():
        own = [name for name in example.sounds if name in example.answers]
        for name in own:
            title = f"{upstream}: {name}" if len(own) > 1 else upstream
            panels.append(_panel(title if len(answers) > 1 else name, name, example, place))
    return [*panels, *(_panel(name, name, first, folder) for name in names[begin:] if name not in first.answers)]


def _panel(title: str, name: str, example: Example, folder: Path) -> Panel:
    return title, example.sounds[name], example.figures.get(name, ""), folder / example.files[name]


def sound_block(directory: Path, number: int, task: str, key: str, answers: Same) -> Sounds:
    """One utterance: players and spectrograms of what is given and of the answers of each upstream.

    Args:
        directory: of the page, for the picture `sounds-NUMBER.png`.
        number: unique on the page.
        task: for the caption.
        key: of the utterance.
        answers: upstream -> its example, and the folder with its files.
    """
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
    caption = f"{task}, `{key}`. {measured}." if measured else f"{task}, `{key}`."
    drawing = picture(directory, f"sounds-{number}", draws, SIZE, caption)
    assert drawing is not None
    drawing = replace(drawing, panels=[with_palette(svg) for svg in drawing.panels])
    return Sounds(
        drawing,
        [f"{title} of {key}" for title, *_ in panels],
        [f"data:audio/flac;base64,{base64.b64encode(data).decode()}" for _, data, _, _ in panels],
        [quote(Path(os.path.relpath(file, directory.resolve())).as_posix()) for *_, file in panels],
    )
