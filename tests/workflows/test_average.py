"""`wavlm average`: kept checkpoints, their mean, and what is computed anew for it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from wavlm_lightning.cli import main
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.workflows import average as averaging
from wavlm_lightning.workflows.average import _mean_of, average

HEAD = '''
from torch import nn
from wavlm_lightning.tasks import KeywordSpotting


class Normed(KeywordSpotting):
    """KS with a batch norm, another that no batch updates (as in a fine-tuned encoder), and something fitted."""

    name = "KS"

    def build_head(self, dim):
        super().build_head(dim)
        self.norm, self.steady = nn.BatchNorm1d(dim), nn.BatchNorm1d(dim).eval()
        self.steady.running_mean.fill_(0.5)
        self.steady.running_var.fill_(2.0)

    def outputs(self, features, lengths):
        return super().outputs(self.steady(self.norm(features.transpose(1, 2))).transpose(1, 2), lengths)

    def fit_on_validation(self, metric):
        return {"bias": float(self.classifier.bias.sum())}
'''
CPU = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
SHORT = [
    "--trainer.check_val_every_n_epoch",
    "null",
    "--trainer.val_check_interval",
    "2",
    "--trainer.limit_val_batches",
    "2",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("average")


@pytest.fixture(scope="module")
def run(tiny, folder) -> Path:
    """Six updates of a head with a batch norm, of which the last three checkpoints are kept."""
    (folder / "normed_head.py").write_text(HEAD)
    sys.path.insert(0, str(folder))
    options = ["--model", "normed_head.Normed", "--model.upstream", "Fbank", "--model.learning_rate", "0.01"]
    options += ["--data", "TaskData", "--data.corpus", str(tiny / "ks"), "--data.batch_size", "4"]
    options += ["--trainer.max_steps", "6", "--trainer.default_root_dir", str(folder / "run"), *CPU, *SHORT]
    torch.set_num_threads(1)
    assert main(["fit", *options, "--checkpoint_every", "1", "--keep_checkpoints", "3"]) == 0
    sys.path.remove(str(folder))
    return folder / "run"


@pytest.fixture(autouse=True)
def importable(folder, monkeypatch):
    monkeypatch.syspath_prepend(str(folder))


def load(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def kept(run: Path) -> dict[int, dict]:
    return {n: load(run / "checkpoints" / f"update-{n}.ckpt")["state_dict"] for n in (4, 5, 6)}


def test_the_newest_checkpoints_are_kept_beside_best_and_last(run):
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["best.ckpt", "last.ckpt", "update-4.ckpt", "update-5.ckpt", "update-6.ckpt"]


@pytest.mark.slow
def test_the_average_is_a_run_that_every_verb_reads(run, tiny, folder, capsys):
    out = folder / "mean"
    assert main(["average", str(run), "--last", "2", "--batches", "3", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "mean of updates 5, 6" in said and "valid/accuracy 0." in said and "fitted on validation: bias" in said
    found, states = load(out / "checkpoints" / "best.ckpt"), kept(run)
    for name, value in found["state_dict"].items():
        if name.startswith(("norm.", "steady.")) and name.split(".")[1] not in ("weight", "bias"):
            continue
        assert torch.allclose(value, (states[5][name] + states[6][name]) / 2, atol=1e-7), name
        assert value.dtype == states[6][name].dtype
    # Statistics are those of three training batches under the average alone.
    assert found["state_dict"]["norm.num_batches_tracked"] == 3
    assert not torch.allclose(found["state_dict"]["norm.running_var"], states[6]["norm.running_var"], rtol=1e-3)
    task = found["task"]
    assert task["averaged"] == [5, 6] and task["selection"]["metric"] == "valid/accuracy"
    assert task["fitted"]["bias"] == pytest.approx(float(found["state_dict"]["classifier.bias"].sum()), abs=1e-6)
    assert not {"optimizer_states", "loops", "callbacks"} & set(found)

    config = str(out / "config.yaml")
    assert main(["test", "-c", config, "--ckpt_path", "best", *CPU]) == 0
    card = json.loads((out / "card.json").read_text())
    assert card["averaged"] == [5, 6] and card["fitted"] == task["fitted"]
    recordings = folder / "speech"
    write_recording(tiny, recordings)
    assert main(["predict", str(out), str(recordings), "--device", "cpu"]) == 0
    second = ["--model.start_from", str(out), "--trainer.default_root_dir", str(folder / "second")]
    assert main(["fit", "-c", config, *second, "--trainer.max_steps", "1", *CPU]) == 0
    assert load(folder / "second" / "checkpoints" / "last.ckpt")["task"]["started"]["step"] == 6
    assert yaml.safe_load((folder / "second" / "config.yaml").read_text())["model"]["init_args"]["start_from"] == str(
        out
    )
    assert main(["report", str(out), "-o", str(folder / "report")]) == 0
    page = (folder / "report" / "report.md").read_text()
    assert "mean of 2 checkpoints" in page and "bias " in page
    capsys.readouterr()
    assert main(["fit", "-c", config, "--ckpt_path", "best", *CPU]) == 2
    assert "averaged weights, with which no optimiser goes on" in capsys.readouterr().err


def write_recording(tiny: Path, folder: Path) -> None:
    import soundfile

    from wavlm_lightning.data.corpus import Corpus

    folder.mkdir()
    _, waveform, _ = next(iter(Corpus.open(tiny / "ks").split("test").utterances()))
    soundfile.write(folder / "a.wav", waveform, 16_000)


def test_statistics_are_those_of_the_training_batches(run, folder):
    """With as many batches as an epoch has, those of the first epoch's batches, computed by hand."""
    from wavlm_lightning.workflows.fit import open_run

    out = folder / "by-hand"
    average([run], out, last=2, batches=2)
    found = load(out / "checkpoints" / "best.ckpt")["state_dict"]
    opened = open_run(
        *("--model", "normed_head.Normed", "--model.upstream", "Fbank", "--model.learning_rate", "0.01"),
        *("--data", "TaskData", "--data.corpus", str(corpus_of(run)), "--data.batch_size", "4"),
        *("--trainer.max_steps", "2", "--trainer.limit_val_batches", "0", *CPU),
        *("--trainer.default_root_dir", str(folder / "opened"), "--trainer.logger", "false"),
        *("--trainer.enable_checkpointing", "false"),
    )
    seen: list[torch.Tensor] = []
    opened.model.build_head_before = opened.model.build_head

    def build(dim):
        opened.model.build_head_before(dim)
        opened.model.norm.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach().clone()))

    opened.model.build_head = build
    opened.trainer.fit(opened.model, opened.datamodule)
    # The layer before the norm is the upstream, so that its input does not depend on the weights.
    means = torch.stack([batch.mean((0, 2)) for batch in seen]).mean(0)
    variances = torch.stack([batch.transpose(0, 1).flatten(1).var(1) for batch in seen]).mean(0)
    assert torch.allclose(found["norm.running_mean"], means, rtol=1e-4, atol=1e-5)
    assert torch.allclose(found["norm.running_var"], variances, rtol=1e-4, atol=1e-5)
    assert found["steady.running_mean"].unique().tolist() == [0.5]
    assert found["steady.running_var"].unique().tolist() == [2.0]


def test_batches_are_counted_where_an_update_takes_several(run, tmp_path, monkeypatch):
    monkeypatch.setattr(averaging, "_validate", lambda *_: (None, None))
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    content = yaml.safe_load((copy / "config.yaml").read_text())
    content["trainer"]["accumulate_grad_batches"] = 2
    (copy / "config.yaml").write_text(yaml.safe_dump(content))
    average([copy], tmp_path / "out", batches=1)
    assert load(tmp_path / "out" / "checkpoints" / "best.ckpt")["state_dict"]["norm.num_batches_tracked"] == 1


def corpus_of(run: Path) -> str:
    return yaml.safe_load((run / "config.yaml").read_text())["data"]["init_args"]["corpus"]


def test_without_data_statistics_are_pooled(run, folder, tmp_path):
    paths = []
    for number, (mean, variance) in enumerate([(0.0, 1.0), (2.0, 3.0)]):
        content = load(run / "checkpoints" / f"update-{number + 5}.ckpt")
        content["state_dict"]["norm.running_mean"].fill_(mean)
        content["state_dict"]["norm.running_var"].fill_(variance)
        content["task"]["fitted"] = {}
        paths.append(run.parent / "pooled" / "checkpoints" / f"{number}.ckpt")
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, paths[-1])
    (run.parent / "pooled" / "config.yaml").write_text((run / "config.yaml").read_text())
    done = average(paths, tmp_path / "out", use_data=False)
    state = load(tmp_path / "out" / "checkpoints" / "best.ckpt")["state_dict"]
    assert done.value is None and done.steps == [5, 6]
    assert state["norm.running_mean"].unique().tolist() == [1.0]
    assert state["norm.running_var"].unique().tolist() == [3.0]  # 2 within, 1 between
    assert state["norm.num_batches_tracked"] == 6  # a count is that of the newest


@pytest.mark.parametrize(
    ("precision", "options"),
    [("16-mixed", ["--trainer.precision", "32-true"]), (16, ["--trainer.precision", "32-true"]), ("bf16-mixed", [])],
)
def test_batches_pass_through_updated_norms_alone_without_a_loss_scaler(run, tmp_path, monkeypatch, precision, options):
    """The scaler of 16-mixed on a GPU asks for gradients, which a run without an optimizer does not have."""
    asked: list[list[str]] = []

    def short_run(*words, callbacks):
        asked.append(
            [words[place + n] for place, word in enumerate(words) if word == "--trainer.precision" for n in (0, 1)]
        )
        assert callbacks[0].norms == ["norm"]
        return SimpleNamespace(model=torch.nn.Module())

    monkeypatch.setattr(averaging, "fit", short_run)
    monkeypatch.setattr(averaging, "_validate", lambda *_: (None, None))
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    content = yaml.safe_load((copy / "config.yaml").read_text())
    content["trainer"]["precision"] = precision
    (copy / "config.yaml").write_text(yaml.safe_dump(content))
    average([copy], tmp_path / "out")
    assert asked == [options]


def test_no_batches_pass_where_none_updates_a_norm(run, tmp_path, monkeypatch):
    monkeypatch.setattr(averaging, "_validate", lambda *_: (None, None))
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    for path in (copy / "checkpoints").glob("update-*.ckpt"):
        content = load(path)
        content["state_dict"] = {name: value for name, value in content["state_dict"].items() if "norm." not in name}
        torch.save(content, path)
    monkeypatch.setattr(averaging, "fit", None)
    average([copy], tmp_path / "out")
    found = load(tmp_path / "out" / "checkpoints" / "best.ckpt")["state_dict"]
    assert found["steady.running_var"].unique().tolist() == [2.0]


def test_fractions_are_summed_in_double_precision():
    values = [torch.tensor([1e4, 1.0], dtype=torch.bfloat16), torch.tensor([1.0, 2.0], dtype=torch.bfloat16)]
    assert torch.equal(_mean_of(values), torch.tensor([5000.5, 1.5]).to(torch.bfloat16))


@pytest.mark.parametrize(
    ("sources", "options", "said"),
    [
        (["run"], {"last": 4}, r"3 kept checkpoints, not 4; train with --keep_checkpoints N"),
        (["run"], {"last": 1}, "at least 2 are needed"),
        (["nowhere"], {}, "no run folder"),
        (["run/checkpoints/update-4.ckpt", "run/checkpoints/nothing.ckpt"], {}, "nothing.ckpt: no such checkpoint"),
        (["run/checkpoints/update-4.ckpt", "run/checkpoints/update-5.ckpt"], {"last": 2}, "--last counts"),
        (["run"], {"use_data": False}, "what was fitted on validation does not fit the average"),
        (["run/checkpoints/update-4.ckpt", "run/checkpoints/other.ckpt"], {}, "not checkpoints of one run"),
    ],
)
def test_what_cannot_be_averaged_is_refused(run, folder, tmp_path, sources, options, said):
    other = load(run / "checkpoints" / "update-6.ckpt")
    other["task"]["labels"] = ["other"]
    try:
        torch.save(other, run / "checkpoints" / "other.ckpt")
        if sources == ["run"]:
            (run / "checkpoints" / "other.ckpt").unlink()
        with pytest.raises(UserError, match=said):
            average([folder / source for source in sources], tmp_path / "out", **options)
    finally:
        (run / "checkpoints" / "other.ckpt").unlink(missing_ok=True)
    assert not (tmp_path / "out" / "checkpoints" / "best.ckpt").exists()
    with pytest.raises(UserError, match="already holds a run"):
        average([run], run)


def test_several_heads_keep_no_checkpoints(tiny, tmp_path, capsys):
    options = ["--model", "KeywordSpotting", "--model.upstream", "Fbank", "--model.learning_rate", "[0.1,0.2]"]
    options += ["--data", "TaskData", "--data.corpus", str(tiny / "ks"), "--trainer.default_root_dir", str(tmp_path)]
    assert main(["fit", *options, *CPU, "--trainer.max_steps", "1", "--keep_checkpoints", "2"]) == 2
    assert "--keep_checkpoints keeps those of one head" in capsys.readouterr().err
