"""A few recordings of tones, as files, and what `wavlm prepare folder` makes of them: the reference for other formats."""

import csv
import importlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from wavlm_lightning.cli.prepare import build_parser
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.folder import FolderRecipe
from wavlm_lightning.data.foreign import FORMATS

RATES = (8000, 16_000, 22_050)


@dataclass(frozen=True)
class Spoken:
    """Files in `folder`, and their rows: path, speaker, gender, language, text."""

    folder: Path
    rows: list[dict[str, str]]

    def reference(self, out: Path, leave_out: set[str] = frozenset()) -> dict:
        """What `wavlm prepare folder` makes of a manifest with the same rows, without the columns `leave_out`."""
        manifest = out.parent / f"{out.name}.csv"
        columns = [name for name in self.rows[0] if name not in leave_out]
        with manifest.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(self.rows)
        FolderRecipe(self.folder, out, manifest).prepare(workers=1)
        return content(Corpus.open(out))


def make_spoken(folder: Path, count: int = 8) -> Spoken:
    """Tones of four speakers in wav, at three rates."""
    folder.mkdir(parents=True)
    rows = []
    for n in range(count):
        rate = RATES[n % 3]
        times = np.arange(rate // 2 + 100 * n) / rate
        path = folder / f"u{n:02d}.wav"
        soundfile.write(path, 0.3 * np.sin(2 * np.pi * (200 + 30 * n) * times) * np.hanning(len(times)), rate)
        voice = f"s{n % 4}"
        rows.append(
            {
                "path": path.name,
                "speaker": voice,
                "gender": "female" if n % 2 else "male",
                "language": "en",
                "text": f'say "{n}", dame café',
            }
        )
    return Spoken(folder, rows)


def content(corpus: Corpus) -> dict:
    """Name of each file -> split, waveform as bytes, metadata without the folder of the file."""
    found = {}
    for split in corpus.splits:
        for _, waveform, meta in corpus.split(split).utterances():
            file = Path(meta["file"]).name
            name = (file, meta.get("text"))
            assert name not in found
            found[name] = split, waveform.tobytes(), {**meta, "file": file}
    return found


def without_split(found: dict) -> dict:
    """`content` without splits, for formats that give others."""
    return {
        name: (waveform, {key: value for key, value in meta.items() if key != "split"})
        for name, (_, waveform, meta) in found.items()
    }


def prepare_foreign(*words) -> Corpus:
    """What `wavlm prepare WORDS` calls: errors are raised, nothing is printed."""
    argv = [*map(str, words), "--workers", "1"]
    return importlib.import_module(FORMATS[argv[0]]).prepare(build_parser(argv).parse_args(argv))
