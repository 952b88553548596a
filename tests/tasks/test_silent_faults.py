"""What a task could not say at commit 7963883, so that leaving the corner of frozen probes went wrong without a word.

| fault on 7963883 | its kind | tests |
|---|---|---|
| float sequence targets became integers | target of floats | here; test_task_data: sequences, frames, crops |
| `frozen: false` under ddp died of `masked_spec_embed` | unused parameter | here; training/test_two_processes |
| fsdp2 on two processes never averaged gradients | strategy without sharding | here; training/test_two_processes: all modules |
| `BaseFinetuning` unfroze and nothing trained | callback without effect | here; test_trained_upstream |
| PESQ 2.61 became "261.0 %" | metric that is no percentage | here; reports/test_units; callbacks/test_wandb |
| `predict --window` guessed by `ndim` | waveform answer | here; test_long_recordings; workflows/test_predict_audio |

The tests in this file use only names that 7963883 has, too, so they run there and fail for these reasons: copy the file to
`tests/tasks` of that commit. All six fail there.
"""

from __future__ import annotations

import json

import pytest
import torch
from lightning.pytorch.callbacks import BackboneFinetuning
from lightning.pytorch.strategies import ModelParallelStrategy
from quiet import quiet_trainer

from wavlm_lightning.cli import main
from wavlm_lightning.data.batch import Targets
from wavlm_lightning.errors import UserError
from wavlm_lightning.tasks import KeywordSpotting, TaskData
from wavlm_lightning.upstreams import Fbank, WavLMUpstream

HEAD = '''
from torchmetrics import MeanMetric

from wavlm_lightning import tasks


class Quality(tasks.KeywordSpotting):
    """Keyword spotting that is scored by PESQ, which is always 2.6149."""

    name, metric, better, answer = "QUALITY", "pesq", "higher", "label"
    units = {"pesq": tasks.Unit("", 1.0, 2)} if hasattr(tasks, "Unit") else {}

    def build_metric(self):
        return MeanMetric()

    def update_metric(self, metric, outputs, lengths, batch):
        metric.update(2.6149)


class Echo(Quality):
    """Answers with as many samples as it hears, 160 for each frame of FBANK."""

    name, answer = "ECHO", "waveform"

    def outputs(self, features, lengths):
        return (features[:, :, :1] * self.classifier.weight.mean()).repeat(1, 1, 160).flatten(1)

    def loss(self, outputs, lengths, targets):
        return outputs.square().mean()

    def readable(self, outputs, lengths):
        return [{"samples": len(row)} for row in outputs]
'''


@pytest.fixture
def head(tiny, tmp_path, monkeypatch) -> list[str]:
    """Options of a task in a file of the working directory, up to the name of its class."""
    (tmp_path / "own_head.py").write_text(HEAD)
    monkeypatch.chdir(tmp_path)
    common = ["--model.upstream", "Fbank", "--model.upstream.cmvn", "false", "--model.learning_rate", "1e-3"]
    common += ["--data", "TaskData", "--data.corpus", str(tiny / "ks"), "--trainer.accelerator", "cpu"]
    return [*common, "--trainer.default_root_dir", str(tmp_path / "run")]


def test_targets_of_floats():
    padded = Targets.pad([torch.tensor([0.5, -0.3, 0.9]), torch.tensor([0.25])])
    assert torch.equal(padded.values, torch.tensor([[0.5, -0.3, 0.9], [0.25, 0.0, 0.0]]))


def test_every_parameter_that_asks_for_a_gradient_gets_one():
    encoder = WavLMUpstream("tiny", frozen=False)
    layers = encoder(torch.randn(2, 8000), torch.tensor([8000, 6000]))
    sum(hidden.square().sum() for hidden in layers.hidden).backward()
    unused = [name for name, value in encoder.named_parameters() if value.requires_grad and value.grad is None]
    assert not unused  # DDP stops at such


def test_a_strategy_that_averages_nothing_is_refused(tiny):
    trainer = quiet_trainer(max_steps=1, devices=1, strategy=ModelParallelStrategy(), limit_val_batches=0)
    with pytest.raises(UserError, match=r"trainer\.strategy ModelParallelStrategy"):
        trainer.fit(KeywordSpotting(Fbank(cmvn=False), learning_rate=1e-3), TaskData(str(tiny / "ks")))


def test_what_a_callback_unfreezes_is_trained_or_refused(tiny):
    task = KeywordSpotting(WavLMUpstream("tiny"), learning_rate=1e-3)
    task.__dict__["backbone"] = task.upstream  # where Lightning's callback looks
    before = {name: value.clone() for name, value in task.upstream.state_dict().items()}
    unfreezing = BackboneFinetuning(unfreeze_backbone_at_epoch=1, backbone_initial_lr=1e-2, verbose=False)
    trainer = quiet_trainer(max_epochs=2, limit_train_batches=1, limit_val_batches=0, callbacks=[unfreezing])
    try:
        trainer.fit(task, TaskData(str(tiny / "ks"), batch_size=4))
    except UserError as error:
        assert "BackboneFinetuning would train nothing" in str(error)
        return
    after = task.upstream.state_dict()
    assert any(not torch.equal(value, after[name]) for name, value in before.items())


def test_a_metric_that_is_no_percentage(head, tmp_path):
    assert main(["test", "--model", "own_head.Quality", *head]) == 0
    figure = json.loads((tmp_path / "run" / "card.json").read_text())["metrics"]["pesq"]
    assert (figure["value"], figure["unit"]) == (2.6149, "")


def test_a_waveform_is_no_vector(head, tiny, tmp_path, capsys):
    """Windows of audio are not averaged as those of an embedding are: they are joined, or refused in a sentence."""
    soundfile = pytest.importorskip("soundfile")
    assert main(["fit", "--model", "own_head.Echo", *head, "--trainer.max_steps", "1"]) == 0
    soundfile.write(tmp_path / "long.wav", torch.randn(5 * 16_000).numpy() / 10, 16_000)
    capsys.readouterr()
    status = main(["predict", "run", "long.wav", "--window", "2", "--json"])
    said = capsys.readouterr()
    if status == 0:
        assert abs(json.loads(said.out)["samples"] - 5 * 16_000) < 500
    else:
        assert "--window 0" in said.err and "ECHO" in said.err
