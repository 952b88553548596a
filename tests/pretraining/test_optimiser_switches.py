"""Muon and the moving average in whole runs: resume is exact, the average is what is validated and what others read."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from optimiser_two_ranks import trained, two_processes
from quiet import quiet_trainer
from ranks import together
from test_pretraining_runs import data, fit, module
from test_updates import Poisoned

from wavlm_lightning.callbacks.checkpoints import Newest
from wavlm_lightning.callbacks.probe import Probe
from wavlm_lightning.encoder.checkpoints.tensor_files import read_pickle
from wavlm_lightning.pretraining import MaskedPrediction, WavLMPretraining
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.training.averaging import AVERAGING, TRAINED, Average
from wavlm_lightning.training.fsdp import FSDP2
from wavlm_lightning.training.muon import Muon
from wavlm_lightning.training.schedules import Schedule
from wavlm_lightning.upstreams.wavlm import load_encoder

WSD = Schedule("one_minus_sqrt", warmup=2, decay=3, updates=7)
DECAY = 0.6
VALIDATED = {"val_check_interval": 3, "check_val_every_n_epoch": None, "limit_val_batches": 1}


class After(pl.Callback):
    """Keeps the weights after every update."""

    def __init__(self) -> None:
        self.weights: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer, pl_module, *_) -> None:
        self.weights.append({name: value.detach().clone() for name, value in pl_module.named_parameters()})


def every_update(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)


def switched(kind=WavLMPretraining, from_update: int = 1, **changes) -> WavLMPretraining:
    settings = {"muon": Muon(momentum=0.9), "average": Average(DECAY, from_update), "schedule": WSD}
    return module(kind, **{**settings, **changes})


def mean_of(weights: list[dict[str, torch.Tensor]], name: str) -> torch.Tensor:
    """Each older update counts by `DECAY` less than the next one; the shares sum to 1."""
    shares = torch.tensor([DECAY**age for age in reversed(range(len(weights)))], dtype=torch.float64)
    values = torch.stack([each[name].double() for each in weights])
    return torch.tensordot(shares / shares.sum(), values, 1)


def test_a_resumed_run_has_the_same_weights_average_and_validation(tiny, tmp_path):
    after, saver = After(), every_update(tmp_path)
    whole = switched()
    curve = fit(whole, data(tiny), 7, callbacks=[after, saver], **VALIDATED)
    last = read_pickle(tmp_path / "step=7.ckpt")
    for name, value in after.weights[-1].items():
        assert torch.equal(last[TRAINED][name], value)
        assert torch.allclose(last["state_dict"][name].double(), mean_of(after.weights[1:], name), atol=1e-6)
        assert torch.equal(whole.get_parameter(name), last["state_dict"][name])  # after the run
    assert TRAINED not in read_pickle(tmp_path / "step=1.ckpt")
    for step in (1, 3, 5):  # before the average, at a validation, in the decay of the rate
        resumed, again = switched(), tmp_path / f"from{step}"
        rest = fit(resumed, data(tiny), 7, tmp_path / f"step={step}.ckpt", callbacks=[every_update(again)], **VALIDATED)
        assert rest.losses == curve.losses[step:]
        found = read_pickle(again / "step=7.ckpt")
        for part in ("state_dict", TRAINED):
            assert all(torch.equal(found[part][name], value) for name, value in last[part].items()), (step, part)
        assert found[AVERAGING] == last[AVERAGING] == {"updates": 6, "decay": DECAY, "from_update": 1}


class StopsIn(pl.Callback):
    """A second Ctrl-C in the middle of the first validation."""

    def on_validation_batch_end(self, *_) -> None:
        raise KeyboardInterrupt


def test_the_average_is_validated_and_read_and_an_interrupted_validation_loses_nothing(tiny, tmp_path):
    after, newest = After(), Newest(tmp_path / "checkpoints", every=3)
    model = switched()
    fit(model, data(tiny), 3, callbacks=[after, newest], **VALIDATED)
    logged = float(model.trainer.callback_metrics["valid/loss"])
    path, fresh = tmp_path / "checkpoints" / "last.ckpt", switched(average=None)
    trainer = quiet_trainer(limit_val_batches=1)
    scores = trainer.validate(fresh, data(tiny), ckpt_path=path, weights_only=True, verbose=False)
    assert scores[0]["valid/loss"] == logged
    encoder = load_encoder(tmp_path)
    for name, value in encoder.named_parameters():
        assert torch.allclose(value.double(), mean_of(after.weights[1:], f"encoder.{name}"), atol=1e-6), name

    stopped, folder = switched(), tmp_path / "stopped"
    with pytest.raises(SystemExit):
        fit(stopped, data(tiny), 6, callbacks=[StopsIn(), ModelCheckpoint(folder, save_on_exception=True)], **VALIDATED)
    (written,) = folder.glob("*.ckpt")
    first, second = read_pickle(path), read_pickle(written)
    for part in ("state_dict", TRAINED):
        assert all(torch.equal(first[part][name], value) for name, value in second[part].items()), part


class Looks(Probe):
    """A probe that keeps the encoder it would fit heads on."""

    def _fit(self, task, data, run):
        self.seen = {name: value.clone() for name, value in task.upstream.named_parameters()}
        return {f"valid/{task.metric}": torch.tensor(0.0)}


def test_a_probe_scores_the_average_and_training_goes_on_with_the_weights(tiny):
    after, probe = After(), Looks({"pr": str(tiny / "pr")}, every=3)
    fit(switched(), data(tiny), 4, callbacks=[after, probe], limit_val_batches=0)
    alone = After()
    fit(switched(), data(tiny), 4, callbacks=[alone], limit_val_batches=0)
    assert all(torch.equal(value, alone.weights[-1][name]) for name, value in after.weights[-1].items())
    names = {name: name[name.index("encoder.") :] for name in probe.seen}
    assert len(names) == sum(name.startswith("encoder.") for name in after.weights[0])
    for name, own in names.items():
        assert torch.allclose(probe.seen[name].double(), mean_of(after.weights[1:3], own), atol=1e-6), name


def test_an_update_that_is_left_out_does_not_count(tiny, tmp_path):
    saver = every_update(tmp_path)
    model = switched(Poisoned, 0, objectives=[MaskedPrediction(final_dim=16)])
    fit(model, data(tiny), 4, callbacks=[saver], limit_val_batches=0)
    before, after = (read_pickle(tmp_path / f"step={step}.ckpt") for step in (2, 3))
    assert (before[AVERAGING]["updates"], after[AVERAGING]["updates"]) == (2, 2)
    for part in ("state_dict", TRAINED):
        assert all(torch.equal(after[part][name], value) for name, value in before[part].items())


def test_other_averages_and_optimisers_are_refused(tiny, tmp_path):
    fit(switched(), data(tiny), 3, callbacks=[every_update(tmp_path)], limit_val_batches=0)
    path = tmp_path / "step=3.ckpt"
    with pytest.raises(UserError, match=r"model.average is not set here and \{decay: 0.6, from_update: 1\} in the ch"):
        fit(switched(average=None), data(tiny), 5, path)
    with pytest.raises(UserError, match=r"model.average is \{decay: 0.9, from_update: 1\} here"):
        fit(switched(average=Average(0.9, 1)), data(tiny), 5, path)
    with pytest.raises(UserError, match=r"the groups of the optimiser .* model\.muon"):
        fit(switched(muon=None), data(tiny), 5, path)
    with pytest.raises(UserError, match=r"momentum of 'matrices' is 0.95 here and 0.9 in the checkpoint"):
        fit(switched(muon=Muon()), data(tiny), 5, path)
    with pytest.raises(UserError, match=r"model.average.from_update 9: the run ends after 5 updates"):
        fit(switched(from_update=9), data(tiny), 5)


@pytest.mark.filterwarnings("ignore:You're using the WeightAveraging")
def test_lightnings_average_goes_on_and_is_not_a_second_one(tiny, tmp_path):
    """Its checkpoints have the same keys, with entries of their own."""

    def averaged(steps, path=None, folder=tmp_path):
        model = module()
        curve = fit(model, data(tiny), steps, path, callbacks=[EMAWeightAveraging(decay=0.5), every_update(folder)])
        return model.state_dict(), curve.losses

    whole, losses = averaged(4)
    parts, rest = averaged(4, tmp_path / "step=2.ckpt", tmp_path / "again")
    assert rest == losses[2:] and all(torch.equal(parts[name], value) for name, value in whole.items())
    with pytest.raises(UserError, match=r"model.average is \{decay: 0.6, from_update: 1\} here and not set in the ch"):
        fit(switched(muon=None), data(tiny), 4, tmp_path / "step=2.ckpt")
    with pytest.raises(UserError, match=r"model\.average and the callback EMAWeightAveraging both average"):
        fit(switched(), data(tiny), 2, callbacks=[EMAWeightAveraging(decay=0.5)])


def test_weights_in_another_type_are_refused(tiny):
    with pytest.raises(
        UserError, match=r"pre-training: trainer\.precision bf16-true: weights in another type than float32"
    ):
        fit(module(), data(tiny), 2, precision="bf16-true")


@pytest.mark.parametrize(("key", "value"), [("muon", Muon()), ("average", Average())])
def test_sharded_weights_are_refused(tiny, key, value):
    with pytest.raises(UserError, match=rf"model\.{key} needs whole weights, and trainer\.strategy fsdp2 splits them"):
        fit(module(**{key: value}), data(tiny), 1, strategy=FSDP2())


@pytest.mark.slow
def test_two_processes_end_as_one(tiny, tmp_path):
    together(2, tmp_path / "log", two_processes, tiny, tmp_path)
    alone = trained(tiny, 1)
    found = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    for part, values in alone.items():
        for name, value in values.items():
            assert torch.equal(found[0][part][name], found[1][part][name]), (part, name)
            assert torch.allclose(value, found[0][part][name], atol=2e-4), (part, name)
