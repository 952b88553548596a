"""Weights & Biases: a logger that needs no login, and a callback for audio, predictions, layer weights and artefacts.

Without a login the run is written offline. One run folder is one W&B run, and a resumed run keeps its id.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torchmetrics.functional.text import word_error_rate

from wavlm_lightning.audio import SAMPLE_RATE, spectrogram_db
from wavlm_lightning.callbacks.safe_loggers import Patience, keep_running
from wavlm_lightning.callbacks.wandb_login import logged_in, server, unreachable
from wavlm_lightning.data.batch import PretrainingBatch, TaskBatch
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import write_json
from wavlm_lightning.system.reading import read_json
from wavlm_lightning.system.run_folder import BEST, LAST, checkpoint
from wavlm_lightning.tasks import Task
from wavlm_lightning.tasks.base import Transcript
from wavlm_lightning.tasks.scored_utterances import alone

INIT_SECONDS = 20  # for W&B's server to begin a run
KEPT = "wandb.json"  # file in the run folder with the id of the W&B run


@dataclass(frozen=True)
class Figure:
    """A metric as people read it: its name with the unit, the factor from the value in curves, and which end is good."""

    name: str
    scale: float
    summary: Literal["min", "max"]


class Wandb(WandbLogger):
    """Logs metrics, the configuration, audio samples with spectrograms and predictions, layer weights and artefacts.

    A task's metrics are logged twice: as the curves have them (`valid/per`, a fraction, by which sweeps rank), and as people
    read them, in their unit (`valid/per (%)`). The summary keeps the best value of each.

    Its files are in `wandb/` of the run folder; `wandb sync` uploads an offline run. A resumed run keeps its id. `wandb` is
    imported when the run starts.

    Args:
        project: W&B project; WANDB_PROJECT or `wavlm` by default.
        name: name of the run; WANDB_NAME or the name of its folder by default.
        group: group of runs; WANDB_RUN_GROUP or the name of the folder above by default.
        tags: tags, to which the task's name is added.
        notes: remark on the run.
        entity: user or team.
        offline: write locally only; null takes WANDB_MODE, or is offline unless this machine is logged in.
        codebook: folder of the codebook of a pre-training's labels; its files become an artefact.
        upload_checkpoint: upload the best checkpoint; false logs only its path and hash.
        samples: number of utterances logged as audio, spectrogram and predictions, and of a speech recogniser as a table of
            what was spoken, what it heard and the word error rate.

    Example:
        >>> # wavlm fit -c configs/superb/mini/ks.yaml --trainer.logger Wandb
    """

    _experiment: Any
    patience: Patience  # of `keep_running`

    def __init__(
        self,
        project: str | None = None,
        name: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        notes: str | None = None,
        entity: str | None = None,
        offline: bool | None = None,
        codebook: str | None = None,
        upload_checkpoint: bool = False,
        samples: int = 4,
    ) -> None:
        super().__init__(name=name, project=project or os.environ.get("WANDB_PROJECT", "wavlm"))
        self.offline, self.codebook = offline, codebook
        self.upload_checkpoint, self.samples = upload_checkpoint, samples
        asked = {"group": group, "tags": tags, "notes": notes, "entity": entity}
        self._wandb_init.update({key: value for key, value in asked.items() if value is not None})
        self.figures: dict[str, Figure] = {}  # by the name of a metric in the curves

    def settle(self, root: Path, fresh: bool) -> Callback:
        """Set run folder, names, id and mode before the run starts; returns the callback that logs samples and artefacts.

        `fresh` begins a new W&B run even if the run folder `root` has the id of one.
        """
        root.mkdir(parents=True, exist_ok=True)
        given = self._wandb_init
        named = root.resolve()
        given["name"] = given["name"] or os.environ.get("WANDB_NAME") or named.name
        given.setdefault("group", os.environ.get("WANDB_RUN_GROUP") or named.parent.name)
        given["dir"], given["id"] = str(root), run_id(root, fresh)
        given.pop("anonymous", None)  # Lightning passes this option, which wandb now refuses
        if self.offline is not None:
            given["mode"] = "offline" if self.offline else "online"
        elif "WANDB_MODE" not in os.environ and not logged_in():
            given["mode"] = "offline"
        check_server(given)
        self._save_dir, self._name, self._id = given["dir"], given["name"], given["id"]
        return WandbMedia(self, root, self.samples, self.codebook, self.upload_checkpoint)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """W&B's run. If it cannot begin (a wrong key, a server that fails), an offline one begins instead."""
        if self._experiment is None:
            import wandb

            # A server that accepts connections and says nothing would otherwise be waited for as long as W&B likes.
            self._wandb_init.setdefault("settings", wandb.Settings(init_timeout=INIT_SECONDS))
            try:
                return super().experiment
            except Exception as error:
                if self._wandb_init.get("mode") == "offline":
                    raise
                go_offline(self._wandb_init, " ".join(str(error).split())[:200] or type(error).__name__)
        return super().experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        known = [(figure, metrics[name]) for name, figure in self.figures.items() if name in metrics]
        super().log_metrics({**metrics, **{figure.name: figure.scale * value for figure, value in known}}, step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        super().finalize(status)
        run: Any = self._experiment
        if run is not None:  # ended here, or the next fit of this process would log to the same W&B run
            run.finish(exit_code=0 if status == "success" else 1)
            self._experiment = None


def settle_loggers(loggers: Any, root: Path, fresh: bool) -> list[Callback]:
    """Call `Wandb.settle` on those of a trainer's loggers that are ours, and return their callbacks.

    Lightning's own W&B logger goes offline as well if the server does not answer.
    """
    named = loggers if isinstance(loggers, list) else [loggers]
    for logger in named:
        if isinstance(logger, WandbLogger) and not isinstance(logger, Wandb) and not logger._offline:
            check_server(logger._wandb_init)
    return [logger.settle(root, fresh) for logger in named if isinstance(logger, Wandb)]


def check_server(given: dict[str, Any]) -> None:
    """Set the mode in the arguments of `wandb.init` to offline if the run would be online and the server does not answer."""
    mode = given.get("mode") or os.environ.get("WANDB_MODE", "online")
    if mode == "online" and logged_in() and (reason := unreachable()):
        go_offline(given, f"{server()} does not answer ({reason})")


def go_offline(given: dict[str, Any], reason: str) -> None:
    """Set the mode to offline, with a word."""
    given["mode"] = "offline"
    if rank_zero_only.rank == 0:
        print(f"note: W&B: {reason}; the run is logged offline, upload it later with `wandb sync`", file=sys.stderr)


def run_id(root: Path, fresh: bool) -> str:
    """The id of a run folder's W&B run: WANDB_RUN_ID (set by an agent), the one in the folder unless `fresh`, or a new one."""
    path = root / KEPT
    if asked := os.environ.get("WANDB_RUN_ID"):
        found = asked
    elif path.is_file() and not fresh:
        again = "remove it, and a new W&B run is begun, or give its id as WANDB_RUN_ID"
        kept = read_json(path, "the id of a W&B run", again).get("id")
        if not isinstance(kept, str):
            raise UserError(f"{path}: holds no id; {again}")
        found = kept
    else:
        found = secrets.token_hex(4)
    if rank_zero_only.rank == 0:
        write_json(path, {"id": found})
    return found


class WandbMedia(pl.Callback):
    """Logs audio, spectrograms, predictions and layer weights at each validation, and artefacts after a completed run.

    Samples are the first `samples` utterances of the first validation batch; the other arguments are those of `Wandb`.
    """

    def __init__(self, logger: Wandb, root: Path, samples: int, codebook: str | None, upload_checkpoint: bool) -> None:
        self.logger, self.root, self.samples, self.upload_checkpoint = logger, root, samples, upload_checkpoint
        self.codebook = None if codebook is None else Path(codebook)
        if self.codebook is not None and not (self.codebook / "codebook.json").is_file():
            hint = "trainer.logger.codebook is a folder of `wavlm codebook fit`"
            raise UserError(f"{codebook}: no codebook here; {hint}")
        self.weights: dict[int, list[float]] = {}  # update -> share of each layer, over the whole run
        self.audio_logged = False
        keep_running(logger)

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.weights = dict(state_dict["weights"])

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if trainer.is_global_zero:
            self.logger.figures = task_figures(pl_module) if isinstance(pl_module, Task) else {}
            self.logger.patience.call(self._describe, pl_module, stage)

    def _describe(self, pl_module: pl.LightningModule, stage: str) -> None:
        run = self.logger.experiment
        name = pl_module.name if isinstance(pl_module, Task) else type(pl_module).__name__
        run.tags = tuple(dict.fromkeys([*(run.tags or ()), name]))
        if stage != "fit":
            return
        # A hosted sweep ranks by the summary: keep the best value of the metric that selects the checkpoint.
        best = {figure.name: figure.summary for name, figure in self.logger.figures.items() if "valid/" in name}
        if monitor := getattr(pl_module, "monitor", None):
            best[monitor[0]] = monitor[1]
        for name, summary in best.items():
            run.define_metric(name, summary=summary, step_metric="trainer/global_step")

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Log utterances of the first batch: audio once, predictions each time.

        They are the answers that were scored: a forward pass on this process alone would wait for the weights of the others.
        """
        if batch_idx or not self.samples or trainer.sanity_checking or not trainer.is_global_zero:
            return
        self.logger.patience.call(self._show, trainer, pl_module, batch)

    def _show(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any) -> None:
        shown: dict[str, Any] = {}
        if isinstance(batch, PretrainingBatch) and not self.audio_logged:
            rows = [row.float().cpu().numpy() for row in batch.audio[: self.samples]]
            shown = _sounds(rows, [f"crop {number}" for number in range(len(rows))])
        elif isinstance(batch, TaskBatch) and (task := _head(pl_module)) is not None and task.answered is not None:
            keys = batch.keys[: self.samples]
            found = _utterances(task, keys)
            values, valid = (each[: len(keys)] for each in task.answered)
            if task.answer_sounds:
                shown = self._heard(task, values, valid, batch)
            elif not self.audio_logged:
                shown = _sounds([found[key][0] for key in keys], list(keys))
            shown["samples/predictions"] = _table(keys, [found[key][1] for key in keys], task.readable(values, valid))
        self.audio_logged = True
        self._log(trainer, shown)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        task = _head(pl_module)
        if trainer.sanity_checking or task is None:
            return
        if self.samples and task.transcripts and trainer.is_global_zero:
            self.logger.patience.call(self._show_transcripts, trainer, task, task.transcripts[: self.samples])
        weights = task.weighted_sum.weights()  # in all processes: they may have to gather them
        if weights and trainer.is_global_zero:
            self.weights[trainer.global_step] = weights
            self.logger.patience.call(self._show_weights, trainer)

    def _show_weights(self, trainer: pl.Trainer) -> None:
        import wandb

        self._log(trainer, {"layer_weights": wandb.Image(heat_map(self.weights))})

    def _show_transcripts(self, trainer: pl.Trainer, task: Task, transcripts: Sequence[Transcript]) -> None:
        import wandb

        rows = []
        for one in transcripts:
            rate = 100 * float(word_error_rate([one.heard], [one.spoken]))
            rows.append([trainer.global_step, *one, round(rate, 2)])
        columns = ["update", "key", *task.transcript_names, "WER %"]
        self._log(trainer, {"samples/transcripts": wandb.Table(columns=columns, data=rows)})

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Log codebooks and the checkpoint; Lightning does not call this hook for an interrupted run."""
        if stage == "fit" and trainer.is_global_zero:
            self.logger.patience.call(self._log_artefacts, pl_module)

    def _log_artefacts(self, pl_module: pl.LightningModule) -> None:
        import wandb

        run = self.logger.experiment
        for label_set, book in (getattr(pl_module, "codebooks", None) or {}).items():
            artifact = wandb.Artifact(f"codebook-{_plain(label_set)}", "codebook", metadata=book)
            with artifact.new_file("labels.json") as file:
                json.dump(book, file)
            description = None
            if self.codebook is not None:
                description = read_json(
                    self.codebook / "codebook.json", "the description of a codebook", "fit it again"
                )
            if description is not None and description.get("sha256") == book["sha256"]:  # it made these labels
                artifact.add_dir(str(self.codebook), policy="immutable")
            run.log_artifact(artifact)
        found = [checkpoint(self.root, name) for name in (BEST, LAST)]
        if path := next((path for path in found if path.is_file()), None):
            name = f"{_plain(self.root.resolve().name)}-checkpoint"
            artifact = wandb.Artifact(name, "model", metadata={"path": str(path)})
            if self.upload_checkpoint:
                artifact.add_file(str(path), policy="immutable")
            else:
                artifact.add_reference(path.resolve().as_uri())
            run.log_artifact(artifact)

    def _heard(self, task: Task, answered: Tensor, lengths: Tensor, batch: TaskBatch) -> dict[str, Any]:
        """What the head made, each time, and what was given, once, the first of it as the audio."""
        keys = list(batch.keys[: len(answered)])
        shown: dict[str, Any] = {}
        rows = [
            task.playable(answered[row : row + 1], lengths[row : row + 1], alone(batch, row))[0]
            for row in range(len(keys))
        ]
        for place, name in enumerate(rows[0]):
            if name in task.answer_sounds or not self.audio_logged:
                waves = [_clipped(row[name]) for row in rows]
                shown |= _sounds(waves, keys, f"samples/{name if place else 'audio'}")
        return shown

    def _log(self, trainer: pl.Trainer, shown: dict[str, Any]) -> None:
        if shown:
            self.logger.experiment.log({**shown, "trainer/global_step": trainer.global_step})


def task_figures(task: Task) -> dict[str, Figure]:
    """Name of each metric of a task, or of its heads, in the curves -> how it is shown."""
    found = {}
    for label, head in task.heads().items():
        for metric, better in head.directions.items():
            unit = head.unit(metric)
            mark = unit.name or (f"x {unit.scale:g}" if unit.scale != 1 else "")
            for stage in ("valid", "test"):
                name = "/".join(filter(None, [label, stage, metric]))
                shown = f"{name} ({mark})" if mark else name
                found[name] = Figure(shown, unit.scale, "min" if better == "lower" else "max")
    return found


def _head(module: pl.LightningModule) -> Task | None:
    """The task, or the first of several heads; None in pre-training."""
    return next(iter(module.heads().values())) if isinstance(module, Task) else None


def _utterances(task: Task, keys: Sequence[str]) -> dict[str, tuple[np.ndarray, str]]:
    """Key -> waveform `(samples,)` and metadata as JSON, from the split: a batch from a feature cache has no audio."""
    assert task.data is not None
    split = task.data.opened["valid"]
    found: dict[str, tuple[np.ndarray, str]] = {}
    for number in range(len(split)):
        shard, place = split.locate(number)
        if (key := shard.keys[place]) in keys and key not in found:
            meta = {name: value for name, value in shard.meta(place).items() if isinstance(value, str | int | float)}
            found[key] = shard.waveform(place), json.dumps(meta, ensure_ascii=False)
            if len(found) == len(set(keys)):
                break
    return found


def _clipped(waveform: Tensor) -> np.ndarray:
    """Within full scale, as a player would."""
    return waveform.float().clamp(-1, 1).cpu().numpy()


def _table(keys: Sequence[str], labelled: Sequence[str], said: Sequence[dict[str, Any]]) -> Any:
    import wandb

    triples = zip(keys, labelled, said, strict=True)
    rows = [[key, text, json.dumps(words, ensure_ascii=False)] for key, text, words in triples]
    return wandb.Table(columns=["key", "labelled", "predicted"], data=rows)


def _sounds(waveforms: Sequence[np.ndarray], captions: Sequence[str], name: str = "samples/audio") -> dict[str, Any]:
    """Sounds as `name`, and pictures of them as `samples/spectrogram`, or as `NAME_spectrogram`."""
    import wandb

    pairs = list(zip(waveforms, captions, strict=True))
    picture = "samples/spectrogram" if name == "samples/audio" else f"{name}_spectrogram"
    return {
        name: [wandb.Audio(wave, sample_rate=SAMPLE_RATE, caption=text) for wave, text in pairs],
        picture: [wandb.Image(spectrogram(torch.from_numpy(wave)), caption=text) for wave, text in pairs],
    }


def spectrogram(waveform: Tensor) -> np.ndarray:
    """Log spectrogram of `(samples,)` as a picture: 25 ms windows every 10 ms, 80 dB from the maximum to black.

    Returns uint8 `(201 frequencies, the highest first, frames, 3)`.
    """
    from matplotlib import colormaps

    decibels = spectrogram_db(waveform)
    scaled = ((decibels - decibels.max()) / 80 + 1).clamp(0, 1)
    return colormaps["magma"](scaled.flip(0).numpy(), bytes=True)[..., :3]


def heat_map(weights: dict[int, list[float]]) -> np.ndarray:
    """Layer weights over time (update -> share of each layer) as a picture, uint8 `(height, width, 3)`."""
    from wavlm_lightning.reports.theme import new_figure, style

    steps = sorted(weights)
    with style():
        figure = new_figure(6, 3.5)
        axes = figure.add_subplot()
        shares = np.array([weights[step] for step in steps]).T  # (layers, updates)
        image = axes.imshow(shares, aspect="auto", origin="lower", vmin=0, cmap="viridis")
        places = np.unique(np.linspace(0, len(steps) - 1, min(6, len(steps))).astype(int))
        axes.set_xticks(places, [f"{steps[place]:,}" for place in places])
        axes.grid(visible=False)
        axes.set_xlabel("update")
        axes.set_ylabel("layer")
        figure.colorbar(image, label="weight")
        figure.canvas.draw()
        return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def _plain(name: str) -> str:
    """A name without the characters that W&B refuses in names of artefacts; a hash tells names apart that become alike."""
    plain = re.sub(r"[^\w.-]+", "-", name)
    return plain if plain == name else f"{plain}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:6]}"
