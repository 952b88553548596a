"""`--seed_everything` is the seed of the run: it reaches the weights, the batches, and the tasks that train beside the first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from wavlm_lightning.workflows.fit import fit
from wavlm_lightning.workflows.fit.seeds import settle

QUICK = [
    *("--trainer.accelerator", "cpu", "--trainer.precision", "32-true", "--threads", "1", "--trainer.max_steps", "1"),
    *("--trainer.enable_progress_bar", "false", "--trainer.limit_val_batches", "1"),
    *("--trainer.val_check_interval", "1"),
]
Seeds = tuple[int | None, int | None]


def trained(words: list[str], folder: Path, *heads: str) -> list[dict[str, torch.Tensor]]:
    """The weights of a run, or of its heads."""
    fit(*words, *QUICK, "--trainer.default_root_dir", str(folder))
    files = [folder / head / "checkpoints" / "best.ckpt" for head in heads] or [folder / "checkpoints" / "last.ckpt"]
    return [torch.load(file, weights_only=True)["state_dict"] for file in files]


def seeds(folder: Path) -> Seeds:
    """Those of model and data, as they stand in the configuration."""
    content = yaml.safe_load((folder / "config.yaml").read_text())
    return content["model"]["init_args"]["seed"], content["data"]["init_args"]["seed"]


def differ(one: list[dict[str, torch.Tensor]], other: list[dict[str, torch.Tensor]]) -> list[bool]:
    pairs = zip(one, other, strict=True)
    return [any(not torch.equal(value, b[name]) for name, value in a.items()) for a, b in pairs]


def test_the_seed_of_a_head(tiny, tmp_path):
    words = ["-c", "configs/superb/mini/ks.yaml", "--model.upstream", "Fbank", "--data.corpus", str(tiny / "ks")]
    words += ["--data.cache", "null", "--data.batch_size", "8"]
    first = trained(words, tmp_path / "first")
    other = trained([*words, "--seed_everything", "2"], tmp_path / "other")
    assert differ(first, other) == [True]
    assert differ(trained([*words, "--model.seed", "2", "--data.seed", "2"], tmp_path / "same"), other) == [False]
    # The configuration of a run is the beginning of others, and goes on as it was.
    again = ["-c", str(tmp_path / "first" / "config.yaml")]
    assert seeds(tmp_path / "first") == (None, None)
    assert differ(trained([*again, "--seed_everything", "2"], tmp_path / "again"), other) == [False]
    assert differ(trained(again, tmp_path / "repeated"), first) == [False]
    fit(
        *again,
        *QUICK,
        "--trainer.default_root_dir",
        str(tmp_path / "first"),
        "--ckpt_path",
        "last",
        "--model.seed",
        "1337",
    )
    trained([*words, "--seed_everything", "2", "--model.seed", "3"], tmp_path / "own")
    assert seeds(tmp_path / "own") == (3, None)


def test_the_seed_of_an_encoder(tiny, tmp_path):
    words = ["-c", "configs/pretrain/tiny_waveform.yaml", "--data.corpus", str(tiny / "pretrain")]
    words += ["--data.batch_seconds", "4", "--model.encoder_overrides.layers", "1"]
    first = trained(words, tmp_path / "first")
    assert differ(first, trained([*words, "--seed_everything", "2"], tmp_path / "other")) == [True]
    assert differ(first, trained([*words, "--model.seed", "0", "--data.seed", "0"], tmp_path / "same")) == [False]


@pytest.mark.slow
def test_the_seed_of_several_heads(tiny, tmp_path, capsys):
    own = tmp_path / "own_seed.yaml"
    content = yaml.safe_load(Path("configs/superb/mini/asr.yaml").read_text())
    content["model"]["init_args"] |= {"seed": 5, "hidden": 8}
    own.write_text(yaml.safe_dump(content))
    words = ["-c", "configs/superb/mini/pr.yaml", "--model.upstream", "Fbank", "--data.corpus", str(tiny / "pr")]
    words += ["--data.cache", "null", "--data.batch_size", "4", "--also", str(own)]
    first = trained(words, tmp_path / "first", "pr", "asr")
    other = trained([*words, "--seed_everything", "2", "--data.seed", "1337"], tmp_path / "other", "pr", "asr")
    assert differ(first, other) == [True, False]  # all heads read the batches of one seed
    assert "seed_everything" not in capsys.readouterr().err
    del content["model"]["init_args"]["seed"]
    own.write_text(yaml.safe_dump(content))
    second = trained([*words, "--seed_everything", "2", "--data.seed", "1337"], tmp_path / "second", "pr", "asr")
    assert differ(other, second) == [False, True]
    assert "own_seed.yaml: seed_everything is 2 for all, not 1337" in capsys.readouterr().err


def test_a_seed_of_the_run_reaches_what_is_trained():
    front_end = {"class_path": "ConvTasNet", "init_args": {"seed": None}}
    control = {"class_path": "WavLMUpstream", "init_args": {"frozen": True, "seed": None}}
    config = {
        "model": {
            "class_path": "Task",
            "init_args": {"seed": 4, "front_end": front_end, "upstream": control, "parts": [front_end]},
        },
        "data": {"class_path": "TaskData", "init_args": {"seed": None}},
    }
    before = json.loads(json.dumps(config))
    assert settle(json.loads(json.dumps(config)), None) == settle(json.loads(json.dumps(config)), False) == before
    found = settle(config, 7)
    assert found["data"]["init_args"] == {"seed": 7} and found["model"]["init_args"]["seed"] == 4
    assert found["model"]["init_args"]["front_end"]["init_args"]["seed"] == 7
    assert found["model"]["init_args"]["upstream"]["init_args"]["seed"] is None
