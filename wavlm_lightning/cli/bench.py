"""`wavlm bench`: how fast this machine encodes and trains."""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import Any


def main(argv: list[str]) -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(
        prog="wavlm bench",
        description="Time an encoder on this machine: inference, and a training pass (forward and backward, no update). The "
        "comparison with other implementations is `python -m experiments.throughput` in a checkout.",
    )
    parser.add_argument(
        "encoder", nargs="?", default="base", help="a preset (tiny, base, large; random weights) or a checkpoint"
    )
    parser.add_argument("--batch", type=int, default=4, help="utterances")
    parser.add_argument(
        "--seconds", type=float, nargs="+", default=[10.0], help="length of each; several make a line each"
    )
    parser.add_argument("--precision", choices=("fp32", "bf16"), nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--device", choices=("cpu", "cuda"), help="the GPU if there is one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")
    arguments = parser.parse_args(argv)

    import torch

    from wavlm_lightning.system.errors import UserError

    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no GPU here; `wavlm doctor` says why")
    if min(arguments.batch, arguments.rounds, *arguments.seconds) <= 0:
        raise UserError("--batch, --rounds and --seconds must be above 0")
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    found = []
    print(f"{'':22} {'seconds':>8} {'audio-s/s':>10} {'GFLOP/s':>9} {'of peak':>8}")
    for seconds in arguments.seconds:
        for precision in arguments.precision:
            for figure in measure(arguments.encoder, arguments.batch, seconds, precision, device, arguments.rounds):
                found.append(figure)
                print(_line(figure), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def measure(source: str, batch: int, seconds: float, precision: str, device: str, rounds: int) -> list[dict[str, Any]]:
    """Time all ways to run an encoder, in turns.

    Args:
        source: see `wavlm_lightning.upstreams.wavlm.load_encoder`.
        batch: utterances.
        seconds: length of each.
        precision: `fp32` or `bf16` (autocast).
        device: `cpu` or `cuda`.
        rounds: how often.

    Returns:
        For each way `what`, the settings, median `seconds_per_pass`, `audio_seconds_per_second`, `flops_per_second` and
        `utilisation` (None for a processor whose peak is not known).
    """
    import torch

    from wavlm_lightning.encoder import WavLM
    from wavlm_lightning.encoder.config import SAMPLE_RATE
    from wavlm_lightning.encoder.cpu import linears
    from wavlm_lightning.pretraining.flops import encoder_flops, model_flops_utilisation
    from wavlm_lightning.system.errors import UserError
    from wavlm_lightning.system.timing import time_side_by_side
    from wavlm_lightning.upstreams.wavlm import load_encoder

    encoder = load_encoder(source).to(device).eval()
    if seconds * SAMPLE_RATE < encoder.config.receptive_field:
        raise UserError(f"--seconds {seconds:g}: shorter than a frame; give more")
    waveforms = 0.1 * torch.randn(batch, int(seconds * SAMPLE_RATE), device=device)
    autocast = torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")

    def infer(who: WavLM) -> None:
        with torch.no_grad(), autocast:
            who(waveforms)

    def train(kind: str) -> None:
        linears.use(kind)
        encoder.zero_grad(set_to_none=True)
        with autocast:
            last = encoder(waveforms).hidden[-1]
        last.float().square().mean().backward()
        linears.use(None)

    onednn = device == "cpu" and precision == "fp32"
    inference: dict[str, Any] = {"inference": lambda: infer(encoder)}
    if onednn:
        prepared = copy.deepcopy(encoder).prepare_for_inference()
        inference["inference, prepared"] = lambda: infer(prepared)
    training: dict[str, Any] = {"training": lambda: train("plain")}
    if onednn:
        training["training, linears auto"] = lambda: train("auto")
    timed = time_side_by_side(inference, rounds)
    encoder.train()
    timed.seconds |= time_side_by_side(training, rounds).seconds
    flops = encoder_flops(encoder.config, batch, waveforms.shape[1])
    name = torch.cuda.get_device_name() if device == "cuda" else ""
    found = []
    for what in timed.seconds:
        once = timed.median(what)
        rate = (flops.training if "training" in what else flops.forward) / once
        found.append(
            {
                "what": what,
                "encoder": source,
                "batch": batch,
                "seconds": seconds,
                "precision": precision,
                "device": name or device,
                "seconds_per_pass": once,
                "audio_seconds_per_second": batch * seconds / once,
                "flops_per_second": rate,
                "utilisation": model_flops_utilisation(rate, name) if name else None,
            }
        )
    return found


def _line(figure: dict[str, Any]) -> str:
    share = figure["utilisation"]
    return (
        f"{figure['what']:22} {figure['seconds_per_pass']:8.3f} {figure['audio_seconds_per_second']:10,.1f} "
        f"{figure['flops_per_second'] / 1e9:9,.0f} {'-' if share is None else f'{100 * share:.1f} %':>8}  "
        f"{figure['precision']}, {figure['batch']} x {figure['seconds']:g} s"
    )
