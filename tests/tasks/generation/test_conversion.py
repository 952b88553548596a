"""Voice conversion as tasks: what they learn from, their cards, their refusals."""

from __future__ import annotations

import pytest
import torch
from quiet import quiet_trainer

from wavlm_lightning.callbacks.results import WriteResultCard
from wavlm_lightning.data.batch import Waveforms
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.metrics.speech import judges
from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import AnyToOneConversion, ContentConversion, PhonemeRecognition, TaskData, Vocoder
from wavlm_lightning.tasks.contract import Served
from wavlm_lightning.tasks.generation import any_to_one
from wavlm_lightning.upstreams import Fbank, LogMel, WavLMUpstream

SMALL = {"hidden": 8, "hop": 160}
AUTOENCODER = {"hidden": 8, "content_dim": 4, "voice_dim": 3, "units": 5, "layer": 0}


@pytest.fixture(autouse=True)
def without_judges(monkeypatch):
    """Their models take seconds to load; `tests/metrics/speech` hears them."""
    monkeypatch.setattr(judges, "find_spec", lambda name: None)


def pair(tiny, number=1, **settings):
    named = {f"{part}_split": f"{part}_{number}" for part in ("train", "valid", "test")}
    return TaskData(str(tiny / "voices"), **{"batch_size": 2, "max_seconds": 0.8, **named, **settings})


def test_the_frames_of_a_voice_are_learned_and_the_card_has_every_row(tiny, tmp_path):
    task, data = AnyToOneConversion(Fbank(cmvn=False), 3e-2, seed=1, **SMALL), pair(tiny)
    task.content = "a run"
    recogniser = PhonemeRecognition(Fbank(cmvn=False), 1e-3)
    recogniser.build(recogniser.read_labels(Corpus.open(tiny / "pr")))
    task._listener = recogniser.eval(), 1.0
    losses = []
    task.log = lambda name, value, **how: losses.append(float(value.detach())) if name == "train/loss" else None
    trainer = quiet_trainer(max_steps=10, default_root_dir=tmp_path, limit_val_batches=0)
    trainer.fit(task, data)
    assert min(losses[-2:]) < 0.9 * losses[0]
    del task.log
    tester = quiet_trainer(default_root_dir=tmp_path, callbacks=[WriteResultCard(tmp_path, "wavlm test")])
    tester.test(task, data)
    card = ResultCard.read(tmp_path)
    assert card.task == "VC" and card.headline == "mcd" and card.interval
    assert {"mcd_c0", "voicing_error", "content"} <= set(card.metrics) and card.metrics["content"]["value"] > 50
    assert (
        card.details["target"]["mcd"] == 0 < card.details["copy_synthesis"]["mcd"] < card.details["unprocessed"]["mcd"]
    )
    assert "judges" in card.details["not_measured"]["similarity"] and card.details["recogniser"] == "a run"


def test_a_split_without_the_targets_own_recordings_is_refused(tiny, tmp_path):
    task = AnyToOneConversion(Fbank(cmvn=False), **SMALL)
    with pytest.raises(UserError, match=r"VC: utterance '.*' of split train_2 has no audio 'target'"):
        quiet_trainer(max_steps=1, default_root_dir=tmp_path).fit(task, pair(tiny, valid_split="train_2"))
    with pytest.raises(UserError, match=r"model\.hop 300: .* a frame every 160 samples; give a divisor"):
        AnyToOneConversion(Fbank(), hop=300)
    with pytest.raises(UserError, match="train it alone"):
        task.loss(torch.zeros(1, 9), torch.tensor([9]), None)


def resized(values, samples):
    return torch.cat([values, torch.zeros(max(0, samples - len(values)))])[:samples]


@torch.no_grad()
@pytest.mark.parametrize("hop", [160, 320])
def test_a_conversion_is_as_long_as_its_source_whatever_else_is_in_the_batch(hop, monkeypatch):
    shape = {"layers": 2, "conv_channels": [8, 8, 8, 8, 16, 16, 32], "dim": 32, "heads": 2, "ffn_dim": 64}
    task = AnyToOneConversion(WavLMUpstream("tiny", overrides=shape), hidden=8, hop=hop)
    task.build(["recording"])
    task.eval()
    # The iteration of Griffin and Lim turns a rounding error into other phases, so the frames themselves are compared.
    monkeypatch.setattr(task, "audible", lambda mel, samples: resized(mel.flatten(), samples))
    draw = torch.Generator().manual_seed(0)
    inputs = Waveforms.pad([(0.1 * torch.randn(length, generator=draw)).numpy() for length in (6000, 4399)])
    answers, lengths = task(inputs)
    assert answers.shape == inputs.audio.shape and lengths.tolist() == [6000, 4399]
    (alone,) = task.answer_rows(*task(Waveforms(inputs.audio[1:, :4399], inputs.lengths[1:])))
    assert torch.allclose(alone, answers[1, :4399], atol=1e-4) and not answers[1, 4399:].any()


@torch.no_grad()
def test_a_vocoder_of_ours_speaks_for_log_mel(monkeypatch):
    task, recording = AnyToOneConversion(Fbank(cmvn=False), vocoder="a run", **SMALL), torch.randn(4000)
    task.build(["recording"])
    vocoder = Vocoder(LogMel(160), width=8, hidden=8, blocks=1)
    vocoder.build(["recording"])
    monkeypatch.setattr(any_to_one, "opened", lambda where, run: (vocoder.eval(), 0.5))
    heard = vocoder(Waveforms(0.5 * recording[None], torch.tensor([4000])))[0][0]
    assert torch.allclose(task.vocoded(recording), 2 * heard, atol=1e-5)
    other = AnyToOneConversion(WavLMUpstream("tiny"), vocoder="a run", hidden=8, hop=320)
    with pytest.raises(UserError, match="train it on the upstream LogMel with hop: 320"):
        other.vocoded(recording)


@torch.no_grad()
@pytest.mark.parametrize(("gain", "recorded", "wanted"), [(-6.0, 0.0, 1.0), (0.0, 0.0, 0.501187), (-3.0, -3.0, 1.0)])
def test_recogniser_and_vocoder_hear_a_gain_once(tiny, monkeypatch, gain, recorded, wanted):
    """Both come from runs at -6 dB; what they are given already has the gain of `data` and that of the corpus."""
    task = AnyToOneConversion(Fbank(cmvn=False), content="a run", vocoder="a run", **SMALL)
    corpus = Corpus.open(tiny / "voices")
    monkeypatch.setitem(corpus.body["source"], "gain_db", recorded)
    task.build(["recording"])
    task.data, level = Served(corpus, factor=10 ** (gain / 20)), 10 ** (-6 / 20)
    heard: list[torch.Tensor] = []
    recogniser = PhonemeRecognition(Fbank(cmvn=False), 1e-3)
    recogniser.build(recogniser.read_labels(Corpus.open(tiny / "pr")))
    recogniser.register_forward_pre_hook(lambda module, inputs: heard.append(inputs[0].audio[0]))
    task._listener = recogniser.eval(), level
    recording = 0.1 * torch.randn(4000, generator=torch.Generator().manual_seed(1))
    task.errors_of(recording, "a", {"phones": [["AH"], ["B"]]})
    assert torch.allclose(heard[0], wanted * recording, rtol=1e-4)
    vocoder = Vocoder(LogMel(160), width=8, hidden=8, blocks=1)
    vocoder.build(["recording"])
    monkeypatch.setattr(any_to_one, "opened", lambda where, run: (vocoder.eval(), level))
    spoken = vocoder(Waveforms(wanted * recording[None], torch.tensor([4000])))[0][0]
    assert torch.allclose(task.vocoded(recording), spoken / wanted, atol=1e-5)


def test_voices_of_the_training_split_are_learned_and_no_others(tiny, tmp_path):
    task = ContentConversion(Fbank(cmvn=False), 1e-2, **AUTOENCODER)
    data = pair(tiny, train_split="train_1+train_2", test_split="test_1+test_2")
    trainer = quiet_trainer(max_steps=2, default_root_dir=tmp_path, val_check_interval=1)
    trainer.fit(task, data)
    targets = Corpus.open(tiny / "voices").inventories["speakers"]["targets"]
    known = {name for name, learned in zip(task.labels, task.learned, strict=True) if learned}
    assert known == set(targets[:2])
    assert task.weighted_sum.means.any() and torch.isfinite(trainer.callback_metrics["valid/mcd"])
    trainer.test(task, data, verbose=False)
    with pytest.raises(UserError, match=rf"and {targets[2]} is asked for; train with recordings"):
        trainer.test(task, pair(tiny, 3), verbose=False)
    # A recording that comes without a name is converted to `target`.
    inputs = Waveforms.pad([torch.randn(8000, generator=torch.Generator().manual_seed(0)).numpy()])
    with pytest.raises(UserError, match=rf"its voices are {targets[0]}, {targets[1]}, and no one is asked for"):
        task.eval()(inputs)
    answers = []
    for task.target, task.content_from in ((targets[0], "posterior"), (targets[1], "posterior"), (targets[1], "prior")):
        answers.append(task(inputs)[0])
    assert not torch.allclose(answers[0], answers[1]) and not torch.allclose(answers[1], answers[2])


def test_a_run_that_starts_from_another_keeps_its_scale_and_units_and_learns_its_own_voices(tiny, tmp_path):
    first = ContentConversion(Fbank(cmvn=False), 1e-2, **AUTOENCODER)
    trainer = quiet_trainer(max_steps=1, default_root_dir=tmp_path, limit_val_batches=0)
    trainer.fit(first, pair(tiny))
    trainer.save_checkpoint(tmp_path / "first.ckpt")
    second = ContentConversion(Fbank(cmvn=False), 0.0, start_from=str(tmp_path / "first.ckpt"), **AUTOENCODER)
    quiet_trainer(max_steps=1, default_root_dir=tmp_path, limit_val_batches=0).fit(second, pair(tiny, 2))
    assert torch.equal(second.weighted_sum.means, first.weighted_sum.means) and first.weighted_sum.fitted
    assert torch.equal(second.mel.mean, first.mel.mean) and torch.equal(second.mel.spread, first.mel.spread)
    assert not torch.equal(second.learned, first.learned) and second.learned.sum() == 1


def test_units_want_a_frozen_encoder_and_known_speakers(tiny):
    with pytest.raises(UserError, match=r"set model\.upstream\.frozen: true"):
        ContentConversion(WavLMUpstream("tiny", frozen=False), **AUTOENCODER)
    with pytest.raises(UserError, match=r"VC-content: units are of one layer as it is; remove model\.normalize"):
        ContentConversion(Fbank(), normalize=True)
    with pytest.raises(UserError, match="no inventory of speakers"):
        ContentConversion(Fbank(), **AUTOENCODER).check_labels([])
