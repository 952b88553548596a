"""Several tasks on one corpus, from one pass: each is what it is alone, and what cannot be is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from head_helpers import CountedFbank, brief_trainer
from quiet import quiet_trainer

from wavlm_lightning.data.batch import Targets, TaskBatch, Waveforms
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import (
    EmotionRecognition,
    FoldData,
    IntentClassification,
    KeywordSpotting,
    PhonemeRecognition,
    SpeakerDiarization,
    SpeakerIdentification,
    SpeakerVerification,
    SpeechRecognition,
    TaskData,
    UtteranceClassification,
)
from wavlm_lightning.tasks.joint.many_heads import ManyHeads
from wavlm_lightning.upstreams import Fbank


class Pitch(UtteranceClassification):
    """Is the voice high or low?"""

    name, field, inventory = "Pitch", "pitch_class", "pitch classes"

    def read_labels(self, corpus):
        return ["low", "mid", "high"]


class Tenths(UtteranceClassification):
    """A made-up label a tenth of a second, so that the target of a crop is not that of the whole."""

    name, field, inventory = "Tenths", "text", "texts"
    cache_level = "frame"

    def read_labels(self, corpus):
        return list(range(8))

    def read_target(self, meta):
        return torch.arange(50) % len(self.labels)

    def crop_target(self, target, start, samples):
        return target[start // 1600 : start // 1600 + 5]

    def loss(self, outputs, lengths, targets):
        assert targets.values.shape[1] == (5 if self.training else 50)
        wanted = torch.nn.functional.one_hot(targets.values, len(self.labels)).float().mean(1)
        return torch.nn.functional.cross_entropy(outputs, wanted)

    def update_metric(self, metric, outputs, lengths, batch):
        metric.update(outputs.argmax(1), batch.targets.values[:, 0])


def recognition(upstream):
    return {
        "pr": PhonemeRecognition(upstream, 1e-2, seed=3),
        "asr": SpeechRecognition(upstream, 3e-3, hidden=24, dropout=0.4, seed=4),
    }


def classification(upstream):
    return {"ic": IntentClassification(upstream, 1e-2), "pitch": Pitch(upstream, 3e-3, hidden=16, protocol="fixed")}


def two_of_each(upstream):
    """Lists in both tasks."""
    return {
        "pitch-1": Pitch(upstream, 1e-2),
        "pr-1": PhonemeRecognition(upstream, 1e-2),
        "pr-2": PhonemeRecognition(upstream, 1e-3),
        "pitch-2": Pitch(upstream, 1e-3, seed=5),
    }


def frames(upstream):
    return {"pitch": Pitch(upstream, 1e-2), "tenths": Tenths(upstream, 1e-2)}


CASES = {
    "sequences": (recognition, "pr", {}),
    "sequences from a cache": (recognition, "pr", {"cache": "a"}),
    "classes, read by a process": (classification, "ic", {"num_workers": 1}),
    "classes from a cache": (classification, "ic", {"cache": "a"}),
    "classes, crops beside a cache": (classification, "ic", {"cache": "a", "max_seconds": 1.6}),
    "means and sequences": (two_of_each, "pr", {}),
    "means and frames, crops": (frames, "pr", {"max_seconds": 1.5}),
}


def fit(model, corpus, folder, data, updates: int = 4):
    if "cache" in data:
        data = {**data, "cache": str(folder)}
    trainer = brief_trainer(updates)
    module = TaskData(str(corpus), batch_size=3, **data)
    trainer.fit(model, module)
    metrics = dict(trainer.callback_metrics)
    trainer.test(model, module, verbose=False)
    return {**metrics, **trainer.callback_metrics}


@pytest.mark.parametrize("case", CASES)
def test_each_task_is_what_it_is_alone(tiny, tmp_path, case):
    heads, corpus, data = CASES[case]
    upstream = CountedFbank(cmvn=False)
    many = ManyHeads(heads(upstream))
    found = fit(many, tiny / corpus, tmp_path, data)
    assert many.name == "+".join(dict.fromkeys(head.name for head in many.heads().values()))
    for label, head in many.heads().items():
        own = CountedFbank(cmvn=False)
        alone = heads(own)[label]
        metrics = fit(alone, tiny / corpus, tmp_path / label, data)
        assert upstream.calls == own.calls > 0  # however many heads, or files of a cache
        before = heads(own)[label]
        before.build(alone.labels)
        state, start = alone.state_dict(), before.state_dict()
        assert any(not torch.equal(state[name], start[name]) for name in state)
        assert state.keys() == head.state_dict().keys()
        for (name, wanted), value in zip(state.items(), head.state_dict().values(), strict=True):
            assert torch.equal(wanted, value), (label, name)
        assert {f"valid/{head.metric}", f"test/{head.metric}", "train/loss"} <= metrics.keys()
        for name, wanted in metrics.items():
            assert torch.equal(wanted, found[f"{label}/{name}"]), (label, name)


def test_a_batch_of_several_tasks_travels_whole():
    targets = {"PR": Targets.pad([torch.tensor([3, 4])]), "ASR": Targets.pad([torch.tensor([5])])}
    batch = TaskBatch(("a",), Waveforms.pad([np.zeros(8)]), targets["PR"], {"ASR": targets["ASR"]}).to("meta")
    for name, own in targets.items():
        alone = batch.of(name)
        assert alone.targets.values.is_meta and alone.targets.values.shape == own.values.shape and not alone.others


def refused(tiny, corpus, heads, said, **data):
    with pytest.raises(UserError, match=said):
        fit(ManyHeads(heads), tiny / corpus, tiny, data, updates=1)


def test_tasks_that_ask_for_other_batches_are_refused(tiny, tmp_path):
    upstream = Fbank(cmvn=False)
    trials = {"sv": SpeakerVerification(upstream), "pr": PhonemeRecognition(upstream)}
    refused(tiny, "sv", trials, "SV and PR cannot share batches: the split to validate on is 'test' .* 'valid'")
    balanced = {"ks": KeywordSpotting(upstream), "pitch": Pitch(upstream, protocol="fixed")}
    refused(tiny, "ks", balanced, "resampling in validation is True .* False for the second", balance="keyword")
    folds = ManyHeads({"er": EmotionRecognition(upstream), "pitch": Pitch(upstream, protocol="fixed")})
    with pytest.raises(UserError, match="the protocol of the folds is 'superb'"):
        quiet_trainer(max_steps=1).fit(folds, FoldData(str(tiny / "er")))


def test_tasks_that_need_another_cache_or_other_labels_are_refused(tiny, tmp_path):
    upstream = Fbank(cmvn=False)
    mixed = {"pitch": Pitch(upstream), "pr": PhonemeRecognition(upstream)}
    refused(tiny, "pr", mixed, "Pitch takes means over time and PR every frame", cache="a")
    normalized = {"pr": PhonemeRecognition(upstream), "pitch": Pitch(upstream, normalize=True)}
    refused(tiny, "pr", normalized, "Pitch needs every frame of every pass", cache="a")
    refused(
        tiny, "pr", {"pr": PhonemeRecognition(upstream), "ic": IntentClassification(upstream)}, "no 'intents' labels"
    )
    turns = {"pr": PhonemeRecognition(upstream), "sd": SpeakerDiarization(upstream)}
    refused(tiny, "pr", turns, "SD: a recording has no turns")


class Louder(Pitch):
    name = "Louder"

    def upstream_layers(self, inputs):
        return super().upstream_layers(inputs)


class Noisy(Pitch):
    name = "Noisy"

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch


class ByHand(Pitch):
    name = "ByHand"

    def __init__(self, upstream):
        super().__init__(upstream)
        self.automatic_optimization = False


def test_heads_that_would_not_be_as_if_alone_are_refused():
    upstream = Fbank()
    for task, said in (
        (Louder, "Louder: overrides upstream_layers"),
        (Noisy, "Noisy: overrides on_after_batch_transfer"),
        (ByHand, "ByHand: uses manual optimization"),
    ):
        with pytest.raises(UserError, match=said):
            ManyHeads({"pr": PhonemeRecognition(upstream), "other": task(upstream)})

    class Namesake(SpeakerIdentification):
        name = "PR"

    for other in (Namesake(upstream), PhonemeRecognition(upstream, protocol="fixed")):
        with pytest.raises(ValueError, match="not of one class and protocol"):
            ManyHeads({"pr": PhonemeRecognition(upstream), "other": other})
