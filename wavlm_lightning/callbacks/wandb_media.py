"""What a W&B run shows beside numbers: sounds, spectrograms, predictions, layer weights over time, artefacts."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.data.batch import PretrainingBatch, TaskBatch, Waveforms
from wavlm_lightning.encoder import Layers
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import Task
from wavlm_lightning.tasks.joint.many_heads import ManyHeads

if TYPE_CHECKING:
    from wavlm_lightning.callbacks.wandb_logger import Wandb


class WandbMedia(pl.Callback):
    """Logs to W&B what needs eyes or ears, at each validation; artefacts when the run has ended well.

    Args:
        logger: where to.
        root: the run folder.
        samples: utterances of the first validation batch that are shown.
        codebook: folder of the codebook; None sends its hash alone.
        upload_checkpoint: send the file and not only its hash.

    Raises:
        UserError: the codebook folder holds none.

    Attributes:
        weights: update -> share of each layer, since the run began.
    """

    def __init__(self, logger: Wandb, root: Path, samples: int, codebook: str | None, upload_checkpoint: bool) -> None:
        self.logger, self.root, self.samples, self.upload_checkpoint = logger, root, samples, upload_checkpoint
        self.codebook = None if codebook is None else Path(codebook)
        if self.codebook is not None and not (self.codebook / "codebook.json").is_file():
            raise UserError(
                f"{codebook}: no codebook here; trainer.logger.codebook is a folder of `wavlm codebook fit`"
            )
        self.weights: dict[int, list[float]] = {}
        self.heard = False

    def state_dict(self) -> dict[str, Any]:
        """Layer weights so far."""
        return {"weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Draw on."""
        self.weights = dict(state_dict["weights"])

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Tag the run, and let its summary keep the best of what selects the checkpoint.

        A hosted sweep ranks by the summary, as `wavlm sweep` does by the best validation.
        """
        if not trainer.is_global_zero:
            return
        run = self.logger.experiment
        name = pl_module.name if isinstance(pl_module, Task) else type(pl_module).__name__
        run.tags = tuple(dict.fromkeys([*(run.tags or ()), name]))
        if stage == "fit" and (monitor := getattr(pl_module, "monitor", None)):
            run.define_metric(monitor[0], summary=monitor[1], step_metric="trainer/global_step")

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Show utterances of the first batch: their sound once, what the head says of them each time."""
        if batch_idx or not self.samples or trainer.sanity_checking or not trainer.is_global_zero:
            return
        shown: dict[str, Any] = {}
        if isinstance(batch, PretrainingBatch) and not self.heard:
            rows = [row.float().cpu().numpy() for row in batch.audio[: self.samples]]
            shown = _sounds(rows, [f"crop {number}" for number in range(len(rows))])
        elif isinstance(batch, TaskBatch) and (task := _head(pl_module)) is not None:
            keys = batch.keys[: self.samples]
            found = _utterances(trainer, keys)
            if not self.heard:
                shown = _sounds([found[key][0] for key in keys], list(keys))
            shown["samples/predictions"] = self._table(trainer, task, batch, [found[key][1] for key in keys])
        self.heard = True
        self._log(trainer, shown)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the layer weights of all validations."""
        task = _head(pl_module)
        if trainer.sanity_checking or not trainer.is_global_zero or task is None:
            return
        if weights := task.weighted_sum.weights():
            import wandb

            self.weights[trainer.global_step] = weights
            self._log(trainer, {"layer_weights": wandb.Image(heat_map(self.weights))})

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Log codebooks and the checkpoint; this hook is not reached by a run that was interrupted."""
        if stage != "fit" or not trainer.is_global_zero:
            return
        import wandb

        run = self.logger.experiment
        for name, book in (getattr(pl_module, "codebooks", None) or {}).items():
            artifact = wandb.Artifact(f"codebook-{_plain(name)}", "codebook", metadata=book)
            with artifact.new_file("labels.json") as file:
                json.dump(book, file)
            if self.codebook is not None and _made_by(self.codebook, book):
                artifact.add_dir(str(self.codebook), policy="immutable")
            run.log_artifact(artifact)
        found = [self.root / "checkpoints" / f"{name}.ckpt" for name in ("best", "last")]
        if path := next((path for path in found if path.is_file()), None):
            artifact = wandb.Artifact(
                f"{_plain(self.root.resolve().name)}-checkpoint", "model", metadata={"path": str(path)}
            )
            if self.upload_checkpoint:
                artifact.add_file(str(path), policy="immutable")
            else:
                artifact.add_reference(path.resolve().as_uri())
            run.log_artifact(artifact)

    def _table(self, trainer: pl.Trainer, task: Task, batch: TaskBatch, labelled: Sequence[str]) -> Any:
        """What the head says, beside what the corpus says."""
        import wandb

        count, inputs = len(labelled), batch.inputs
        if isinstance(inputs, Layers):
            inputs = replace(inputs, hidden=inputs.hidden[:, :count], lengths=inputs.lengths[:count])
        else:
            assert isinstance(inputs, Waveforms), "a partly cached batch is whole once it is on its device"
            inputs = Waveforms(inputs.audio[:count], inputs.lengths[:count])
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            said = task.readable(*task(inputs))
        rows = [
            [key, text, json.dumps(words, ensure_ascii=False)]
            for key, text, words in zip(batch.keys, labelled, said, strict=False)
        ]
        return wandb.Table(columns=["key", "labelled", "predicted"], data=rows)

    def _log(self, trainer: pl.Trainer, shown: dict[str, Any]) -> None:
        if shown:
            self.logger.experiment.log({**shown, "trainer/global_step": trainer.global_step})


def _head(module: pl.LightningModule) -> Task | None:
    """The task that is trained, of several heads the first; None in pre-training."""
    if isinstance(module, ManyHeads):
        return module.first
    return module if isinstance(module, Task) else None


def _utterances(trainer: pl.Trainer, keys: Sequence[str]) -> dict[str, tuple[np.ndarray, str]]:
    """Waveform `(samples,)` and metadata as JSON, by key; a batch from a feature cache brings no audio."""
    split = trainer.datamodule.opened["valid"]
    found: dict[str, tuple[np.ndarray, str]] = {}
    for number in range(len(split)):
        shard, place = split.locate(number)
        if (key := shard.keys[place]) in keys and key not in found:
            meta = {name: value for name, value in shard.meta(place).items() if isinstance(value, str | int | float)}
            found[key] = shard.waveform(place), json.dumps(meta, ensure_ascii=False)
            if len(found) == len(set(keys)):
                break
    return found


def _sounds(waveforms: Sequence[np.ndarray], captions: Sequence[str]) -> dict[str, Any]:
    import wandb

    pairs = list(zip(waveforms, captions, strict=True))
    return {
        "samples/audio": [wandb.Audio(wave, sample_rate=SAMPLE_RATE, caption=text) for wave, text in pairs],
        "samples/spectrogram": [wandb.Image(spectrogram(torch.from_numpy(wave)), caption=text) for wave, text in pairs],
    }


def spectrogram(waveform: Tensor) -> np.ndarray:
    """The spectrogram as a picture: 25 ms windows every 10 ms, 80 dB from the loudest to black.

    Args:
        waveform: `(samples,)`.

    Returns:
        uint8 `(201 frequencies, the highest first, frames, 3)`.
    """
    from matplotlib import colormaps

    power = torch.stft(waveform, 400, 160, window=torch.hann_window(400), return_complex=True).abs().square()
    decibels = 10 * power.clamp_min(1e-10).log10()
    scaled = ((decibels - decibels.max()) / 80 + 1).clamp(0, 1)
    return colormaps["magma"](scaled.flip(0).numpy(), bytes=True)[..., :3]


def heat_map(weights: dict[int, list[float]]) -> np.ndarray:
    """Layer weights over time as a picture.

    Args:
        weights: update -> share of each layer.

    Returns:
        uint8 `(height, width, 3)`.
    """
    from wavlm_lightning.reports.theme import new_figure, style

    steps = sorted(weights)
    with style():
        figure = new_figure(6, 3.5)
        axes = figure.add_subplot()
        image = axes.imshow(
            np.array([weights[step] for step in steps]).T, aspect="auto", origin="lower", vmin=0, cmap="viridis"
        )
        places = np.unique(np.linspace(0, len(steps) - 1, min(6, len(steps))).astype(int))
        axes.set_xticks(places, [f"{steps[place]:,}" for place in places])
        axes.grid(visible=False)
        axes.set_xlabel("update")
        axes.set_ylabel("layer")
        figure.colorbar(image, label="weight")
        figure.canvas.draw()
        return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def _made_by(folder: Path, labels: dict[str, Any]) -> bool:
    return json.loads((folder / "codebook.json").read_text())["sha256"] == labels["sha256"]


def _plain(name: str) -> str:
    """A name that W&B takes for an artefact."""
    return re.sub(r"[^\w.-]+", "-", name)
