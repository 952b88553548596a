"""Watching a pre-training run: its speed, the effective rank of its layers, and stopping it when it has collapsed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from wavlm_lightning.data.batch import PretrainingBatch
from wavlm_lightning.encoder import WavLM
from wavlm_lightning.encoder.config import SAMPLE_RATE
from wavlm_lightning.metrics import EffectiveRank
from wavlm_lightning.pretraining.flops import StepFlops, model_flops_utilisation
from wavlm_lightning.pretraining.objectives import Objective
from wavlm_lightning.system.errors import UserError

CALMER = (
    "a lower model.learning_rate, a longer model.warmup, or trainer.precision bf16-mixed or 32-true instead of 16-mixed"
)


class Watched(Protocol):
    """The parts of `WavLMPretraining` that `Health` reads."""

    encoder: WavLM
    objectives: Iterable[Objective]
    skipped_in_a_row: int

    def step_flops(self, crops: float, samples: int) -> StepFlops: ...

    def log_dict(self, dictionary: Mapping[str, Any], **options: Any) -> None: ...


class Health(pl.Callback):
    """Logs `health/...` and stops a collapsed run; part of every pre-training run.

    At each logging step it logs speed and cost so far (see `Speed.read` and `Totals.read`) and the share of padding of the
    batch; the cost once more at the end of the run, if its last update is not a logging step. At each validation it logs the
    effective rank of every hidden state of the clean, unmasked first batch (of all processes);
    `health/effective_rank/layer_00` is the input of the first layer.

    A run has collapsed when its top layer or its predictions hardly depend on the input: effective rank or perplexity
    near 1. It is stopped when several validations in a row find this, because one may be a short spike. On a few crops
    of speech, top layers of fresh encoders have ranks from 24 (of 32 dimensions) to 450 (of 768, and of 1024), those of
    trained encoders 50 to 103 (of 192), those ruined by too high a learning rate 1.0 to 3.6 (of 192, post- and
    pre-norm). The loss does not show a collapse: it stays at that of the label frequencies, as in the first updates of
    every run, and so does the perplexity of the predictions.

    It draws no random numbers and changes nothing that is trained. A resumed run continues its counts.

    Args:
        minimum_rank: the top layer has collapsed if its effective rank is below this.
        minimum_perplexity: predictions have collapsed if their perplexity over all frames is below this; for a contrastive
            objective it is the perplexity of each codebook.
        patience: validations in a row that must find a collapse.
        stop_after_skipped: stop after this many updates in a row that were skipped because their gradients were not
            finite; fp16 skips about a dozen until it has found its loss scale.
    """

    def __init__(
        self,
        minimum_rank: float = 4.0,
        minimum_perplexity: float = 2.0,
        patience: int = 3,
        stop_after_skipped: int = 50,
    ) -> None:
        self.minimum_rank, self.minimum_perplexity = minimum_rank, minimum_perplexity
        self.patience, self.stop_after_skipped = patience, stop_after_skipped
        self.collapsed_in_a_row = 0
        self.updates = 0
        self.speed: Speed | None = None
        self.totals = Totals()
        self.top_rank = float("inf")
        self._hook: RemovableHandle | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"collapsed_in_a_row": self.collapsed_in_a_row, "totals": self.totals.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.collapsed_in_a_row = state_dict["collapsed_in_a_row"]
        self.totals = Totals(**state_dict.get("totals", UNKNOWN))

    def on_train_start(self, trainer: pl.Trainer, pl_module: Watched) -> None:
        self.speed, self.updates = Speed(pl_module.step_flops), trainer.global_step
        self._hook = pl_module.encoder.encoder.layers[0].register_forward_hook(self.totals.count_frames)

    def teardown(self, trainer: pl.Trainer, pl_module: Watched, stage: str) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Watched, outputs: Any, batch: PretrainingBatch, batch_idx: int
    ) -> None:
        assert self.speed is not None
        self.speed.count(*batch.audio.shape)
        self.totals.count_audio(batch.audio.numel() / SAMPLE_RATE)
        updated, self.updates = trainer.global_step > self.updates, trainer.global_step
        if pl_module.skipped_in_a_row >= self.stop_after_skipped:
            raise UserError(
                f"step {trainer.global_step}: {pl_module.skipped_in_a_row} updates in a row were skipped because their "
                f"gradients were not finite; go back to an earlier checkpoint, or start again, with {CALMER}"
            )
        if updated and trainer.global_step % trainer.log_every_n_steps == 0:
            figures = {**self.speed.read(trainer.strategy), "padding_share": padding_share(batch.audio)}
            figures |= self.totals.read(trainer.strategy, pl_module.encoder.config.frame_rate)
            pl_module.log_dict({f"health/{name}": value for name, value in figures.items()})

    def on_train_end(self, trainer: pl.Trainer, pl_module: Watched) -> None:
        trained = self.speed is not None and self.speed.begun is not None
        if trained and trainer.global_step % trainer.log_every_n_steps:
            figures = self.totals.read(trainer.strategy, pl_module.encoder.config.frame_rate)
            for logger in trainer.loggers if figures else ():
                # Lightning counts the updates of what it logs from 0.
                logger.log_metrics(
                    {f"health/{name}": value for name, value in figures.items()}, step=trainer.global_step - 1
                )

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Watched) -> None:
        if self.speed is not None:
            self.speed.pause()

    @torch.no_grad()
    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: Watched,
        outputs: Any,
        batch: PretrainingBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch_idx or trainer.sanity_checking:
            return
        with trainer.precision_plugin.forward_context():
            layers = pl_module.encoder(batch.audio)
        ranks = [self._rank(hidden[~layers.padding]) for hidden in layers.hidden]
        self.top_rank = float(ranks[-1])
        named = {f"health/effective_rank/layer_{number:02}": rank for number, rank in enumerate(ranks)}
        # The same batch_size on all ranks, whose batches differ: Lightning rounds the mean of batch sizes to an integer.
        pl_module.log_dict(named, batch_size=1, sync_dist=True)

    @staticmethod
    def _rank(frames: Tensor) -> Tensor:
        rank = EffectiveRank(frames.shape[1]).to(frames.device)
        rank.update(frames)
        return rank.compute()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Watched) -> None:
        if self.speed is not None:
            self.speed.resume()
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        signs = self._signs(pl_module, trainer.callback_metrics)
        collapsed = trainer.strategy.reduce_boolean_decision(bool(signs), all=False)
        self.collapsed_in_a_row = self.collapsed_in_a_row + 1 if collapsed else 0
        if self.collapsed_in_a_row >= self.patience:
            found = "; ".join(signs) or "on another process"
            raise UserError(
                f"step {trainer.global_step}: the run has collapsed, at {self.collapsed_in_a_row} validations in a row "
                f"({found}); go back to an earlier checkpoint, or start again, with {CALMER}, and make sure that the labels "
                "are in use (valid/target_perplexity), or give a contrastive objective a larger weight of diversity"
            )

    def _signs(self, pl_module: Watched, metrics: Mapping[str, Tensor]) -> list[str]:
        signs = []
        if self.top_rank < self.minimum_rank:
            signs.append(f"effective rank of the top layer {self.top_rank:.2f}, below {self.minimum_rank:g}")
        summed = [each.summed_codebooks for each in pl_module.objectives if each.summed_codebooks]
        for name, value in metrics.items():
            if not name.startswith("valid/") or not name.endswith("perplexity") or "target_perplexity" in name:
                continue
            # The perplexity of codes is a sum over codebooks; a collapsed codebook adds 1.
            codebooks = min(summed, default=1) if name.endswith("code_perplexity") else 1
            if not value >= self.minimum_perplexity * codebooks:  # `not >=` instead of `<`: also true for NaN
                signs.append(f"{name} {float(value):.2f}, below {self.minimum_perplexity * codebooks:g}")
        return signs


class Speed:
    """Seconds of audio and FLOPs per second since the last reading, over all processes.

    The clock is paused during validation. Waiting for data, checkpoints and probes count, because they are costs of the
    run. Only a reading synchronises with the device.
    """

    def __init__(self, step_flops: Callable[[float, int], StepFlops]) -> None:
        self.step_flops = step_flops  # of crops of a number of samples
        self.begun: float | None = None
        self.paused: float | None = None
        self.seconds = self.flops = 0.0

    def count(self, batch: int, samples: int) -> None:
        if self.begun is None:  # the first batch, which includes the start of loader processes and kernels, is left out
            self.begun = time.perf_counter()
            return
        self.seconds += batch * samples / SAMPLE_RATE
        self.flops += self.step_flops(batch, samples).training

    def pause(self) -> None:
        self.paused = time.perf_counter()

    def resume(self) -> None:
        if self.begun is not None and self.paused is not None:
            self.begun += time.perf_counter() - self.paused
        self.paused = None

    def read(self, strategy: Strategy) -> dict[str, float]:
        """Figures since the last reading, by name; empty without batches. All processes must call it.

        Returns:
            `audio_seconds_per_second` and `model_teraflops_per_second` (10^12 operations of the encoder, forward and
            backward) of all processes together; on a GPU whose peak is known `model_flops_utilisation`, the share of
            that peak that one process reaches; on CUDA `peak_memory_gib`, the largest peak of any process so far.
        """
        if self.begun is None or not self.seconds:
            return {}
        device = strategy.root_device
        sums = strategy.reduce(torch.tensor([self.seconds, self.flops], device=device), reduce_op="sum").tolist()
        now = time.perf_counter()  # after `tolist`, which has waited for the device
        elapsed = now - self.begun
        self.begun, self.seconds, self.flops = now, 0.0, 0.0
        audio, flops = (value / elapsed for value in sums)
        figures = {"audio_seconds_per_second": audio, "model_teraflops_per_second": flops / 1e12}
        if device.type == "cuda":
            processes = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
            share = model_flops_utilisation(flops / processes, torch.cuda.get_device_name(device))
            if share is not None:
                figures["model_flops_utilisation"] = share
            peak = torch.tensor(torch.cuda.max_memory_allocated(device) / 2**30, device=device)
            figures["peak_memory_gib"] = float(strategy.reduce(peak, reduce_op="max"))
        return figures


class Totals:
    """What a run has cost so far, over all processes and up to its last reading; a resumed run continues the counts.

    Validation and probes are left out, as well as the passes of teachers, which are other encoders.

    Args:
        audio: seconds of crops that were read, repetitions counted and masked copies not.
        frames: frames that the first layer of the encoder has computed, with every copy and every further pass.
        new: both since the last reading, of one process.
    """

    def __init__(self, audio: float = 0.0, frames: float = 0.0, new: Sequence[float] = (0.0, 0.0)) -> None:
        self.audio, self.frames, self.new = audio, frames, [*new]

    def count_audio(self, seconds: float) -> None:
        self.new[0] += seconds

    def count_frames(self, layer: nn.Module, inputs: Any, output: Tensor) -> None:
        """A forward hook of the first layer, whose output is `(batch, frames, dim)`."""
        if layer.training:
            self.new[1] += output.shape[0] * output.shape[1]

    def state(self) -> dict[str, Any]:
        """The arguments that continue the counts; other processes then take what is `new` to this one as their own."""
        return {"audio": self.audio, "frames": self.frames, "new": [*self.new]}

    def read(self, strategy: Strategy, frame_rate: float) -> dict[str, float]:
        """`audio_seconds`, and `encoder_seconds`: frames of the encoder in seconds. All processes must call it.

        Nothing for a run whose first part was trained by a version without these counts.
        """
        device = strategy.root_device
        audio, frames = strategy.reduce(torch.tensor(self.new, device=device), reduce_op="sum").tolist()
        self.audio, self.frames, self.new = self.audio + audio, self.frames + frames, [0.0, 0.0]
        if math.isnan(self.audio):
            return {}
        return {"audio_seconds": self.audio, "encoder_seconds": self.frames / frame_rate}


UNKNOWN = {"audio": math.nan, "frames": math.nan}
"""Totals of a checkpoint that has none."""


def padding_share(audio: Tensor) -> Tensor:
    """Share of the samples of `(batch, samples)` that are zeros at the end of their row, a float32 scalar.

    Crops are cut out of utterances and never padded; this finds digital silence at the ends of recordings, or whole silent
    rows, which a corpus should not have.
    """
    sounding = (audio != 0).to(torch.uint8)
    trailing = sounding.flip(1).cummax(1).values == 0
    return trailing.float().mean()
