"""One update: what is left out, what decays, which layers are dropped."""

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from test_pretraining_runs import SMALL, Place, data, fit, module

from wavlm_lightning.pretraining import MaskedPrediction, WavLMPretraining
from wavlm_lightning.training.optimizers import parameter_groups


class Poisoned(WavLMPretraining):
    """Meets a NaN at one step, and keeps its weights from before and after it."""

    def training_step(self, batch, batch_idx):
        """Put a NaN into the audio of the third update."""
        if self.trainer.global_step == 2:
            self.before = {name: value.clone() for name, value in self.state_dict().items()}
            batch.audio[0, 100] = torch.nan
        elif self.trainer.global_step == 3:
            self.after = {name: value.clone() for name, value in self.state_dict().items()}
        return super().training_step(batch, batch_idx)


def test_an_update_that_is_no_number_is_left_out(tiny):
    model = module(Poisoned, objectives=[MaskedPrediction(final_dim=16)])
    curve = fit(model, data(tiny), 5)
    assert [torch.tensor(loss).isnan().item() for loss in curve.losses] == [False, False, True, False, False]
    assert all(torch.equal(value, model.after[name]) for name, value in model.before.items())
    assert (model.skipped_updates, model.skipped_in_a_row) == (1, 0)
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert not all(torch.equal(value, model.after[name]) for name, value in model.state_dict().items())


def test_weight_decay_spares_vectors_if_asked():
    model = module(objectives=[MaskedPrediction(final_dim=16)])
    model.build({"any": {"size": 20, "sha256": "0"}})
    (everything,) = parameter_groups(model, 0.01, decay_all=True)
    assert len(everything["params"]) == len(list(model.parameters()))
    decaying, spared = parameter_groups(model, 0.01, decay_all=False)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    spared_names = {names[id(parameter)] for parameter in spared["params"]}
    assert spared["weight_decay"] == 0.0 and decaying["weight_decay"] == 0.01
    assert len(decaying["params"]) + len(spared["params"]) == len(names)
    assert all(name.endswith(("bias", "norm.weight", "embed", "const", "original0")) for name in spared_names)
    assert not any(name.endswith("proj.weight") for name in spared_names)


def test_layer_drop_is_a_matter_of_the_place_in_the_run(tiny):
    """The same in a second run, another layer each step, and no layer twice as often as asked."""
    shape = {**SMALL, "layers": 4, "layer_drop": 0.3}
    first, again = (fit(module(encoder_overrides=shape), data(tiny), 4).losses for _ in range(2))
    assert first == again
    model = module(encoder_overrides=shape)
    drawn = [WavLMPretraining._dropped_layers(Drops(model, epoch), 0) for epoch in range(200)]
    assert 0.25 < sum(map(sum, drawn)) / 800 < 0.35


class Drops(Place):
    """Stands for a module at the beginning of an epoch."""

    def __init__(self, model: WavLMPretraining, epoch: int) -> None:
        super().__init__(rank=epoch % 7)  # must not matter
        self.encoder, self.current_epoch = model.encoder, epoch


@pytest.mark.slow
def test_fp16_with_loss_scaling_normalises_clips_and_backs_off(tiny):
    """On the CPU's fp16: the scale is too high at first, those updates are left out, then the run is that of fp32."""
    losses, skipped, scaler = {}, {}, torch.amp.GradScaler("cpu", init_scale=2.0**22)
    for name, plugins in (("fp32", []), ("fp16", [MixedPrecision("16-mixed", "cpu", scaler)])):
        model = module(objectives=[MaskedPrediction(final_dim=16)], learning_rate=1e-3)
        losses[name] = torch.tensor(fit(model, data(tiny), 40, plugins=plugins, gradient_clip_val=0.5).losses)
        skipped[name] = model.skipped_updates
        assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert skipped["fp32"] == 0 and 0 < skipped["fp16"] < 15
    assert 1 < scaler.get_scale() < 2.0**22
    assert torch.allclose(losses["fp32"][:1], losses["fp16"][:1], rtol=1e-2)
    assert losses["fp16"][-5:].mean() < 0.9 * losses["fp16"][:5].mean()
