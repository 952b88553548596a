"""FSDP2 on one process: what is sharded and in which precision, and what its checkpoints let themselves be read as."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from test_pretraining_runs import SMALL, data, fit, module

from wavlm_lightning.encoder import CheckpointError
from wavlm_lightning.encoder.checkpoints.sharded_files import SUMS, read_sharded
from wavlm_lightning.pretraining import WavLMPretraining
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.training.fsdp import FSDP2, LAUNCHED, whole
from wavlm_lightning.upstreams.wavlm import load_encoder

SHAPE = {**SMALL, "layers": 2, "layer_drop": 0.3, "dropout": 0.1}


class Watched(WavLMPretraining):
    """Looks at its parameters while they are together."""

    def training_step(self, batch, batch_idx):
        """Of the whole module, in the step; of a layer, when it runs."""
        layer = self.encoder.encoder.layers[1]
        self.root = {type(self.encoder.masked_spec_embed.data), self.encoder.masked_spec_embed.dtype}
        layer.dropout.register_forward_hook(lambda *_: setattr(self, "inside", layer.layer_norm.weight.dtype))
        return super().training_step(batch, batch_idx)


class Kept(pl.Callback):
    """Remembers the encoder after the third update."""

    def on_train_batch_end(self, trainer, pl_module, *_) -> None:
        if trainer.global_step == 3:
            self.weights = {name: whole(value).clone() for name, value in pl_module.encoder.state_dict().items()}


def saving(folder: Path, step: int = 3) -> ModelCheckpoint:
    return ModelCheckpoint(folder, filename="last", every_n_train_steps=step, enable_version_counter=False)


@pytest.mark.parametrize(("precision", "inside"), [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)])
def test_everything_trained_is_sharded(tiny, precision, inside):
    from torch.distributed.tensor import DTensor

    model = module(Watched, encoder_overrides={**SHAPE, "layer_drop": 0.0})
    fit(model, data(tiny), 2, strategy="fsdp2", precision=precision, limit_val_batches=0)
    assert all(isinstance(parameter, DTensor) and parameter.dtype == torch.float32 for parameter in model.parameters())
    assert model.root == {torch.Tensor, torch.float32} and model.inside == inside


def test_one_process_is_left_as_it_was(tiny):
    before = {name: os.environ.get(name) for name in LAUNCHED}
    fit(module(), data(tiny), 1, strategy="fsdp2")
    assert not torch.distributed.is_initialized()
    assert {name: os.environ.get(name) for name in LAUNCHED} == before


@pytest.mark.parametrize("sharded", [True, False])
def test_resume_is_exact_and_the_encoder_comes_back(tiny, tmp_path, sharded):
    """Validation in between must not leave weights gathered that the next step would train in vain."""
    path, settings = tmp_path / "checkpoints" / "last.ckpt", {"val_check_interval": 2}
    model = module(encoder_overrides=SHAPE)
    strategy, kept = FSDP2(save_distributed_checkpoint=sharded), Kept()
    whole_run = fit(model, data(tiny), 5, callbacks=[saving(path.parent), kept], strategy=strategy, **settings)
    assert path.is_dir() is sharded and [child.name for child in path.parent.iterdir()] == ["last.ckpt"]
    resumed = module(encoder_overrides=SHAPE)
    rest = fit(resumed, data(tiny), 5, path, strategy=FSDP2(save_distributed_checkpoint=sharded), **settings)
    assert rest.losses == whole_run.losses[3:]
    final = {name: whole(value) for name, value in model.state_dict().items()}
    assert all(torch.equal(whole(value), final[name]) for name, value in resumed.state_dict().items())
    plain = fit(module(encoder_overrides=SHAPE), data(tiny), 5, **settings)
    assert plain.losses == pytest.approx(whole_run.losses, abs=1e-5)
    encoder = load_encoder(tmp_path).state_dict()
    assert encoder.keys() == kept.weights.keys()
    assert all(torch.equal(value, kept.weights[name]) for name, value in encoder.items())


def test_a_checkpoint_that_is_not_whole_or_not_ours(tiny, tmp_path):
    """Nothing in it is executed, and what is missing is named."""
    folder = tmp_path / "last.ckpt"
    fit(module(), data(tiny), 1, callbacks=[saving(tmp_path, 1)], strategy="fsdp2")
    assert read_sharded(folder)["global_step"] == 1
    part = next(folder.glob("*.distcp"))
    assert (folder / SUMS).is_file()
    content = part.read_bytes()
    part.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(
        UserError, match=r"resume: .*\.distcp is cut short, was altered, or belongs to another checkpoint"
    ):
        fit(module(), data(tiny), 2, folder, strategy="fsdp2")
    (folder / SUMS).unlink()  # as in a checkpoint of an older version
    part.write_bytes(content[:1000])
    with pytest.raises(CheckpointError, match="missing or cut short"):
        read_sharded(folder)
    with pytest.raises(UserError, match=r"resume: .* missing or cut short"):
        fit(module(), data(tiny), 2, folder, strategy="fsdp2")

    class Harmful:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    (folder / ".metadata").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(CheckpointError, match=r"not the index of a sharded checkpoint \(posix.mkdir\)"):
        read_sharded(folder)
    with pytest.raises(UserError, match=r"resume: .* not the index"):
        fit(module(), data(tiny), 2, folder, strategy="fsdp2")
    (folder / ".metadata").unlink()
    with pytest.raises(UserError, match=r"\.metadata is missing"):
        load_encoder(folder)
    assert not (tmp_path / "executed").exists()


def test_fp16_is_refused(tiny):
    with pytest.raises(UserError, match="fsdp2; use bf16-mixed"):
        fit(module(), data(tiny), 1, strategy="fsdp2", precision="16-true")
