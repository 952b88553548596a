"""The vocoder as a task: what it hears, what it is trained on, its card and its answers to recordings."""

from __future__ import annotations

import pytest
import torch
from quiet import quiet_trainer

from wavlm_lightning.augment.transforms import ChangeGain
from wavlm_lightning.callbacks.examples import KeepExamples
from wavlm_lightning.callbacks.results import WriteResultCard
from wavlm_lightning.data.batch import Waveforms
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.reports.examples import read_examples, sound
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import TaskData, Vocoder
from wavlm_lightning.tasks.components.vocoder import SpectralVocoder, measures
from wavlm_lightning.upstreams import Fbank, WavLMUpstream

SMALL = {"width": 16, "hidden": 32, "blocks": 2}
SHAPE = {"layers": 3, "conv_channels": [8, 8, 8, 8, 16, 16, 32], "dim": 32, "heads": 2, "ffn_dim": 64}


def built(upstream=None, **settings):
    task = Vocoder(upstream or WavLMUpstream("tiny", overrides=SHAPE), **SMALL, **settings)
    task.build(["recording"])
    return task.eval()


def recordings(*lengths):
    draw = torch.Generator().manual_seed(0)
    return Waveforms.pad([(0.1 * torch.randn(length, generator=draw)).numpy() for length in lengths])


@torch.no_grad()
@pytest.mark.parametrize("upstream", [None, Fbank(cmvn=False)], ids=["wavlm", "fbank"])
def test_an_answer_is_as_long_as_its_recording_whatever_else_is_in_the_batch(upstream):
    task, inputs = built(upstream), recordings(9000, 6399)
    answers, lengths = task(inputs)
    assert answers.shape == inputs.audio.shape and lengths.tolist() == [9000, 6399]
    (alone,) = task.answer_rows(*task(Waveforms(inputs.audio[1:, :6399], inputs.lengths[1:])))
    assert torch.allclose(alone, answers[1, :6399], atol=1e-5) and not answers[1, 6399:].any()
    hidden = task.upstream(inputs.audio[:1], inputs.lengths[:1])
    assert torch.allclose(task.synthesised(task.weighted_sum(hidden)[0], 9000), answers[0], atol=1e-5)


@torch.no_grad()
def test_it_hears_the_layer_that_is_named():
    inputs = recordings(4000)
    for layer, number in ((2, 2), (-1, 3), (0, 0)):
        task = built(layer=layer)
        layers = task.upstream(inputs.audio, inputs.lengths)
        assert torch.equal(task.weighted_sum(layers), layers.hidden[number])
    assert built().weighted_sum.logits.requires_grad
    with pytest.raises(UserError, match=r"model\.layer 4: .* has 4 layers; give 0 to 3"):
        built(layer=4)


def test_prematching_takes_frames_of_other_recordings_of_the_speaker(tiny):
    """By hand: the four nearest frames, by cosine, of all recordings of the speaker but the utterance itself."""
    task = Vocoder(Fbank(cmvn=False), 1e-3, layer=0, prematch=4, **SMALL)
    data, heard = TaskData(str(tiny / "sid"), batch_size=2), {}
    network = SpectralVocoder.forward
    trainer = quiet_trainer(max_steps=1, limit_val_batches=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            SpectralVocoder, "forward", lambda self, *given: heard.setdefault("given", given) and network(self, *given)
        )
        patch.setattr(task, "targets_seen", lambda batch, lengths, stage: heard.setdefault("keys", batch.keys))
        trainer.fit(task, data)
    split = Corpus.open(tiny / "sid").split("train")
    recordings = {
        key: torch.from_numpy(split.locate(n)[0].waveform(split.locate(n)[1])) for n, key in enumerate(split.keys)
    }
    speakers = dict(zip(split.keys, (meta["speaker"] for meta in split.metas()), strict=True))
    frames = {key: Fbank(cmvn=False)(w[None], torch.tensor([len(w)])).hidden[0, 0] for key, w in recordings.items()}
    features, lengths = heard["given"][:2]
    for row, key in enumerate(heard["keys"]):
        others = torch.cat([frames[k] for k in frames if speakers[k] == speakers[key] and k != key])
        own = frames[key]
        similar = torch.nn.functional.cosine_similarity(own[:, None], others[None], dim=2)
        expected = others[similar.topk(4).indices].mean(1)
        assert torch.allclose(features[row, : lengths[row]], expected, atol=1e-3)
    with pytest.raises(UserError, match=r"model\.prematch: frames are compared in one layer"):
        Vocoder(Fbank(), prematch=4)
    with pytest.raises(UserError, match=r"model\.prematch: utterance '.*': .* give more speech of that voice"):
        quiet_trainer(max_steps=1).fit(Vocoder(Fbank(cmvn=False), layer=0, prematch=100_000, **SMALL), data)


def test_it_learns_the_recordings_and_its_card_has_griffin_lim_beside(tiny, tmp_path, monkeypatch):
    """The target is the recording without a member of the corpus; transforms do not change it."""
    monkeypatch.setattr(measures, "is_installed", lambda name: False)  # STOI and PESQ take seconds
    task, fresh = (Vocoder(Fbank(cmvn=False), 5e-3, seed=1, **SMALL) for _ in range(2))
    data = TaskData(
        str(tiny / "pr"),
        batch_size=4,
        max_seconds=1.0,
        test_split="valid",
        transforms=[ChangeGain(gain_db=(-6.0, -6.0))],
    )
    untrained = quiet_trainer()
    untrained.validate(fresh, data, verbose=False)
    before = float(untrained.callback_metrics["valid/mel"])
    callbacks = [WriteResultCard(tmp_path, "wavlm test"), KeepExamples(tmp_path)]
    trainer = quiet_trainer(max_steps=12, default_root_dir=tmp_path, callbacks=callbacks)
    trainer.fit(task, data)
    batch = next(iter(data.train_dataloader()))
    assert torch.allclose(batch.inputs.audio * 10 ** (6 / 20), batch.targets.values, atol=1e-5)
    trainer.test(task, data)
    card = ResultCard.read(tmp_path)
    assert card.task == "VOCODER" and card.headline == "mel" and card.value < 0.8 * before
    assert set(card.details) <= {"griffin_lim", "not_measured", "left_out"}
    assert 0 < card.details["griffin_lim"]["mel"] < card.value  # after twelve updates
    example = read_examples(tmp_path)[0]
    assert list(example.sounds) == ["recording", "copy-synthesis", "Griffin-Lim"]
    assert example.answers == ("copy-synthesis",)
    shard, place = {key: data.opened["test"].locate(n) for n, key in enumerate(data.opened["test"].keys)}[example.key]
    assert example.sounds["recording"] == sound(shard.waveform(place))
