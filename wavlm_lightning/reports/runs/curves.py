"""Find the curves of heads and the pre-training runs below some folders; health, time and audio of pre-training."""

import os
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Collection as Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wavlm_lightning.reports.cards import CARD_NAME, ResultCard
from wavlm_lightning.reports.curves import Curves, Series, read_curves
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.run_folder import curve_files, init_args, read_run_config

CURVES = "metrics.csv"
CLOSE = 1e-6  # between a figure on a card and in curves, whose digits differ
# Only pre-training logs these: curves without a card may also be those of a head that was never tested.
_PRETRAINING = ("train/masked_accuracy", "valid/masked_accuracy", "train/masked_prediction")


@dataclass(frozen=True)
class PretrainingRun:
    """A pre-training run, read from its folder."""

    name: str  # of the folder; the path below the common folder if two runs have the same name
    folder: Path
    config: dict[str, Any]  # content of config.yaml, empty if there is none
    curves: Curves
    devices: int | None  # GPUs, or processes on a CPU; None if the configuration leaves it open
    on_gpu: bool  # whether memory of a GPU was logged

    @property
    def steps(self) -> int:
        """Updates so far; Lightning counts what it logs from 0."""
        return self.curves.last_step + 1

    @property
    def data(self) -> dict[str, Any]:
        return init_args(self.config, "data")

    @property
    def trainer(self) -> dict[str, Any]:
        return self.config.get("trainer") or {}

    @property
    def audio_per_update(self) -> float | None:
        """Seconds of audio in an update, at most, over all processes and micro-steps; None if unknown."""
        batch, times = self.data.get("batch_seconds"), self.trainer.get("accumulate_grad_batches", 1)
        if self.devices and isinstance(batch, int | float) and isinstance(times, int):
            return batch * times * self.devices
        return None

    @property
    def audio_seconds(self) -> float | None:
        """Seconds of audio in all updates, at most, repetitions counted; None if unknown."""
        return None if self.audio_per_update is None else self.steps * self.audio_per_update

    @property
    def seconds(self) -> float | None:
        """Training time without validation, from audio per update and logged speed; None if either is unknown."""
        audio, speed = self.audio_per_update, health(self.curves, "audio_seconds_per_second")
        return None if audio is None or speed is None else _training_seconds(speed, audio, self.curves.last_step)


@dataclass(frozen=True, kw_only=True)
class PretrainingFacts:
    """Facts of a pre-training run that its curves do not hold: of corpus, labels and checkpoint. All are optional."""

    corpus: str = ""  # its name, and how it was made
    minutes: float | None = None  # of audio in the training split
    speakers: int | None = None
    clusters: int | None = None
    pnmi: float | None = None  # phone-normalised mutual information of the labels, 0..1
    purity: float | None = None  # of the labels, 0..1
    unigram: float | None = None  # share of the commonest label, 0..1
    parameters: int | None = None  # of the encoder with its prediction head
    labelled: str = ""  # labelled speech that the encoder has learned from, as people read it


# Handed in, because corpora and checkpoints are beyond what this package may import.
Describe = Callable[[PretrainingRun], PretrainingFacts]


def run_curves(folder: Path) -> Curves:
    """The curves of one run folder: `curves/version_*/metrics.csv`, one per start, or else its own `metrics.csv`."""
    return read_curves(curve_files(folder) or [folder / CURVES])


def runs_of(card_file: Path, card: ResultCard) -> list[Path]:
    """The run folders behind a card: the card's folder, that of the chosen learning rate, or those of its folds."""
    folder, run = card_file.parent, card.details.get("run") or ""
    if card.details.get("folds"):
        # The first fold's path stands for folds whose parent has no card.
        above = folder.parent if folder.name.startswith("fold") else folder
        return sorted(path / run for path in above.glob("fold*") if (path / run).is_dir())
    folder = folder / run
    return [folder] if (folder / "curves").is_dir() or (folder / CURVES).is_file() else []


def better_update(card_file: Path, card: ResultCard) -> int | None:
    """The update after the tested one whose validation is the best of the run; None without, or if that is not known.

    There is one if a run went on after its test: `best.ckpt` and the curves are then newer than the card.
    """
    if (chosen := card.selection) is None or card.details.get("folds"):
        return None
    sign = -1 if chosen.get("mode") == "min" else 1
    for folder in runs_of(card_file, card):
        try:
            series = run_curves(folder).get(chosen["metric"])
        except UserError:  # which the curves of the heads report
            continue
        # Lightning counts logged steps from 0, and a validation that is made up on resuming from 1.
        points = [] if series is None else list(zip(series.values, series.steps, strict=True))
        later = [(value, step) for value, step in points if step > card.best_step]
        value, step = max(later, key=lambda point: sign * point[0], default=(0.0, -1))
        if later and sign * (value - chosen["value"]) > CLOSE:
            return step + 1
    return None


def find_pretraining(
    directories: Iterable[Path], heads: Sized[Path], problems: list[str], name: Callable[[Path], str]
) -> list[PretrainingRun]:
    """The pre-training runs below some directories, in order of path; `heads` are run folders that have a card.

    `problems` gets a sentence for curves that cannot be read, or that belong to a head without a card.
    """
    folders: set[Path] = set()
    for directory in directories:
        for path in Path(directory).rglob(CURVES) if Path(directory).is_dir() else ():
            parents = path.resolve().parents
            # The file of a CSV logger in a run folder (`RUN/csv/version_0/metrics.csv`) repeats the curves of that run.
            logged = parents[1].name == "curves" or (parents[0].name.startswith("version_") and curve_files(parents[2]))
            folders.add(parents[2] if logged else parents[0])
    found: dict[Path, Curves] = {}
    for folder in sorted(folders):
        if (folder / CARD_NAME).is_file() or folder in heads:
            continue
        try:
            curves = run_curves(folder)
        except UserError as error:
            problems.append(str(error))
            continue
        if any(key in curves for key in _PRETRAINING):
            found[folder] = curves
        elif curves:
            problems.append(f"{name(folder)} has curves but no result card; `wavlm test` writes one.")
    names = short_names(list(found))
    return [_run(names[folder], folder, curves) for folder, curves in found.items()]


def health(curves: Curves, name: str) -> Series | None:
    """The series `health/NAME`."""
    return curves.get(f"health/{name}")


def top_rank(curves: Curves) -> Series | None:
    """Effective rank of the top layer over the validations."""
    ranks = sorted(key for key in curves.series if key.startswith("health/effective_rank/"))
    return curves.get(ranks[-1]) if ranks else None


def _run(name: str, folder: Path, curves: Curves) -> PretrainingRun:
    config = read_run_config(folder)  # if there is none, the curves are still worth showing; only the cost is unknown
    trainer = config.get("trainer") or {}
    # CUDA always logs its memory, see `pretraining.health.Speed`.
    on_gpu = health(curves, "peak_memory_gib") is not None
    devices, nodes = trainer.get("devices", 1), trainer.get("num_nodes", 1)
    if devices == "auto" and not on_gpu:
        devices = 1
    known = isinstance(devices, int) and devices > 0 and isinstance(nodes, int)
    return PretrainingRun(name, folder, config, curves, devices * nodes if known else None, on_gpu)


def _training_seconds(speed: Series, audio_per_update: float, last_step: int) -> float:
    """Sum over the stretches between two readings of the speed, each at the speed read at its end."""
    seconds, before = 0.0, -1
    for step, rate in zip(speed.steps, speed.values, strict=True):
        seconds += (step - before) * audio_per_update / rate
        before = step
    return seconds + (last_step - before) * audio_per_update / speed.last


def short_names(folders: Sequence[Path]) -> dict[Path, str]:
    """The name of each folder, or its path below the folder that holds all of them if two have the same name."""
    names = {folder: folder.name for folder in folders}
    if len(set(names.values())) == len(folders):
        return names
    common = Path(os.path.commonpath(folders))
    return {folder: str(folder.relative_to(common)) for folder in folders}
