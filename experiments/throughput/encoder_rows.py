"""Rows about the encoder alone: time and peak memory of inference and of a training pass."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from experiments.throughput.encoders import COMPILED, OURS, PLAIN, build, names, parity
from experiments.throughput.results import Place, Result
from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.encoder.config import SAMPLE_RATE
from wavlm_lightning.encoder.cpu import linears
from wavlm_lightning.encoder.cpu.linear_timing import onednn_gains
from wavlm_lightning.encoder.cpu.weight_cache import held
from wavlm_lightning.pretraining.flops import encoder_flops
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.peak_memory import GIB, peak_added
from wavlm_lightning.system.timing import time_side_by_side

TOLERANCE = 1e-4
"""A peer whose last hidden state differs by more from ours computes something else, and is not worth timing."""


def time_encoder(row: str, settings: dict[str, Any], place: Place, tick: Callable[[], object]) -> Result:
    """Inference or a training pass, all encoders in turns.

    Args:
        row: name of the row.
        settings: `training`, `size`, `precision`, `batch`, `seconds`, `device`, `dropout`, `rounds`, `clock`.
        place: where unilm's code is.
        tick: called after each run.
    """
    bf16, device, training = settings["precision"] == "bf16", settings["device"], settings["training"]
    who = names(place.original, device)
    contenders = [build(name, settings["size"], device, training, place.original, _chance(settings)) for name in who]
    waveforms = _waveforms(settings)
    differences = {}
    if not settings["dropout"]:
        differences = parity([c for c in contenders if c.name != COMPILED], waveforms[:1, : 3 * SAMPLE_RATE])
        wrong = {name: difference for name, difference in differences.items() if difference > TOLERANCE}
        if wrong:
            raise UserError(f"{row}: {wrong} differ from ours, so their times would say nothing; see encoders.py")
    variants = {
        c.name: (lambda c=c: c.train(waveforms, bf16)) if training else (lambda c=c: c.infer(waveforms, bf16))
        for c in contenders
    }
    timed = time_side_by_side(variants, settings["rounds"], settings["clock"], tick)
    linears.use(None)
    config = WavLMConfig.preset(settings["size"], layer_drop=0.0)
    flops = encoder_flops(config, settings["batch"], waveforms.shape[1])
    notes = {} if device == "cuda" else {"onednn_gains": vars(onednn_gains())}
    del contenders, variants
    gc.collect()
    ours = [name for name in timed.seconds if name in (OURS, PLAIN, COMPILED)]
    return Result(
        row,
        settings,
        "s",
        timed.seconds,
        timed.best(ours) if device == "cuda" else OURS,
        [name for name in timed.seconds if name not in ours],
        work={"audio-s": settings["batch"] * settings["seconds"]},
        flops=flops.training if training else flops.forward,
        parity=differences,
        notes=notes,
    )


def measure_memory(row: str, settings: dict[str, Any], place: Place, tick: Callable[[], object]) -> Result:
    """What one step adds at its peak, and what ours keeps from its preparation, each encoder in a fresh process.

    Arguments as for `time_encoder`.
    """
    values: dict[str, list[float]] = {}
    for _ in range(settings["rounds"]):
        for name in names(place.original, settings["device"]):
            original = str(place.original) if place.original else None
            request = json.dumps({**settings, "name": name, "original": original})
            command = [sys.executable, "-W", "ignore", "-m", "experiments.throughput.encoder_rows", request]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise UserError(f"{row}: {name} failed: {why_ended(done)}")
            values.setdefault(name, []).append(float(done.stdout.splitlines()[-1]))
            tick()
    peers = [name for name in values if name not in (OURS, PLAIN, COMPILED)]
    return Result(row, settings, "GiB", values, OURS, peers)


def why_ended(done: subprocess.CompletedProcess[str]) -> str:
    """The last line that a failed process wrote; one that was killed, as where memory runs out, says nothing."""
    said = done.stderr.strip().splitlines()
    return said[-1] if said and done.returncode > 0 else f"its process was ended by signal {-done.returncode}"


def probe(request: dict[str, Any]) -> float:
    """In a process of its own: build an encoder, warm it up on a second of audio, run one step; GiB added to its weights.

    Copies of weights that `prepare_for_inference` made are no weights of the model: without them ours would be slower.
    """
    training, device, bf16 = request["training"], request["device"], request["precision"] == "bf16"
    if request.get("threads"):
        torch.set_num_threads(request["threads"])
    original = Path(request["original"]) if request["original"] else None
    contender = build(request["name"], request["size"], device, training, original, _chance(request))
    waveforms = _waveforms(request)
    run = contender.train if training else contender.infer
    run(waveforms[:1, :SAMPLE_RATE].clone(), bf16)
    contender.module.zero_grad(set_to_none=True)
    gc.collect()
    return held(contender.module.parameters()) / GIB + peak_added(lambda: run(waveforms, bf16), device)


def _chance(settings: dict[str, Any]) -> dict[str, float]:
    """Dropout as asked for, everywhere that the published models have it."""
    return {"dropout": settings["dropout"], "attention_dropout": settings["dropout"]}


def _waveforms(settings: dict[str, Any]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    samples = int(settings["seconds"] * SAMPLE_RATE)
    return (0.1 * torch.randn(settings["batch"], samples, generator=generator)).to(settings["device"])


if __name__ == "__main__":
    print(probe(json.loads(sys.argv[1])))
