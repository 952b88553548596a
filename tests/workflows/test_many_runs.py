"""`wavlm fit` with lists of learning rates and seeds: every head's folder is that of a run of its own."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from same_runs import assert_same_run, options, same

from wavlm_lightning.cli import main
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.shipped_configs import configs_folder
from wavlm_lightning.workflows.fit.joint_heads import HeadLists, take_lists

LISTS = ["--model.learning_rate", "[1e-2, 1e-3]", "--model.seed", "[1, 2]"]
LABELS = [f"learning-rate-{rate}-seed-{seed}" for rate in (0.01, 0.001) for seed in (1, 2)]
COMPARED = {
    "learning-rate-0.01-seed-1": ["--model.learning_rate", "1e-2", "--model.seed", "1"],
    "learning-rate-0.001-seed-2": ["--model.learning_rate", "1e-3", "--model.seed", "2"],
}


# A head on pooled features, and one with SpecAugment and dropout.
@pytest.mark.slow
@pytest.mark.parametrize("task", ["ks", pytest.param("sf", marks=pytest.mark.slow)])
def test_each_head_is_as_if_alone(tiny, tmp_path, task):
    common, root = (
        options(tiny, task, "--data.cache", str(tmp_path / "cache") if task == "ks" else "null"),
        tmp_path / "run",
    )
    many = [*common, *LISTS, "--trainer.default_root_dir", str(root)]
    assert main(["fit", *many]) == 0
    assert main(["test", *many, "--ckpt_path", "best"]) == 0
    assert main(["validate", *many, "--ckpt_path", "best"]) == 0
    assert {path.name for path in root.iterdir()} == {*LABELS, "config.yaml", "checkpoints"}
    assert [path.name for path in (root / "checkpoints").iterdir()] == ["last.ckpt"]
    said = yaml.safe_load((root / "config.yaml").read_text())["model"]["init_args"]
    assert (said["learning_rate"], said["seed"]) == ([0.01, 0.001], [1, 2])
    for label, chosen in COMPARED.items():
        alone = [*common, *chosen, "--trainer.default_root_dir", str(tmp_path / label)]
        assert main(["fit", *alone]) == 0
        assert main(["test", *alone, "--ckpt_path", "best"]) == 0
        assert_same_run(root / label, tmp_path / label)
    # A head's folder is a run: any command takes it.
    before = json.loads((root / label / "card.json").read_text())
    assert main(["test", "-c", str(root / label / "config.yaml"), "--ckpt_path", "best"]) == 0
    after = json.loads((root / label / "card.json").read_text())
    assert after["metrics"] == before["metrics"] and after["created"] >= before["created"]


@pytest.mark.slow
def test_lists_in_a_file_and_an_interrupted_run(tiny, tmp_path, capsys):
    """Stopped after three updates and resumed, all heads end as in one go; with other lists that is refused."""
    file = tmp_path / "lists.yaml"
    shipped = yaml.safe_load((configs_folder() / "superb" / "mini" / "sf.yaml").read_text())
    shipped["model"]["init_args"]["learning_rate"] = [1e-2, 1e-3]
    file.write_text(yaml.safe_dump(shipped))
    ends = []
    for name, legs in {"once": [6], "twice": [3, 6]}.items():
        place = ["--trainer.default_root_dir", str(tmp_path / name)]
        for number, updates in enumerate(legs):
            arguments = options(tiny, "sf", "--data.cache", "null", *place, updates=updates)
            arguments[1] = str(file)
            assert main(["fit", *arguments, *(["--ckpt_path", "last"] if number else [])]) == 0
        end = torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)
        best = [
            torch.load(tmp_path / name / f"learning-rate-{rate}" / "checkpoints" / "best.ckpt", weights_only=True)
            for rate in (0.01, 0.001)
        ]
        ends.append([end["state_dict"], end["optimizer_states"], *(b["state_dict"] for b in best)])
        ends[-1] += [{**b["task"], "steps": None} for b in best]
    for one, other in zip(*ends, strict=True):
        assert same(one, other)
    capsys.readouterr()
    assert main(["fit", *arguments, "--model.learning_rate", "[1e-2, 1e-4]", "--ckpt_path", "last"]) == 2
    refused = capsys.readouterr().err
    assert "learning_rate" in refused and "without --ckpt_path and with another" in refused
    for more, said in (
        (["fit", *arguments], "already holds a run"),
        (["predict", *arguments, "--ckpt_path", "best"], "takes one head"),
        (
            ["fit", *arguments, "--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=valid/f1"],
            "EarlyStopping",
        ),
    ):
        assert main(more) == 2
        assert said in capsys.readouterr().err


def test_the_last_word_counts(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("model: {class_path: X, init_args: {learning_rate: [1e-5, 2e-5], seed: 3, rate: [1, 2]}}")
    left, lists = take_lists(["fit", "-c", str(file), "--model.init_args.seed=[4, 5]", "--trainer.x", "[1, 2]"])
    assert lists.values == {"learning_rate": [1e-5, 2e-5], "seed": [4, 5]}
    assert json.loads(left[2])["model"]["init_args"] == {"learning_rate": 1e-5, "seed": 3, "rate": [1, 2]}
    assert left[3:] == ["--model.init_args.seed=4", "--trainer.x", "[1, 2]"]
    assert not take_lists(["fit", "-c", str(file), "--model.learning_rate", "1e-3"])[1]
    assert take_lists(["fit", "--model.seed", "[1]", "-c", str(file)])[1].values == {"learning_rate": [1e-5, 2e-5]}
    plain = ["fit", "-c", str(tmp_path / "none.yaml"), "--model.learning_rate", "1e-3", "--model", "X"]
    assert take_lists(plain) == (plain, HeadLists())
    for wrong in ("[]", "[1e-3, 0.001]", "[a, b]"):
        with pytest.raises(UserError, match=r"model\.learning_rate"):
            take_lists(["fit", "--model.learning_rate", wrong])


def test_only_heads_have_lists(tiny, tmp_path, capsys):
    pretraining = ["-c", "configs/pretrain/tiny_waveform.yaml", "--data.corpus", str(tiny / "pretrain")]
    assert main(["fit", *pretraining, "--model.learning_rate", "[1e-3, 1e-4]"]) == 2
    assert "is not a task" in capsys.readouterr().err
