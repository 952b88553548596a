"""A CTC fine-tuning step, forward, backward and Adam, beside transformers' WavLMForCTC and torchaudio's model."""

from __future__ import annotations

import gc
import importlib
import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from experiments.throughput.encoder_rows import why_ended
from experiments.throughput.encoders import OURS, PLAIN, TORCHAUDIO, TRANSFORMERS, precision
from experiments.throughput.results import Place, Result
from wavlm_lightning.data.batch import Targets, Waveforms
from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.encoder.config import SAMPLE_RATE
from wavlm_lightning.encoder.cpu import linears
from wavlm_lightning.pretraining.flops import encoder_flops
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.peak_memory import peak_added
from wavlm_lightning.system.timing import time_side_by_side
from wavlm_lightning.tasks import FineTunedRecognition
from wavlm_lightning.tasks.content.letters import LETTERS, SPECIAL
from wavlm_lightning.tasks.ctc import BLANK
from wavlm_lightning.upstreams import FineTuning, WavLMUpstream

NAMES = (OURS, PLAIN, TRANSFORMERS, TORCHAUDIO)
LETTERS_A_SECOND = 14  # of read English: LibriSpeech has 2.7 words a second
TOLERANCE = 1e-4
"""A peer whose loss differs by more from ours, relative, computes something else."""


@dataclass(frozen=True)
class Recogniser:
    """An encoder with a linear layer as the benchmark trains it.

    Attributes:
        name: what the table calls it.
        module: for its parameters.
        loss: waveforms `(batch, samples)` and labels `(batch, labels)` to the CTC loss in nats, mean over utterances.
        optimizer: Adam over what is trained.
        linears: how fp32 products on the CPU are computed; for ours alone.
    """

    name: str
    module: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    linears: str = "plain"

    def step(self, waveforms: Tensor, labels: Tensor, bf16: bool) -> Tensor:
        """One update; returns the loss before it."""
        linears.use(self.linears)
        self.optimizer.zero_grad(set_to_none=True)
        with precision(waveforms, bf16):
            loss = self.loss(waveforms, labels)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def time_fine_tuning(row: str, settings: dict[str, Any], place: Place, tick: Callable[[], object]) -> Result:
    """One update of all trained layers, every contender in turns: equal weights, frozen convolutions, no masks, no LayerDrop.

    Args:
        row: name of the row.
        settings: `size`, `batch`, `seconds`, `precision`, `dropout`, `device`, `rounds`, `clock`.
        place: not used.
        tick: called after each update.
    """
    bf16, batch = settings["precision"] == "bf16", inputs_of(settings)
    contenders = [build(name, settings) for name in NAMES]
    losses = {}
    if not settings["dropout"]:
        short = batch[0][:, : 2 * SAMPLE_RATE], batch[1][:, :LETTERS_A_SECOND]
        with torch.no_grad():
            losses = {each.name: float(each.loss(*short)) for each in contenders}
        wrong = {name: loss for name, loss in losses.items() if abs(loss / losses[OURS] - 1) > TOLERANCE}
        if wrong:
            raise UserError(f"{row}: losses {wrong} differ from ours, {losses[OURS]}, so their times would say nothing")
    variants = {each.name: (lambda each=each: each.step(*batch, bf16)) for each in contenders}
    timed = time_side_by_side(variants, settings["rounds"], settings["clock"], tick)
    linears.use(None)
    config = WavLMConfig.preset(settings["size"], layer_drop=0.0, feature_grad_mult=0.0)
    flops = encoder_flops(config, settings["batch"], batch[0].shape[1]).training
    return Result(
        row,
        settings,
        "s",
        timed.seconds,
        OURS,
        [TRANSFORMERS, TORCHAUDIO],
        work={"audio-s": settings["batch"] * settings["seconds"]},
        flops=flops,
        notes={"losses of the same batch": losses},
    )


def measure_memory(row: str, settings: dict[str, Any], place: Place, tick: Callable[[], object]) -> Result:
    """What an update adds at its peak, each contender in a fresh process; arguments as for `time_fine_tuning`."""
    values: dict[str, list[float]] = {}
    for _ in range(settings["rounds"]):
        for name in NAMES:
            request = json.dumps({**settings, "name": name})
            command = [sys.executable, "-W", "ignore", "-m", "experiments.throughput.fine_tuning.rows", request]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise UserError(f"{row}: {name} failed: {why_ended(done)}")
            values.setdefault(name, []).append(float(done.stdout.splitlines()[-1]))
            tick()
    return Result(row, settings, "GiB", values, OURS, [TRANSFORMERS, TORCHAUDIO])


def probe(request: dict[str, Any]) -> float:
    """In a process of its own: an update on a second of audio, which makes the moments of Adam, then GiB that one adds."""
    bf16, (waveforms, labels) = request["precision"] == "bf16", inputs_of(request)
    if request.get("threads"):
        torch.set_num_threads(request["threads"])
    contender = build(request["name"], request)
    contender.step(waveforms[:1, :SAMPLE_RATE].clone(), labels[:1, : LETTERS_A_SECOND // 2].clone(), bf16)
    contender.module.zero_grad(set_to_none=True)
    gc.collect()
    return peak_added(lambda: contender.step(waveforms, labels, bf16), request["device"])


def inputs_of(settings: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Noise `(batch, samples)`, and as many random letters as people say in that time, int64 `(batch, labels)`."""
    generator = torch.Generator().manual_seed(0)
    samples, letters = int(settings["seconds"] * SAMPLE_RATE), max(1, int(settings["seconds"] * LETTERS_A_SECOND))
    waveforms = 0.1 * torch.randn(settings["batch"], samples, generator=generator)
    first, last = len(SPECIAL), len(SPECIAL) + 1 + len(LETTERS)
    labels = torch.randint(first, last, (settings["batch"], letters), generator=generator)
    return waveforms.to(settings["device"]), labels.to(settings["device"])


def build(name: str, settings: dict[str, Any]) -> Recogniser:
    """One of `NAMES` in training mode; the weights depend on the size alone."""
    chance = settings["dropout"]
    tuning = FineTuning(dropout=chance, attention_dropout=chance, activation_dropout=0.0, input_dropout=0.0)
    # transformers has no scaled gradient of the convolutions, which are frozen here, and no normalisation in the model.
    plain = {"feature_grad_mult": 1.0, "normalize_waveform": False}
    encoder = WavLMUpstream(f"random:{settings['size']}", overrides=plain, frozen=False, fine_tuning=tuning)
    task = FineTunedRecognition(encoder)
    task.build([*SPECIAL, "|", *LETTERS])
    module: nn.Module = task
    if name in (TRANSFORMERS, TORCHAUDIO):
        module, loss = _peer(name, task)
    else:

        def loss(waveforms: Tensor, labels: Tensor) -> Tensor:
            whole = torch.full((len(waveforms),), waveforms.shape[1], device=waveforms.device)
            outputs, lengths = task(Waveforms(waveforms, whole))
            sizes = torch.full((len(labels),), labels.shape[1], device=labels.device)
            return task.loss(outputs, lengths, Targets(labels, sizes))

    module.to(settings["device"]).train()
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=3e-5, betas=(0.9, 0.98))
    return Recogniser(name, module, loss, optimizer, "auto" if name == OURS else "plain")


def _peer(name: str, task: FineTunedRecognition) -> tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]:
    transformers = importlib.import_module("transformers")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        task.upstream.encoder.save_pretrained(folder)
        model = transformers.WavLMForCTC.from_pretrained(
            folder,
            vocab_size=len(task.labels),
            pad_token_id=BLANK,
            ctc_loss_reduction="sum",
            ctc_zero_infinity=True,
            apply_spec_augment=False,
            final_dropout=0.0,
        )
    model.lm_head.load_state_dict(task.lm_head.state_dict())
    if name == TRANSFORMERS:
        model.freeze_feature_encoder()
        return model, lambda waveforms, labels: model(waveforms, labels=labels).loss / len(waveforms)
    logging.getLogger("torchaudio").setLevel(logging.ERROR)
    utilities = importlib.import_module("torchaudio.models.wav2vec2.utils")
    peer = nn.ModuleList([utilities.import_huggingface_model(model.wavlm), model.lm_head])
    peer[0].feature_extractor.requires_grad_(False)

    def loss(waveforms: Tensor, labels: Tensor) -> Tensor:
        spoken = peer[1](peer[0](waveforms)[0]).float().log_softmax(-1).transpose(0, 1)
        frames = torch.full((len(labels),), len(spoken), device=labels.device)
        sizes = torch.full((len(labels),), labels.shape[1], device=labels.device)
        total = nn.functional.ctc_loss(spoken, labels, frames, sizes, blank=BLANK, reduction="sum", zero_infinity=True)
        return total / len(labels)

    return peer, loss


if __name__ == "__main__":
    print(probe(json.loads(sys.argv[1])))
