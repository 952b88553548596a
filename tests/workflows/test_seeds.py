"""`--seed_everything` is the seed of the run: it reaches the weights, the batches, and the tasks that train beside the first."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
import yaml

from wavlm_lightning.workflows.fit import fit

QUICK = [
    *("--trainer.accelerator", "cpu", "--trainer.precision", "32-true", "--threads", "1", "--trainer.max_steps", "1"),
    *(
        "--trainer.enable_progress_bar",
        "false",
        "--trainer.limit_val_batches",
        "1",
        "--trainer.val_check_interval",
        "1",
    ),
]


def seeds(folder: Path) -> tuple[int, int]:
    content = yaml.safe_load((folder / "config.yaml").read_text())
    return content["model"]["init_args"]["seed"], content["data"]["init_args"]["seed"]


def weights(words: list[str], folder: Path) -> dict[str, torch.Tensor]:
    fit(*words, *QUICK, "--trainer.default_root_dir", str(folder))
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def differ(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(value, other[name]) for name, value in one.items())


def test_the_seed_of_a_head(tiny, tmp_path):
    words = ["-c", "configs/superb/mini/ks.yaml", "--model.upstream", "Fbank", "--data.corpus", str(tiny / "ks")]
    words += ["--data.cache", "null", "--data.batch_size", "8"]
    first = weights(words, tmp_path / "first")
    assert seeds(tmp_path / "first") == (1337, 1337)
    other = weights([*words, "--seed_everything", "2"], tmp_path / "other")
    assert seeds(tmp_path / "other") == (2, 2) and differ(first, other)
    same = weights([*words, "--model.seed", "2", "--data.seed", "2"], tmp_path / "same")
    assert not differ(same, other)
    weights([*words, "--seed_everything", "2", "--model.seed", "3"], tmp_path / "own")
    assert seeds(tmp_path / "own") == (3, 2)


def test_the_seed_of_an_encoder(tiny, tmp_path):
    words = ["-c", "configs/pretrain/tiny_waveform.yaml", "--data.corpus", str(tiny / "pretrain")]
    words += ["--data.batch_seconds", "4", "--model.encoder_overrides.layers", "1"]
    first = weights(words, tmp_path / "first")
    other = weights([*words, "--seed_everything", "2"], tmp_path / "other")
    assert (seeds(tmp_path / "first"), seeds(tmp_path / "other")) == ((0, 0), (2, 2)) and differ(first, other)


def test_the_seed_of_several_heads(tiny, tmp_path):
    own = tmp_path / "own_seed.yaml"
    content = yaml.safe_load(Path("configs/superb/mini/asr.yaml").read_text())
    content["model"]["init_args"] |= {"seed": 5, "hidden": 8}
    own.write_text(yaml.safe_dump(content))
    words = ["-c", "configs/superb/mini/pr.yaml", "--model.upstream", "Fbank", "--data.corpus", str(tiny / "pr")]
    words += ["--data.cache", "null", "--data.batch_size", "4", "--seed_everything", "2"]
    for also, expected in ((own, 5), ("configs/superb/mini/asr.yaml", 2)):
        fit(*words, "--also", str(also), *QUICK, "--trainer.default_root_dir", str(tmp_path / "run"))
        assert seeds(tmp_path / "run" / "pr") == (2, 2)
        assert seeds(tmp_path / "run" / "asr") == (expected, 2)
        shutil.rmtree(tmp_path / "run")
