"""Training speed on two cores by OpenMP setting and precision, on a quiet machine and beside one busy process.

    wavlm prepare mini --out runs/busy/corpus --datasets pretrain
    (codebook and labels as in configs/pretrain/tiny_waveform.yaml, or by `experiments/demo/waveform.sh`)
    python experiments/busy_cores/run.py --corpus runs/tiny/corpus/pretrain --out runs/busy_cores

Every measurement is a process of its own, because OpenMP reads its settings once. Settings take turns within a round, so
that a machine whose speed drifts treats all alike.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SETTINGS: dict[str, dict[str, str]] = {
    "default": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spin 300": {"GOMP_SPINCOUNT": "300"},
    "spin 1000": {"GOMP_SPINCOUNT": "1000"},
    "spin 3000": {"GOMP_SPINCOUNT": "3000"},
    "spin 10000": {"GOMP_SPINCOUNT": "10000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
WARM_UP, MEASURED = 8, 30
OWN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")


def train(corpus: str, precision: str) -> None:
    """Train the tiny recipe and print updates per second."""
    import lightning.pytorch as pl

    from wavlm_lightning.workflows.fit import open_run

    class Clock(pl.Callback):
        begin = 0.0

        def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
            if trainer.global_step == WARM_UP:
                self.begin = time.perf_counter()
            elif trainer.global_step == WARM_UP + MEASURED:
                print(f"updates/s {MEASURED / (time.perf_counter() - self.begin)}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        run = open_run(
            *("-c", "configs/pretrain/tiny_waveform.yaml", "--data.corpus", corpus, "--trainer.precision", precision),
            *("--trainer.max_steps", str(WARM_UP + MEASURED), "--trainer.val_check_interval", "1000000"),
            *("--trainer.default_root_dir", folder, "--trainer.enable_progress_bar", "false"),
            *("--trainer.limit_val_batches", "0", "--trainer.enable_checkpointing", "false"),
        )
        run.trainer.callbacks.append(Clock())
        run.trainer.fit(run.model, run.datamodule)


def measure(corpus: str, precision: str, setting: dict[str, str], busy: bool) -> float:
    """Updates per second of one process."""
    environment = {name: value for name, value in os.environ.items() if name not in OWN} | setting
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
    try:
        answer = subprocess.run(
            [sys.executable, __file__, "--corpus", corpus, "--train", precision],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        if other is not None:
            other.kill()
            other.wait()
    return float(next(line.split()[1] for line in answer.stdout.splitlines() if line.startswith("updates/s")))


def main() -> None:
    """Measure all settings in turn and print a table of medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help="the mini corpus `pretrain` with labels mfcc100")
    parser.add_argument("--out", type=Path, default=Path("runs/busy_cores"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--precisions", nargs="+", default=["bf16-mixed", "32-true"])
    parser.add_argument("--train", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        train(arguments.corpus, arguments.train)
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    speeds: dict[tuple[str, str, bool], list[float]] = {}
    with (arguments.out / "speeds.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["round", "setting", "precision", "busy", "updates_per_second"])
        for number in range(arguments.rounds):
            for busy in (False, True):
                for precision in arguments.precisions:
                    for name in arguments.settings:
                        speed = measure(arguments.corpus, precision, SETTINGS[name], busy)
                        speeds.setdefault((name, precision, busy), []).append(speed)
                        writer.writerow([number, name, precision, busy, f"{speed:.3f}"])
                        file.flush()
    print("| setting | precision | quiet, updates/s | beside a busy process | quiet / busy |")
    print("|---|---|---|---|---|")
    for precision in arguments.precisions:
        for name in arguments.settings:
            quiet, loaded = (statistics.median(speeds[name, precision, busy]) for busy in (False, True))
            print(f"| {name} | {precision} | {quiet:.2f} | {loaded:.2f} | {quiet / loaded:.2f} |")


if __name__ == "__main__":
    main()
