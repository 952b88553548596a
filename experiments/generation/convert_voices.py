"""Each of two real voices in the place of the other, by kNN-VC: nothing here has been trained on either."""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from real_voices import Clip, identity, read_clips

from wavlm_lightning.audio import encode_flac, load_mono
from wavlm_lightning.metrics.speech.judges import can_judge, install_judge, voice_of, voice_vector
from wavlm_lightning.metrics.speech.pitch import pitch
from wavlm_lightning.reports.examples import FOLDER, MOST, Example, read_examples, sound, write_examples
from wavlm_lightning.reports.page import Heading, Page, Paragraph, Sounds
from wavlm_lightning.reports.runs.sounds import sound_block
from wavlm_lightning.reports.tables import Table, text_table
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import write_text
from wavlm_lightning.workflows.convert import convert_recordings
from wavlm_lightning.workflows.fit.head_runs import files_named

MINUTES = 5.0  # of the voice that is spoken in
KEPT_APART = 20  # recordings of a voice by which it is judged, which kNN-VC neither converts nor takes as a voice


class Way(NamedTuple):
    """Out of one voice into another."""

    source: str
    target: str
    said: list[Clip]  # what is converted
    voice: list[Clip]  # in which it is said
    judged: list[Clip]  # by which that voice is known
    own: list[Clip]  # by which the voice of the source is known


def ways(speech: Path, count: int, seed: int = 0) -> list[Way]:
    """Both ways between the first two speakers; `count` clips each.

    Raises:
        UserError: there are too few clips of one of them.
    """
    clips = read_clips(speech, np.random.default_rng(seed))
    for speaker in sorted(clips)[:2]:
        if (held := len(clips[speaker])) <= KEPT_APART:
            raise UserError(
                f"{speech}: {held} usable clips of {speaker}; conversions need more than {KEPT_APART} of a voice"
            )
    found = []
    for source, target in zip(sorted(clips)[:2], sorted(clips)[1::-1], strict=True):
        (own, said), (judged, rest) = (
            (clips[speaker][:KEPT_APART], clips[speaker][KEPT_APART:]) for speaker in (source, target)
        )
        seconds = np.cumsum([clip.seconds for clip in rest])
        voice = rest[: 1 + int(np.searchsorted(seconds, 60 * MINUTES))]
        found.append(Way(source, target, said[:count], voice, judged, own))
    return found


def write_clips(folder: Path, clips: Sequence[Clip]) -> list[Path]:
    """FLAC files for `wavlm convert`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, clip in enumerate(clips):
        paths.append(folder / f"{number:03d}.flac")
        paths[-1].write_bytes(sound_of(clip.waveform))
    return paths


def sound_of(wave: np.ndarray) -> bytes:
    """The whole waveform as FLAC."""
    return encode_flac(np.clip(wave, -1.0, 1.0))


def convert(way: Way, run: Path | str, out: Path, speech: str) -> list[np.ndarray]:
    """Conversions in order; those that this run made before, of the recordings with this `identity`, stay."""
    done = out / f"converted-{len(way.said)}"
    made_by = json.dumps({**files_named([str(run)]), "speech": speech})
    if not (done / "done").is_file() or (done / "done").read_text(encoding="utf-8") != made_by:
        said, voice = write_clips(out / "said", way.said), write_clips(out / "voice", way.voice)
        shutil.rmtree(done, ignore_errors=True)
        for _ in convert_recordings(run, said, voice, done, audio_format="flac"):
            pass
        write_text(done / "done", made_by)
    return [load_mono(done / f"{number:03d}.flac") for number in range(len(way.said))]


def convert_all(speech: Path, out: Path, runs: Mapping[str, Path | str], count: int) -> tuple[Table, Path]:
    """A table of similarity and pitch, and a page that plays source, every row's conversion, and the target.

    Args:
        speech: folder of recordings of two speakers, with `manifest.csv`.
        out: folder for the conversions and the page.
        runs: row -> run of a vocoder, or an encoder.
        count: clips each way.
    """
    body: list[list[str]] = []
    blocks: list[Paragraph | Sounds] = []
    judge, of = can_judge("similarity"), identity(speech)
    for way in ways(speech, count):
        title = f"{way.source} in the voice of {way.target}"
        place = out / f"{way.source}-{way.target}"
        answers = {row: convert(way, run, place / row.replace(" ", "_"), of) for row, run in runs.items()}
        known = {"of the target": way.judged, "of the source": way.own}
        centres = {
            name: voice_of([clip.waveform for clip in clips]) if judge else None for name, clips in known.items()
        }
        rows = {
            "unprocessed": [clip.waveform for clip in way.said],
            **answers,
            "the target": [clip.waveform for clip in way.voice[:count]],
        }
        for row, waves in rows.items():
            cells = [_similarity(waves, centre) for centre in centres.values() if centre is not None]
            body.append([title, row, *cells, _pitch(waves)])
        blocks += _players(place, title, way, answers, len(blocks))
    cosines = [f"cosine to the voice {name}" for name in ("of the target", "of the source")]
    heads = ["", "row", *(cosines if judge else []), "median pitch, Hz"]
    table = text_table(heads, body)
    judged = "by Resemblyzer, which was trained elsewhere" if judge else f"not measured: {install_judge()}"
    page = Page(
        "Real voices, converted", "kNN-VC", f"Similarity of voices is {judged}.", [table, Heading("Listen"), *blocks]
    )
    write_text(out / "voices.html", page.to_html())
    return table, out / "voices.html"


def _similarity(waves: Sequence[np.ndarray], centre: np.ndarray) -> str:
    cosines = [float(vector @ centre) for wave in waves if (vector := voice_vector(wave)) is not None]
    return f"{statistics.fmean(cosines):.3f}" if cosines else ""


def _pitch(waves: Sequence[np.ndarray]) -> str:
    hertz = np.concatenate([pitch(wave) for wave in waves])
    return f"{np.median(hertz[hertz > 0]):.0f}" if (hertz > 0).any() else ""


def _players(
    place: Path, title: str, way: Way, answers: Mapping[str, list[np.ndarray]], made: int
) -> list[Paragraph | Sounds]:
    """The first clips, the answers of all rows side by side; `made` blocks of the page come before them."""
    heard = {}
    for row, waves in answers.items():
        examples = []
        for number, (clip, wave) in enumerate(zip(way.said[:MOST], waves, strict=False)):
            sounds = {
                "source": sound(clip.waveform),
                "converted": sound(wave),
                "target": sound(way.judged[number].waveform),
            }
            examples.append(Example(f"clip {number + 1}", sounds, {}, ("converted",)))
        folder = place / row.replace(" ", "_")
        write_examples(folder, examples)
        heard[row] = folder
    read = {row: (read_examples(folder), folder / FOLDER) for row, folder in heard.items()}
    count = min(MOST, len(way.said))
    blocks: list[Paragraph | Sounds] = [Paragraph(f"{title}. The target is that voice with other words.", "quiet")]
    for number in range(count):
        same = {row: (some[number], folder) for row, (some, folder) in read.items()}
        blocks.append(sound_block(place, made + number + 1, title, f"clip {number + 1}", same))
    return blocks
