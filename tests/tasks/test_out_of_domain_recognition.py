"""OOD-ASR: the head of SUPERB-SG, characters without spaces, errors of each condition in the card."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from quiet import quiet_trainer
from shaped import Shaped
from torch import nn

from wavlm_lightning.callbacks.results import WriteResultCard
from wavlm_lightning.data.batch import Targets, TaskBatch
from wavlm_lightning.data.corpus import CorpusWriter
from wavlm_lightning.data.shards import Utterance
from wavlm_lightning.encoder import Layers
from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import LanguageModel, OutOfDomainRecognition, TaskData
from wavlm_lightning.tasks.components.recurrent import RecurrentHead
from wavlm_lightning.upstreams import Fbank
from wavlm_lightning.workflows.fit.closing import error_lines

CHINESE = ["<s>", "<pad>", "</s>", "<unk>", "|", "你", "好", "再", "见"]


@pytest.mark.parametrize(
    ("characters", "millions"), [(55, 51.3), (4317, 60.0)]
)  # es and zh-CN, full_stack.md, section 1.2
def test_parameter_counts_of_the_protocol(characters, millions):
    with torch.device("meta"):
        head = OutOfDomainRecognition(Shaped(13, 768))
        head.build([*CHINESE[:5], *map(str, range(characters - 1))])  # one of their characters is the space
    found = sum(p.numel() for p in head.parameters() if p.requires_grad)
    assert round(found / 1e6, 1) == millions


def test_a_linear_layer_and_tanh_follow_each_lstm():
    torch.manual_seed(0)
    head = RecurrentHead(6, 5, hidden=4, dropout=0.0, tanh_layers=True).eval()
    features, lengths = torch.randn(2, 9, 6), torch.tensor([9, 9])
    hidden = head.projector(features)
    for lstm, between in zip(head.recurrent, head.between, strict=True):
        hidden = torch.tanh(lstm(hidden)[0] @ between[0].weight.T + between[0].bias)
    assert torch.allclose(head(features, lengths), head.classifier(hidden), atol=1e-6)
    # The head of ASR has neither the layers nor other weights than before.
    assert not [name for name in RecurrentHead(6, 5, hidden=4).state_dict() if name.startswith("between")]


def test_characters_have_no_spaces():
    head = OutOfDomainRecognition(Shaped(2, 6), hidden=4, unit="characters", domain="zh")
    head.build(CHINESE)
    assert (head.name, head.metric, head.monitor) == ("OOD-ASR-zh", "cer", ("valid/cer", "min"))
    assert head.read_target({"text": "你好 再见。"}).tolist() == [5, 6, 7, 8, 2]
    best = torch.tensor([[5, 5, 0, 7, 8, 8, 2]])
    outputs, lengths = nn.functional.one_hot(best, len(CHINESE)).float(), torch.tensor([7])
    assert head.readable(outputs, lengths) == [{"text": "你再见"}]
    metric = head.build_metric()
    targets = Targets.pad([head.read_target({"text": "你好 再见"})])
    head.update_metric(
        metric, outputs, lengths, TaskBatch(("a",), Layers(torch.zeros(1), torch.zeros(1), 50.0), targets)
    )
    assert metric.compute() == {"cer": torch.tensor(0.25)}
    assert [word.name for word in head.words_to_align({"text": "你好"})] == ["你", "好"]
    assert OutOfDomainRecognition(Shaped(2, 6)).name == "OOD-ASR"  # what one run is called stays its own


def test_each_test_counts_its_own_targets(tiny):
    """A head that is tested on several splits says of each how many letters it does not know, not of all before it."""
    head, data = (
        OutOfDomainRecognition(Fbank(), 1e-3, hidden=8, layers=1),
        TaskData(str(tiny / "accents"), batch_size=4),
    )
    quiet_trainer(max_steps=1, limit_train_batches=1, limit_val_batches=0).fit(head, data)
    counted = []
    for _ in range(2):
        quiet_trainer().test(head, data, verbose=False)
        counted.append(head.target_counts["test"]["seen"])
    assert counted[0] == counted[1] > 0


def test_what_would_go_wrong_is_refused():
    with pytest.raises(UserError, match=r"model.language_model scores words"):
        OutOfDomainRecognition(Shaped(2, 6), unit="characters", language_model=LanguageModel(None, "nowhere"))
    with pytest.raises(UserError, match=r"model.domain: 'es/mx' has signs"):
        OutOfDomainRecognition(Shaped(2, 6), domain="es/mx")
    with pytest.raises(UserError, match=r"a language model scores words, and this head, of model.unit: characters"):
        OutOfDomainRecognition(Shaped(2, 6), unit="characters").use_language_model(LanguageModel(None, "nowhere"))


@pytest.mark.parametrize("unit", ["words", "characters"])
def test_the_card_has_the_errors_of_each_condition(tmp_path, unit):
    rng = np.random.default_rng(0)
    writer = CorpusWriter(tmp_path / "corpus", "spoken", licence="CC0", source={})
    said = {"train": ["ab ba"] * 4, "test": ["ab ba", "ab", "ba ab ab"]}
    said["plain"] = said["test"]
    for split, texts in said.items():
        metas = [
            {"text": text, "condition": ("near", "far", "near")[n % 3], "speaker": "s"} for n, text in enumerate(texts)
        ]
        if split == "plain":
            metas = [{"text": each["text"]} for each in metas]
        waves = [rng.uniform(-0.1, 0.1, 16_000).astype(np.float32) for _ in texts]
        pairs = zip(waves, metas, strict=True)
        writer.write_split(split, [Utterance(f"{split}{n}", wave, meta) for n, (wave, meta) in enumerate(pairs)])
    writer.finish({})
    head = OutOfDomainRecognition(Fbank(), hidden=4, layers=1, unit=unit)
    data = TaskData(str(tmp_path / "corpus"), batch_size=2, num_workers=0)
    trainer = quiet_trainer(
        max_steps=1, default_root_dir=tmp_path / "run", callbacks=[WriteResultCard(tmp_path / "run", "test")]
    )
    trainer.test(head, data)
    card = ResultCard.read(tmp_path / "run" / "card.json")
    found, heard = card.details["conditions"], head.test_transcripts
    assert list(found) == ["near", "far"] and [found[name]["utterances"] for name in found] == [2, 1]
    counted = "words" if unit == "words" else "characters"
    assert [found[name][counted] for name in found] == ([5, 1] if unit == "words" else [10, 2])
    # Weighted by their units, the conditions give the figure of the card.
    total = sum(each[counted] for each in found.values())
    rate = sum(each[counted] * each[head.metric] for each in found.values()) / total
    assert 100 * rate == pytest.approx(card.metrics[head.metric]["value"], abs=1e-3) and heard is not None
    assert ("wer" in card.metrics) == ("cer" in card.intervals) == (unit == "words")
    lines = error_lines(card)
    assert lines[1].startswith("  near: ") and lines[2].endswith("of 1 utterances")
    # A second test of the same head says nothing of the first.
    other = TaskData(str(tmp_path / "corpus"), batch_size=2, num_workers=0, test_split="plain")
    quiet_trainer().test(head, other)
    assert "errors" in head.details and "conditions" not in head.details
