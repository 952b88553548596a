"""What test_two_processes lets one process or two train: every LightningModule of the package, small, for a few updates."""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from quiet import quiet_trainer
from teacher_two_ranks import Following
from torch import nn

from wavlm_lightning import tasks
from wavlm_lightning.augment.mixing import UtteranceMixing
from wavlm_lightning.augment.transforms import AddNoise
from wavlm_lightning.callbacks.examples import KeepExamples
from wavlm_lightning.callbacks.wandb import WandbMedia
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.encoder import padding_mask
from wavlm_lightning.pretraining import MaskedPrediction, PretrainingData, WavLMPretraining
from wavlm_lightning.pretraining.module import LAYER_DROP
from wavlm_lightning.tasks.components.decoder.network import NetworkSize
from wavlm_lightning.tasks.components.decoder.search import Decoding
from wavlm_lightning.tasks.components.front_end import ConvTasNet
from wavlm_lightning.tasks.huggingface import huggingface_head
from wavlm_lightning.tasks.huggingface.export import write_head_folder
from wavlm_lightning.training.fsdp import whole
from wavlm_lightning.training.module import Optimization
from wavlm_lightning.training.schedules import Schedule
from wavlm_lightning.upstreams import Upstream, WavLMUpstream
from wavlm_lightning.upstreams.fine_tuning import FineTuning

STRATEGIES = ("ddp", "fsdp2")
UPDATES = 4
SHAPE = {"layers": 3, "conv_channels": [8, 8, 8, 8, 16, 16, 32], "dim": 32, "heads": 2, "ffn_dim": 64}
# With Adam's usual eps a gradient that is zero but for rounding (the bias of keys) moves a weight by the learning rate.
SETTINGS: dict[str, Any] = {"learning_rate": 1e-2, "eps": 1e-2, "schedule": Schedule("linear", warmup=2)}
TRANSLATOR = NetworkSize(16, 2, 16, 1, 1, dropout=0.1, channels=16)
TUNED = FineTuning(from_update=2, learning_rate=5e-3, layer_decay=0.7, layer_drop=0.2, dropout=0.1, convolutions=True)

SMALL = NetworkSize(
    width=16, heads=2, inner=32, encoder_layers=1, decoder_layers=1, dropout=0.1, convolutions=1, channels=16
)


class Gate(tasks.WaveformTask):
    """Enhancement by a gain for each frame; the noise is drawn on the fly."""

    name = "SE"

    def build_head(self, dim):
        self.gain = nn.Linear(dim, 1)

    def enhance(self, features, lengths, audio):
        # The same alone and in a batch: not stretched to the padded length, and silent behind the last frame.
        gain = self.gain(features).sigmoid()[:, :, 0] * ~padding_mask(lengths, features.shape[1])
        gain = gain.repeat_interleave(round(16_000 / self.upstream.frame_rate), 1)
        return audio.audio * nn.functional.pad(gain, (0, audio.audio.shape[1]))[:, : audio.audio.shape[1]]


FRONT_END = partial(ConvTasNet, filters=16, bottleneck=8, hidden=12, layers=2, stacks=1)
TASKS: dict[str, tuple[type[tasks.Task], str, dict[str, Any]]] = {
    "KS": (tasks.KeywordSpotting, "ks", {}),
    "SID": (tasks.SpeakerIdentification, "sid", {}),
    "ER": (tasks.EmotionRecognition, "er", {}),
    "IC": (tasks.IntentClassification, "ic", {}),
    "PR": (tasks.PhonemeRecognition, "pr", {}),
    "ASR": (tasks.SpeechRecognition, "pr", {"hidden": 16, "layers": 1, "alphabet": "corpus"}),
    "OOD-ASR": (tasks.OutOfDomainRecognition, "accents", {"hidden": 16, "layers": 1}),
    "ASR-ATT": (
        tasks.AttentionRecognition,
        "pr",
        {"network": SMALL, "decoding": Decoding(2, 0.3), "alphabet": "corpus"},
    ),
    "ASR-FT": (tasks.FineTunedRecognition, "pr", {"alphabet": "corpus", "final_dropout": 0.1}),
    "SF": (tasks.SlotFilling, "sf", {"hidden": 16, "layers": 1}),
    "SV": (tasks.SpeakerVerification, "sv", {"hidden": 16, "widths": (16, 16, 16, 16, 32), "embedding": 16}),
    "SD": (tasks.SpeakerDiarization, "sd", {"hidden": 16}),
    "OSD": (tasks.OverlapDetection, "sd", {"hidden": 8}),
    "SV-ECAPA": (tasks.EcapaVerification, "sv", {"channels": 16, "embedding": 8, "calibration_trials": 0}),
    "DIAR": (tasks.MeetingDiarization, "sd", {"hidden": 16, "layers": 1, "window": 2.0}),
    "SE": (Gate, "pr", {}),
    "SE-mask": (tasks.Enhancement, "enhancement", {"hidden": 8, "layers": 2, "select": "si_sdr"}),
    "SS": (tasks.Separation, "separation", {"hidden": 8, "layers": 1, "protocol": "fixed", "spectrum": True}),
    "TSE": (tasks.TargetExtraction, "target", {"hidden": 8, "layers": 2, "spectrum": True, "enrolment_seconds": 1.0}),
    "VOCODER": (tasks.Vocoder, "pr", {"width": 16, "hidden": 32, "blocks": 1}),
    "VC": (tasks.AnyToOneConversion, "voices", {"hidden": 8, "hop": 320}),
    "VC-content": (tasks.ContentConversion, "voices", {"hidden": 8, "content_dim": 4, "voice_dim": 4, "units": 5}),
    "TS-ASR": (tasks.TargetRecognition, "target", {"hidden": 16, "layers": 1, "alphabet": "corpus"}),
    "PVAD": (tasks.PersonalActivity, "target", {"hidden": 16, "enrolment_seconds": 1.0}),
    "FRONT-END": (tasks.FrontEndEnhancement, "pr", {"front_end": FRONT_END}),
    "NOISY-ASR": (
        tasks.NoisyRecognition,
        "pr",
        {"hidden": 16, "layers": 1, "alphabet": "corpus", "front_end": FRONT_END},
    ),
    "MOS": (tasks.QualityPrediction, "mos", {}),
    "ST": (tasks.SpeechTranslation, "translation", {"network": TRANSLATOR, "decoding": Decoding(2, length_power=1.0)}),
    "MOS-L": (tasks.ListenerQualityPrediction, "mos", {"hidden": 8, "projection": 8, "listener_dim": 4}),
}
TRAINED = ("KS", "PR", "ASR", "ASR-FT", "SD", "SE", "TS-ASR", "NOISY-ASR", "MOS", "MOS-L")
"""Tasks that also train the encoder: from the first update, and (KS) with the head first and layer-wise rates."""
PRETRAINING = ("pretraining", "teacher")
FOLDERS = ("folder KS", "folder KS trained", "folder SV")
"""Heads that a folder of the transformers library holds."""
DDP_ALONE = ("SV-ECAPA", "DIAR", "VC", "VC-content")
"""Tasks that refuse fsdp2."""
MODULES = [
    *PRETRAINING,
    *(name for name in TASKS if name not in DDP_ALONE),
    *(f"{name} trained" for name in TRAINED),
    "KS tuned",
    *FOLDERS,
]


class AsTwo:
    """Of a task: alone, it draws what two processes would."""

    def batch_place(self):
        number, rank = super().batch_place()
        return (number // 2, number % 2) if self.trainer.world_size == 1 else (number, rank)


class PretrainingAsTwo(WavLMPretraining):
    """The same of pre-training."""

    def _seed(self, stage, batch_idx, rank):
        if self.trainer.world_size == 1:
            batch_idx, rank = batch_idx // 2, 0 if stage == LAYER_DROP else batch_idx % 2
        return super()._seed(stage, batch_idx, rank)


def as_two(cls: type) -> type:
    return type(cls.__name__, (AsTwo, cls), {})


def upstream(fine_tuning: FineTuning | None = None, frozen: bool = True, differentiable: bool = False) -> Upstream:
    settings: dict[str, Any] = {"frozen": frozen, "differentiable": differentiable, "fine_tuning": fine_tuning}
    return WavLMUpstream("tiny", overrides=SHAPE, **settings)


def build(tiny: Path, name: str) -> tuple[Any, Any]:
    """A module of `MODULES` and its data."""
    if name in PRETRAINING:
        model = PretrainingAsTwo(
            "tiny",
            {**SHAPE, "layer_drop": 0.3, "dropout": 0.1},
            objectives=[MaskedPrediction(final_dim=16), *([Following()] if name == "teacher" else [])],
            mixing=UtteranceMixing(probability=0.5),
            learning_rate=1e-2,
            eps=1e-2,
        )
        return model, PretrainingData(str(tiny / "pretrain"), "mfcc100", batch_seconds=4.0, max_seconds=2.0)
    if name in FOLDERS:
        return from_folder(tiny, *name.split()[1:])
    short, _, how = name.partition(" ")
    cls, corpus, sizes = TASKS[short]
    encoder = upstream(TUNED if how == "tuned" else None, not how, differentiable="front_end" in sizes and not how)
    if "front_end" in sizes:
        sizes = {**sizes, "front_end": sizes["front_end"]()}
    data: dict[str, Any] = {"batch_size": 3}
    if short in ("SD", "OSD", "DIAR"):  # has two recordings to train on, and one to test on
        data = {"batch_size": 1, "test_split": "train"}
    if short == "ER":
        return as_two(cls)(encoder, **SETTINGS, **sizes), tasks.FoldData(str(tiny / "er"), **data)
    if short == "ASR-FT":
        data |= {"batch_seconds": 6.0}  # batches of unequal numbers of utterances, whose sums an update divides
    if corpus == "voices":
        for part, targets in (("train", 5), ("valid", 5), ("test", 2)):  # a test measures pitch and voice, for long
            data[f"{part}_split"] = "+".join(f"{part}_{target}" for target in range(1, targets + 1))
    if short in ("KS", "SID"):
        data |= {"batch_seconds": 5.0, "max_seconds": 1.0}  # batches of unequal sizes
    if short in ("SE", "FRONT-END"):
        data |= {"transforms": [AddNoise(snr_db=(0, 10))], "eval_transforms": [AddNoise(snr_db=(0, 10))]}
    return as_two(cls)(encoder, **SETTINGS, **sizes), tasks.TaskData(str(tiny / corpus), **data)


def from_folder(tiny: Path, short: str, how: str = "") -> tuple[Any, Any]:
    """A head of the transformers library, read from its folder, and its data."""
    cls, corpus, sizes = TASKS[short]
    head = cls(upstream(), 1e-2, **sizes)
    head.build(head.read_labels(Corpus.open(tiny / corpus)))
    with tempfile.TemporaryDirectory() as folder:
        write_head_folder(Path(folder), head, {})
        model = huggingface_head(folder, learning_rate=1e-2, frozen=not how)
    model.optimization = Optimization(SETTINGS["schedule"], eps=SETTINGS["eps"])
    model.__class__ = as_two(type(model))
    return model.train(), tasks.TaskData(str(tiny / corpus), batch_size=3)


def trainer_of(ranks: int, strategy: str, **settings: Any) -> pl.Trainer:
    common = {"max_steps": UPDATES, "limit_val_batches": 0, "gradient_clip_val": 1.0}
    devices = {"devices": ranks, "strategy": strategy, "accumulate_grad_batches": 2 // ranks}
    return quiet_trainer(**{**common, **devices, **settings})


def weights(model: pl.LightningModule) -> dict[str, torch.Tensor]:
    """What is trained, or follows what is trained (a teacher), put together."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad or ".teacher." in name}
    return {name: whole(value).detach().clone() for name, value in model.state_dict().items() if name in trained}


def train(tiny: Path, name: str, ranks: int, strategy: str) -> dict[str, Any]:
    """A few updates, then a test; weights before and after, and the figures of the test."""
    model, data = build(tiny, name)
    trainer = trainer_of(ranks, strategy)
    before: dict[str, torch.Tensor] = {}

    class Start(pl.Callback):
        def on_train_start(self, trainer, pl_module):
            before.update(weights(pl_module))

    trainer.callbacks.append(Start())
    logged: list[dict[str, Any]] = []
    if name == "KS trained":
        trainer.limit_val_batches = 1
        trainer.callbacks.append(shows(logged, trainer.is_global_zero))
    trainer.fit(model, data)
    found: dict[str, Any] = {"before": before, "after": weights(model), "updates": trainer.global_step}
    found["shown"] = [row["samples/predictions"].data for row in logged if "samples/predictions" in row]
    if name not in PRETRAINING:
        with tempfile.TemporaryDirectory() as folder:
            if name == "SE trained":
                trainer.callbacks.append(keeper := KeepExamples(Path(folder)))
            trainer.test(model, data, verbose=False)
        found["heard"] = [each.key for each in keeper.kept] if name == "SE trained" else []
        found["test"] = {key: float(value) for key, value in trainer.callback_metrics.items()}
        # What the first process reads alone, to write the card.
        found["layer_weights"] = model.weighted_sum.weights() if trainer.is_global_zero else []
        found["sha256"] = model.upstream.describe()["sha256"] if trainer.is_global_zero else ""
    return found


def shows(logged: list[dict[str, Any]], first: bool) -> WandbMedia:
    """The callback that shows utterances of each validation, with a W&B run that only notes in `logged` what it is given."""
    run = SimpleNamespace(tags=(), log=logged.append, define_metric=lambda *_, **__: None, log_artifact=lambda _: None)
    logger: Any = SimpleNamespace(experiment=run, upload_checkpoint=False)
    return WandbMedia(logger, Path(tempfile.gettempdir()) / f"shown-{first}", 2, None, False)


def resumed(tiny: Path, folder: Path, ranks: int, strategy: str) -> dict[str, Any]:
    """KS with the head first: weights of an uninterrupted run, and resumed before and after the encoder wakes up."""
    saver = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    model, data = build(tiny, "KS tuned")
    trainer_of(ranks, strategy, callbacks=[saver]).fit(model, data)
    return {"straight": weights(model), **resume(tiny, folder, ranks, strategy)}


def resume(tiny: Path, folder: Path, ranks: int, strategy: str) -> dict[str, Any]:
    """Weights of that run if it goes on from its first and its third update."""
    found = {}
    for step in (1, 3):
        model, data = build(tiny, "KS tuned")
        trainer_of(ranks, strategy).fit(model, data, ckpt_path=folder / f"step={step}.ckpt", weights_only=True)
        found[f"from {step}"] = weights(model)
    return found


def predictions(tiny: Path, ranks: int, strategy: str) -> dict[str, torch.Tensor]:
    """The logits of a KS head with a trained encoder, by utterance."""
    model, data = build(tiny, "KS trained")
    batches: Any = trainer_of(ranks, strategy).predict(model, data)
    return {key: row for batch in batches for key, row in zip(batch["keys"], batch["outputs"], strict=True)}


def everything(tiny: Path, out: Path, ranks: int, strategies: tuple[str, ...]) -> None:
    """All of it, under each strategy; each process keeps what it found in a file."""
    found: dict[str, Any] = {}
    for strategy in strategies:
        names = [*MODULES, *(DDP_ALONE if strategy != "fsdp2" else ())]
        found[strategy] = {name: train(tiny, name, ranks, strategy) for name in names}
        found[strategy]["resumed"] = resumed(tiny, out / f"{strategy}-of-{ranks}", ranks, strategy)
        found[strategy]["predictions"] = predictions(tiny, ranks, strategy)
    for strategy, other in zip(strategies, reversed(strategies), strict=True):
        if other != strategy:
            found[strategy]["crossed"] = resume(tiny, out / f"{other}-of-{ranks}", ranks, strategy)
    torch.save(found, out / f"{os.environ.get('RANK', 0)}-of-{ranks}.pt")
