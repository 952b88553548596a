"""Which curves lie below some folders, whose they are, and what those of pre-training say of health and cost."""

import os
from collections.abc import Collection as Sized
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from wavlm_lightning.reports.cards import CARD_NAME
from wavlm_lightning.reports.curves import Curves, Series, read_curves
from wavlm_lightning.system.errors import UserError

CURVES = "metrics.csv"
# What only pre-training logs; a head that was never tested has curves without a card, too.
_PRETRAINING = ("train/masked_accuracy", "valid/masked_accuracy", "train/masked_prediction")


@dataclass(frozen=True)
class PretrainingRun:
    """A pre-training run as its folder shows it.

    Args:
        name: of the folder, longer where two are called alike.
        folder: where `config.yaml` is.
        curves: everything it logged.
        seconds: of training, from audio per update and audio per second; None if either is unknown.
        devices: GPUs, or processes on a CPU; None if the configuration leaves it open.
        on_gpu: whether memory of a GPU was logged.
    """

    name: str
    folder: Path
    curves: Curves
    seconds: float | None
    devices: int | None
    on_gpu: bool

    @property
    def steps(self) -> int:
        """Updates so far; Lightning counts what it logs from 0."""
        return self.curves.last_step + 1


def run_curves(folder: Path) -> Curves:
    """The curves of one run folder: `curves/version_*/metrics.csv`, one a start, or `metrics.csv` itself."""
    files = sorted((folder / "curves").glob(f"version_*/{CURVES}"), key=_version)
    return read_curves(files or [folder / CURVES])


def runs_of(card_file: Path, chosen: str | None) -> list[Path]:
    """The run folders behind a card: its own, that of the chosen learning rate, or those of its folds.

    Args:
        card_file: of a cell.
        chosen: the card's `details["run"]`, a folder beside the card, if rates were searched.
    """
    folder = card_file.parent / (chosen or "")
    if (folder / "curves").is_dir() or (folder / CURVES).is_file():
        return [folder]
    return sorted(path for path in folder.glob("fold*") if path.is_dir())


def find_pretraining(
    directories: Iterable[Path], heads: Sized[Path], problems: list[str], name: Any
) -> list[PretrainingRun]:
    """The pre-training runs below some directories, in order of path.

    Args:
        directories: where to look; card files are passed over.
        heads: run folders that have a card.
        problems: gets a sentence for curves that cannot be read, or that belong to a head without a card.
        name: how sentences call a path.
    """
    folders: set[Path] = set()
    for directory in directories:
        for path in Path(directory).rglob(CURVES) if Path(directory).is_dir() else ():
            parents = path.resolve().parents
            folders.add(parents[2] if parents[1].name == "curves" else parents[0])
    found: list[tuple[Path, Curves]] = []
    for folder in sorted(folders):
        if (folder / CARD_NAME).is_file() or folder in heads:
            continue
        try:
            curves = run_curves(folder)
        except UserError as error:
            problems.append(str(error))
            continue
        if any(key in curves for key in _PRETRAINING):
            found.append((folder, curves))
        elif curves:
            problems.append(f"{name(folder)} has curves but no result card; `wavlm test` writes one.")
    names = _short_names([folder for folder, _ in found])
    return [_run(names[folder], folder, curves) for folder, curves in found]


def health(curves: Curves, name: str) -> Series | None:
    """A series of `health/...`."""
    return curves.get(f"health/{name}")


def top_rank(curves: Curves) -> Series | None:
    """Effective rank of the top layer over the validations."""
    ranks = sorted(key for key in curves.series if key.startswith("health/effective_rank/"))
    return curves.get(ranks[-1]) if ranks else None


def _run(name: str, folder: Path, curves: Curves) -> PretrainingRun:
    config = _config(folder)
    trainer, data = config.get("trainer") or {}, (config.get("data") or {}).get("init_args") or {}
    # CUDA always logs its memory, see `pretraining.health.Speed`.
    on_gpu = health(curves, "peak_memory_gib") is not None
    devices, nodes, times = (trainer.get(key, 1) for key in ("devices", "num_nodes", "accumulate_grad_batches"))
    if devices == "auto" and not on_gpu:
        devices = 1
    known = isinstance(devices, int) and devices > 0 and isinstance(nodes, int)
    processes = devices * nodes if known else None
    batch, speed = data.get("batch_seconds"), health(curves, "audio_seconds_per_second")
    seconds = None
    if processes and speed is not None and isinstance(batch, int | float) and isinstance(times, int):
        seconds = _training_seconds(speed, batch * times * processes, curves.last_step)
    return PretrainingRun(name, folder, curves, seconds, processes, on_gpu)


def _training_seconds(speed: Series, audio_per_update: float, last_step: int) -> float:
    """Time of all updates: each stretch between two readings at the speed that was read at its end."""
    seconds, before = 0.0, -1
    for step, rate in zip(speed.steps, speed.values, strict=True):
        seconds += (step - before) * audio_per_update / rate
        before = step
    return seconds + (last_step - before) * audio_per_update / speed.last


def _config(folder: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}  # the curves are worth showing without it; only the cost is then unknown
    return content if isinstance(content, dict) else {}


def _short_names(folders: Sequence[Path]) -> dict[Path, str]:
    names = {folder: folder.name for folder in folders}
    if len(set(names.values())) == len(folders):
        return names
    common = Path(os.path.commonpath(folders))
    return {folder: str(folder.relative_to(common)) for folder in folders}


def _version(path: Path) -> tuple[int, str]:
    number = path.parent.name.removeprefix("version_")
    return (int(number) if number.isdigit() else -1, number)
