"""Short runs of heads, and whether two of them came out the same."""

from __future__ import annotations

import csv
import json

import torch
import yaml


def options(tiny, task: str, *more: str, updates: int = 6) -> list[str]:
    """Accumulation, clipping, validation and checkpoints within a few updates of a small head."""
    every = 2 * 2  # batches between two validations; an update takes two
    return [
        *("-c", f"configs/superb/mini/{task}.yaml", "--data.corpus", str(tiny / task)),
        *("--data.batch_size", "4", "--model.upstream", "wavlm_lightning.upstreams.Fbank"),
        *(
            "--trainer.accelerator",
            "cpu",
            "--trainer.max_steps",
            str(updates),
            "--trainer.val_check_interval",
            str(every),
        ),
        *("--trainer.accumulate_grad_batches", "2", "--trainer.gradient_clip_val", "0.5"),
        *("--trainer.log_every_n_steps", "1", "--trainer.enable_progress_bar", "false", "--checkpoint_every", "1"),
        *more,
    ]


def same(one, other) -> bool:
    """Whether two trees of tensors and values are equal, the floating-point numbers to the last bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def curves(folder) -> list[dict[str, str]]:
    with (folder / "curves" / "version_0" / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def assert_same_run(one, other):
    left, right = (torch.load(run / "checkpoints" / "best.ckpt", weights_only=True) for run in (one, other))
    assert left.keys() == right.keys()
    for key in left.keys() - {"callbacks", "training_seconds"}:
        assert same(left[key], right[key]), key
    assert curves(one) == curves(other)
    cards = [json.loads((run / "card.json").read_text()) for run in (one, other)]
    for card in cards:
        del card["command"], card["created"], card["runtime_seconds"], card["training_seconds"]
    assert cards[0] == cards[1]
    configs = [yaml.safe_load((run / "config.yaml").read_text()) for run in (one, other)]
    for config in configs:
        del config["trainer"]["default_root_dir"]
    assert configs[0] == configs[1]
