"""KS, IC, SID and ER on cached means against running the upstream at every step (see README.md).

Example:
    python experiments/throughput/pooled_cache/run.py --data data/tiny --epochs 10 --measured 2
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

from wavlm_lightning.data.mini import prepare_mini
from wavlm_lightning.tasks import (
    EmotionRecognition,
    FoldData,
    IntentClassification,
    KeywordSpotting,
    SpeakerIdentification,
    TaskData,
)
from wavlm_lightning.upstreams import Upstream, WavLMUpstream

TASKS: dict[str, tuple[Any, type[TaskData], int]] = {
    "ks": (KeywordSpotting, TaskData, 32),
    "ic": (IntentClassification, TaskData, 32),
    "sid": (SpeakerIdentification, TaskData, 8),
    "er": (EmotionRecognition, FoldData, 4),
}
"""Head, data, and SUPERB's batch size."""


class Losses(pl.Callback):
    """Keeps the losses of all steps."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.values.append(float(outputs["loss"]))


def fit(name: str, upstream: Upstream, data: Path, epochs: int, cache: str | None) -> tuple[np.ndarray, list[float]]:
    """Train a head, with a validation pass after each epoch; (wall seconds, CPU seconds) and the losses."""
    head, source, batch_size = TASKS[name]
    losses = Losses()
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[losses],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )
    module, loader = head(upstream, learning_rate=1e-3), source(str(data / name), batch_size=batch_size, cache=cache)
    begin = np.array([time.perf_counter(), time.process_time()])
    trainer.fit(module, loader)
    return np.array([time.perf_counter(), time.process_time()]) - begin, losses.values


def compare(
    data: Path, names: Sequence[str], epochs: int = 10, measured: int = 2, size: str = "base"
) -> list[dict[str, Any]]:
    """Time both ways, in turns: half of the measured epochs with the upstream, the cached run, the other half.

    Args:
        data: folder of corpora.
        names: of tasks.
        epochs: of the cached run, which begins with an empty cache.
        measured: epochs that the upstream is run for, an even number; an epoch costs what the next one costs.
        size: preset of the encoder, whose weights are random.
    """
    upstream, rows = WavLMUpstream(size), []
    fit(names[0], upstream, data, 1, None)  # the first pass is slower: memory is fetched, code compiled
    for name in names:
        first, plain_losses = fit(name, upstream, data, measured // 2, None)
        with tempfile.TemporaryDirectory() as folder:
            cached, losses = fit(name, upstream, data, epochs, folder)
            built, _ = fit(name, upstream, data, epochs, folder)
        last, _ = fit(name, upstream, data, measured // 2, None)
        plain = (first + last) / (measured // 2 * 2) * epochs
        rows.append(
            {
                "task": name,
                "plain": plain.tolist(),
                "cached": cached.tolist(),
                "again": built.tolist(),
                "loss_difference": float(np.abs(np.subtract(plain_losses, losses[: len(plain_losses)])).max()),
            }
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a Markdown table, and JSON with `--json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="corpora ks, ic, sid, er; made in size tiny if missing"
    )
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--measured", type=int, default=2)
    parser.add_argument("--size", default="base")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    missing = [name for name in chosen.tasks if not (chosen.data / name).is_dir()]
    if missing:
        prepare_mini(chosen.data, "tiny", missing, seed=0, workers=2, progress=False)
    rows = compare(chosen.data, chosen.tasks, chosen.epochs, chosen.measured, chosen.size)
    total = {key: np.sum([row[key] for row in rows], axis=0).tolist() for key in ("plain", "cached", "again")}
    rows.append({"task": "all", **total, "loss_difference": max(row["loss_difference"] for row in rows)})
    print(f"{chosen.epochs} epochs, of which {chosen.measured} measured without a cache; wall s (CPU s)")
    print("| task | upstream at every step | cache built and used | faster by | cache there | loss differs by |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        plain, cached, again = (f"{row[key][0]:.1f} ({row[key][1]:.1f})" for key in ("plain", "cached", "again"))
        ratio = [slow / fast for slow, fast in zip(row["plain"], row["cached"], strict=True)]
        faster = f"{ratio[0]:.1f} ({ratio[1]:.1f})"
        print(f"| {row['task']} | {plain} | {cached} | {faster} | {again} | {row['loss_difference']:.1e} |")
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
