"""Peak memory and time of `wavlm predict` on recordings of an hour, with an encoder of Base size.

    python experiments/throughput/long_recording/run.py --out /tmp/long --minutes 2 60

The weights change neither, so the encoder is random and the heads, of SUPERB's sizes, are trained for one step on the tiny
corpus. Each recording gets a process of its own, whose peak of resident memory the kernel counts. The sound is noise with
the rhythm of syllables, 16 kHz mono FLAC.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import soundfile

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.data.mini import prepare_mini
from wavlm_lightning.system.command import wavlm

HEADS = ("er", "pr", "asr", "sv", "sd")
CORPUS = {"asr": "pr"}
PUBLISHED: dict[str, list[str]] = {"sd": ["--model.hidden", "512"], "asr": ["--model.hidden", "1024"]}
"""Sizes that the mini corpus' configurations make smaller."""


CHILD = """
import json, sys
from pathlib import Path
from wavlm_lightning.workflows.predict.head import open_head
from wavlm_lightning.workflows.predict.recordings import predict_files
head = open_head(Path(sys.argv[1]), "cpu")
for row in predict_files(head, [Path(sys.argv[2])], batch_seconds=60.0, window=float(sys.argv[3])):
    json.dumps(row)
print(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
"""
"""What `wavlm predict --json` does. The process reads its own peak: seen from outside, the peak includes its parent's."""


def recording(path: Path, minutes: float) -> None:
    """Write noise whose loudness swings four times a second, as speech does, a minute at a time."""
    rng = np.random.default_rng(0)
    swing = 0.5 + 0.5 * np.sin(2 * np.pi * 4 * np.arange(60 * SAMPLE_RATE) / SAMPLE_RATE)
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1, subtype="PCM_16") as file:
        left = round(minutes * 60 * SAMPLE_RATE)
        while left > 0:
            file.write((0.1 * swing * rng.standard_normal(len(swing)))[:left].astype(np.float32))
            left -= len(swing)


def train(name: str, out: Path, encoder: str) -> Path:
    """Train a head for one step; returns its run folder."""
    run = out / name
    if not (run / "checkpoints" / "best.ckpt").is_file():
        arguments = ["-c", f"configs/superb/mini/{name}.yaml"]
        arguments += ["--data.corpus", str(out / "corpus" / CORPUS.get(name, name)), "--data.cache", "null"]
        arguments += ["--model.upstream.source", encoder, *PUBLISHED.get(name, [])]
        arguments += [
            "--trainer.default_root_dir",
            str(run),
            "--trainer.max_steps",
            "1",
            "--trainer.accelerator",
            "cpu",
        ]
        arguments += ["--trainer.val_check_interval", "1", "--trainer.limit_val_batches", "1"]
        wavlm("fit", *arguments)
    return run


def predict(run: Path, path: Path, window: float) -> tuple[float, float]:
    """Seconds and peak GiB of a prediction, imports included."""
    command = [sys.executable, "-c", CHILD, str(run), str(path), f"{window:g}"]
    begin = time.perf_counter()
    child = subprocess.run(command, capture_output=True, text=True)
    if child.returncode:
        sys.exit(f"{run} failed on {path}: {child.stderr.strip()}")
    return time.perf_counter() - begin, int(child.stdout.split()[-2]) / 2**20


def main() -> None:
    """Make what is missing, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for corpora, heads and recordings")
    parser.add_argument("--minutes", type=float, nargs="+", default=[2.0, 60.0])
    parser.add_argument("--heads", nargs="+", default=HEADS, choices=HEADS)
    parser.add_argument("--window", type=float, default=60.0)
    parser.add_argument("--encoder", default="base", help="a preset")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    prepare_mini(arguments.out / "corpus", "tiny", sorted({CORPUS.get(name, name) for name in arguments.heads}))
    runs = {name: train(name, arguments.out, arguments.encoder) for name in arguments.heads}
    print("| head | minutes | window, s | s | peak GiB |\n|---|---|---|---|---|", flush=True)
    for minutes in arguments.minutes:
        path = arguments.out / f"{minutes:g}.flac"
        if not path.is_file():
            recording(path, minutes)
        for name, run in runs.items():
            seconds, peak = predict(run, path, arguments.window)
            print(f"| {name} | {minutes:g} | {arguments.window:g} | {seconds:.0f} | {peak:.2f} |", flush=True)


if __name__ == "__main__":
    main()
