"""A whole step of pre-training beside torchaudio's HuBERT recipe: reading FLAC, crop, masks, loss, update."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from experiments.throughput.results import Place, Result
from experiments.throughput.speech import CLUSTERS, read_book
from experiments.throughput.whole_steps import InTurns, time_steps
from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.encoder.cpu import linears
from wavlm_lightning.pretraining import PretrainingData, UtteranceMixing, WavLMPretraining
from wavlm_lightning.pretraining.flops import encoder_flops
from wavlm_lightning.system.errors import UserError

PEER = "torchaudio's recipe"


def time_pretraining(row: str, settings: dict[str, Any], place: Place, tick: Callable[[], object]) -> Result:
    """Ours through Lightning, with its loader in the same process; torchaudio's model in a plain loop with the same data.

    Args:
        row: name of the row.
        settings: `size` (`hubert_base` for equal work; `base` is WavLM, with position bias and mixing), `batch`,
            `seconds`, `precision`, `device`, `rounds`, `clock`.
        place: where the corpus is made.
        tick: called after each step.
    """
    batch, seconds, bf16 = settings["batch"], settings["seconds"], settings["precision"] == "bf16"
    corpus, files = read_book(place.work, seconds, count=8 * batch)
    torch.manual_seed(0)
    size = settings["size"]
    wavlm = not size.startswith("hubert")
    model = WavLMPretraining(size, mixing=UtteranceMixing(probability=0.2 if wavlm else 0.0, noise_probability=0.0))
    data = PretrainingData(
        str(corpus.directory),
        labels="mfcc",
        valid_split=None,
        batch_seconds=batch * seconds,
        max_seconds=seconds,
        min_seconds=min(2.0, seconds),
        num_workers=0,
    )
    turns = InTurns("ours", PEER, _recipe(files, settings, bf16), settings["clock"], tick)
    linears.use("auto")
    precision = "bf16-mixed" if bf16 else "32-true"
    trainer = {"accelerator": settings["device"], "precision": precision, "gradient_clip_val": 10.0}
    timed = time_steps(model, data, turns, settings["rounds"], **trainer)
    linears.use(None)
    flops = encoder_flops(WavLMConfig.preset(size), batch, int(seconds * SAMPLE_RATE)).training
    return Result(row, settings, "s", timed.seconds, "ours", [PEER], {"audio-s": batch * seconds}, flops)


class Crops(Dataset[tuple[Tensor, Tensor]]):
    """FLAC files, decoded whole and cut at random, with a label for every frame of the encoder."""

    def __init__(self, files: Path, seconds: float) -> None:
        self.paths = sorted(files.glob("*.flac"))
        self.samples = int(seconds * SAMPLE_RATE)
        self.rng = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        waveform, _ = soundfile.read(self.paths[index], dtype="float32")
        begin = int(self.rng.integers(len(waveform) - self.samples + 1))
        frames = (self.samples - 400) // 320 + 1
        return (
            torch.from_numpy(waveform[begin : begin + self.samples]),
            torch.from_numpy(self.rng.integers(CLUSTERS, size=frames)),
        )


def _recipe(files: Path, settings: dict[str, Any], bf16: bool) -> Callable[[], object]:
    """One step of torchaudio's example: cross-entropy of masked frames, ten times the feature penalty, clip, AdamW."""
    device = settings["device"]
    if settings["size"] not in ("base", "hubert_base"):
        raise UserError(
            f"--size {settings['size']}: torchaudio's recipe is compared in the size `hubert_base` or `base`"
        )
    model = torchaudio.models.hubert_pretrain_base(num_classes=CLUSTERS).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01)
    loader = DataLoader(Crops(files, settings["seconds"]), settings["batch"], shuffle=True, drop_last=True)

    def endless() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from loader

    batches = endless()

    def step() -> None:
        audio, labels = (tensor.to(device) for tensor in next(batches))
        with torch.autocast(device, torch.bfloat16) if bf16 else nullcontext():
            masked, _, penalty = model(audio, labels)
        # The right class comes first among the logits.
        loss = F.cross_entropy(masked.float(), masked.new_zeros(len(masked), dtype=torch.long), reduction="sum")
        loss = loss / len(masked) + 10.0 * penalty
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()

    return step
