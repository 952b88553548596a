"""Whole runs on the tiny corpus: same seed same curve, resume is exact, gradients are normalised by all masked frames."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from quiet import quiet_trainer

from wavlm_lightning.augment.voice_perturbation import VoicePerturbation
from wavlm_lightning.pretraining import (
    FeaturePenalty,
    LogMelRegression,
    MaskedPrediction,
    PretrainingData,
    UtteranceMixing,
    WavLMPretraining,
)
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.training.schedules import Schedule
from wavlm_lightning.upstreams.wavlm import load_encoder

SMALL = {"layers": 1, "conv_channels": [8, 8, 8, 8, 16, 16, 32], "dim": 32, "heads": 2, "ffn_dim": 64}


def module(kind=WavLMPretraining, seed: int = 0, **changes) -> WavLMPretraining:
    objectives = [
        MaskedPrediction(final_dim=16, unmasked_weight=1.0, codeword_init="normal"),
        LogMelRegression(),
        FeaturePenalty(),
    ]
    mixing = UtteranceMixing(probability=0.5)
    settings = {"encoder": "tiny", "encoder_overrides": SMALL, "objectives": objectives, "mixing": mixing, "seed": seed}
    return kind(**{**settings, "learning_rate": 2e-3, **changes})


def data(tiny: Path, **changes) -> PretrainingData:
    settings = {"batch_seconds": 5.0, "max_seconds": 2.0, "min_seconds": 1.0}
    return PretrainingData(str(tiny / "pretrain"), "mfcc100", **{**settings, **changes})


class Curve(pl.Callback):
    """Remembers what every step saw and gave."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.batches: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.losses.append(float(outputs["loss"]))
        self.batches.append(float(batch.audio.double().sum()))


def fit(model, source, steps: int, ckpt_path=None, **changes) -> Curve:
    curve = Curve()
    callbacks = [curve, *changes.pop("callbacks", [])]
    trainer = quiet_trainer(**{"max_steps": steps, "gradient_clip_val": 1.0, "callbacks": callbacks, **changes})
    trainer.fit(model, source, ckpt_path=ckpt_path, weights_only=True)
    return curve


def test_same_seed_same_curve(tiny):
    first = fit(module(), data(tiny), 8)
    again = fit(module(), data(tiny), 8)
    other = fit(module(seed=1), data(tiny), 8)
    assert first.losses == again.losses
    assert first.losses != other.losses


@pytest.mark.parametrize(("workers", "dropouts"), [(0, {}), (2, {}), (0, {"dropout": 0.2, "layer_drop": 0.3})])
def test_resume_from_any_step_is_exact(tiny, tmp_path, workers, dropouts):
    """Epochs of 3 to 5 batches: steps inside an epoch and at its end; dropout and LayerDrop draw the same again."""
    steps, shape = 9, {**SMALL, "layers": 2, **dropouts}
    saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    model = module(encoder_overrides=shape)
    whole = fit(model, data(tiny, num_workers=workers), steps, callbacks=[saver])
    final = {k: v.clone() for k, v in model.state_dict().items()}
    for step in (1, 4, 5, 8) if not workers and not dropouts else (4,):
        resumed = module(encoder_overrides=shape)
        rest = fit(resumed, data(tiny, num_workers=workers), steps, tmp_path / f"step={step}.ckpt")
        assert rest.batches == whole.batches[step:]
        assert rest.losses == whole.losses[step:]
        assert all(torch.equal(value, final[name]) for name, value in resumed.state_dict().items())


class Heard(WavLMPretraining):
    """Remembers what the encoder and what the objectives heard."""

    def predict_masked(self, batch, audio, *arguments, **named):
        found = super().predict_masked(batch, audio, *arguments, **named)
        self.heard = getattr(self, "heard", [])
        self.heard.append((self.training, audio.clone(), found.audio, batch.audio, found.labels["mfcc100"]))
        return found


def test_perturbed_voices_are_heard_in_training_alone_and_resume_exactly(tiny, tmp_path):
    voices = {"voices": VoicePerturbation(1.0), "mixing": UtteranceMixing(probability=0.0)}
    saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    validated = {"val_check_interval": 2, "check_val_every_n_epoch": None, "limit_val_batches": 1}
    model, plain = module(Heard, **voices), module(Heard, mixing=UtteranceMixing(probability=0.0))
    whole = fit(model, data(tiny), 5, callbacks=[saver], **validated)
    other = fit(plain, data(tiny), 5, **validated)
    assert whole.batches == other.batches and whole.losses[0] != other.losses[0]
    trained = [each for each in model.heard if each[0]]
    for _, audio, read, clean, labels in trained:
        assert torch.equal(read, clean) and (audio - clean).abs().amax(1).min() > 1e-4
        assert any(torch.equal(labels, each[4]) for each in plain.heard if each[0])
    scored = [each for each in model.heard if not each[0]]
    assert scored and all(torch.equal(audio, clean) for _, audio, _, clean, _ in scored)
    resumed = module(Heard, **voices)
    rest = fit(resumed, data(tiny), 5, tmp_path / "step=2.ckpt", **validated)
    assert rest.losses == whole.losses[2:]
    final = model.state_dict()
    assert all(torch.equal(value, final[name]) for name, value in resumed.state_dict().items())


def test_perturbed_voices_in_half_precision(tiny):
    curve = fit(module(voices=VoicePerturbation(1.0)), data(tiny), 1, precision="bf16-mixed")
    assert len(curve.losses) == 1 and math.isfinite(curve.losses[0])


def test_resume_with_accumulation_is_exact(tiny, tmp_path):
    """An epoch is a whole number of updates, so no validation and no checkpoint falls into the middle of one."""
    source = {"batch_seconds": 2.5}
    every = {"accumulate_grad_batches": 3, "val_check_interval": 3, "check_val_every_n_epoch": None}
    saver = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, monitor="valid/loss")
    model = module()
    assert fit(module(), data(tiny, **source), 1, **every)
    whole = data(tiny, **source)
    fit(model, whole, 6, callbacks=[saver], **every)
    assert len(whole.train_dataloader()) % 3 == 0
    final = {name: value.clone() for name, value in model.state_dict().items()}
    found = sorted(tmp_path.glob("*.ckpt"))
    assert len(found) == 6
    for checkpoint in (found[1], found[3]):  # before and after a validation
        resumed = module()
        fit(resumed, data(tiny, **source), 6, checkpoint, **every)
        assert all(torch.equal(value, final[name]) for name, value in resumed.state_dict().items())


def test_a_checkpoint_of_the_middle_of_an_update_says_so(tiny, tmp_path, capsys):
    """`best.ckpt` of a validation that does not wait for the update."""
    every = {"accumulate_grad_batches": 3, "val_check_interval": 2, "check_val_every_n_epoch": None}
    saver = ModelCheckpoint(tmp_path, filename="{step}", monitor="valid/loss", save_top_k=-1)
    fit(module(), data(tiny, batch_seconds=2.5), 2, callbacks=[saver], **every)
    assert "note: this checkpoint" not in capsys.readouterr().err
    fit(module(), data(tiny, batch_seconds=2.5), 2, tmp_path / "step=1.ckpt", **every)
    assert "in the middle of an update, whose first 1 of 3 batches are left out now" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", [0, -1.0, 0.02, float("nan")])
def test_a_crop_holds_a_frame(tiny, seconds):
    with pytest.raises(UserError, match=r"data\.max_seconds must be at least 0\.025 s"):
        data(tiny, max_seconds=seconds)


def test_resume_with_other_batches_is_refused(tiny, tmp_path):
    saver = ModelCheckpoint(tmp_path, filename="x", every_n_train_steps=2)
    fit(module(), data(tiny), 2, callbacks=[saver])
    with pytest.raises(UserError, match="resume: batch of this run"):
        fit(module(), data(tiny, batch_seconds=6.0), 4, tmp_path / "x.ckpt")


def test_checkpoint_gives_the_encoder_back(tiny, tmp_path):
    saver = ModelCheckpoint(
        tmp_path / "checkpoints", filename="last", every_n_train_steps=2, enable_version_counter=False
    )
    model = module()
    fit(model, data(tiny), 2, callbacks=[saver])
    for source in (tmp_path, tmp_path / "checkpoints" / "last.ckpt"):
        encoder = load_encoder(source)
        for name, value in model.encoder.state_dict().items():
            assert torch.equal(encoder.state_dict()[name], value)


class Keeping(WavLMPretraining):
    """Keeps the gradient as it reaches clipping."""

    def configure_gradient_clipping(self, *arguments, **named) -> None:
        self.kept = [p.grad.clone() for p in self.parameters() if p.grad is not None]


def keeping() -> Keeping:
    """Masked prediction alone, because only its sum over micro-batches is the loss of one large batch."""
    return module(Keeping, objectives=[MaskedPrediction(final_dim=16)])


class Place:
    """Stands for a module at the beginning of a run, on one of several processes."""

    _seed = WavLMPretraining._seed

    def __init__(self, rank: int = 0) -> None:
        self.seed, self.current_epoch, self.global_rank, self.device = 0, 0, rank, torch.device("cpu")


def codebooks(source) -> dict:
    """As the module learns of them from the data."""
    return {name: labels.codebook() for name, labels in source.label_sets.items()}


def expected_gradient(source, batches) -> list[torch.Tensor]:
    """Sum of the summed losses over all micro-batches (batch, rank, index), divided by all masked frames."""
    model = keeping()
    model.build(codebooks(source))
    counts = []
    for batch, rank, index in batches:
        generator = WavLMPretraining._generator(Place(rank), 0, index)
        mixed = model.mixing(batch.audio, batch.noise, batch.noise_lengths, generator)
        prediction = model.predict_masked(batch, mixed, generator)
        masked = int(prediction.mask.sum())
        (model.objectives[0](prediction) * masked).backward()
        counts.append(masked)
    assert len(set(counts)) > 1  # or averaging twice would go unnoticed
    return [p.grad / sum(counts) for p in model.parameters() if p.grad is not None]


def test_micro_steps_give_the_gradient_of_one_large_batch(tiny):
    """Two micro-batches with different masked counts: the sum is divided by all masked frames, not averaged twice."""
    model, source = keeping(), data(tiny)
    fit(model, source, 1, limit_train_batches=2, accumulate_grad_batches=2, gradient_clip_val=None)
    batches = [(batch, 0, index) for index, batch in zip(range(2), source.train_dataloader(), strict=False)]
    for got, wanted in zip(model.kept, expected_gradient(source, batches), strict=True):
        assert torch.allclose(got, wanted, atol=1e-6)


@pytest.mark.slow
@pytest.mark.long
def test_it_learns(tiny):
    """Twenty labels of one minute: better than the commonest label on hidden frames, twice as good on visible ones."""
    source, model = data(tiny, valid_split="train"), module()
    fit(model, source, 600, limit_val_batches=0)
    trainer = quiet_trainer()
    scores = trainer.validate(model, source, verbose=False)[0]
    assert scores["valid/loss"] < torch.tensor(scores["valid/target_perplexity"]).log()
    assert scores["valid/masked_accuracy"] > 1.1 * scores["valid/majority_accuracy"]
    assert scores["valid/unmasked_accuracy"] > 2 * scores["valid/majority_accuracy"]


def test_another_frame_grid_is_refused(tiny):
    with pytest.raises(UserError, match="a frame every 160 samples"):
        overrides = {**SMALL, "conv_strides": [5, 2, 2, 2, 2, 2, 1]}
        fit(module(encoder_overrides=overrides), data(tiny), 1)


def test_noise_must_come_from_somewhere(tiny):
    with pytest.raises(UserError, match=r"data\.noise_corpus"):
        fit(module(mixing=UtteranceMixing(noise_probability=0.1)), data(tiny), 1)
    with pytest.raises(UserError, match=r"data\.noise_corpus is set but mixing\.noise_probability is 0"):
        fit(module(), data(tiny, noise_corpus=str(tiny / "ks")), 1)


def test_a_schedule_that_takes_the_place_of_the_warm_up_says_so(tiny, capsys):
    for settings, said in (({}, False), ({"warmup": 0.3}, True)):
        fit(module(schedule=Schedule(shape="linear"), **settings), data(tiny), 1)
        assert ("model.schedule takes the place of model.warmup (0.3)" in capsys.readouterr().err) is said


def test_noise_corpus_is_mixed_in(tiny):
    source = data(tiny, noise_corpus=str(tiny / "ks"))
    curve = fit(module(mixing=UtteranceMixing(probability=1.0, noise_probability=1.0)), source, 2)
    assert len(curve.losses) == 2
    for share in (0.125, 0.5, 1.0):
        source = data(tiny, noise_corpus=str(tiny / "ks"), noise_clips=share)
        source.setup("fit")
        batch = next(iter(source.train_dataloader()))
        assert batch.noise.shape == (math.ceil(share * len(batch.audio)), batch.audio.shape[1])
        assert (batch.noise_lengths == 16_000).all()
    with pytest.raises(UserError, match=r"data\.noise_clips must be above 0"):
        data(tiny, noise_clips=0)


def test_overfit_batches_are_refused(tiny):
    with pytest.raises(UserError, match=r"pre-training: trainer.overfit_batches replaces the order of batches"):
        fit(module(), data(tiny), 1, overfit_batches=1)


def test_schedule_needs_an_end(tiny):
    with pytest.raises(UserError, match="max_steps"):
        fit(module(), data(tiny), -1)


@pytest.mark.parametrize("rate", [12.5, 25.0, 50.0, 200 / 3, 100.0])
def test_a_crop_has_the_labels_of_its_place(tiny, rate):
    source = data(tiny)
    source.setup("fit")
    crops = source.train_dataloader().dataset
    labels = SimpleNamespace(rate=rate)
    for start in range(40):
        places = crops._places(labels, start * 320, 40, 10_000)
        assert places.tolist() == [
            math.floor(Fraction(start + frame, 50) * Fraction(rate).limit_denominator(9)) for frame in range(40)
        ]


def test_crops_carry_their_labels(tiny):
    """The label of a frame is the label of the 10 ms it begins with, wherever the crop was cut."""
    source = data(tiny)
    source.setup("fit")
    loader = source.train_dataloader()
    crops, plan = loader.dataset, list(loader.sampler)
    split, labels = crops.split, crops.labels
    for items in plan[:3]:
        batch = crops[items]
        for row, (number, _) in enumerate(items):
            shard, place = split.locate(int(crops.numbers[number]))
            whole = torch.from_numpy(shard.waveform(place))
            crop = batch.audio[row]
            starts = [
                s for s in range(0, len(whole) - len(crop) + 1, 320) if torch.equal(whole[s : s + len(crop)], crop)
            ]
            assert len(starts) == 1
            wanted = labels["mfcc100"].rows[int(crops.numbers[number])][starts[0] // 160 :: 2][
                : batch.labels["mfcc100"].shape[1]
            ]
            assert batch.labels["mfcc100"][row].tolist() == wanted.tolist()
