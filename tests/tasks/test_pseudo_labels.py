"""True labels and pseudo-labels in one training set: shares, order, exact resume, counts, and what is refused."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from pseudo_corpora import pseudo_of
from quiet import quiet_trainer
from ranks import together

from wavlm_lightning.data.corpus import Corpus, CorpusWriter
from wavlm_lightning.data.loading.mixture import Source
from wavlm_lightning.data.shards import Utterance
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import FineTunedRecognition, SpeechRecognition, TaskData
from wavlm_lightning.upstreams import Fbank, WavLMUpstream
from wavlm_lightning.upstreams.fine_tuning import FineTuning

UPDATES = 10
WORDS = ("NO", "YES", "MAYBE", "LATER")


def written(folder, splits, first=0, about=None):
    """A corpus of noise; the first sample of an utterance is its own."""
    rng = np.random.default_rng(first)
    writer = CorpusWriter(folder, folder.name, "CC0", about or {}, shard_seconds=6.0)
    for split, count in splits.items():
        rows = [
            Utterance(
                f"{split}{number}",
                rng.uniform(-0.3, 0.3, 8000 + 320 * number).astype("f4"),
                {"text": WORDS[number % 4], "speaker": "s"},
            )
            for number in range(first, first + count)
        ]
        writer.write_split(split, rows)
    writer.finish({})
    return folder


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    real = written(folder / "real", {"train": 12, "valid": 4, "test": 4})
    more = written(folder / "unlabelled", {"train": 30}, first=5)
    return real, pseudo_of(more, folder / "pseudo"), more


def recogniser():
    return SpeechRecognition(Fbank(cmvn=False), hidden=8, layers=1)


def served(real, stage="fit", rank=0, world=1, **settings):
    task = recogniser()
    data = TaskData(str(real), **{"batch_size": None, "batch_seconds": 5.0, **settings})
    data.trainer = SimpleNamespace(
        lightning_module=task, datamodule=data, global_rank=rank, world_size=world, accumulate_grad_batches=1
    )
    data.setup(stage)
    task.build(task.read_labels(task.data.corpus))
    return data, task


def numbers(data, epoch=0):
    plan = data.train_dataloader().sampler
    plan.set_epoch(epoch)
    return [[number for number, _ in batch] for batch in plan]


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_each_part_has_its_share_of_the_audio(corpora, share):
    real, pseudo, _ = corpora
    data, _ = served(real, pseudo_corpus=str(pseudo), pseudo_share=share)
    split = data.opened["train"]
    assert len(split) == 12 + 30 and split.name == "train+pseudo-labels"
    drawn = np.concatenate([np.concatenate(numbers(data, epoch)) for epoch in range(20)])
    seconds = split.samples[drawn]
    found = seconds[drawn >= 12].sum() / seconds.sum()
    assert found == pytest.approx(share, abs=0.02)
    # All of a part come before one of it comes again.
    assert set(np.unique(drawn)) == set(range(42))
    counts = np.bincount(drawn)
    # Batches left over at the end of an epoch are dropped, so that counts differ a little; drawing at random they would by half.
    assert all(np.ptp(part) <= max(4, 0.15 * part.mean()) for part in (counts[:12], counts[12:]))


def test_several_corpora_have_weights_among_themselves(corpora, tmp_path):
    real, pseudo, _ = corpora
    other = pseudo_of(real, tmp_path / "other", about={"round": 2})
    sources = [Source(str(pseudo), 1.0), Source(str(other), 3.0)]
    data, task = served(real, pseudo_corpus=sources, pseudo_share=0.8)
    split = data.opened["train"]
    drawn = np.concatenate([np.concatenate(numbers(data, epoch)) for epoch in range(20)])
    seconds = split.samples[drawn]
    shares = [seconds[(drawn >= a) & (drawn < b)].sum() / seconds.sum() for a, b in ((0, 12), (12, 42), (42, 54))]
    assert shares == pytest.approx([0.2, 0.2, 0.6], abs=0.03)
    assert task.data.pseudo_labelled["round"] == 2
    unweighted, _ = served(real, pseudo_corpus=[str(pseudo), str(other)])
    one, two = (sum(Corpus.open(folder).split("train").samples) for folder in (pseudo, other))
    assert unweighted.pseudo.weights == pytest.approx([0.2, 0.8 * one / (one + two), 0.8 * two / (one + two)])


def test_transcripts_come_from_their_own_corpus(corpora):
    real, pseudo, more = corpora
    data, _ = served(real, pseudo_corpus=str(pseudo))
    split = data.opened["train"]
    shard, place = split.locate(12)
    theirs = Corpus.open(more).split("train")
    where, at = theirs.locate(0)
    assert shard.meta(place)["label_source"]["kind"] == "pseudo" and shard.meta(place)["text"] == where.meta(at)["text"]
    assert np.array_equal(shard.waveform(place), where.waveform(at))
    batch = next(iter(data.train_dataloader()))
    assert batch.targets.values.shape[0] == len(batch.keys)


def test_ranks_share_and_nothing_changes_without(corpora):
    real, pseudo, _ = corpora
    whole = numbers(served(real, pseudo_corpus=str(pseudo))[0])
    parts = [numbers(served(real, rank=rank, world=2, pseudo_corpus=str(pseudo))[0]) for rank in range(2)]
    assert [batch for pair in zip(*parts, strict=True) for batch in pair] == whole[: 2 * len(parts[0])]
    plain = served(real)[0]
    assert "pseudo" not in plain.layout() and plain.opened["train"].name == "train"
    assert "pseudo" in served(real, pseudo_corpus=str(pseudo))[0].layout()


class Keys(pl.Callback):
    """The utterances of every training batch, in the order of one process."""

    def __init__(self):
        self.batches = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.batches.append(sorted(batch.keys))


def in_processes(real, pseudo, out, devices):
    """Two epochs and a part of the third, each update of two batches; validated at the end."""
    encoder = {"layers": 1, "conv_channels": [8] * 7, "dim": 16, "heads": 2, "ffn_dim": 16, "pos_conv_groups": 2}
    torch.manual_seed(1)
    none = dict.fromkeys(("dropout", "attention_dropout", "activation_dropout", "input_dropout"), 0.0)
    tuning = FineTuning(convolutions=True, **none)  # nothing random: one process does not draw what two draw
    upstream = WavLMUpstream("tiny", overrides=encoder, frozen=False, fine_tuning=tuning)
    # Adam's usual eps lets a gradient that is zero but for rounding move a weight by the learning rate.
    task = FineTunedRecognition(upstream, 1e-2, alphabet="corpus", final_dropout=0.0, eps=1e-2)
    data = TaskData(str(real), batch_size=None, batch_seconds=10.0, pseudo_corpus=str(pseudo), pseudo_share=0.8)
    keys = Keys()
    strategy = {"strategy": "ddp", "devices": 2} if devices == 2 else {"devices": 1, "accumulate_grad_batches": 2}
    trainer = quiet_trainer(max_steps=UPDATES, callbacks=[keys], **strategy)
    trainer.fit(task, data)
    counted = task.data.pseudo_labelled
    found = trainer.validate(task, data, verbose=False)[0]
    names = [name for name, _ in task.named_parameters()]
    weights = {name: value for name, value in task.state_dict().items() if name in names}
    torch.save([keys.batches, weights, found, counted], out / f"{trainer.global_rank}-of-{devices}.pt")


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(400)
def test_two_processes_train_on_the_mixture_as_one(tmp_path):
    """Each has its half of the batches of one process, and the weights become the same."""
    real = written(tmp_path / "real", {"train": 12, "valid": 4, "test": 4})
    pseudo = pseudo_of(written(tmp_path / "unlabelled", {"train": 30}, first=40), tmp_path / "pseudo")
    for devices in (2, 1):
        together(devices, tmp_path / f"log{devices}", in_processes, real, pseudo, tmp_path, devices)
    first, second, alone = (torch.load(tmp_path / name) for name in ("0-of-2.pt", "1-of-2.pt", "0-of-1.pt"))
    assert len(first[0]) == len(second[0]) == UPDATES
    assert [batch for pair in zip(first[0], second[0], strict=True) for batch in pair] == alone[0]
    assert all(ours != theirs for ours, theirs in zip(first[0], second[0], strict=True))
    counts = Counter(key for batch in first[0] + second[0] for key in batch)
    parts = [counts[f"train{number}"] for number in range(12)], [counts[f"train{number}"] for number in range(40, 70)]
    assert sum(map(sum, parts)) == counts.total() and all(max(part) - min(part) <= 2 for part in parts)
    # Utterances of the second part are about twice as long, and have four fifths of the audio.
    split = {key: samples for folder in (real, pseudo) for key, samples in lengths(folder)}
    seconds = [
        sum(counts[key] * split[key] for key in counts if (int(key[5:]) >= 40) is late) for late in (False, True)
    ]
    assert seconds[1] / sum(seconds) == pytest.approx(0.8, abs=0.06)
    apart = [
        max(float((each[1][name] - value).abs().max()) for name, value in first[1].items()) for each in (second, alone)
    ]
    assert apart[0] == 0.0 and apart[1] < 1e-5
    assert first[2] == second[2] == pytest.approx(alone[2], abs=1e-5) and "valid/loss" in first[2]
    assert first[3] == alone[3] and first[3]["utterances"] == 30


def lengths(folder):
    split = Corpus.open(folder).split("train")
    return zip(split.keys, split.samples.tolist(), strict=True)


def test_limits_apply_to_true_labels(corpora):
    real, pseudo, _ = corpora
    data, task = served(real, pseudo_corpus=str(pseudo), train_seconds=2.0, min_seconds=0.6)
    alone, _ = served(real, train_seconds=2.0, min_seconds=0.6)
    few = len(alone.opened["train"])
    assert [data.opened["train"].keys[n] for n in range(few)] == alone.opened["train"].keys
    assert task.data.labelled == {
        "utterances": few,
        "seconds": round(alone.opened["train"].seconds, 2),
        "corpus": "real",
    }
    rest = data.opened["train"].samples[few:]
    assert task.data.pseudo_labelled["utterances"] == len(rest) and rest.min() > 0.6 * 16000
    assert task.data.pseudo_labelled["labelled"] == [{"utterances": 3, "seconds": 9.0, "corpus": "unlabelled"}]


def test_what_is_refused(corpora, tmp_path):
    real, pseudo, more = corpora
    for settings, match in (
        ({"pseudo_share": 1.0}, "data.pseudo_share 1.0"),
        ({"pseudo_corpus": []}, "data.pseudo_corpus: is empty"),
        ({"balance": "speaker"}, "data.balance and data.pseudo_corpus do not go together"),
        ({"cache": "auto"}, "data.cache and data.pseudo_corpus do not go together"),
    ):
        with pytest.raises(UserError, match=match):
            TaskData(str(real), **{"pseudo_corpus": str(pseudo), **settings})
    with pytest.raises(UserError, match="names no teacher"):
        served(real, pseudo_corpus=str(more))
    with pytest.raises(UserError, match="its transcripts are pseudo-labels, too"):
        served(pseudo, pseudo_corpus=str(pseudo), valid_split="train")
    loud = written(tmp_path / "loud", {"train": 12, "valid": 4}, about={"gain_db": -3.0})
    with pytest.raises(UserError, match="its audio was prepared with"):
        served(loud, pseudo_corpus=str(pseudo))


def test_no_pseudo_label_is_validated_or_tested_on(corpora, tmp_path):
    _, pseudo, _ = corpora
    with pytest.raises(UserError, match=r"data\.valid_split train: the transcripts of .* are pseudo-labels"):
        served(pseudo, valid_split="train")
    # The same recordings, which the corpus calls validation here and another one training.
    held = written(tmp_path / "held", {"valid": 4, "train": 2})
    leaked = pseudo_of(held, tmp_path / "leaked", "valid")
    for splits in ({}, {"valid_split": "train", "test_split": "valid"}):
        with pytest.raises(
            UserError, match=r"utterance 'valid0' of .*leaked is in data.*valid, too, by which the student"
        ):
            served(held, pseudo_corpus=str(leaked), **splits)
    # One record in the middle of an otherwise true split, whose corpus says nothing.
    writer = CorpusWriter(tmp_path / "hidden", "hidden", "CC0", {})
    for split in ("train", "valid", "test"):
        rows = []
        for number in range(3):
            source = {"label_source": {"kind": "pseudo"}} if split != "train" and number == 1 else {}
            wave = np.full(8000, 0.1 * (number + 1), "f4")
            rows.append(Utterance(f"{split}{number}", wave, {"text": "NO", **source}))
        writer.write_split(split, rows)
    writer.finish({})
    data, _ = served(tmp_path / "hidden")
    list(data.train_dataloader())
    with pytest.raises(UserError, match="utterance 'valid1' has a pseudo-label"):
        list(data.val_dataloader())


def weights_after(corpora, folder, steps, resume=None, **settings):
    real, pseudo, _ = corpora
    task = recogniser()
    data = TaskData(str(real), batch_size=None, batch_seconds=5.0, pseudo_corpus=str(pseudo), **settings)
    keep = ModelCheckpoint(folder, "{step}", save_last=True)
    quiet_trainer(max_steps=steps, callbacks=[keep]).fit(task, data, ckpt_path=resume, weights_only=False)
    return {name: value for name, value in task.state_dict().items() if "metric" not in name and "means" not in name}


def test_a_mixture_is_resumed_exactly(corpora, tmp_path):
    whole = weights_after(corpora, tmp_path / "whole", 9)
    weights_after(corpora, tmp_path / "half", 4)
    last = str(tmp_path / "half" / "last.ckpt")
    again = weights_after(corpora, tmp_path / "again", 9, last)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    kept = torch.load(last, weights_only=True)["task"]
    assert kept["labelled"]["utterances"] == 12 and kept["pseudo_labelled"]["utterances"] == 30
    with pytest.raises(UserError, match="resume: pseudo of this run"):
        weights_after(corpora, tmp_path / "other", 9, last, pseudo_share=0.5)


def test_an_epoch_is_as_long_as_all_corpora(corpora):
    real, pseudo, _ = corpora
    data, _ = served(real, pseudo_corpus=str(pseudo))
    split = data.opened["train"]
    drawn = np.concatenate(list(islice(numbers(data), None)))
    assert split.samples[drawn].sum() == pytest.approx(split.samples.sum(), rel=0.1)
