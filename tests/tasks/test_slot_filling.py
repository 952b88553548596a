"""SF: targets as s3prl makes them, targets as they should be, and scores of marked transcripts."""

from __future__ import annotations

import pytest
import torch
from quiet import quiet_trainer
from shaped import Shaped
from torch import nn

from wavlm_lightning.data.batch import Targets, TaskBatch
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.encoder import Layers
from wavlm_lightning.reports.utterances import interval
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import TaskData
from wavlm_lightning.tasks.semantics.slot_filling import SlotFilling
from wavlm_lightning.upstreams import Fbank


class Slots:
    """What `read_labels` asks of a corpus."""

    def inventory(self, name: str) -> list[str]:
        return {"slots": ["artist", "city"]}[name]


def task(protocol: str = "superb") -> SlotFilling:
    head = SlotFilling(Shaped(2, 6), hidden=4, protocol=protocol)
    head.build(head.read_labels(Slots()))
    return head


def spelled(head: SlotFilling, meta: dict) -> tuple[str, bool]:
    """The target in words, `_` for a space at the end, and whether it ends in the end symbol."""
    numbers = head.read_target(meta).tolist()
    closed = numbers[-1] == 1
    assert 1 not in numbers[:-1]
    return head.spell(numbers), closed


def tagged(text: str) -> dict:
    """`word/tag word ...` as metadata."""
    pairs = [word.split("/") for word in text.split()]
    return {"tagged": [[pair[0], pair[1] if len(pair) > 1 else "O"] for pair in pairs]}


def test_labels_of_the_protocol():
    labels = task().labels
    assert labels[:5] == ["<pad>", "<eos>", "<unk>", " ", "A"] and labels[29:31] == ["Z", "'"]
    assert labels[31:] == ["B-artist", "E-artist", "B-city", "E-city"]


def test_parameter_count():
    """s3prl's Featurizer weights, projector and RNNs on Base with 39 slot types: 109 outputs."""
    with torch.device("meta"):
        head = SlotFilling(Shaped(13, 768))
        head.build([str(number) for number in range(109)])
    assert sum(p.numel() for p in head.parameters()) == 42_986_618


CASES = [  # words; target with superb, and whether it is closed; target with fixed where it is another
    ("PLAY NINA/artist SIMONE/artist NOW", "PLAY B-artist NINA SIMONE E-artist NOW", True, None),
    ("OSLO/city", "B-city OSLO E-city", True, None),
    ("NINA/artist OSLO/city PLEASE", "B-artist NINA E-artist B-city OSLO E-city PLEASE", True, None),
    ("ROCK & ROLL", "ROCK AND ROLL", True, None),
    ("two Ñ", "TWO <unk>", True, None),
    # An end in punctuation leaves a space and no end symbol.
    ("PLAY IT .", "PLAY IT ", False, ("PLAY IT", True)),
    ("PLAY , IT ?! .", "PLAY IT ", False, ("PLAY IT", True)),
    # Two slots of one type that touch are one; a mark that falls on punctuation is lost.
    ("NINA/artist ELLA/artist", "B-artist NINA ELLA E-artist", True, None),
    ("BY -/artist NINA/artist", "BY NINA E-artist", True, ("BY B-artist NINA E-artist", True)),
    ("NINA/artist !/artist NOW", "B-artist NINA NOW", True, ("B-artist NINA E-artist NOW", True)),
    ("NINA/artist , ELLA/artist", "B-artist NINA E-artist B-artist ELLA E-artist", True, None),
    ("NINA/artist -/city ELLA/artist", "B-artist NINA E-artist B-artist ELLA E-artist", True, None),
]


@pytest.mark.parametrize(("words", "text", "closed", "fixed"), CASES)
def test_targets_of_tagged_words(words, text, closed, fixed):
    assert spelled(task("superb"), tagged(words)) == (text, closed)
    assert spelled(task("fixed"), tagged(words)) == (fixed or (text, closed))


def test_slots_are_found_in_the_text_one_after_the_other():
    head = task()
    meta = {"text": "Play Oslo by Nina Simone in Oslo.", "slots": [["artist", "nina simone"], ["city", "Oslo"]]}
    assert spelled(head, meta) == ("PLAY OSLO BY B-artist NINA SIMONE E-artist IN B-city OSLO E-city", True)
    meta = {"text": "Nina, Ella!", "slots": [["artist", "Nina"], ["artist", "Ella"]]}
    assert spelled(head, meta) == ("B-artist NINA E-artist B-artist ELLA E-artist", True)
    assert spelled(head, {"text": "Stop it", "slots": []}) == ("STOP IT", True)
    # Whole words only: there is an OSLO in COLOSLOUS.
    assert spelled(head, {"text": "coloslous Oslo", "slots": [["city", "oslo"]]})[0] == "COLOSLOUS B-city OSLO E-city"


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"text": "play it"}, "neither tagged words nor slots"),
        ({"text": "", "slots": []}, "no text"),
        ({"tagged": [[".", "O"]]}, "no text"),
        ({"text": "in Oslo", "slots": [["town", "Oslo"]]}, "a slot 'town', which is not among"),
        ({"tagged": [["OSLO", "town"]]}, "a slot 'town', which is not among"),
        ({"text": "in Oslo", "slots": [["city", "Paris"]]}, "city 'Paris' is not in the text"),
        ({"text": "Oslo by Nina", "slots": [["artist", "Nina"], ["city", "Oslo"]]}, "not after the slots before it"),
        ({"text": "in Oslo", "slots": [["city", ""]]}, "city '' is not in the text"),
    ],
)
def test_what_makes_no_target_is_refused(meta, message):
    with pytest.raises(UserError, match=message):
        task().read_target(meta)


def test_marked_transcripts_are_decoded_and_scored():
    head = task()
    meta = {"text": "by Nina in Oslo", "slots": [["artist", "Nina"], ["city", "Oslo"]]}
    target = head.read_target(meta)
    numbers = target.tolist()
    heard = [number for number in numbers if head.labels[number] not in ("B-city", "E-city")]
    heard[heard.index(head.labels.index("N"))] = head.labels.index("M")  # B-artist MINA E-artist
    frames = [frame for number in heard for frame in (number, 0)]
    outputs = nn.functional.one_hot(torch.tensor([frames]), len(head.labels)).float()
    lengths = torch.tensor([len(frames)])
    assert head.decode(outputs, lengths) == ["BY B-artist MINA E-artist IN OSLO"]
    assert head.readable(outputs, lengths) == [
        {"text": "BY B-artist MINA E-artist IN OSLO", "slots": [["artist", "MINA"]]}
    ]
    metric = head.build_metric()
    head.update_metric(
        metric, outputs, lengths, TaskBatch(("a",), Layers(outputs, lengths, 50.0), Targets.pad([target]))
    )
    values = head.score(metric, "test")
    assert values["f1"].item() == pytest.approx(2 * 1 * 0.5 / 1.5)  # one of two types, none too many
    assert values["cer"].item() == pytest.approx((1 + 4) / 8)
    assert head.monitor == ("valid/f1", "max")


def test_training_lowers_the_loss(tiny):
    corpus = Corpus.open(tiny / "sf")
    head = SlotFilling(Fbank(), learning_rate=1e-2, hidden=32)
    data = TaskData(str(tiny / "sf"), batch_size=8, test_split="train")
    trainer = quiet_trainer(max_steps=6, limit_val_batches=1)
    before = trainer.test(head, data, verbose=False)[0]["test/loss"]
    trainer.fit(head, data)
    assert head.labels[31:33] == [f"{mark}-{corpus.inventory('slots')[0]}" for mark in "BE"]
    assert {"valid/f1", "valid/cer"} <= set(trainer.callback_metrics)
    scores = trainer.test(head, data, verbose=False)[0]
    assert set(scores) == {"test/loss", "test/f1", "test/cer"} and scores["test/loss"] < before / 2
    # Sums over utterances give both figures, so that both have intervals; an utterance without slots has no characters.
    (cer,) = head.further_results()
    assert head.utterance_results.value == pytest.approx(scores["test/f1"], abs=1e-6)
    assert cer.value == pytest.approx(scores["test/cer"], abs=1e-6) and cer.value > 0
    assert cer.counts.sum() == sum(len(value) for meta in data.opened["test"].metas() for _, value in meta["slots"])
    found = interval(cer)
    assert found.low < found.value <= found.high and found.value == pytest.approx(100 * scores["test/cer"], abs=1e-4)
