"""What test_distributed lets two processes do, one thing after the other; each keeps what it saw in a file."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from quiet import quiet_trainer
from test_pretraining_runs import SMALL, data, keeping, module

from wavlm_lightning.callbacks.checkpoints import Newest, StopBetweenUpdates
from wavlm_lightning.pretraining import LogMelRegression, MaskedCtc, MaskedPrediction, WavLMPretraining
from wavlm_lightning.pretraining.module import LAYER_DROP
from wavlm_lightning.pretraining.updates import NOMINAL_FRAMES
from wavlm_lightning.training.fsdp import whole

STRATEGIES = {"ddp": signal.SIGTERM, "fsdp2": signal.SIGINT}
"""And the signal that stops a run of each."""
UPDATES, AN_EPOCH = 20, 4
POISONED = 2


class Recorded(WavLMPretraining):
    """Keeps what every micro-step saw and gave; alone, it draws what the two processes would."""

    def training_step(self, batch, batch_idx):
        """Note sums, not means: they add up over micro-steps."""
        self.step = {"audio": float(batch.audio.double().sum())}
        loss = super().training_step(batch, batch_idx)
        self.step["sum"] = float(loss.detach()) * NOMINAL_FRAMES
        self.micro = [*getattr(self, "micro", []), self.step]
        return loss

    def count_masked_frames(self, frames):
        """Note them."""
        self.step["frames"] = int(frames)
        super().count_masked_frames(frames)

    def _dropped_layers(self, batch_idx):
        self.step["dropped"] = super()._dropped_layers(batch_idx)
        return self.step["dropped"]

    def _seed(self, stage, batch_idx, rank):
        if self.trainer.world_size == 1:
            batch_idx, rank = batch_idx // 2, 0 if stage == LAYER_DROP else batch_idx % 2
        return super()._seed(stage, batch_idx, rank)


class Poisoned(WavLMPretraining):
    """Keeps which layers were dropped."""

    def training_step(self, batch, batch_idx):
        """Put a NaN into one crop of one rank."""
        if self.global_rank == 1 and self.trainer.global_step == POISONED:
            batch.audio[0, 100] = torch.nan
        return super().training_step(batch, batch_idx)

    def _dropped_layers(self, batch_idx):
        dropped = super()._dropped_layers(batch_idx)
        self.dropped = [*getattr(self, "dropped", []), dropped]
        return dropped


class AskOneRank(pl.Callback):
    """The second process alone hears the signal, between the gradient and the step of its second update."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        if trainer.global_rank == 1 and trainer.global_step == 1:
            os.kill(os.getpid(), self.number)


def curve(tiny: Path, ranks: int, **settings: Any) -> dict[str, Any]:
    """Twenty updates on one process or two, on the same crops with the same random numbers; of all objectives with labels."""
    targets = [MaskedPrediction(final_dim=16, soft=True), MaskedCtc(similarity="logits", unmasked_weight=1.0)]
    model = module(
        Recorded,
        encoder_overrides={**SMALL, "layers": 3, "layer_drop": 0.3, "dropout": 0.1},
        objectives=[
            MaskedPrediction(final_dim=16, unmasked_weight=1.0, codeword_init="normal"),
            *targets,
            LogMelRegression(),
        ],
    )
    trainer = quiet_trainer(
        max_steps=UPDATES,
        devices=ranks,
        accumulate_grad_batches=2 // ranks,
        limit_train_batches=AN_EPOCH * 2 // ranks,
        limit_val_batches=0,
        gradient_clip_val=1.0,
        **settings,
    )
    trainer.fit(model, data(tiny, batch_seconds=2.0))
    return {"micro": model.micro, "weights": weights(model)}


def gradient(tiny: Path, strategy: str) -> list[torch.Tensor]:
    """The whole gradient that reaches the optimiser in one update of two micro-steps."""
    model = keeping()
    trainer = quiet_trainer(max_steps=1, devices=2, strategy=strategy, accumulate_grad_batches=2, limit_val_batches=0)
    trainer.fit(model, data(tiny, batch_seconds=2.0))
    return [whole(gradient) for gradient in model.kept]


def together(tiny: Path, strategy: str) -> dict[str, Any]:
    """Four updates with LayerDrop; the second process meets a NaN in one of them."""
    shape = {
        **SMALL,
        "layers": 4,
        "layer_drop": 0.5,
        "feature_grad_mult": 0.0,
    }  # frozen convolutions wait for no gradient
    model = module(Poisoned, encoder_overrides=shape, objectives=[MaskedPrediction(final_dim=16)])
    trainer = quiet_trainer(max_steps=4, devices=2, strategy=strategy, limit_val_batches=0)
    trainer.fit(model, data(tiny, batch_seconds=2.0))
    skipped = [model.skipped_updates, model.skipped_in_a_row]
    return {"dropped": model.dropped, "skipped": skipped, "weights": weights(model)}


def stopped(tiny: Path, folder: Path, strategy: str) -> dict[str, Any]:
    """Weights of a run that validates on the way, and of one that was stopped and resumed; where it stopped."""

    def fit(*callbacks: pl.Callback, ckpt_path: Path | None = None) -> tuple[WavLMPretraining, int]:
        model = module(encoder_overrides={**SMALL, "dropout": 0.1})
        trainer = quiet_trainer(
            max_steps=4,
            devices=2,
            strategy=strategy,
            accumulate_grad_batches=2,
            val_check_interval=2,
            callbacks=[*callbacks, StopBetweenUpdates()],
        )
        try:
            trainer.fit(model, data(tiny, batch_seconds=2.0), ckpt_path=ckpt_path, weights_only=True)
        except SystemExit:  # Lightning's answer to KeyboardInterrupt
            assert callbacks and trainer.interrupted
        return model, trainer.global_step

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    straight, _ = fit()
    _, at = fit(AskOneRank(STRATEGIES[strategy]), Newest(folder, every=1000))
    resumed, _ = fit(ckpt_path=folder / "last.ckpt")
    return {"at": at, "straight": weights(straight), "resumed": weights(resumed)}


def weights(model: WavLMPretraining) -> dict[str, torch.Tensor]:
    """Put together, and apart from what is trained next."""
    return {name: whole(value).clone() for name, value in model.state_dict().items()}


def everything(tiny: Path, soft: Path, out: Path) -> None:
    """All of it, under each strategy; the curves are of a corpus with soft labels."""
    found: dict[str, Any] = {}
    for strategy in STRATEGIES:
        found[strategy] = {
            "gradient": gradient(tiny, strategy),
            "together": together(tiny, strategy),
            "curve": curve(soft, 2, strategy=strategy),
            "stopped": stopped(tiny, out / strategy, strategy),
        }
    torch.save(found, out / f"rank{os.environ['RANK']}.pt")
