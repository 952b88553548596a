"""Label priors in the CTC loss: the gradient against finite differences, the priors of an epoch, a resumed run."""

from __future__ import annotations

import math

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from quiet import quiet_trainer
from ranks import together

from wavlm_lightning.data.batch import Targets
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import FineTunedRecognition, PhonemeRecognition, TaskData
from wavlm_lightning.tasks.components.label_priors import FLOOR, LabelPriors, ctc_loss_with_priors, posterior_sums
from wavlm_lightning.tasks.ctc import alignable
from wavlm_lightning.upstreams import Fbank, WavLMUpstream


def test_the_gradient_is_that_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 7, 5, generator=generator, dtype=torch.float64)
    priors = 0.35 * torch.randn(5, generator=generator, dtype=torch.float64)
    targets = Targets.pad(
        [torch.tensor([1, 2, 2]), torch.tensor([3]), torch.tensor([1, 1, 1, 1])]
    )  # the last has no path
    lengths = torch.tensor([7, 4, 6])
    feasible = alignable(lengths, targets)
    assert feasible.tolist() == [True, True, False]

    def loss(x: torch.Tensor) -> torch.Tensor:
        return ctc_loss_with_priors(x.log_softmax(-1), priors, lengths, targets, feasible, 0)

    given = logits.clone().requires_grad_()
    losses = loss(given)
    (losses * torch.tensor([1.0, 0.5, 2.0])).sum().backward()
    assert losses[2] == 0 and given.grad is not None
    step, numeric = 1e-5, torch.zeros_like(logits)
    for place in range(logits.numel()):
        values = []
        for sign in (step, -step):
            moved = logits.clone()
            moved.view(-1)[place] += sign
            values.append((loss(moved) * torch.tensor([1.0, 0.5, 2.0])).sum())
        numeric.view(-1)[place] = (values[0] - values[1]) / (2 * step)
    assert (given.grad - numeric).abs().max() < 1e-7
    # Without the correction it is another gradient.
    plain = logits.clone().requires_grad_()
    scores = (plain.log_softmax(-1) - priors).transpose(0, 1)
    torch.nn.functional.ctc_loss(
        scores, targets.values, lengths, targets.lengths, reduction="sum", zero_infinity=True
    ).backward()
    assert plain.grad is not None and (plain.grad[0] - numeric[0]).abs().max() > 1e-3


def test_priors_are_the_mean_posteriors_of_the_epoch_before():
    priors = LabelPriors(0.35)
    assert priors.of_epoch(0) is None
    posteriors = torch.tensor([[[0.5, 0.5, 0.0], [0.9, 0.1, 0.0], [0.2, 0.3, 0.5]]], dtype=torch.float64)
    sums = posterior_sums(posteriors.log(), torch.tensor([2]))
    priors.add(sums[:-1], float(sums[-1]))
    assert priors.of_epoch(0) is None
    resumed = LabelPriors(0.35)
    resumed.load(priors.state())
    for each in (priors, resumed):
        found = each.of_epoch(1)
        assert found is not None and found.tolist() == pytest.approx([math.log(0.7), math.log(0.3), FLOOR])
        assert each.of_epoch(1) is found
    with pytest.raises(UserError, match=r"model\.label_priors: -1"):
        LabelPriors(-1)


def fit(corpus, folder, updates, path=None, **settings):
    task = PhonemeRecognition(Fbank(), 1e-3, hidden=8, label_priors=0.35)
    kept = ModelCheckpoint(folder, "last", every_n_train_steps=1, enable_version_counter=False)
    trainer = quiet_trainer(max_steps=updates, callbacks=[kept], limit_val_batches=0, **settings)
    trainer.fit(task, TaskData(str(corpus), batch_size=8), ckpt_path=path, weights_only=True)
    return task


def test_a_resumed_run_has_the_same_priors(tiny, tmp_path):
    steps = -(-len(TaskData(str(tiny / "pr")).corpus.split("train")) // 8)
    updates = 2 * steps + 1
    whole = fit(tiny / "pr", tmp_path / "whole", updates)
    fit(tiny / "pr", tmp_path / "parts", steps + 1)
    parts = fit(tiny / "pr", tmp_path / "parts", updates, tmp_path / "parts" / "last.ckpt")
    assert whole.label_priors.log is not None
    assert parts.label_priors.state() == whole.label_priors.state()
    one, other = whole.state_dict(), parts.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_training_alone_has_priors():
    """The loss of validation is plain CTC; so is that of training in the first epoch."""
    task = FineTunedRecognition(WavLMUpstream("tiny", frozen=False), label_priors=0.35)
    plain = FineTunedRecognition(WavLMUpstream("tiny", frozen=False))
    outputs = torch.randn(2, 9, 6, generator=torch.Generator().manual_seed(0))
    case = outputs, torch.tensor([9, 6]), Targets.pad([torch.tensor([1, 2]), torch.tensor([3])])
    task._trainer = plain._trainer = type("Epochs", (), {"current_epoch": 0, "world_size": 1})()
    assert torch.equal(task.loss(*case), plain.loss(*case))
    task._trainer.current_epoch = 1
    assert task.loss(*case) != plain.loss(*case)
    assert torch.equal(task.eval().loss(*case), plain.loss(*case))


def in_processes(tiny, out, devices):
    strategy = "ddp" if devices > 1 else "auto"
    task = fit(tiny / "pr", out, 3, devices=devices, strategy=strategy)
    if task.global_rank == 0:
        torch.save(task.label_priors.state(), out / "priors.pt")


@pytest.mark.slow
def test_two_processes_share_their_priors(tiny, tmp_path):
    together(2, tmp_path / "log", in_processes, tiny, tmp_path / "2", 2)
    state = torch.load(tmp_path / "2" / "priors.pt")
    rows = state["sum"] or [math.exp(value) for value in state["log"]]
    assert sum(rows) == pytest.approx(state["frames"] or 1.0, rel=1e-4)
    samples = TaskData(str(tiny / "pr")).corpus.split("train").samples
    seen = 3 * 2 * 8  # utterances
    if state["sum"] and seen <= len(samples):
        assert state["frames"] > 0.5 * seen * samples.mean() / 160  # those of both processes
