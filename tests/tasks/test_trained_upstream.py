"""Tasks that train their upstream, targets of floats, and trainers under which a task would train wrongly."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import BackboneFinetuning
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from quiet import quiet_trainer
from ranks import together

from wavlm_lightning.data.batch import Targets
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import EcapaVerification, KeywordSpotting, QueryByExample, TaskData
from wavlm_lightning.tasks.base import check_trainer
from wavlm_lightning.tasks.joint.many_heads import ManyHeads
from wavlm_lightning.training.fsdp import FSDP2
from wavlm_lightning.upstreams import Fbank, FineTuning, WavLMUpstream


def train(corpus: str, folder: str, devices: int) -> None:
    """Three updates of KS with a trained encoder, 8 utterances each over all processes; the weights go to a file."""
    torch.manual_seed(0)
    task = KeywordSpotting(WavLMUpstream("tiny", frozen=False), learning_rate=1e-3)
    data = TaskData(corpus, batch_size=8 // devices, seed=0)
    trainer = quiet_trainer(
        max_steps=3, limit_val_batches=0, devices=devices, strategy="ddp" if devices > 1 else "auto"
    )
    trainer.fit(task, data)
    state = {name: value for name, value in task.state_dict().items() if value.is_floating_point()}
    torch.save(state, Path(folder) / f"{trainer.global_rank}-of-{devices}.pt")


@pytest.mark.slow
def test_an_encoder_trains_in_two_processes_as_in_one(tiny, tmp_path):
    """`masked_spec_embed`, which no task uses, stopped DDP before."""
    together(2, tmp_path / "log.txt", train, str(tiny / "ks"), str(tmp_path), 2)
    zero, one = (torch.load(tmp_path / f"{rank}-of-2.pt") for rank in range(2))
    before = WavLMUpstream("tiny", frozen=False).state_dict()
    changed = [name for name in before if not torch.equal(before[name], zero[f"upstream.{name}"])]
    assert len(changed) > 40
    assert "encoder.masked_spec_embed" not in changed
    for name in zero:
        assert torch.equal(zero[name], one[name]), name


def test_a_strategy_that_does_not_average_is_refused_by_name():
    task = KeywordSpotting(WavLMUpstream("tiny"), learning_rate=1e-3)
    task._trainer = SimpleNamespace(strategy=ModelParallelStrategy(), callbacks=[])
    with pytest.raises(
        UserError, match=r"KS: trainer\.strategy ModelParallelStrategy would not average .* use ddp or fsdp2"
    ):
        check_trainer(task)


def test_data_that_lightning_would_share_again_are_refused():
    task = KeywordSpotting(Fbank(), learning_rate=1e-3)
    shared = SimpleNamespace(use_distributed_sampler=True)
    task._trainer = SimpleNamespace(
        strategy=DDPStrategy(), callbacks=[], world_size=2, overfit_batches=0.0, _accelerator_connector=shared
    )
    with pytest.raises(
        UserError, match=r"KS: Lightning would share batches .* Trainer\(use_distributed_sampler=False\)"
    ):
        check_trainer(task)
    assert Trainer(
        accelerator="cpu", logger=False
    )._accelerator_connector.use_distributed_sampler  # as Lightning names it


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_weights_in_another_type_are_refused(tiny, precision):
    """Lightning would convert frozen dataclasses of ours, and fail on them with a sentence about its own code."""
    upstream = Fbank()
    several = ManyHeads({str(rate): KeywordSpotting(upstream, rate) for rate in (1e-3, 1e-2)})
    for task in (KeywordSpotting(upstream, 1e-3), several):
        for run in ("fit", "test"):
            trainer = quiet_trainer(max_steps=1, precision=precision)
            with pytest.raises(
                UserError, match=rf"KS: trainer\.precision {precision}: .* use 32-true, bf16-mixed or 16-mi"
            ):
                getattr(trainer, run)(task, TaskData(str(tiny / "ks")))


def test_what_fsdp2_cannot_shard_is_refused(tiny):
    encoder = WavLMUpstream("tiny")
    many = ManyHeads({str(rate): KeywordSpotting(encoder, rate) for rate in (1e-3, 1e-2)})
    with pytest.raises(UserError, match=r"KS: trainer\.strategy fsdp2 shards one head"):
        quiet_trainer(max_steps=1, strategy="fsdp2").fit(many, TaskData(str(tiny / "ks")))
    with pytest.raises(UserError, match=r"SV-ECAPA: trainer\.strategy fsdp2 is not tested with its batch norms"):
        head = EcapaVerification(encoder, channels=16, embedding=8)
        quiet_trainer(max_steps=1, strategy="fsdp2").fit(head, TaskData(str(tiny / "sv")))
    with pytest.raises(UserError, match=r"QbE: trainer\.strategy fsdp2 shards what is trained, and nothing is"):
        quiet_trainer(strategy="fsdp2").test(
            QueryByExample(encoder), TaskData(str(tiny / "qbe"), test_split="documents")
        )
    asked = FSDP2(save_distributed_checkpoint=True)
    with pytest.raises(
        UserError, match="save_distributed_checkpoint: true, but a KeywordSpotting keeps its checkpoint in"
    ):
        quiet_trainer(max_steps=1, strategy=asked).fit(KeywordSpotting(encoder, 1e-3), TaskData(str(tiny / "ks")))


def test_unfreezing_by_a_callback_is_refused(tiny):
    task = KeywordSpotting(WavLMUpstream("tiny"), learning_rate=1e-3)
    task.backbone = task.upstream  # where Lightning's callback looks for what it unfreezes
    trainer = quiet_trainer(max_steps=1, callbacks=[BackboneFinetuning(1)])
    with pytest.raises(UserError, match=r"BackboneFinetuning would train nothing.*frozen: false"):
        trainer.fit(task, TaskData(str(tiny / "ks")))


def test_unfreezing_by_a_callback_trains_what_may_be_trained(tiny):
    task = KeywordSpotting(WavLMUpstream("tiny", frozen=False), learning_rate=1e-3)
    task.__dict__["backbone"] = task.upstream  # where Lightning's callback looks for what it unfreezes
    before = {name: value.clone() for name, value in task.upstream.state_dict().items()}
    unfreezing = BackboneFinetuning(unfreeze_backbone_at_epoch=1, backbone_initial_lr=1e-3, verbose=False)
    trainer = quiet_trainer(max_epochs=2, limit_train_batches=1, limit_val_batches=0, callbacks=[unfreezing])
    trainer.fit(task, TaskData(str(tiny / "ks"), batch_size=8))
    changed = [name for name, value in task.upstream.state_dict().items() if not torch.equal(value, before[name])]
    assert len(changed) > 40


def test_unfreezing_by_a_callback_beside_fine_tuning_is_refused(tiny):
    upstream = WavLMUpstream("tiny", frozen=False, fine_tuning=FineTuning(layers=[-1]))
    trainer = quiet_trainer(max_steps=1, callbacks=[BackboneFinetuning(1)])
    task = KeywordSpotting(upstream, learning_rate=1e-3)
    task.__dict__["backbone"] = upstream
    with pytest.raises(UserError, match=r"BackboneFinetuning would unfreeze .*fine_tuning\.from_update instead"):
        trainer.fit(task, TaskData(str(tiny / "ks")))


@pytest.mark.parametrize(
    ("targets", "values", "dtype"),
    [
        ([[0.5, -0.3, 0.9], [0.25]], [[0.5, -0.3, 0.9], [0.25, 0.0, 0.0]], torch.float32),
        ([[3, 4], [5]], [[3, 4], [5, 0]], torch.int64),
        ([[], [5]], [[0], [5]], torch.int64),
        ([[], []], [[], []], torch.int64),
    ],
)
def test_targets_keep_their_dtype(targets, values, dtype):
    padded = Targets.pad([torch.tensor(target) for target in targets])
    assert padded.values.dtype == dtype
    assert torch.equal(padded.values, torch.tensor(values, dtype=dtype))
    assert padded.lengths.tolist() == [len(target) for target in targets]
