"""`wavlm bench`: speed of inference and training of an encoder on this machine."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from wavlm_lightning.encoder import WavLM
from wavlm_lightning.encoder.config import SAMPLE_RATE
from wavlm_lightning.encoder.cpu import linears
from wavlm_lightning.pretraining.flops import encoder_flops, model_flops_utilisation
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.hardware import choose_device
from wavlm_lightning.system.timing import time_side_by_side
from wavlm_lightning.upstreams.wavlm import load_encoder


def bench(
    source: str = "base",
    *,
    batch: int = 4,
    seconds: Sequence[float] = (10.0,),
    precisions: Sequence[str] = ("fp32", "bf16"),
    device: str | None = None,
    rounds: int = 3,
) -> Iterator[dict[str, Any]]:
    """Time an encoder: inference, and a training pass (forward and backward, no update).

    Args:
        source: a preset or a checkpoint, see `wavlm_lightning.upstreams.wavlm.load_encoder`.
        batch: utterances in a batch.
        seconds: lengths of an utterance, timed one after the other.
        precisions: `fp32`, `bf16` (autocast).
        device: see `choose_device`.
        rounds: number of timed passes, of which the median counts.

    Yields:
        For each length, precision and variant: `what`, the settings, median `seconds_per_pass`,
        `audio_seconds_per_second`, `flops_per_second` and `utilisation` (None if the device's peak is not known).

    Raises:
        UserError: a setting is not usable.
    """
    if min(batch, rounds, *seconds) <= 0:
        raise UserError("--batch, --rounds and --seconds must be above 0")
    place = choose_device(device)
    for length in seconds:
        for precision in precisions:
            yield from _measure(source, batch, length, precision, place, rounds)


def _measure(
    source: str, batch: int, seconds: float, precision: str, device: torch.device, rounds: int
) -> Iterator[dict[str, Any]]:
    encoder = load_encoder(source).to(device).eval()
    if seconds * SAMPLE_RATE < encoder.config.receptive_field:
        raise UserError(f"--seconds {seconds:g}: shorter than a frame; give more")
    waveforms = 0.1 * torch.randn(batch, int(seconds * SAMPLE_RATE), device=device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")

    def infer(model: WavLM) -> None:
        with torch.no_grad(), autocast:
            model(waveforms)

    def train(kind: str) -> None:
        linears.use(kind)
        encoder.zero_grad(set_to_none=True)
        with autocast:
            last = encoder(waveforms).hidden[-1]
        last.float().square().mean().backward()
        linears.use(None)

    onednn = device.type == "cpu" and precision == "fp32"
    inference: dict[str, Any] = {"inference": lambda: infer(encoder)}
    training: dict[str, Any] = {"training": lambda: train("plain")}
    if onednn:
        prepared = copy.deepcopy(encoder).prepare_for_inference()
        inference["inference, prepared"] = lambda: infer(prepared)
        training["training, linears auto"] = lambda: train("auto")
    timed = time_side_by_side(inference, rounds)
    encoder.train()
    timed.seconds |= time_side_by_side(training, rounds).seconds
    flops = encoder_flops(encoder.config, batch, waveforms.shape[1])
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    for what in timed.seconds:
        once = timed.median(what)
        rate = (flops.training if "training" in what else flops.forward) / once
        yield {
            "what": what,
            "encoder": source,
            "batch": batch,
            "seconds": seconds,
            "precision": precision,
            "device": name or str(device),
            "seconds_per_pass": once,
            "audio_seconds_per_second": batch * seconds / once,
            "flops_per_second": rate,
            "utilisation": model_flops_utilisation(rate, name) if name else None,
        }
