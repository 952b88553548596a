"""Pre-training while batches, crops and weights of losses grow: the audio of every update, exact resume, refusals."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from quiet import quiet_trainer
from test_pretraining_runs import Curve, data, fit, module
from test_stream import mixed, uneven  # noqa: F401 - a fixture

from wavlm_lightning.augment.voice_perturbation import VoicePerturbation
from wavlm_lightning.callbacks import MoveValue
from wavlm_lightning.callbacks.checkpoints import Newest, best
from wavlm_lightning.data.loading.growing import Growth
from wavlm_lightning.pretraining import SpanMasking, UtteranceMixing, WavLMPretraining
from wavlm_lightning.system.errors import UserError

GROWTHS = {"batch_growth": Growth(2.0, 6, steps=3), "crop_growth": Growth(0.5, 8, steps=4)}


class Shapes(Curve):
    """Remembers the shapes of all batches as well."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self.shapes = [*getattr(self, "shapes", []), tuple(batch.audio.shape)]


def test_a_growing_run_resumes_exactly(tiny, tmp_path):
    """Between the changes of size and after them; with workers that read ahead as without."""
    source = {**GROWTHS, "valid_split": None}
    saver, shapes = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1), Shapes()
    model = module()
    whole = fit(model, data(tiny, **source), 10, callbacks=[saver, shapes])
    seconds = [samples / 16_000 for _, samples in shapes.shapes]
    assert max(seconds[:2]) <= 0.5 and 0.5 < seconds[2] <= 0.875 and max(seconds) == 2.0
    assert shapes.shapes[0] == (4, 8000)
    for step, workers in ((3, 2), (7, 0)):
        resumed = module()
        rest = fit(resumed, data(tiny, **source, num_workers=workers), 10, tmp_path / f"step={step}.ckpt")
        assert rest.batches == whole.batches[step:] and rest.losses == whole.losses[step:]
        assert all(map(torch.equal, resumed.state_dict().values(), model.state_dict().values()))
    for other in ({"crop_growth": None}, {"batch_growth": Growth(2.0, 7, steps=3)}):
        with pytest.raises(UserError, match=r"resume: growth of this run is .*, the checkpoint has"):
            fit(module(), data(tiny, **{**source, **other}), 10, tmp_path / "step=7.ckpt")


def test_updates_are_counted_whole(tiny):
    """With several batches an update, and with a part of every epoch."""
    shapes = Shapes()
    source = data(tiny, crop_growth=Growth(0.5, 4, steps=2), valid_split=None)
    fit(module(), source, 5, accumulate_grad_batches=2, limit_train_batches=2, callbacks=[shapes])
    longest = [samples for _, samples in shapes.shapes]
    assert len(longest) == 10 and max(longest[:4]) == 8000 and longest[4] > 8000 and max(longest[4:8]) <= 20_000
    assert source.train_dataloader().sampler.updates == 1


def test_crops_do_not_grow_in_a_mixture_by_weights(tiny, uneven):  # noqa: F811
    with pytest.raises(UserError, match=r"data.crop_growth: the weights of data.corpus are shares of cropped audio"):
        mixed(tiny, uneven, crop_growth=Growth(0.5, 4))
    source = mixed(tiny, uneven, batch_growth=Growth(2.0, 4))
    source.setup("fit")
    assert len(list(source.train_dataloader().sampler)) == len(source.train_dataloader())


class Weighing(WavLMPretraining):
    """Remembers what moves, as the loss read it."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        read = (self.objectives[1].weight, self.mixing.probability, self.masking.probability)
        read = read if self.voices is None else (*read, self.voices.formants)
        self.read = [*getattr(self, "read", []), read]
        return loss


def moves():
    return [
        MoveValue("objectives.1.weight", 2.0, 0.0, 4),
        MoveValue("mixing.probability", 0.0, 0.5, 2),
        MoveValue("masking.probability", 0.4, 0.8, 6, from_update=2),
    ]


def test_weights_mixing_and_masks_move_and_resume_exactly(tiny, tmp_path):
    saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    model = module(Weighing)
    whole = fit(model, data(tiny), 7, callbacks=[*moves(), saver])
    expected = [(2.0, 0.0, 0.4), (1.5, 0.25, 0.4), (1.0, 0.5, 0.4), (0.5, 0.5, 0.5), (0.0, 0.5, 0.6), (0.0, 0.5, 0.7)]
    assert [pytest.approx(read) for read in expected] == model.read[:6]
    assert model.trainer.callback_metrics["train/objectives.1.weight"] == 0
    resumed = module(Weighing)
    rest = fit(resumed, data(tiny), 7, tmp_path / "step=3.ckpt", callbacks=moves())
    assert resumed.read == model.read[3:] and rest.losses == whole.losses[3:]
    assert all(map(torch.equal, model.state_dict().values(), resumed.state_dict().values()))
    # The defaults of other modules stay what they are.
    assert SpanMasking() == WavLMPretraining.__init__.__defaults__[4] and UtteranceMixing().probability == 0.2
    assert fit(module(), data(tiny), 7).losses != whole.losses


class Ends(pl.Callback):
    """The process dies when it begins to validate after update 2."""

    def on_validation_start(self, trainer, pl_module) -> None:
        if trainer.global_step == 2:
            raise RuntimeError("killed")


def test_a_validation_has_the_values_of_the_last_update_also_when_it_is_made_up(tiny, tmp_path):
    """By a resumed run before its first update, and by a validation of the checkpoint."""
    validated = {"val_check_interval": 2, "check_val_every_n_epoch": None, "limit_val_batches": 1}
    model = module()
    fit(model, data(tiny), 2, callbacks=moves(), **validated)
    logged = float(model.trainer.callback_metrics["valid/loss"])
    with pytest.raises(RuntimeError, match="killed"):
        fit(module(), data(tiny), 4, callbacks=[*moves(), Ends(), Newest(tmp_path, every=2)], **validated)
    path = tmp_path / "last.ckpt"
    chosen = best(tmp_path / "best", "valid/loss", "min")
    resumed = module()
    fit(resumed, data(tiny), 2, path, callbacks=[*moves(), chosen, Newest(tmp_path, every=2)], **validated)
    assert float(chosen.best_model_score) == logged and resumed.masking.probability == 0.4
    trainer = quiet_trainer(callbacks=moves(), limit_val_batches=1)
    scores = trainer.validate(module(), data(tiny), ckpt_path=path, weights_only=True, verbose=False)
    assert scores[0]["valid/loss"] == logged


def test_voices_move(tiny):
    model = module(Weighing, voices=VoicePerturbation())
    fit(model, data(tiny), 3, callbacks=[MoveValue("voices.formants", 0.0, 0.2, 2)])
    assert [read[-1] for read in model.read] == [pytest.approx(value) for value in (0.0, 0.1, 0.2)]
    with pytest.raises(UserError, match="voices: probability must be above 0 and at most 1, not 0"):
        moving = MoveValue("voices.probability", 0.0, 0.5, 2)
        fit(module(voices=VoicePerturbation()), data(tiny), 1, callbacks=[moving])


@pytest.mark.parametrize(
    ("move", "said"),
    [
        (MoveValue("mixing.probability", 0.2, 1.5, 2), "probability and noise_probability must lie between 0 and 1"),
        (MoveValue("mixing.noise_probability", 0.0, 0.1, 2), "of UtteranceMixing move probability or longest"),
        (MoveValue("masking.span", 5, 10, 2), "masking.span cannot move: .* of SpanMasking move probability or"),
        (MoveValue("masking.share", 0.4, 0.5, 2), "masking.share of WavLMPretraining is missing"),
        (
            MoveValue("encoder.config.dropout", 0.0, 0.1, 2),
            "encoder.config.dropout cannot move: it is read when the run begins",
        ),
        (
            MoveValue("objectives.0.final_dim", 16, 32, 2),
            "objectives.0.final_dim cannot move: it is a whole number, 16",
        ),
        (MoveValue("warmup", 0.1, 0.2, 2), "warmup cannot move: the schedule is made when the run begins"),
    ],
)
def test_what_cannot_move_in_pretraining_is_refused(tiny, move, said):
    with pytest.raises(UserError, match=said):
        fit(module(), data(tiny), 1, callbacks=[move])
