"""kNN-VC as a task: whose frames it takes, its card, and what it refuses."""

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
from wavlm_lightning.tasks import KnnConversion, TaskData
from wavlm_lightning.tasks.generation.voice_matching import matching_layer
from wavlm_lightning.upstreams import Fbank, WavLMUpstream


@pytest.fixture(autouse=True)
def without_judges(monkeypatch):
    """Their models take seconds to load."""
    monkeypatch.setattr(judges, "find_spec", lambda name: None)


def targets(tiny, train="train_1+train_2", test="test_1+test_2"):
    return TaskData(str(tiny / "voices"), train_split=train, valid_split="valid_1", test_split=test)


def test_each_utterance_is_converted_to_its_target_and_the_card_has_every_row(tiny, tmp_path):
    task, asked = KnnConversion(Fbank(cmvn=False)), []
    found = task.voice_frames
    task.voice_frames = lambda speaker: asked.append(speaker) or found(speaker)
    quiet_trainer(callbacks=[WriteResultCard(tmp_path, "wavlm test")]).test(task, targets(tiny), verbose=False)
    card, corpus = ResultCard.read(tmp_path), Corpus.open(tiny / "voices")
    wanted = [meta["target_speaker"] for number in (1, 2) for meta in corpus.split(f"test_{number}").metas()]
    assert sorted(asked) == sorted(wanted) and len(set(asked)) == 2
    assert card.task == "VC-kNN" and card.headline == "mcd" and card.metrics["voicing_error"]["unit"] == "%"
    assert card.details["target"]["mcd"] == 0 < card.details["copy_synthesis"]["mcd"] < card.value
    assert card.details["vocoder"] == "Griffin-Lim" and card.details["k"] == 4
    for number, speaker in enumerate(dict.fromkeys(wanted), start=1):
        split = corpus.split(f"train_{number}")
        assert card.details["voice_seconds"][speaker] == pytest.approx(split.samples.sum() / 16_000, abs=0.06)
        assert len(found(speaker)) == sum((samples - 400) // 160 + 1 for samples in split.samples.tolist())
    assert card.interval


def test_so_much_of_a_voice_as_is_asked_for(tiny):
    task = KnnConversion(Fbank(cmvn=False), reference_seconds=0.1)
    quiet_trainer().test(task, targets(tiny, "train_1", "test_1"), verbose=False)
    (speaker,) = task._voices
    assert (
        len(task.voice_frames(speaker)) == (Corpus.open(tiny / "voices").split("train_1").samples[0] - 400) // 160 + 1
    )


def test_what_it_cannot_do_is_refused(tiny, tmp_path):
    with pytest.raises(UserError, match="split train_2 has no recording of"):
        quiet_trainer().test(KnnConversion(Fbank(cmvn=False)), targets(tiny, "train_2", "test_1"), verbose=False)
    with pytest.raises(UserError, match="nothing to train"):
        quiet_trainer(max_steps=1).fit(KnnConversion(Fbank(cmvn=False)), targets(tiny))
    with pytest.raises(UserError, match=r"model\.vocoder .*nowhere.*: no such file"):
        task = KnnConversion(Fbank(cmvn=False), vocoder=str(tmp_path / "nowhere"))
        quiet_trainer().test(task, targets(tiny), verbose=False)
    with pytest.raises(UserError, match=r"model\.k 0: give 1 or more"):
        KnnConversion(Fbank(), k=0)
    with pytest.raises(UserError, match=r"model\.layer 1: .* has the layers 0 to 0"):
        KnnConversion(Fbank(), layer=1)
    with pytest.raises(UserError, match="in a test only"):
        task = KnnConversion(Fbank(cmvn=False))
        task._asked = [None]
        task(Waveforms(torch.zeros(1, 4000), torch.tensor([4000])))


def test_the_layer_is_at_a_quarter_of_the_height():
    shape = {"layers": 8, "conv_channels": [8, 8, 8, 8, 16, 16, 32], "dim": 32, "heads": 2, "ffn_dim": 64}
    upstream = WavLMUpstream("tiny", overrides=shape)
    assert upstream.num_layers == 9 and matching_layer(upstream, None) == 2
    assert matching_layer(upstream, -1) == 8 and matching_layer(Fbank(), None) == 0
    upstream.num_layers = 25
    assert matching_layer(upstream, None) == 6  # that of kNN-VC
