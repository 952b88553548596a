"""Every task says what each utterance adds to its headline figure: with many heads, a cache, a limit, two processes."""

from __future__ import annotations

import re
from pathlib import Path

import jiwer
import numpy as np
import pytest
import torch
from enhancement import Denoiser
from quiet import quiet_trainer
from ranks import together
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassF1Score

from wavlm_lightning.augment.transforms import ChangeGain
from wavlm_lightning.callbacks.results import WriteResultCard
from wavlm_lightning.data.corpus import CorpusWriter, Utterance
from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.reports.utterances import RESULTS_NAME, described, read_results
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import (
    EmotionRecognition,
    FoldData,
    IntentClassification,
    KeywordSpotting,
    PhonemeRecognition,
    QueryByExample,
    SlotFilling,
    SpeakerDiarization,
    SpeakerIdentification,
    SpeakerVerification,
    SpeechRecognition,
    TaskData,
)
from wavlm_lightning.tasks.joint.many_heads import ManyHeads
from wavlm_lightning.tasks.scored_utterances import ScoredUtterances
from wavlm_lightning.upstreams import Fbank

QBE = {"test_split": "documents+queries-valid+queries-test"}


def card_of(task, corpus: Path, folder: Path, data=TaskData, limit: int | None = None, **options) -> ResultCard:
    """The card of a task that was tested with random weights."""
    trainer = quiet_trainer(callbacks=[WriteResultCard(folder, "wavlm test")], limit_test_batches=limit)
    trainer.test(task, data(str(corpus), **{"eval_batch_seconds": 20.0, **options}), verbose=False)
    return ResultCard.read(folder) if (folder / "card.json").is_file() else None


def test_card_and_results_say_on_what_recordings_they_are(tmp_path):
    """Of another corpus of the same name, keys and lengths, and of a test with transforms, the hash is another one."""

    def of(place: str, seed: int, **options) -> str:
        rng, corpus = np.random.default_rng(seed), tmp_path / place
        writer = CorpusWriter(corpus, "mine", "CC0", {"recipe": "mine"})
        waves = rng.normal(scale=0.1, size=(4, 8000)).astype(np.float32)
        writer.write_split("test", [Utterance(f"u{n}", wave, {"keyword": "ab"[n % 2]}) for n, wave in enumerate(waves)])
        writer.finish({"keywords": ["a", "b"]})
        card, found = card_of(KeywordSpotting(Fbank()), corpus, corpus / "run", **options), read_results(corpus / "run")
        assert card.corpus["sha256"] == found.data
        return found.data

    first = of("first", 0)
    assert of("again", 0) == first and len(first) == 64
    assert len({first, of("other", 1), of("louder", 0, eval_transforms=[ChangeGain(gain_db=(6.0, 6.0))])}) == 3


HEADS = {
    "ks": lambda fbank: KeywordSpotting(fbank),
    "sid": lambda fbank: SpeakerIdentification(fbank),
    "ic": lambda fbank: IntentClassification(fbank),
    "er": lambda fbank: EmotionRecognition(fbank),
    "pr": lambda fbank: PhonemeRecognition(fbank),
    "asr": lambda fbank: SpeechRecognition(fbank, hidden=8, layers=1),
    "sf": lambda fbank: SlotFilling(fbank, hidden=8, layers=1),
    "sv": lambda fbank: SpeakerVerification(fbank, hidden=8, widths=(8, 8, 8, 8, 16), embedding=8),
    "sd": lambda fbank: SpeakerDiarization(fbank, hidden=8),
    "qbe": lambda fbank: QueryByExample(fbank),
}


@pytest.mark.parametrize("name", HEADS)
def test_the_utterances_of_every_task_give_its_figure(tiny, tmp_path, name):
    corpus = "pr" if name == "asr" else name
    data, options = (FoldData, {"fold": 1}) if name == "er" else (TaskData, QBE if name == "qbe" else {})
    card = card_of(HEADS[name](Fbank(cmvn=False)), tiny / corpus, tmp_path, data, **options)
    found = read_results(tmp_path)
    assert 100 * found.value == pytest.approx(card.value, abs=1e-3) and card.interval_note == ""
    assert card.interval == described(found) and card.interval["low"] <= card.value <= card.interval["high"]
    assert found.rows == {"sd": "recordings", "qbe": "queries"}.get(name, "utterances") and card.rates_tried == 1
    assert (found.speakers is None) == (name == "sd")
    if name == "ks":  # silence has no speaker, and stands for itself
        assert [key in speaker for key, speaker in zip(found.keys, found.speakers, strict=True)] == [
            "silence" in key for key in found.keys
        ]
    assert len(found.keys) == card.corpus["utterances"] or name in ("qbe", "sv")


def test_errors_are_those_of_each_utterance_in_the_order_of_the_split(tiny, tmp_path):
    task, data = PhonemeRecognition(Fbank(cmvn=False)), TaskData(str(tiny / "pr"), eval_batch_seconds=20.0)
    card_of(task, tiny / "pr", tmp_path)
    batches = quiet_trainer().predict(task, data)
    said = {key: row["phones"] for batch in batches for key, row in zip(batch["keys"], batch["readable"], strict=True)}
    split = data.corpus.split("test")
    found = read_results(tmp_path)
    assert list(found.keys) == list(split.keys)
    for key, meta, errors, count in zip(found.keys, split.metas(), found.errors, found.counts, strict=True):
        phones = [phone for phone, *_ in meta["phones"] if phone != "SIL"]
        counted = jiwer.process_words(" ".join(phones), said[key])
        assert errors == counted.substitutions + counted.deletions + counted.insertions and count == len(phones)
    assert list(found.speakers) == [meta["speaker"] for meta in split.metas()]


def test_a_limit_a_cache_and_many_heads(tiny, tmp_path):
    fbank = Fbank(cmvn=False)
    heads = {"a": KeywordSpotting(fbank, seed=1), "b": KeywordSpotting(fbank, seed=2)}
    card_of(ManyHeads(heads), tiny / "ks", tmp_path)
    for label, seed in (("a", 1), ("b", 2)):
        card = card_of(KeywordSpotting(fbank, seed=seed), tiny / "ks", tmp_path / "alone")
        alone = (tmp_path / "alone" / RESULTS_NAME).read_text()
        assert (tmp_path / label / RESULTS_NAME).read_text() == alone
        assert ResultCard.read(tmp_path / label).interval == card.interval
    card_of(KeywordSpotting(fbank, seed=2), tiny / "ks", tmp_path / "cached", cache=str(tmp_path / "cache"))
    assert (tmp_path / "cached" / RESULTS_NAME).read_text() == alone
    card = card_of(KeywordSpotting(fbank, seed=2), tiny / "ks", tmp_path / "part", limit=1, eval_batch_seconds=5.0)
    part, whole = read_results(tmp_path / "part"), read_results(tmp_path / "alone")
    assert 0 < len(part.keys) < len(whole.keys) and set(part.keys) < set(whole.keys)
    assert 100 * part.value == pytest.approx(card.value, abs=1e-3)


def test_joined_splits_that_share_keys_are_refused(tmp_path):
    writer = CorpusWriter(tmp_path / "c", "two", "CC0", {})
    for split, keys in (("clean", "ab"), ("noisy", "ab"), ("other", "cd")):
        utterances = [
            Utterance(key, np.full(8000, 0.1, "f4"), {"keyword": word})
            for key, word in zip(keys, ("no", "yes"), strict=True)
        ]
        writer.write_split(split, utterances)
    writer.finish({"keywords": ["no", "yes"]})
    with pytest.raises(UserError, match=r"split clean\+noisy: the keys a, b are in both splits \(2 of them\)"):
        card_of(KeywordSpotting(Fbank(cmvn=False)), tmp_path / "c", tmp_path, test_split="clean+noisy")
    card = card_of(KeywordSpotting(Fbank(cmvn=False)), tmp_path / "c", tmp_path, test_split="clean+other")
    assert len(read_results(tmp_path).keys) == card.corpus["utterances"] == 4


class Mean(KeywordSpotting):
    """A head of the older contract: a mean over utterances, and no word about single ones."""

    def build_metric(self):
        return MeanMetric()

    def update_metric(self, metric, outputs, lengths, batch):
        metric.update(outputs.float().softmax(1).gather(1, batch.targets.values[:, None])[:, 0])


class OnlyTogether(Mean):
    def update_metric(self, metric, outputs, lengths, batch):
        if len(batch.keys) == 1:
            raise RuntimeError("one is not enough")
        super().update_metric(metric, outputs, lengths, batch)


class MacroF1(KeywordSpotting):
    def build_metric(self):
        return MulticlassF1Score(num_classes=self.classes, average="macro")


class Drawn(Mean):
    def update_metric(self, metric, outputs, lengths, batch):
        metric.update(torch.rand(len(batch.keys)))


class OfItsOwn(Mean):
    def evaluate(self, batch, metric, stage):
        self.update_metric(metric, *self.answers(batch.inputs), batch)


def test_heads_that_say_nothing_of_single_utterances(tiny, tmp_path, monkeypatch):
    def card(kind):
        torch.manual_seed(0)
        return card_of(kind(Fbank(cmvn=False), seed=3), tiny / "ks", tmp_path)

    made = card(Mean)
    found = read_results(tmp_path)
    assert 100 * found.value == pytest.approx(made.value, abs=1e-3) and len(found.keys) == made.corpus["utterances"]
    for kind, note in (
        (OnlyTogether, "cannot be scored alone .*one is not enough"),
        (MacroF1, "so accuracy is no ratio of sums over utterances"),
        (Drawn, "no ratio of sums"),
        (OfItsOwn, "a way of its own"),
    ):
        made = card(kind)
        assert made.interval is None and read_results(tmp_path) is None  # nor that of the test before
        assert re.search(note, made.interval_note), made.interval_note
        with monkeypatch.context() as without:
            without.setattr(ScoredUtterances, "add", lambda *_: None)
            assert card(kind).metrics == made.metrics  # not by a digit
    made = card_of(Denoiser(Fbank(cmvn=False)), tiny / "ks", tmp_path)
    assert read_results(tmp_path).scale == 1 and made.interval["low"] == pytest.approx(9.3456)


def in_processes(corpora: Path, folder: Path, devices: int) -> None:
    for name in ("ks", "pr", "sv"):
        task = HEADS[name](Fbank(cmvn=False))
        trainer = quiet_trainer(
            callbacks=[WriteResultCard(folder / name, "wavlm test")],
            devices=devices,
            strategy="ddp" if devices > 1 else "auto",
        )
        trainer.test(task, TaskData(str(corpora / name), eval_batch_seconds=20.0), verbose=False)


@pytest.mark.slow
def test_two_processes_keep_what_one_keeps(tiny, tmp_path):
    together(2, tmp_path / "log", in_processes, tiny, tmp_path / "2", 2)
    in_processes(tiny, tmp_path / "1", 1)
    for name in ("ks", "pr"):
        one, two = ((tmp_path / str(devices) / name / RESULTS_NAME).read_text() for devices in (1, 2))
        assert one == two, name
    one, two = (read_results(tmp_path / str(devices) / "sv") for devices in (1, 2))
    assert one.keys == two.keys and one.trials.scores == pytest.approx(two.trials.scores)
