"""ASR: letters in, words out, and the recurrent head in between."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from quiet import quiet_trainer
from shaped import Shaped
from torch import nn

from wavlm_lightning.data.batch import Targets, TaskBatch
from wavlm_lightning.data.corpus import Corpus, CorpusWriter
from wavlm_lightning.data.shards import Utterance
from wavlm_lightning.encoder import Layers
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import TaskData
from wavlm_lightning.tasks.components.ngrams import count_bigrams
from wavlm_lightning.tasks.components.recurrent import RecurrentHead
from wavlm_lightning.tasks.components.spoken_text import spoken_text
from wavlm_lightning.tasks.content.speech_recognition import SpeechRecognition
from wavlm_lightning.upstreams import Fbank


def official(**arguments) -> SpeechRecognition:
    head = SpeechRecognition(Shaped(2, 6), hidden=4, **arguments)
    head.build(head.read_labels(None))
    return head


def batch_of(head: SpeechRecognition, texts: list[str]) -> TaskBatch:
    targets = Targets.pad([head.read_target({"text": text}) for text in texts])
    return TaskBatch(tuple(map(str, range(len(texts)))), Layers(torch.zeros(1), torch.zeros(1), 50.0), targets)


@pytest.mark.parametrize(
    ("layers", "dim", "wanted"),
    [(13, 768, 42_828_845), (25, 1024, 43_091_001), (1, 240, 42_288_160)],  # superb.md, section 1
)
def test_parameter_counts_of_the_protocol(layers, dim, wanted):
    with torch.device("meta"):
        head = SpeechRecognition(Shaped(layers, dim))
        head.build(head.read_labels(None))
    assert sum(p.numel() for p in head.parameters() if p.requires_grad) == wanted


def test_labels_and_targets_of_the_protocol():
    head = official()
    assert "".join(head.labels[4:]) == "|ETAONIHSRDLUMCWFGYPBVK'XJQZ" and len(head.labels) == 32
    assert head.labels[:4] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert head.read_target({"text": "It's a cat"}).tolist() == [10, 6, 27, 12, 4, 7, 4, 18, 7, 6, 4, 2]


def test_what_cannot_be_spelled_is_refused():
    head = official()
    with pytest.raises(UserError, match=r"'ÉMILE 7' has '7', which SUPERB's alphabet lacks"):
        head.read_target({"text": "Émile 7"})
    for meta in ({}, {"text": ""}, {"text": " ... "}):
        with pytest.raises(UserError, match="no text"):
            head.read_target(meta)


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("MISTER QUILTER'S APOSTLE", "MISTER QUILTER'S APOSTLE"),
        ("“Well,” he said; don’t – go!", "WELL HE SAID DON'T GO"),
        ("twenty-one\tpeople\n", "TWENTY ONE PEOPLE"),
        ("R&B, 50% @home", "R&B 50% @HOME"),
        ("e\u0301tude ¿qué?", "ÉTUDE QUÉ"),
        ("你好，世界。", "你好 世界"),
        ("İyi iyi i\u0307yi ışık", "IYI IYI IYI IŞIK"),
        ("Straße STRAẞE", "STRASSE STRASSE"),
        ("don‘t donʼt donʹt don´t don`t", "DON'T DON'T DON'T DON'T DON'T"),
        ("‘Hello, she said", "HELLO SHE SAID"),
        ("", ""),
    ],
)
def test_spoken_text(written, spoken):
    assert spoken_text(written) == spoken


def test_frames_are_decoded_and_scored():
    head = official()
    # T T - H E | | C A - A T |, and nothing but blanks
    best = torch.tensor([[6, 6, 0, 11, 5, 4, 4, 18, 7, 0, 7, 6, 4, 2], [0, 0, 0, 3, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]])
    outputs, lengths = nn.functional.one_hot(best, 32).float(), torch.tensor([14, 3])
    assert head.decode(outputs, lengths) == ["THE CAAT", ""]
    assert head.decode(outputs, torch.tensor([14, 5])) == ["THE CAAT", "\N{REPLACEMENT CHARACTER}N"]
    metric = head.build_metric()
    head.update_metric(metric, outputs, lengths, batch_of(head, ["the cat", "on it"]))
    values = head.score(metric, "valid")
    assert values["wer"].item() == pytest.approx((1 + 2) / (2 + 2))
    assert values["cer"].item() == pytest.approx((1 + 5) / (7 + 5))
    assert head.readable(outputs, lengths) == [{"text": "THE CAAT"}, {"text": ""}]


def test_error_rates_stay_apart_when_the_first_batch_agrees():
    head = official()
    metric = head.build_metric()
    for text, labels in (("a", [9]), ("ab ab", [7, 24, 4, 7, 24])):
        outputs = nn.functional.one_hot(torch.tensor([labels]), 32).float()
        head.update_metric(metric, outputs, torch.tensor([len(labels)]), batch_of(head, [text]))
    values = metric.compute()
    assert values["wer"].item() == pytest.approx(1 / 3) and values["cer"].item() == pytest.approx(1 / 6)


def test_padding_changes_neither_logits_nor_gradient():
    torch.manual_seed(0)
    head = RecurrentHead(6, 5, hidden=4).eval()
    rows = [torch.randn(n, 6) for n in (31, 1, 17)]
    lengths = torch.tensor([31, 1, 17])
    padded = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=1e3)
    together = head(padded, lengths)
    alone = [head(row[None], torch.tensor([len(row)]))[0] for row in rows]
    for row, single in zip(together, alone, strict=True):
        assert torch.allclose(row[: len(single)], single, atol=1e-5)
    weights = list(head.parameters())
    valid = sum(row[: len(single)].square().sum() for row, single in zip(together, alone, strict=True))
    expected = torch.autograd.grad(sum(single.square().sum() for single in alone), weights)
    for got, wanted in zip(torch.autograd.grad(valid, weights), expected, strict=True):
        assert torch.allclose(got, wanted, atol=1e-4)


def test_dropout_follows_every_layer_and_augmentation_is_for_training():
    torch.manual_seed(0)
    head = RecurrentHead(6, 200, hidden=50, dropout=1.0)
    outputs = head(torch.randn(1, 9, 6), torch.tensor([9]))
    assert torch.equal(outputs, head.classifier.bias.expand_as(outputs))

    task = SpeechRecognition(Shaped(2, 300), hidden=4, dropout=0.0)
    task.build(task.read_labels(None))
    layers = Layers(torch.randn(2, 2, 90, 300), torch.tensor([90, 70]), 50.0)
    assert not torch.equal(task(layers)[0], task(layers)[0])
    task.eval()
    assert torch.equal(task(layers)[0], task(layers)[0])
    assert not task.augment.own_length and official(protocol="fixed").augment.own_length


def test_letters_of_the_corpus(tiny):
    head = SpeechRecognition(Fbank(), hidden=4, alphabet="corpus")
    corpus = Corpus.open(tiny / "pr")
    labels = head.read_labels(corpus)
    letters = [letter for meta in corpus.split("train").metas() for letter in spoken_text(meta["text"])]
    assert labels[:5] == ["<s>", "<pad>", "</s>", "<unk>", "|"]
    assert set(labels[5:]) == set(letters) - {" "} and len(labels) == len(set(labels))
    counts = [letters.count(label) for label in labels[5:]]
    assert counts == sorted(counts, reverse=True)
    head.build(labels)
    assert head.read_target({"text": "ñ"}).tolist() == [3, 4, 2]  # a letter that training has not seen is unknown


def test_corpus_without_text_has_no_letters(tmp_path):
    writer = CorpusWriter(tmp_path, "hum", licence="CC0", source={})
    writer.write_split("train", [Utterance("a", np.full(1600, 0.1, np.float32), {"speaker": "s"})])
    with pytest.raises(UserError, match=r"split train of .* has no text"):
        SpeechRecognition(Shaped(1, 4), alphabet="corpus").read_labels(writer.finish(inventories={}))


def test_letters_of_a_training_split_with_another_name(tmp_path):
    """The labels are checked before there is a trainer's corpus, and know the split by then."""
    writer = CorpusWriter(tmp_path, "clean", licence="CC0", source={})
    for split, text in (("train-100", "ab"), ("dev", "a")):
        writer.write_split(split, [Utterance(split, np.full(8000, 0.1, np.float32), {"text": text})])
    writer.finish(inventories={})
    head, names = SpeechRecognition(Fbank(), hidden=4, alphabet="corpus"), {"valid_split": "dev", "test_split": "dev"}
    data, trainer = TaskData(str(tmp_path), train_split="train-100", **names), quiet_trainer(max_steps=1)
    trainer.fit(head, data)
    assert head.labels[5:] == ["A", "B"] and head.data.opened["train"].name == "train-100"
    trainer.test(head, data, verbose=False)


def test_training_and_scores_with_a_language_model(tiny, tmp_path):
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    corpus = Corpus.open(tiny / "pr")
    model = count_bigrams((meta["text"] for meta in corpus.split("train").metas()), tmp_path / "language_model")
    head = SpeechRecognition(Fbank(), learning_rate=1e-2, hidden=16, language_model=model)
    data = TaskData(str(tiny / "pr"), batch_size=8)
    trainer = quiet_trainer(max_steps=3, limit_val_batches=1)
    trainer.fit(head, data)
    assert head.monitor == ("valid/wer", "min")
    assert {"valid/wer", "valid/cer"} <= set(
        trainer.callback_metrics
    ) and "valid/wer_lm" not in trainer.callback_metrics
    trainer.save_checkpoint(tmp_path / "head.ckpt")
    before = trainer.test(head, data, verbose=False)[0]
    assert set(before) == {"test/loss", "test/wer", "test/cer", "test/wer_lm"}
    assert set(head.others) == {"cer", "wer_lm"} and set(SpeechRecognition.others) == {"cer"}
    fresh = SpeechRecognition(Fbank(), hidden=16, language_model=model)
    assert trainer.test(fresh, data, ckpt_path=tmp_path / "head.ckpt", weights_only=True, verbose=False)[0] == before


def test_a_language_model_mends_a_transcript(tmp_path):
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    model = count_bigrams(["the cat sat", "the cat", "a car"], tmp_path)
    head = official(language_model=model)
    letters = [head.labels.index(letter) for letter in "|THE|CAR|"]
    logits = torch.full((1, len(letters), 32), -9.0)
    for frame, letter in enumerate(letters):
        logits[0, frame, letter] = 3.0
    logits[0, 7, head.labels.index("T")] = 2.9
    lengths = torch.tensor([len(letters)])
    assert head.readable(logits, lengths) == [{"text": "THE CAR", "text_lm": "THE CAT"}]
    head.update_metric(head.test_metric, logits, lengths, batch_of(head, ["the cat"]))
    values = head.score(head.test_metric, "test")
    assert values["wer"].item() == 0.5 and values["wer_lm"].item() == 0.0
